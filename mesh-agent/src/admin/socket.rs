//! The agent's own socket: gRPC over a unix socket that only root may open.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, pin::Pin, sync::Arc};

use mesh_common::proto::nodemesh::{
    self,
    admin_server::{Admin as AdminService, AdminServer},
};
use tokio::net::UnixListener;
use tokio_stream::{Stream, wrappers::UnixListenerStream};
use tonic::{Request, Response, Status, transport::Server};

use super::Admin;
use crate::control::Responder as _;

struct Service(Arc<Admin>);

#[tonic::async_trait]
impl AdminService for Service {
    type AskStream = Pin<Box<dyn Stream<Item = Result<nodemesh::Item, Status>> + Send>>;

    async fn ask(&self, request: Request<nodemesh::Query>) -> Result<Response<Self::AskStream>, Status> {
        Ok(Response::new(self.0.ask(request.into_inner())))
    }
}

/// Opens the socket, mode 0600.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until it fails.
pub async fn serve(listener: UnixListener, admin: Arc<Admin>) -> io::Result<()> {
    Server::builder()
        .add_service(AdminServer::new(Service(admin)))
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await
        .map_err(io::Error::other)
}

//! The agent's own socket: gRPC over a unix socket that only root may open.

use std::{io, pin::Pin, sync::Arc};

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

/// Serves until it fails.
pub async fn serve(listener: UnixListener, admin: Arc<Admin>) -> io::Result<()> {
    Server::builder()
        .add_service(AdminServer::new(Service(admin)))
        .serve_with_incoming(UnixListenerStream::new(listener))
        .await
        .map_err(io::Error::other)
}

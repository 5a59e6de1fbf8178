//! The controller's own dashboard asks what meshctl would ask.

use std::time::Duration;

use futures::{FutureExt, future::BoxFuture};
use mesh_common::proto::nodemesh::{Item, Query, admin_server::Admin, query};
use tokio::time::{Instant, timeout_at};
use tokio_stream::StreamExt;
use tonic::{Request, Status};

use super::AdminService;
use crate::dashboard::{Said, Source};

/// What has not answered by then is missing, and said to be.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of one answer, however large the mesh is.
const MOST: usize = 500_000;

impl Source for AdminService {
    fn ask(&self, node: String, kind: query::Kind) -> BoxFuture<'static, Said> {
        let service = self.clone();
        async move {
            let end = Instant::now() + PATIENCE;
            let mut said = Said::default();
            let mut stream = match stream(&service, Query { node, kind: Some(kind) }).await {
                Ok(stream) => stream,
                Err(status) => {
                    said.errors.push(status.message().to_owned());
                    return said;
                }
            };
            loop {
                match timeout_at(end, stream.next()).await {
                    Err(_) => {
                        said.errors.push(format!("some agents have not answered within {} s", PATIENCE.as_secs()));
                        return said;
                    }
                    Ok(None) => return said,
                    Ok(Some(Ok(Item { node, kind: Some(kind) }))) if said.items.len() < MOST => {
                        said.items.push((node, kind));
                    }
                    Ok(Some(Ok(Item { kind: Some(_), .. }))) => {
                        said.errors.push(format!("more than {MOST} answers: the rest is left out"));
                        return said;
                    }
                    // A kind that this version does not know is left out.
                    Ok(Some(Ok(Item { kind: None, .. }))) => {}
                    Ok(Some(Err(status))) => said.errors.push(status.message().to_owned()),
                }
            }
        }
        .boxed()
    }
}

async fn stream(service: &AdminService, query: Query) -> Result<<AdminService as Admin>::AskStream, Status> {
    Ok(Admin::ask(service, Request::new(query)).await?.into_inner())
}

//! The controller's own dashboard asks what meshctl would ask, without a stream between: of a large mesh tens of
//! thousands of items come for one page.

use std::time::Duration;

use futures::{FutureExt, future::BoxFuture};
use mesh_common::proto::nodemesh::{Item, Query, query};
use tokio::time::{Instant, timeout_at};

use super::{AdminService, CONTROLLER};
use crate::{
    dashboard::{Said, Source},
    link::Question,
};

/// What has not answered by then is missing, and said to be.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of one answer, however large the mesh is.
const MOST: usize = 500_000;

impl Source for AdminService {
    fn ask(&self, node: String, kind: query::Kind) -> BoxFuture<'static, Said> {
        let query = Query { node, kind: Some(kind) };
        let parts = self.parts(&query).and_then(|(own, theirs)| {
            let node = Some(query.node.as_str()).filter(|node| !node.is_empty());
            Ok((own, theirs.then(|| self.links.ask(node, &query)).transpose()?))
        });
        async move {
            match parts {
                Err(status) => Said { items: Vec::new(), errors: vec![status.message().to_owned()] },
                Ok((own, question)) => {
                    let mut said = Said::default();
                    said.items.extend(own.into_iter().map(|kind| (CONTROLLER.to_owned(), kind)));
                    if let Some(question) = question {
                        gather(question, &mut said).await;
                    }
                    said
                }
            }
        }
        .boxed()
    }
}

async fn gather(mut question: Question, said: &mut Said) {
    let end = Instant::now() + PATIENCE;
    loop {
        match timeout_at(end, question.next()).await {
            Err(_) => {
                said.errors.push(format!("some agents have not answered within {} s", PATIENCE.as_secs()));
                break;
            }
            Ok(None) => break,
            Ok(Some(Item { node, kind: Some(kind) })) if said.items.len() < MOST => said.items.push((node, kind)),
            Ok(Some(Item { kind: Some(_), .. })) => {
                said.errors.push(format!("more than {MOST} answers: the rest is left out"));
                break;
            }
            // A kind that this version does not know is left out.
            Ok(Some(Item { kind: None, .. })) => {}
        }
    }
    said.errors.extend_from_slice(question.errors());
}

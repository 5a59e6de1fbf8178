//! What was asked a moment ago is not asked again: however many look, agents answer each question once in two seconds,
//! and none that nobody asked.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use mesh_common::proto::nodemesh::{Query, query};
use prost::Message;
use tokio::time::Instant;

use super::{Said, Source};

const FRESH: Duration = Duration::from_secs(2);
/// Different questions whose answers are kept; the oldest goes.
const KEPT: usize = 64;

pub struct Asked {
    source: Arc<dyn Source>,
    /// By the question's bytes.
    kept: Mutex<BTreeMap<Vec<u8>, Kept>>,
}

struct Kept {
    asked: Instant,
    said: Shared<BoxFuture<'static, Arc<Said>>>,
}

impl Asked {
    pub fn new(source: Arc<dyn Source>) -> Self {
        Self { source, kept: Mutex::default() }
    }

    /// All nodes are asked, or one.
    pub async fn ask(&self, node: &str, kind: query::Kind) -> Arc<Said> {
        let query = Query { node: node.to_owned(), kind: Some(kind) };
        self.said(query).await
    }

    fn said(&self, query: Query) -> Shared<BoxFuture<'static, Arc<Said>>> {
        let key = query.encode_to_vec();
        // Nothing panics while it holds this lock, and nothing waits.
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, kept| kept.asked.elapsed() < FRESH);
        if let Some(known) = kept.get(&key) {
            return known.said.clone();
        }
        if kept.len() >= KEPT {
            let oldest = kept.iter().min_by_key(|(_, kept)| kept.asked).map(|(key, _)| key.clone());
            oldest.and_then(|key| kept.remove(&key));
        }
        let Query { node, kind } = query;
        let said = match kind {
            Some(kind) => self.source.ask(node, kind),
            None => async { Said::default() }.boxed(),
        };
        // A task of its own: who asked first may go, and others wait for the same answer.
        let task = tokio::spawn(said);
        let said = async move { Arc::new(task.await.unwrap_or_else(|error| failed(&error))) }.boxed().shared();
        kept.insert(key, Kept { asked: Instant::now(), said: said.clone() });
        said
    }
}

fn failed(error: &dyn fmt::Display) -> Said {
    Said { items: Vec::new(), errors: vec![format!("the question broke off: {error}")] }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use mesh_common::proto::nodemesh::{FlowsQuery, StatusQuery};

    use super::*;

    #[derive(Default)]
    struct Counting(AtomicU32);

    impl Source for Counting {
        fn ask(&self, node: String, _kind: query::Kind) -> BoxFuture<'static, Said> {
            let asked = self.0.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Said { items: Vec::new(), errors: vec![format!("{node}{asked}")] }
            }
            .boxed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_look_share_an_answer_for_two_seconds() {
        let counting = Arc::new(Counting::default());
        let asked = Asked::new(counting.clone());
        let status = || query::Kind::Status(StatusQuery {});
        let (one, other) = tokio::join!(asked.ask("", status()), asked.ask("", status()));
        assert_eq!((one.errors.as_slice(), other.errors.as_slice()), (&["0".to_owned()][..], &["0".to_owned()][..]));
        assert_eq!(asked.ask("a", status()).await.errors, ["a1"], "another node is another question");
        tokio::time::sleep(Duration::from_millis(1700)).await;
        assert_eq!(asked.ask("", status()).await.errors, ["0"]);
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(asked.ask("", status()).await.errors, ["2"]);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(counting.0.load(Ordering::Relaxed), 3, "nobody looked");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_bounded() {
        let asked = Asked::new(Arc::new(Counting::default()));
        for last in 0..1000 {
            drop(asked.said(Query {
                node: String::new(),
                kind: Some(query::Kind::Flows(FlowsQuery { last, ..FlowsQuery::default() })),
            }));
        }
        assert_eq!(asked.kept.lock().unwrap().len(), KEPT);
    }
}

//! What was asked a moment ago is not asked again: however many look, agents answer each question once in two seconds,
//! and none that nobody asked.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::FutureExt;
use mesh_common::proto::nodemesh::{Query, query};
use prost::Message;

use super::{
    Said, Source,
    fresh::{Bounds, Fresh},
};

const FRESH: Duration = Duration::from_secs(2);
/// Different questions whose answers are kept; the oldest goes.
const KEPT: usize = 64;

pub struct Asked {
    source: Arc<dyn Source>,
    /// By the question's bytes.
    kept: Fresh<Told>,
}

/// An answer, and when it was asked for.
#[derive(Clone)]
struct Told {
    said: Arc<Said>,
    /// Milliseconds since 1970.
    at: u64,
}

/// The questions for one page, which is as old as the oldest answer.
pub struct Asking<'a> {
    asked: &'a Asked,
    oldest: AtomicU64,
}

impl Asked {
    pub fn new(source: Arc<dyn Source>) -> Self {
        Self { source, kept: Fresh::new(Bounds { life: FRESH, most: KEPT, failed }) }
    }

    pub fn asking(&self) -> Asking<'_> {
        Asking { asked: self, oldest: AtomicU64::new(now()) }
    }

    fn said(&self, query: Query) -> impl Future<Output = Told> + use<> {
        self.kept.find(query.encode_to_vec(), || {
            let Query { node, kind } = query;
            let (at, said) = (now(), kind.map(|kind| self.source.ask(node, kind)));
            async move {
                let said = match said {
                    Some(said) => said.await,
                    None => Said::default(),
                };
                Told { said: Arc::new(said), at }
            }
            .boxed()
        })
    }
}

impl Asking<'_> {
    /// All nodes are asked, or one.
    pub async fn ask(&self, node: &str, kind: query::Kind) -> Arc<Said> {
        let query = Query { node: node.to_owned(), kind: Some(kind) };
        let Told { said, at } = self.asked.said(query).await;
        self.oldest.fetch_min(at, Ordering::Relaxed);
        said
    }

    /// When the oldest answer was asked for, in milliseconds since 1970; now if nobody was asked.
    pub fn oldest(&self) -> u64 {
        self.oldest.load(Ordering::Relaxed)
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn failed(error: &dyn fmt::Display) -> Told {
    let said = Said { items: Vec::new(), errors: vec![format!("the question broke off: {error}")] };
    Told { said: Arc::new(said), at: now() }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use futures::future::BoxFuture;
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
        let all = Asked::new(counting.clone());
        let asked = all.asking();
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
        assert_eq!(asked.kept.len(), KEPT);
    }
}

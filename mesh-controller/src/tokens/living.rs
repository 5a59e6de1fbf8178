//! Which pods of the mesh's namespace there are, and which ServiceAccount the agents have: two watches, so that looking
//! at every live stream every few seconds asks the API nothing. Only metadata is read.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::{
    Api, Client, ResourceExt,
    core::PartialObjectMeta,
    runtime::{WatchStreamExt, watcher},
};

use super::{AgentPod, ReviewSettings};

/// A watch may lag behind the review that let somebody in.
const LAG: Duration = Duration::from_secs(30);
/// How long it is remembered that something went.
const REMEMBERED: Duration = Duration::from_secs(600);

/// What is there. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Living {
    pods: Arc<Mutex<Seen>>,
    accounts: Arc<Mutex<Seen>>,
}

/// Objects of one kind, by UID.
#[derive(Debug, Default)]
struct Seen {
    /// The first list was complete.
    known: bool,
    here: BTreeMap<String, Presence>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Here,
    /// While a new list comes in: not in it so far.
    Unconfirmed,
    Gone(Instant),
}

impl Living {
    /// Watches until it is dropped.
    pub async fn watch(self, client: Client, settings: ReviewSettings) {
        let ReviewSettings { namespace, account, audience: _, holds: _ } = &settings;
        let pods: Api<PartialObjectMeta<Pod>> = Api::namespaced(client.clone(), namespace);
        let accounts: Api<PartialObjectMeta<ServiceAccount>> = Api::namespaced(client, namespace);
        let named = watcher::Config::default().fields(&format!("metadata.name={account}"));
        tokio::join!(
            follow("pods", watcher(pods, watcher::Config::default()).default_backoff(), &self.pods),
            follow("serviceaccounts", watcher(accounts, named).default_backoff(), &self.accounts),
        );
    }

    /// Whether the pod, or the account that let it in, is known to be gone, and which.
    pub fn gone(&self, pod: &AgentPod) -> Option<&'static str> {
        let settled = pod.proven.elapsed() > LAG;
        if lock(&self.pods).is_gone(&pod.uid, settled) {
            Some("pod")
        } else if lock(&self.accounts).is_gone(&pod.account_uid, settled) {
            Some("ServiceAccount")
        } else {
            None
        }
    }
}

impl Seen {
    fn take<K: ResourceExt>(&mut self, event: watcher::Event<K>) {
        let uid = |object: &K| object.uid().unwrap_or_default();
        let now = Instant::now();
        match event {
            watcher::Event::Apply(object) | watcher::Event::InitApply(object) => {
                self.here.insert(uid(&object), Presence::Here);
            }
            watcher::Event::Delete(object) => {
                self.here.insert(uid(&object), Presence::Gone(now));
            }
            watcher::Event::Init => {
                for presence in self.here.values_mut().filter(|presence| **presence == Presence::Here) {
                    *presence = Presence::Unconfirmed;
                }
            }
            watcher::Event::InitDone => {
                for presence in self.here.values_mut().filter(|presence| **presence == Presence::Unconfirmed) {
                    *presence = Presence::Gone(now);
                }
                self.known = true;
            }
        }
        self.here.retain(|_, presence| !matches!(presence, Presence::Gone(since) if since.elapsed() > REMEMBERED));
    }

    fn is_gone(&self, uid: &str, settled: bool) -> bool {
        match self.here.get(uid) {
            Some(Presence::Gone(_)) => true,
            Some(Presence::Here | Presence::Unconfirmed) => false,
            None => self.known && settled,
        }
    }
}

async fn follow<K: ResourceExt + Debug>(
    what: &str,
    events: impl futures::Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
    seen: &Mutex<Seen>,
) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => lock(seen).take(event),
            Err(error) => tracing::warn!(what, %error, "the agents' objects are not watched now; what was known holds"),
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    // Nothing panics while it holds this lock, and nothing waits.
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

    use super::*;

    fn pod(uid: &str) -> Pod {
        Pod { metadata: ObjectMeta { uid: Some(uid.to_owned()), ..Default::default() }, ..Default::default() }
    }

    #[test]
    fn what_a_new_list_lacks_is_gone() {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        let mut seen = Seen::default();
        // Before the first list nothing can be said.
        assert!(!seen.is_gone("a", true));
        seen.take(Init::<Pod>);
        for uid in ["a", "b", "c"] {
            seen.take(InitApply(pod(uid)));
        }
        seen.take(InitDone::<Pod>);
        assert!(!seen.is_gone("a", true));
        assert!(!seen.is_gone("new", false) && seen.is_gone("new", true));
        seen.take(Delete(pod("a")));
        assert!(seen.is_gone("a", false));
        // The watch expired meanwhile, and b went unseen.
        seen.take(Init::<Pod>);
        assert!(!seen.is_gone("b", true));
        seen.take(InitApply(pod("c")));
        seen.take(InitDone::<Pod>);
        assert!(seen.is_gone("b", false) && !seen.is_gone("c", true));
        seen.take(Apply(pod("d")));
        assert!(!seen.is_gone("d", true));
    }
}

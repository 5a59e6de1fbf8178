//! One Lease a node, kept by the replica to which the node's agent is linked: that it is linked, which policies it has
//! taken, and whether it is ready where the node waits for it. The leader reads them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::Result;
use futures::{StreamExt, stream};
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Node},
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::watch;

use crate::{
    leader::MANAGER,
    link::Links,
    serve::Acknowledged,
    source::{Kind, Update},
};

/// On a node whose agent is not there yet: no pod starts on it.
pub const TAINT: &str = "nodemesh.io/agent-not-ready";
const LABEL: &str = "nodemesh.io/lease";
const OF_AGENT: &str = "agent";
const NODE: &str = "nodemesh.io/node";
const POLICIES: &str = "nodemesh.io/policies";
const REFUSED: &str = "nodemesh.io/policies-refused";
const READY: &str = "nodemesh.io/ready";
/// An agent whose Lease was not renewed for so long is linked to nobody.
const TERM: i32 = 40;
const RENEWAL: Duration = Duration::from_secs(10);
/// How often it is looked what there is to say.
const LOOK: Duration = Duration::from_secs(1);
/// One request, or one answer of an agent, takes no longer.
const REQUEST: Duration = Duration::from_secs(5);
/// Leases written at once.
const AT_ONCE: usize = 8;

/// What a node's Lease says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeLease {
    pub taken: Acknowledged,
    /// Told only of a node that waits for it.
    pub ready: bool,
}

/// The Leases of one replica's agents.
pub struct Keeper {
    client: Client,
    namespace: String,
    links: Links,
    updates: watch::Receiver<Update>,
    /// What was written last, and when.
    written: BTreeMap<String, (Held, Instant)>,
}

/// A Lease and who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    holder: String,
    lease: NodeLease,
}

impl Keeper {
    pub fn new(client: Client, namespace: &str, links: Links, updates: watch::Receiver<Update>) -> Self {
        Self { client, namespace: namespace.to_owned(), links, updates, written: BTreeMap::new() }
    }

    /// Keeps them, for ever.
    pub async fn run(mut self) {
        let mut news = self.links.news();
        loop {
            self.look().await;
            tokio::select! {
                _ = news.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            // A change of a policy is acknowledged by all agents within a moment.
            tokio::time::sleep(LOOK / 10).await;
        }
    }

    async fn look(&mut self) {
        let linked = self.links.linked();
        self.written.retain(|node, _| linked.contains_key(node));
        let nodes = nodes(&self.updates.borrow_and_update());
        let now = Instant::now();
        let links = &self.links;
        let wanted = stream::iter(linked).map(|(node, (pod, taken))| {
            let (uid, waits) = nodes.get(&node).cloned().unwrap_or_default();
            async move {
                let ready = waits && tokio::time::timeout(REQUEST, links.is_ready(&node)).await.unwrap_or(false);
                // An agent without a pod is known by its node.
                let holder = pod.unwrap_or_else(|| node.clone());
                (node, uid, Held { holder, lease: NodeLease { taken, ready } })
            }
        });
        let wanted: Vec<_> = wanted.buffer_unordered(AT_ONCE).collect().await;
        let due = wanted.into_iter().filter(|(node, _, held)| {
            self.written.get(node).is_none_or(|(known, when)| known != held || now.duration_since(*when) >= RENEWAL)
        });
        let api: Api<Lease> = Api::namespaced(self.client.clone(), &self.namespace);
        let api = &api;
        let written = stream::iter(due.collect::<Vec<_>>()).map(|(node, uid, held)| async move {
            let outcome = tokio::time::timeout(REQUEST, write(api, &node, &uid, &held)).await;
            (node, held, outcome.map_err(anyhow::Error::new).flatten())
        });
        for (node, held, outcome) in written.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await {
            match outcome {
                Ok(()) => drop(self.written.insert(node, (held, Instant::now()))),
                Err(error) => tracing::warn!(node, %error, "cannot write the Lease of a node's agent"),
            }
        }
    }
}

/// Each node's UID, and whether it waits for its agent.
fn nodes(update: &Update) -> BTreeMap<String, (String, bool)> {
    let nodes = update.objects.iter().filter_map(|object| match &object.kind {
        Kind::Node(node) => Some(node),
        _ => None,
    });
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    nodes.map(|node| (text(&node.metadata.name), (text(&node.metadata.uid), is_tainted(node)))).collect()
}

/// Whether the node lets no pod start before its agent is there.
pub fn is_tainted(node: &Node) -> bool {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == TAINT)
}

async fn write(api: &Api<Lease>, node: &str, uid: &str, held: &Held) -> Result<()> {
    let Held { holder, lease: NodeLease { taken: Acknowledged { policies, refused }, ready } } = held;
    let name = format!("mesh-agent-{node}");
    let refused: Vec<_> = refused.iter().map(String::as_str).collect();
    // With its node the Lease goes too.
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}]);
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {
            "name": name,
            "labels": {LABEL: OF_AGENT},
            "annotations": {
                NODE: node,
                POLICIES: **policies,
                REFUSED: refused.join(","),
                READY: ready.to_string(),
            },
            "ownerReferences": if uid.is_empty() { json!([]) } else { owner },
        },
        "spec": {
            "holderIdentity": holder,
            "leaseDurationSeconds": TERM,
            "renewTime": format!("{:.6}", Timestamp::now()),
        },
    });
    api.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(&lease)).await?;
    Ok(())
}

/// What the Leases of all linked agents say, by node. From the API's cache: it is asked often.
///
/// # Errors
/// If they cannot be listed.
pub async fn read(client: &Client, namespace: &str) -> Result<BTreeMap<String, NodeLease>> {
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let parameters = ListParams::default().labels(&format!("{LABEL}={OF_AGENT}")).match_any();
    let leases = tokio::time::timeout(REQUEST, api.list(&parameters)).await??;
    let now = Timestamp::now();
    Ok(leases.items.into_iter().filter_map(|lease| of(lease, now)).collect())
}

/// `None` if it is over, or no node's.
fn of(lease: Lease, now: Timestamp) -> Option<(String, NodeLease)> {
    let spec = lease.spec?;
    let renewed = spec.renew_time?.0;
    let term = SignedDuration::from_secs(i64::from(spec.lease_duration_seconds?));
    if now.duration_since(renewed) > term {
        return None;
    }
    let annotations = lease.metadata.annotations?;
    let said = |key: &str| annotations.get(key).map(String::as_str).unwrap_or_default();
    let refused: BTreeSet<_> =
        said(REFUSED).split(',').filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect();
    let taken = Acknowledged { policies: said(POLICIES).into(), refused };
    Some((said(NODE).to_owned(), NodeLease { taken, ready: said(READY) == "true" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_is_over_is_none() {
        let lease = |renewed: &str, annotations: serde_json::Value| -> Lease {
            let spec = json!({"leaseDurationSeconds": 40, "renewTime": renewed});
            serde_json::from_value(json!({"metadata": {"annotations": annotations}, "spec": spec})).expect("a lease")
        };
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().expect("a time");
        let annotations = json!({NODE: "a", POLICIES: "d", REFUSED: "shop/p,shop/q", READY: "true"});
        let (node, read) = of(lease("2026-01-01T00:00:30.000000Z", annotations.clone()), now).expect("a lease");
        assert_eq!((node.as_str(), &*read.taken.policies, read.ready), ("a", "d", true));
        assert_eq!(read.taken.refused, ["shop/p".to_owned(), "shop/q".to_owned()].into());
        assert_eq!(of(lease("2026-01-01T00:00:10.000000Z", annotations), now), None);
        let (_, read) =
            of(lease("2026-01-01T00:01:00.000000Z", json!({NODE: "a", REFUSED: ""})), now).expect("a lease");
        assert_eq!(read, NodeLease::default());
    }
}

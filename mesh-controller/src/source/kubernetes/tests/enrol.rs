//! What agents report is read on the pods, and makes other replicas send HBONE to them.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{core::v1::Pod, events::v1};
use kube::Api;
use mesh_common::model::Tunnel;
use tokio::sync::{mpsc, watch};

use super::{super::*, RealApi, api::eventually};
use crate::{
    enrolment::Writer,
    index::{
        PodName, Redirected, Report,
        tests::{CART, SHOP, settings},
    },
    leader::{Duties, Election, Leading, Part},
    link::{Links, Reports},
    nodes::Keeper,
    publish::{Memory, Published, Publisher},
};

/// One replica of the controller, without its servers.
pub struct Replica {
    pub links: Links,
    pub published: watch::Receiver<Arc<Published>>,
    pub leading: Leading,
    tasks: tokio::task::JoinSet<()>,
    election: Part,
    _reports: mpsc::Sender<crate::publish::NodeReport>,
}

/// Shorter than a cluster's, so that nobody waits for it.
const TERM: std::time::Duration = std::time::Duration::from_secs(3);

impl Replica {
    pub async fn start(api: &RealApi, name: &str) -> Self {
        let (source, first) = Kubernetes::open(api.client.clone()).await;
        let standings = source.standings();
        let (publisher, published) = Publisher::new(settings(), Memory::annotations(), &first).expect("valid");
        let (sender, updates) = watch::channel(first);
        let (_reports, reported) = mpsc::channel(1);
        let links = Links::default();
        let (election, leading) = Election::new(api.client.clone(), "nodemesh-system", name, TERM);
        let (updated, all) = (updates.clone(), published.clone());
        let writer = Writer::new(api.client.clone(), name, links.clone(), leading.clone(), updated, all);
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(source.follow(sender));
        tasks.spawn(publisher.run(updates.clone(), reported));
        tasks.spawn(writer.run());
        let keeper = Keeper::new(api.client.clone(), "nodemesh-system", links.clone(), updates.clone());
        tasks.spawn(keeper.run());
        let (updated, all) = (updates.clone(), published.clone());
        let duties = Duties::new(api.client.clone(), "nodemesh-system", leading.clone(), updated, all, standings);
        tasks.spawn(duties.run());
        Self { links, published, leading, tasks, election: election.start(), _reports }
    }

    /// As SIGTERM would.
    pub async fn end(self) {
        self.election.end().await;
    }

    /// As SIGKILL would.
    pub fn kill(mut self) {
        self.tasks.abort_all();
    }

    fn sends_hbone(&self) -> bool {
        self.published.borrow().world.workloads.get(CART).is_some_and(|cart| cart.tunnel == Tunnel::Hbone)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_to_one_replica_is_known_to_all() {
    let Some(api) = RealApi::start().await else { return };
    api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: nodemesh-system}}").await;
    api.apply(SHOP).await;
    api.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: host, namespace: shop}, \
         spec: {nodeName: a, hostNetwork: true, containers: [{name: c}]}}",
    )
    .await;
    let pods: Api<Pod> = Api::namespaced(api.client.clone(), "shop");
    let cart = async || pods.get("cart-6f5d8-x1").await.expect("the pod");
    let annotation =
        async || cart().await.metadata.annotations.unwrap_or_default().get("nodemesh.io/redirection").cloned();
    let uid = cart().await.metadata.uid.expect("a uid");
    let (one, other) = (Replica::start(&api, "one").await, Replica::start(&api, "other").await);
    let says = |redirected, why: &str| -> Reports {
        let name = PodName { namespace: "shop".into(), name: "cart-6f5d8-x1".into() };
        [(name, Report { redirected, pod_uid: uid.clone(), why: why.into() })].into()
    };

    // A word of another pod that had the name is none.
    let mut old = says(Redirected::Enabled, "");
    old.values_mut().for_each(|report| report.pod_uid = "old".into());
    one.links.pretend("a", &old);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(annotation().await, None);

    one.links.pretend("a", &says(Redirected::Pending, "no certificate"));
    eventually("it waits", async || annotation().await.as_deref() == Some("pending: no certificate")).await;
    assert!(!one.sends_hbone() && !other.sends_hbone());
    one.links.pretend("a", &says(Redirected::Enabled, ""));
    eventually("it is enrolled", async || annotation().await.as_deref() == Some("enabled")).await;
    eventually("both replicas know it", async || one.sends_hbone() && other.sends_hbone()).await;

    let events: Api<v1::Event> = Api::namespaced(api.client.clone(), "shop");
    let reasons = async || {
        let list = events.list(&Default::default()).await.expect("events").items;
        let mut reasons: Vec<_> = list
            .into_iter()
            .map(|event| {
                let pod = event.regarding.and_then(|regarding| regarding.name).unwrap_or_default();
                (pod, event.reason.unwrap_or_default())
            })
            .collect();
        reasons.sort();
        reasons.dedup();
        reasons
    };
    // The event comes after the annotation, and one that is killed in between writes none.
    let told = async || reasons().await.iter().any(|(_, reason)| reason == "Enrolled");
    eventually("an event tells it", told).await;

    // The agent has gone over to the other replica, and fails there; the first one ends, and a new one begins.
    one.kill();
    other.links.pretend("a", &says(Redirected::Failed, "no room"));
    eventually("it failed", async || annotation().await.as_deref() == Some("enabled, failed: no room")).await;
    assert!(Replica::start(&api, "third").await.sends_hbone());

    // It leaves.
    api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {nodemesh.io/mode: none}}}").await;
    eventually("it is sent plaintext", async || !other.sends_hbone()).await;
    other.links.pretend("a", &says(Redirected::Disabled, ""));
    eventually("nothing is said any more", async || annotation().await.is_none()).await;

    let expected = [
        ("cart-6f5d8-x1", "Enrolled"),
        ("cart-6f5d8-x1", "EnrolmentFailed"),
        ("cart-6f5d8-x1", "Unenrolled"),
        ("host", "Skipped"),
    ]
    .map(|(pod, reason)| (pod.to_owned(), reason.to_owned()));
    eventually("events tell it", async || reasons().await == expected).await;
}

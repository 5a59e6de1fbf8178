//! Writes annotations and events: a pod at a time few of them at once, what fails again later.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use serde_json::json;
use tokio::sync::watch;

use super::{Change, Occasion, changes};
use crate::{
    index::{PodName, redirection::ANNOTATION},
    leader::Leading,
    link::Links,
    publish::Published,
    source::Update,
};

/// Pods written at once.
const AT_ONCE: usize = 8;
/// One request takes no longer.
const REQUEST: Duration = Duration::from_secs(10);
/// Between two looks at all pods.
const REST: Duration = Duration::from_millis(50);
/// Without news all is looked at this often.
const LOOK: Duration = Duration::from_secs(1);
/// What may pass is written if it is the same after so long.
const PASSING: Duration = Duration::from_secs(2);
/// What was written and is not seen so long is written again, if it is still wanted.
const UNSEEN: Duration = Duration::from_secs(5);
/// A pod that could not be written is left alone for so long, twice as long each time.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// The writer of one replica.
pub struct Writer {
    client: Client,
    recorder: Recorder,
    links: Links,
    leading: Leading,
    updates: watch::Receiver<Update>,
    published: watch::Receiver<Arc<Published>>,
    /// Written and not seen yet.
    written: BTreeMap<PodName, (Change, Instant)>,
    /// May pass, since when.
    passing: BTreeMap<PodName, (Change, Instant)>,
    failed: BTreeMap<PodName, (Duration, Instant)>,
    /// Pods that cannot join and were told so, with their UIDs.
    skipped: BTreeMap<PodName, String>,
}

impl Writer {
    pub fn new(
        client: Client,
        replica: &str,
        links: Links,
        leading: Leading,
        updates: watch::Receiver<Update>,
        published: watch::Receiver<Arc<Published>>,
    ) -> Self {
        let reporter = Reporter { controller: "nodemesh.io/controller".to_owned(), instance: Some(replica.to_owned()) };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            links,
            leading,
            updates,
            published,
            written: BTreeMap::new(),
            passing: BTreeMap::new(),
            failed: BTreeMap::new(),
            skipped: BTreeMap::new(),
        }
    }

    /// Writes what changes, until nothing is published any more.
    pub async fn run(mut self) {
        let mut news = self.links.news();
        loop {
            tokio::select! {
                _ = news.changed() => {}
                changed = self.published.changed() => if changed.is_err() { return },
                changed = self.updates.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK) => {}
            }
            self.look().await;
            tokio::time::sleep(REST).await;
        }
    }

    async fn look(&mut self) {
        let now = Instant::now();
        let published = self.published.borrow_and_update().clone();
        self.written.retain(|_, (_, when)| now.duration_since(*when) < UNSEEN);
        let written = self.written.iter().map(|(pod, (change, _))| (pod.clone(), change.clone())).collect();
        let all = changes(&published.world, &self.updates.borrow_and_update(), &self.links.reports(), &written);
        let due = self.due(all, now);
        let (client, recorder) = (&self.client, &self.recorder);
        let done: Vec<_> = stream::iter(due)
            .map(|change| async move {
                let outcome = write(client, &change).await;
                if let (Ok(true), Some(occasion)) = (&outcome, change.occasion()) {
                    tell(recorder, &change.pod, &change.pod_uid, event(occasion)).await;
                }
                (change, outcome)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for (change, outcome) in done {
            let pod = change.pod.clone();
            match outcome {
                Ok(_) => {
                    self.failed.remove(&pod);
                    self.written.insert(pod, (change, Instant::now()));
                }
                Err(error) => {
                    let wait = self.failed.get(&pod).map_or(RETRY.0, |(wait, _)| (*wait * 2).min(RETRY.1));
                    tracing::warn!(%pod, %error, again_in = ?wait, "cannot annotate a pod");
                    self.failed.insert(pod, (wait, Instant::now() + wait));
                }
            }
        }
        self.failed.retain(|_, (wait, until)| now.duration_since(*until) < *wait * 4);
        self.tell_skipped(&published).await;
    }

    /// Those whose time has come.
    fn due(&mut self, all: Vec<Change>, now: Instant) -> Vec<Change> {
        let before = std::mem::take(&mut self.passing);
        let mut due = Vec::new();
        for change in all {
            if self.failed.get(&change.pod).is_some_and(|(_, until)| now < *until) {
                continue;
            }
            if !change.may_pass() {
                due.push(change);
                continue;
            }
            let since = before.get(&change.pod).filter(|(known, _)| *known == change).map_or(now, |(_, since)| *since);
            if now.duration_since(since) >= PASSING {
                due.push(change);
            } else {
                self.passing.insert(change.pod.clone(), (change, since));
            }
        }
        due
    }

    /// The leader tells pods of the nodes' own network that they are not in the mesh, once.
    async fn tell_skipped(&mut self, published: &Published) {
        if !self.leading.is_leading() {
            return;
        }
        let skipped = &published.world.skipped;
        self.skipped.retain(|pod, uid| skipped.get(pod) == Some(uid));
        let new: Vec<_> = skipped.iter().filter(|(pod, _)| !self.skipped.contains_key(*pod)).collect();
        for (pod, uid) in new {
            let note = "The pod is in its node's own network (hostNetwork) and cannot be in the mesh";
            tell(&self.recorder, pod, uid, ("Skipped", EventType::Normal, note.to_owned())).await;
            self.skipped.insert(pod.clone(), uid.clone());
        }
    }
}

/// Whether there was such a pod.
async fn write(client: &Client, change: &Change) -> anyhow::Result<bool> {
    let Change { pod, pod_uid, before: _, after } = change;
    let metadata = json!({"uid": pod_uid, "annotations": {ANNOTATION: after}});
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
    let patch = Patch::Merge(json!({"metadata": metadata}));
    let parameters = PatchParams { field_manager: Some(crate::leader::MANAGER.to_owned()), ..PatchParams::default() };
    // By the subresource: who may write it cannot change what a pod runs.
    match tokio::time::timeout(REQUEST, api.patch_status(&pod.name, &parameters, &patch)).await? {
        Ok(_) => Ok(true),
        // Gone, or another one has its name now.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn event(occasion: Occasion) -> (&'static str, EventType, String) {
    match occasion {
        Occasion::Enrolled => ("Enrolled", EventType::Normal, "The pod's connections are the mesh's".to_owned()),
        Occasion::Unenrolled => ("Unenrolled", EventType::Normal, "The pod has left the mesh".to_owned()),
        Occasion::Failed(why) => ("EnrolmentFailed", EventType::Warning, why),
    }
}

async fn tell(recorder: &Recorder, pod: &PodName, uid: &str, what: (&str, EventType, String)) {
    let (reason, type_, note) = what;
    let event =
        Event { type_, reason: reason.to_owned(), note: Some(note), action: "Enrol".to_owned(), secondary: None };
    let regarding = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.namespace.clone()),
        name: Some(pod.name.clone()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    };
    // An event is news for people: one that is lost leaves nothing wrong behind.
    match tokio::time::timeout(REQUEST, recorder.publish(&event, &regarding)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%pod, reason, %error, "cannot write an event"),
        Err(_) => tracing::warn!(%pod, reason, "an event was not written in time"),
    }
}

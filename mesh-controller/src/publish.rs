//! The one writer: what sources and agents say becomes the state that everybody else reads.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use k8s_openapi::jiff::Timestamp;
use mesh_common::model::TrustBundle;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    index::{Cache, PodName, Redirection, Report, World, annotated},
    jwks::{Sets, Wanted},
    monitoring::figures,
    serve::Catalog,
    source::Update,
    tokens::write_private,
    translate::Settings,
};

/// How soon a failed save is tried again, if nothing else happens before.
const SAVE_AGAIN: Duration = Duration::from_secs(5);

/// Between two publications so many times as long passes as the first of them took, within these bounds.
const REST: u32 = 20;
const SHORTEST_REST: Duration = Duration::from_millis(10);
const LONGEST_REST: Duration = Duration::from_secs(1);

/// How often it is looked whether a bypass is over, at least.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(30);

/// The mesh at one moment; never changed, only replaced.
#[derive(Clone, Debug, Default)]
pub struct Published {
    pub world: World,
    pub catalog: Arc<Catalog>,
    /// When the oldest change came that is new in it.
    pub since: Option<Instant>,
}

/// What an agent says of its node's pods.
#[derive(Debug)]
pub struct NodeReport {
    pub node: String,
    pub pods: BTreeMap<PodName, Report>,
}

/// Where it is kept which pods take HBONE, over a restart.
#[derive(Debug)]
pub enum Memory {
    /// `redirected.json`.
    File(File),
    /// The pods say so themselves, by an annotation that is written when their agents report it.
    Annotations {
        /// Pods that have left the mesh, and whose annotation does not say so yet, with their UIDs.
        left: BTreeMap<PodName, String>,
    },
}

#[derive(Debug)]
pub struct File {
    path: PathBuf,
    /// What the file says.
    saved: BTreeMap<PodName, String>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Remembered {
    namespace: String,
    name: String,
    pod_uid: String,
}

#[derive(Debug)]
pub struct Publisher {
    settings: Settings,
    memory: Memory,
    cache: Cache,
    redirection: Redirection,
    published: watch::Sender<Arc<Published>>,
    /// Whose signatures count, if an authority says so.
    trust: Option<watch::Receiver<TrustBundle>>,
    /// Key sets of issuers of tokens, if somebody fetches them, and who is told which are wanted.
    key_sets: Option<(watch::Receiver<Arc<Sets>>, watch::Sender<Wanted>)>,
}

impl Memory {
    pub fn file(state: &Path) -> Self {
        Self::File(File::new(state))
    }

    pub fn annotations() -> Self {
        Self::Annotations { left: BTreeMap::new() }
    }

    /// What holds before anything was published.
    fn load(&mut self) -> Result<BTreeMap<PodName, String>> {
        match self {
            Self::File(file) => file.load().cloned(),
            Self::Annotations { .. } => Ok(BTreeMap::new()),
        }
    }

    /// What pods say of themselves now is remembered too.
    fn learn(&mut self, update: &Update, remembered: &mut BTreeMap<PodName, String>) {
        let Self::Annotations { left } = self else { return };
        let mut annotated = annotated(&update.objects);
        left.retain(|pod, uid| annotated.get(pod) == Some(uid));
        annotated.retain(|pod, _| !left.contains_key(pod));
        remembered.extend(annotated);
    }

    /// These are redirected, those were before.
    fn keep(&mut self, now: &BTreeMap<PodName, String>, before: &BTreeMap<PodName, String>) {
        match self {
            Self::File(file) => file.try_save(now),
            // Else a pod that comes back to the mesh would be taken for redirected before it is.
            Self::Annotations { left } => {
                left.extend(
                    before.iter().filter(|(pod, _)| !now.contains_key(pod)).map(|(p, u)| (p.clone(), u.clone())),
                );
            }
        }
    }

    fn is_saved(&self, pods: &BTreeMap<PodName, String>) -> bool {
        match self {
            Self::File(file) => file.saved == *pods,
            Self::Annotations { .. } => true,
        }
    }

    /// Agents' reports count by themselves. Where pods are annotated they do so by the annotation alone: every replica
    /// sees that, and a pod is reached by HBONE only when all that may come to serve know it.
    fn hears_reports(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

impl File {
    fn new(state: &Path) -> Self {
        Self { path: state.join("redirected.json"), saved: BTreeMap::new() }
    }

    /// # Errors
    /// If the file is there but cannot be read: to go on without it would send plaintext to pods that were redirected.
    fn load(&mut self) -> Result<&BTreeMap<PodName, String>> {
        let place = || self.path.display();
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(&self.saved),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", place())),
        };
        let list: Vec<Remembered> = serde_json::from_slice(&text).with_context(|| {
            format!("{}: damaged; remove it only if no pod is redirected, their peers would use plaintext", place())
        })?;
        let pods = list.into_iter().map(|r| (PodName { namespace: r.namespace, name: r.name }, r.pod_uid));
        self.saved = pods.collect();
        Ok(&self.saved)
    }

    /// Writes the file if it says something else.
    fn save(&mut self, pods: &BTreeMap<PodName, String>) -> Result<()> {
        if self.saved == *pods {
            return Ok(());
        }
        let list: Vec<_> = pods
            .iter()
            .map(|(pod, pod_uid)| Remembered {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                pod_uid: pod_uid.clone(),
            })
            .collect();
        write_private(&self.path, &serde_json::to_vec_pretty(&list).context("cannot write JSON")?)?;
        self.saved.clone_from(pods);
        Ok(())
    }

    fn try_save(&mut self, pods: &BTreeMap<PodName, String>) {
        if let Err(error) = self.save(pods) {
            tracing::error!(
                error = format!("{error:#}"),
                again_in = ?SAVE_AGAIN,
                "a restart would not remember which pods are redirected"
            );
        }
    }
}

impl Publisher {
    /// Publishes the first state.
    pub fn new(
        settings: Settings,
        mut memory: Memory,
        first: &Update,
    ) -> Result<(Self, watch::Receiver<Arc<Published>>)> {
        let redirection = Redirection { remembered: memory.load()?, ..Redirection::default() };
        let (published, receiver) = watch::channel(Arc::default());
        let cache = Cache::default();
        let mut publisher = Self { settings, memory, cache, redirection, published, trust: None, key_sets: None };
        publisher.publish(first);
        Ok((publisher, receiver))
    }

    /// Publishes these roots too, now and later.
    pub fn trusting(mut self, trust: watch::Receiver<TrustBundle>) -> Self {
        self.trust = Some(trust);
        self.publish_trust();
        self
    }

    /// Publishes these key sets with later states, and says which are wanted. The first state has those of its update.
    pub fn fetching(mut self, sets: watch::Receiver<Arc<Sets>>, wanted: watch::Sender<Wanted>) -> Self {
        wanted.send_replace(self.published.borrow().world.key_sets.clone());
        self.key_sets = Some((sets, wanted));
        self
    }

    /// Agents are told of addresses on demand where there are more workloads and services than these.
    pub fn on_demand_above(self, addresses: usize) -> Self {
        self.published.send_modify(|published| {
            let catalog = Arc::new(published.catalog.on_demand_above(addresses, &published.world));
            *published = Arc::new(Published { world: published.world.clone(), catalog, since: Some(Instant::now()) });
        });
        self
    }

    fn publish_trust(&mut self) {
        let Some(trust) = &mut self.trust else { return };
        let bundle = trust.borrow_and_update().clone();
        self.published.send_modify(|published| {
            let catalog = Arc::new(published.catalog.trusting(&bundle));
            *published = Arc::new(Published { world: published.world.clone(), catalog, since: Some(Instant::now()) });
        });
    }

    /// Publishes changes, until agents can no longer report: the first at once, those that follow together, so that
    /// publishing takes a twentieth of a CPU at most.
    pub async fn run(mut self, mut updates: watch::Receiver<Update>, mut reports: mpsc::Receiver<NodeReport>) {
        let mut next = Instant::now();
        // Since when a change waits.
        let mut waits: Option<Instant> = None;
        loop {
            let bypass = self.published.borrow().world.bypassed.values().min().copied();
            let bypass_over = bypass.map(|until| {
                // The clock may be set meanwhile: so it is looked at now and then.
                Duration::try_from(Timestamp::now().duration_until(until)).unwrap_or_default().min(LOOK_AT_CLOCK)
            });
            let saved = self.memory.is_saved(&self.redirection.remembered);
            tokio::select! {
                Ok(()) = updates.changed() => note(&mut waits),
                report = reports.recv() => match report {
                    Some(NodeReport { node, pods }) if self.memory.hears_reports() => {
                        self.redirection.reports.insert(node, pods);
                        note(&mut waits);
                    }
                    Some(_) => {}
                    None => return,
                },
                () = changed(self.trust.as_mut()) => self.publish_trust(),
                () = changed(self.key_sets.as_mut().map(|(sets, _)| sets)) => note(&mut waits),
                () = tokio::time::sleep_until(next), if waits.is_some() => {
                    let start = Instant::now();
                    let update = updates.borrow_and_update().clone();
                    self.publish_since(&update, waits.take().unwrap_or(start));
                    figures::compiled(start.elapsed());
                    next = start + (start.elapsed() * REST).clamp(SHORTEST_REST, LONGEST_REST);
                }
                () = tokio::time::sleep(bypass_over.unwrap_or_default() + SHORTEST_REST), if bypass_over.is_some() => {
                    note(&mut waits);
                }
                () = tokio::time::sleep(SAVE_AGAIN), if !saved => {
                    self.memory.keep(&self.redirection.remembered, &self.redirection.remembered);
                }
            }
        }
    }

    fn publish(&mut self, update: &Update) {
        self.publish_since(update, Instant::now());
    }

    /// `since`: when the oldest change came that is new in it.
    fn publish_since(&mut self, update: &Update, since: Instant) {
        let fetched = self.key_sets.as_mut().map(|(sets, _)| sets.borrow_and_update().clone());
        let key_sets = fetched.unwrap_or_else(|| update.key_sets.clone());
        let update = &Update { now: Timestamp::now(), key_sets, ..update.clone() };
        let before = self.published.borrow().clone();
        self.memory.learn(update, &mut self.redirection.remembered);
        let world = World::with(&self.settings, update, &self.redirection, &mut self.cache);
        for problem in world.problems.iter().filter(|problem| before.world.problems.binary_search(problem).is_err()) {
            tracing::warn!(%problem, "configuration is not honoured as written");
        }
        for (namespace, until) in &world.bypassed {
            if before.world.bypassed.get(namespace) != Some(until) {
                tracing::warn!(target: "audit", namespace, %until, "bypassed: its pods are not in the mesh");
            }
        }
        for namespace in before.world.bypassed.keys().filter(|namespace| !world.bypassed.contains_key(*namespace)) {
            tracing::warn!(target: "audit", namespace, "no longer bypassed");
        }
        if let Some((_, wanted)) = &self.key_sets {
            wanted.send_if_modified(|known| {
                let news = *known != world.key_sets;
                if news {
                    known.clone_from(&world.key_sets);
                }
                news
            });
        }
        // Before anybody is told: what is said must still hold after a crash.
        self.memory.keep(&world.redirected, &self.redirection.remembered);
        self.redirection.remembered.clone_from(&world.redirected);
        let delta = world.since(&before.world);
        if delta.is_empty() && world == before.world {
            return;
        }
        tracing::debug!(
            workloads = delta.workloads.changed.len() + delta.workloads.removed.len(),
            services = delta.services.changed.len() + delta.services.removed.len(),
            policies = delta.policies.changed.len() + delta.policies.removed.len(),
            "published"
        );
        let catalog = Arc::new(before.catalog.next(&world, &delta));
        self.published.send_replace(Arc::new(Published { world, catalog, since: Some(since) }));
        figures::published();
    }
}

/// Something changed; what has waited longer goes on to.
fn note(waits: &mut Option<Instant>) {
    waits.get_or_insert_with(Instant::now);
}

/// Never, if there is nothing that could change.
async fn changed<T>(receiver: Option<&mut watch::Receiver<T>>) {
    if let Some(receiver) = receiver
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests;

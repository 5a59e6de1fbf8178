//! The one writer: what sources and agents say becomes the state that everybody else reads.

use std::{collections::BTreeMap, fs, io, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use mesh_common::model::TrustBundle;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::{
    index::{PodName, Redirection, Report, World},
    serve::Catalog,
    source::Update,
    tokens::write_private,
    translate::Settings,
};

/// How soon a failed save is tried again, if nothing else happens before.
const SAVE_AGAIN: Duration = Duration::from_secs(5);

/// The mesh at one moment; never changed, only replaced.
#[derive(Clone, Debug, Default)]
pub struct Published {
    pub world: World,
    pub catalog: Arc<Catalog>,
}

/// What an agent says of its node's pods.
#[derive(Debug)]
pub struct NodeReport {
    pub node: String,
    pub pods: BTreeMap<PodName, Report>,
}

/// `redirected.json`: which pods take HBONE, over a restart.
#[derive(Debug)]
pub struct Memory {
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
    redirection: Redirection,
    published: watch::Sender<Arc<Published>>,
    /// Whose signatures count, if an authority says so.
    trust: Option<watch::Receiver<TrustBundle>>,
}

impl Memory {
    pub fn new(state: &std::path::Path) -> Self {
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
}

impl Publisher {
    /// Publishes the first state.
    pub fn new(
        settings: Settings,
        mut memory: Memory,
        first: &Update,
    ) -> Result<(Self, watch::Receiver<Arc<Published>>)> {
        let redirection = Redirection { remembered: memory.load()?.clone(), ..Redirection::default() };
        let (published, receiver) = watch::channel(Arc::default());
        let mut publisher = Self { settings, memory, redirection, published, trust: None };
        publisher.publish(first);
        Ok((publisher, receiver))
    }

    /// Publishes these roots too, now and later.
    pub fn trusting(mut self, trust: watch::Receiver<TrustBundle>) -> Self {
        self.trust = Some(trust);
        self.publish_trust();
        self
    }

    fn publish_trust(&mut self) {
        let Some(trust) = &mut self.trust else { return };
        let bundle = trust.borrow_and_update().clone();
        self.published.send_modify(|published| {
            let catalog = Arc::new(published.catalog.trusting(&bundle));
            *published = Arc::new(Published { world: published.world.clone(), catalog });
        });
    }

    /// Publishes after every change, until agents can no longer report.
    pub async fn run(mut self, mut updates: watch::Receiver<Update>, mut reports: mpsc::Receiver<NodeReport>) {
        loop {
            tokio::select! {
                Ok(()) = updates.changed() => {}
                report = reports.recv() => match report {
                    Some(NodeReport { node, pods }) => {
                        self.redirection.reports.insert(node, pods);
                    }
                    None => return,
                },
                () = changed(&mut self.trust) => {
                    self.publish_trust();
                    continue;
                }
                () = tokio::time::sleep(SAVE_AGAIN), if self.memory.saved != self.redirection.remembered => {
                    self.save();
                    continue;
                }
            }
            let update = updates.borrow_and_update().clone();
            self.publish(&update);
        }
    }

    fn publish(&mut self, update: &Update) {
        let before = self.published.borrow().clone();
        let world = World::new(&self.settings, update, &self.redirection);
        for problem in world.problems.iter().filter(|problem| before.world.problems.binary_search(problem).is_err()) {
            tracing::warn!(%problem, "configuration is not honoured as written");
        }
        self.redirection.remembered.clone_from(&world.redirected);
        // Before anybody is told: what is said must still hold after a crash.
        self.save();
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
        self.published.send_replace(Arc::new(Published { world, catalog }));
    }

    fn save(&mut self) {
        if let Err(error) = self.memory.save(&self.redirection.remembered) {
            tracing::error!(
                error = format!("{error:#}"),
                again_in = ?SAVE_AGAIN,
                "a restart would not remember which pods are redirected"
            );
        }
    }
}

/// Never, if there is nothing that could change.
async fn changed(trust: &mut Option<watch::Receiver<TrustBundle>>) {
    if let Some(receiver) = trust
        && receiver.changed().await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

#[cfg(test)]
mod tests;

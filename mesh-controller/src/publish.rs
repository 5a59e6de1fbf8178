//! The one writer: what sources and agents say becomes the state that everybody else reads.

use std::{collections::BTreeMap, fs, io, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

use crate::{
    index::{PodName, Redirection, Report, World},
    serve::Catalog,
    source::Update,
    tokens::write_private,
    translate::Settings,
};

/// The mesh at one moment; never changed, only replaced.
#[derive(Clone, Debug, Default)]
pub struct Published {
    pub world: World,
    pub catalog: Catalog,
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
}

impl Memory {
    pub fn new(state: &std::path::Path) -> Self {
        Self { path: state.join("redirected.json") }
    }

    /// # Errors
    /// If the file is there but cannot be read: to go on without it would send plaintext to pods that were redirected.
    fn load(&self) -> Result<BTreeMap<PodName, String>> {
        let place = || self.path.display();
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", place())),
        };
        let list: Vec<Remembered> = serde_json::from_slice(&text).with_context(|| {
            format!("{}: damaged; remove it only if no pod is redirected, their peers would use plaintext", place())
        })?;
        Ok(list.into_iter().map(|r| (PodName { namespace: r.namespace, name: r.name }, r.pod_uid)).collect())
    }

    fn save(&self, pods: &BTreeMap<PodName, String>) -> Result<()> {
        let list: Vec<_> = pods
            .iter()
            .map(|(pod, pod_uid)| Remembered {
                namespace: pod.namespace.clone(),
                name: pod.name.clone(),
                pod_uid: pod_uid.clone(),
            })
            .collect();
        write_private(&self.path, &serde_json::to_vec_pretty(&list).context("cannot write JSON")?)
    }
}

impl Publisher {
    /// Publishes the first state.
    pub fn new(settings: Settings, memory: Memory, first: &Update) -> Result<(Self, watch::Receiver<Arc<Published>>)> {
        let redirection = Redirection { remembered: memory.load()?, ..Redirection::default() };
        let (published, receiver) = watch::channel(Arc::default());
        let mut publisher = Self { settings, memory, redirection, published };
        publisher.publish(first);
        Ok((publisher, receiver))
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
        if world.redirected != self.redirection.remembered {
            // Before anybody is told: what is said must still hold after a crash.
            if let Err(error) = self.memory.save(&world.redirected) {
                tracing::error!(error = format!("{error:#}"), "a restart will not remember which pods are redirected");
            }
            self.redirection.remembered = world.redirected.clone();
        }
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
        let catalog = before.catalog.next(&world, &delta);
        self.published.send_replace(Arc::new(Published { world, catalog }));
    }
}

//! A Kubernetes API, followed by watches. Nothing is told before the first list of every kind that is installed has
//! come in full: a part of the configuration could open what the whole closes. From then on what was read stays until
//! the API says something else, however long it cannot be asked.
//!
//! Policies are kinds of others, installed or not. Whether one is, its CustomResourceDefinition says, and never an
//! error of its watch: an API that has just started answers "not found" for a moment, and that would open what policies
//! close.

mod backoff;
mod definition;
mod health;
mod raw;
mod shelf;
mod trim;
mod unread;

pub use shelf::Standing;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::{
    StreamExt,
    stream::{AbortHandle, BoxStream, SelectAll, abortable},
};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Api, Client, Config,
    api::ApiResource,
    core::GroupVersionKind,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use tokio::{sync::watch, time::interval};

use super::{CustomKind, Hidden, Key, Update};
use crate::{monitoring::figures, status::Problem, translate::mesh_config};
use backoff::Retry;
use definition::Definition;
use health::Health;
use raw::Raw;
use shelf::{Changed, Shelf};

/// Kinds that every Kubernetes has.
const BUILT_IN: [(&str, &str, &str); 7] = [
    ("v1", "Namespace", "namespaces"),
    ("v1", "Node", "nodes"),
    ("v1", "ServiceAccount", "serviceaccounts"),
    ("v1", "Service", "services"),
    ("discovery.k8s.io/v1", "EndpointSlice", "endpointslices"),
    ("v1", "Pod", "pods"),
    ("v1", CONFIG_MAP, "configmaps"),
];
/// Of these only those of one name are followed: the others are none of the mesh's business.
const CONFIG_MAP: &str = "ConfigMap";
/// Objects asked for at once: a pod can be 30 kB, and several times that while it is read.
const PAGE: u32 = 100;
/// A watch is asked for anew this often. A connection that has died without a word is found by it.
const WATCH: Duration = Duration::from_secs(60);
/// Events that are taken in before they are told together.
const BATCH: usize = 512;
/// How often watches are looked at that say nothing.
const LOOK: Duration = Duration::from_secs(5);

/// What the statuses of policies say now.
pub type Standings = BTreeMap<Key, Standing>;

type Events = BoxStream<'static, (Slot, watcher::Result<Event<Raw>>)>;

/// Whose event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    /// A kind, by its place, in the watch with this number.
    Objects(usize, u64),
    /// The definition of a kind, by its place in [`CustomKind::ALL`].
    Definition(usize),
}

/// An API as last heard of.
pub struct Kubernetes {
    client: Client,
    events: SelectAll<Events>,
    shelves: Vec<Watched>,
    definitions: Vec<Definition>,
    standings: watch::Sender<Standings>,
    /// What is there and not read, again and again, and as last heard.
    unread: (BoxStream<'static, Vec<Problem>>, Vec<Problem>),
    /// Counts watches.
    watches: u64,
}

#[derive(Debug)]
struct Watched {
    shelf: Shelf,
    /// The number of the watch that fills it, and how to end that.
    watch: Option<(u64, AbortHandle)>,
}

impl std::fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kubernetes").field("shelves", &self.shelves).finish_non_exhaustive()
    }
}

/// The API that KUBECONFIG, the user's configuration or the pod's own account names.
///
/// # Errors
/// If none of them names one, or what it says cannot be used.
pub async fn client() -> Result<Client> {
    let mut config = Config::infer().await.context("--source kubernetes: no Kubernetes API is named")?;
    config.read_timeout = Some(WATCH + Duration::from_secs(15));
    Client::try_from(config).context("--source kubernetes")
}

impl Kubernetes {
    /// Waits until every kind that is installed has been read, however long that takes, and says what it waits for.
    pub async fn open(client: Client) -> (Self, Update) {
        let mut source = Self {
            unread: (unread::watched(client.clone()), Vec::new()),
            client,
            events: SelectAll::new(),
            shelves: Vec::new(),
            definitions: Vec::new(),
            standings: watch::Sender::default(),
            watches: 0,
        };
        for (place, kind) in CustomKind::ALL.into_iter().enumerate() {
            let definition = Definition::new(kind);
            let events = source.watch(&Definition::resource(), Some(&definition.name()));
            source.definitions.push(definition);
            source.events.push(events.map(move |event| (Slot::Definition(place), event)).boxed());
        }
        for (version, kind, plural) in BUILT_IN {
            source.shelves.push(Watched { shelf: Shelf::new(version, kind), watch: None });
            source.follow_kind(source.shelves.len() - 1, version, plural);
        }
        for kind in CustomKind::ALL {
            source.shelves.push(Watched { shelf: Shelf::new("", kind.kind()), watch: None });
        }
        let mut said = interval(LOOK);
        said.reset();
        while !source.is_complete() {
            tokio::select! {
                Some((slot, event)) = source.events.next() => {
                    source.take(slot, event);
                }
                _ = said.tick() => tracing::info!(waiting = source.waiting().join(", "), "waiting for the Kubernetes API"),
            }
        }
        let update = source.update();
        source.tell_standings();
        (source, update)
    }

    /// What the statuses of policies say, as it changes.
    pub fn standings(&self) -> watch::Receiver<Standings> {
        self.standings.subscribe()
    }

    /// Sends an update after every change, until nobody listens.
    pub async fn follow(mut self, updates: watch::Sender<Update>) {
        let mut look = interval(LOOK);
        loop {
            let mut changed = Changed::default();
            let mut add = |more: Changed| {
                changed.objects |= more.objects;
                changed.standings |= more.standings;
            };
            tokio::select! {
                Some((slot, event)) = self.events.next() => {
                    add(self.take(slot, event));
                    // What has come already is told with it.
                    for _ in 1..BATCH {
                        match futures::FutureExt::now_or_never(self.events.next()) {
                            Some(Some((slot, event))) => add(self.take(slot, event)),
                            _ => break,
                        }
                    }
                }
                Some(found) = self.unread.0.next() => {
                    add(Changed { objects: found != self.unread.1, standings: false });
                    self.unread.1 = found;
                }
                _ = look.tick() => {
                    let now = Instant::now();
                    for watched in &mut self.shelves {
                        add(Changed { objects: watched.shelf.health.recovers(now), standings: false });
                    }
                    for definition in &mut self.definitions {
                        add(Changed { objects: definition.health.recovers(now), standings: false });
                    }
                }
            }
            if changed.standings {
                self.tell_standings();
            }
            if changed.objects && self.is_complete() && updates.send(self.update()).is_err() {
                return;
            }
        }
    }

    fn watch(&self, resource: &ApiResource, name: Option<&str>) -> BoxStream<'static, watcher::Result<Event<Raw>>> {
        let config = watcher::Config { page_size: Some(PAGE), ..watcher::Config::default() };
        let config = config.timeout(u32::try_from(WATCH.as_secs()).unwrap_or(u32::MAX));
        let config = match name {
            Some(name) => config.fields(&format!("metadata.name={name}")),
            None => config,
        };
        watcher(Api::<Raw>::all_with(self.client.clone(), resource), config).backoff(Retry::default()).boxed()
    }

    /// Begins to follow a kind; a watch of it that there was ends. What was read stays until the first list has come.
    fn follow_kind(&mut self, place: usize, version: &str, plural: &str) {
        self.watches += 1;
        let number = self.watches;
        let kind = self.shelves[place].shelf.kind;
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let kind = GroupVersionKind { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() };
        let name = (kind.kind == CONFIG_MAP).then_some(mesh_config::NAME);
        let (events, handle) = abortable(self.watch(&ApiResource::from_gvk_with_plural(&kind, plural), name));
        self.events.push(events.map(move |event| (Slot::Objects(place, number), event)).boxed());
        if let Some((_, before)) = self.shelves[place].watch.replace((number, handle)) {
            before.abort();
        }
    }

    fn take(&mut self, slot: Slot, event: watcher::Result<Event<Raw>>) -> Changed {
        match slot {
            Slot::Objects(place, number) => {
                let watched = &mut self.shelves[place];
                // What a watch said that was ended since.
                if watched.watch.as_ref().is_none_or(|(current, _)| *current != number) {
                    return Changed::default();
                }
                if let Some(what) = said(&event) {
                    figures::event(watched.shelf.kind, what, place >= BUILT_IN.len());
                }
                match event {
                    Ok(event) => watched.shelf.take(event),
                    Err(error) => {
                        figures::watch_failed(watched.shelf.kind);
                        Changed { objects: fails(&mut watched.shelf.health, error), standings: false }
                    }
                }
            }
            Slot::Definition(place) => {
                let definition = &mut self.definitions[place];
                let objects = match event {
                    Ok(event) => definition.take(&event),
                    Err(error) => fails(&mut definition.health, error),
                };
                let mut changed = Changed { objects, standings: false };
                let watched = &mut self.shelves[BUILT_IN.len() + place];
                if let Some(version) = definition.version() {
                    if watched.watch.is_none() || watched.shelf.version != version {
                        tracing::info!(kind = definition.kind.kind(), version, "is installed");
                        watched.shelf.version.clone_from(&version);
                        let plural = definition.kind.plural();
                        self.follow_kind(BUILT_IN.len() + place, &version, plural);
                    }
                } else if definition.is_absent()
                    && let Some((_, handle)) = watched.watch.take()
                {
                    tracing::info!(kind = definition.kind.kind(), "is not installed any more");
                    handle.abort();
                    let cleared = watched.shelf.clear();
                    changed.objects |= cleared.objects;
                    changed.standings |= cleared.standings;
                }
                changed
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.waiting().is_empty()
    }

    /// Kinds whose first list has not come. One that was installed while others were served already is not waited for:
    /// what it says is told when it has come.
    fn waiting(&self) -> Vec<&'static str> {
        let definitions = self.definitions.iter().filter(|definition| !definition.complete);
        let installed = |watched: &&Watched| watched.watch.is_some() && !watched.shelf.is_complete();
        let waiting = definitions.map(|definition| definition.kind.kind());
        waiting.chain(self.shelves.iter().filter(installed).map(|watched| watched.shelf.kind)).collect()
    }

    fn update(&self) -> Update {
        let shelves = || self.shelves.iter().map(|watched| &watched.shelf);
        let mut problems: Vec<Problem> = shelves().filter_map(Shelf::problem).collect();
        problems.extend(self.definitions.iter().filter_map(Definition::problem));
        problems.extend(shelves().flat_map(Shelf::refused).map(|(_, problem)| problem.clone()));
        problems.extend(self.unread.1.iter().cloned());
        let pods = shelves().flat_map(Shelf::refused).map(|(key, _)| key).filter(|key| key.is_pod()).cloned().collect();
        let mut objects = Vec::with_capacity(shelves().map(|shelf| shelf.objects().len()).sum());
        shelves().for_each(|shelf| objects.extend(shelf.objects().cloned()));
        Update {
            objects: Arc::new(objects),
            problems,
            hidden: Hidden { any: false, pods },
            has_accounts: true,
            now: Timestamp::now(),
            key_sets: Arc::default(),
        }
    }

    fn tell_standings(&self) {
        let all = self.shelves.iter().flat_map(|watched| watched.shelf.standings());
        self.standings.send_replace(all.map(|(key, standing)| (key.clone(), standing.clone())).collect());
    }
}

/// What is counted of a watch's words: an object of a list is as good as one that changed.
fn said(event: &watcher::Result<Event<Raw>>) -> Option<&'static str> {
    match event {
        Ok(Event::Apply(_)) => Some("applied"),
        Ok(Event::InitApply(_)) => Some("listed"),
        Ok(Event::Delete(_)) => Some("deleted"),
        Ok(Event::Init | Event::InitDone) | Err(_) => None,
    }
}

/// Notes a failure; whether that is news.
fn fails(health: &mut Health, error: watcher::Error) -> bool {
    match error {
        // The API has forgotten what changed since: all of it is listed again.
        watcher::Error::WatchError(status) if status.code == 410 => {
            tracing::debug!("a watch has expired");
            false
        }
        error => health.fails(format!("{:#}", anyhow::Error::new(error)), Instant::now()),
    }
}

#[cfg(test)]
pub mod tests;

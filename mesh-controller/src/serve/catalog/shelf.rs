//! The resources of one type, ready to be sent. Copies share what they have alike.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use aws_lc_rs::digest;
use mesh_common::proto::discovery::{DeltaDiscoveryResponse, Resource};
use prost::Message;

use crate::{serve::spread::Spread, tokens::hex};

#[derive(Clone, Debug, Default)]
pub struct Shelf {
    resources: Spread<Arc<Entry>>,
    by_alias: Spread<Arc<str>>,
    /// Workloads that serve a service, by its resource's name.
    members: Spread<Arc<BTreeSet<Arc<str>>>>,
}

/// One resource.
#[derive(Debug)]
pub struct Entry {
    name: Arc<str>,
    /// A hash of its content.
    version: String,
    aliases: Vec<Arc<str>>,
    /// Names of the services that this workload serves.
    services: Vec<Arc<str>>,
    /// It as a field of a response, encoded once for all who are told of it.
    wire: Vec<u8>,
}

impl Shelf {
    pub const EMPTY: Self = Self { resources: Spread::EMPTY, by_alias: Spread::EMPTY, members: Spread::EMPTY };

    pub fn resources(&self) -> &Spread<Arc<Entry>> {
        &self.resources
    }

    pub fn is_empty(&self) -> bool {
        self.resources.iter().next().is_none()
    }

    /// A resource by its name or alias, and those that are of no use without it or it without them: the workloads of
    /// a service, the services of a workload.
    pub fn resolve(&self, name: &str) -> Vec<&Arc<Entry>> {
        let name = self.by_alias.get(name).map_or(name, |owner| owner);
        self.resources.get(name).map_or_else(Vec::new, |entry| self.with_related(entry).collect())
    }

    /// The names and aliases that may resolve to something else here than on the shelf `before`, and none that what
    /// has changed has nothing to do with.
    pub fn touched(&self, before: &Self) -> HashSet<Arc<str>> {
        let mut touched = HashSet::new();
        for (_, old, new) in before.resources.beside(&self.resources) {
            if matches!((old, new), (Some(old), Some(new)) if Arc::ptr_eq(old, new)) {
                continue;
            }
            for (shelf, entry) in old.map(|old| (before, old)).into_iter().chain(new.map(|new| (self, new))) {
                for related in shelf.with_related(entry) {
                    touched.insert(related.name.clone());
                    touched.extend(related.aliases.iter().cloned());
                }
            }
        }
        touched
    }

    fn with_related<'a>(&'a self, entry: &'a Arc<Entry>) -> impl Iterator<Item = &'a Arc<Entry>> {
        let related =
            entry.services.iter().chain(self.members.get(&entry.name).into_iter().flat_map(|members| members.iter()));
        std::iter::once(entry).chain(related.filter_map(|name| self.resources.get(name)))
    }

    pub(super) fn add(&mut self, entry: Entry) {
        for alias in &entry.aliases {
            self.by_alias.insert(alias.clone(), entry.name.clone());
        }
        for service in &entry.services {
            Arc::make_mut(self.members.entry(service)).insert(entry.name.clone());
        }
        self.resources.insert(entry.name.clone(), Arc::new(entry));
    }

    pub(super) fn remove(&mut self, name: &str) {
        let Some(entry) = self.resources.remove(name) else { return };
        for alias in &entry.aliases {
            if self.by_alias.get(alias).is_some_and(|owner| **owner == *name) {
                self.by_alias.remove(alias);
            }
        }
        for service in &entry.services {
            let members = Arc::make_mut(self.members.entry(service));
            members.remove(name);
            if members.is_empty() {
                self.members.remove(service);
            }
        }
    }
}

impl Entry {
    pub fn new(name: &str, type_url: &str, message: &impl Message) -> Self {
        Self::related(name, type_url, message, Vec::new(), Vec::new())
    }

    /// One with other names, and of a workload that serves these services.
    pub(super) fn related(
        name: &str,
        type_url: &str,
        message: &impl Message,
        aliases: Vec<String>,
        services: Vec<Arc<str>>,
    ) -> Self {
        let value = message.encode_to_vec();
        let version = hex(&digest::digest(&digest::SHA256, &value).as_ref()[..8]);
        let resource = Resource {
            version: version.clone(),
            resource: Some(prost_types::Any { type_url: type_url.to_owned(), value }),
            name: name.to_owned(),
            aliases: aliases.clone(),
        };
        // A message is the same as its fields one after another.
        let field = DeltaDiscoveryResponse { resources: vec![resource], ..DeltaDiscoveryResponse::default() };
        let aliases = aliases.into_iter().map(Arc::from).collect();
        Self { name: name.into(), version, aliases, services, wire: field.encode_to_vec() }
    }

    /// One of which an agent says that it holds it: its content is not known here.
    pub fn held(name: &str, version: String) -> Self {
        Self { name: name.into(), version, aliases: Vec::new(), services: Vec::new(), wire: Vec::new() }
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub fn version(&self) -> &str {
        &self.version
    }

    /// The field `resources` of a [`DeltaDiscoveryResponse`] with this resource.
    pub fn wire(&self) -> &[u8] {
        &self.wire
    }
}

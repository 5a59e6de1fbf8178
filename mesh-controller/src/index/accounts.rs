//! Which identities there are. An identity of this trust domain is its ServiceAccount's: it is over when the account is
//! deleted, however long its certificates are valid.
//!
//! The rule is one for the whole source. A source that says which ServiceAccounts exist ([`Update::has_accounts`]) says
//! so of every namespace: there are no other identities. One that says nothing of them (a folder without any) leaves
//! every identity as it is. A rule for each namespace would bring the identities of a namespace back with the end of
//! its last account, or of the namespace itself.
//!
//! Kubernetes gives each namespace an account `default`, and a new one for one that is deleted: manifests need not
//! name it.
//!
//! [`Update::has_accounts`]: crate::source::Update::has_accounts

use std::collections::BTreeMap;

use mesh_common::model::{Accounts, Identity, Mode};

use super::{Objects, World};
use crate::{
    status::{Fault, Problem},
    translate::{Labels, Settings, join},
};

const DEFAULT: &str = "default";

/// Fills [`World::accounts`], if the source speaks of accounts. Every namespace with a pod has a list then, so that an
/// agent to whom a connection can go holds at least one. Pods without an account are reported.
pub fn list(settings: &Settings, world: &mut World, objects: &Objects<'_>, problems: &mut Vec<Problem>) {
    let mut all: BTreeMap<String, Accounts> = BTreeMap::new();
    let mut of = |namespace: &str, name: Option<&str>| {
        let empty = || {
            let labels = objects.namespaces.get(namespace).copied();
            let mode = join::mode(settings, namespace, labels, &Labels::new());
            Accounts { namespace: namespace.to_owned(), names: [].into(), mode }
        };
        let accounts = all.entry(namespace.to_owned()).or_insert_with(empty);
        accounts.names.extend(name.map(ToOwned::to_owned));
    };
    for namespace in &objects.existing {
        of(namespace, Some(DEFAULT));
    }
    for (namespace, name) in &objects.accounts {
        of(namespace, Some(name));
    }
    for read in &objects.pods {
        of(&read.value.namespace, None);
    }
    world.accounts = all;
    for read in &objects.pods {
        let identity = &read.value.identity;
        let local = world.local_pods.get(&read.value.node).and_then(|pods| pods.get(&read.value.uid));
        if local.is_some_and(|pod| pod.mode == Mode::Mesh) && !world.account_exists(identity) {
            let why = format!(
                "ServiceAccount {} does not exist; what the pod opens to others in the mesh is refused",
                account(identity)
            );
            problems.push(read.object.problem(Fault::new("spec.serviceAccountName", why)));
        }
    }
}

/// As people name it.
pub fn account(identity: &Identity) -> String {
    format!("{}/{}", identity.namespace(), identity.service_account())
}

impl World {
    /// Whether the ServiceAccount behind an identity of this trust domain exists, or nobody says which do.
    pub fn account_exists(&self, identity: &Identity) -> bool {
        let has = |accounts: &Accounts| accounts.names.contains(identity.service_account());
        self.accounts.is_empty() || self.accounts.get(identity.namespace()).is_some_and(has)
    }
}

//! One resource type of the discovery stream: what is held of it, and the answer to each response. Sends nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_common::{
    model::{Accounts, Mode, PolicyName},
    proto::{
        core::Node,
        discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
        refused, rpc,
    },
};

use super::resources::{self, type_url};
use crate::state::{Delta, Kind, Object, Rules, Store, Unreadable};

/// A wildcard subscription. It outlives the streams that feed it.
#[derive(Debug)]
pub struct Subscription {
    kind: Kind,
    /// Every resource of this type in the store as it came, by name.
    held: BTreeMap<String, Resource>,
    /// Policies, accounts and rules of traffic that exist and of which no version could be read, and pods of which the
    /// newest could not: a restart must find them unreadable again.
    unread: BTreeMap<String, Resource>,
    /// There was a response, or one is remembered.
    heard: bool,
    /// A response was accepted.
    answered: bool,
    refused: Option<Refused>,
}

/// What the server said and the agent did not take.
#[derive(Debug)]
struct Refused {
    why: String,
    /// Resources that stand in the store as they were before they were refused.
    stale: BTreeSet<String>,
}

impl Subscription {
    pub fn new(kind: Kind) -> Self {
        let (held, unread) = Default::default();
        Self { kind, held, unread, heard: false, answered: false, refused: None }
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn answered(&self) -> bool {
        self.answered
    }

    /// Why the newest refused response was refused, unless all that it brought has been accepted or removed since.
    pub fn refusal(&self) -> Option<&str> {
        self.refused.as_ref().map(|refused| refused.why.as_str())
    }

    /// Asks for every resource that is not held in its newest version, and for the names of those that are gone; for
    /// `names` besides.
    pub fn first_request(&self, node: Option<Node>, mut names: Vec<String>) -> DeltaDiscoveryRequest {
        if !names.is_empty() {
            names.push("*".to_owned());
        }
        DeltaDiscoveryRequest {
            node,
            type_url: type_url(self.kind).to_owned(),
            resource_names_subscribe: names,
            initial_resource_versions: self.held.iter().map(|(name, r)| (name.clone(), r.version.clone())).collect(),
            ..Default::default()
        }
    }

    /// Takes what was held by an earlier agent. The controller has confirmed nothing of it.
    pub fn recall(&mut self, store: &Store, response: DeltaDiscoveryResponse) {
        self.apply(store, response, false);
        (self.answered, self.refused) = (false, None);
    }

    /// Everything that is held, as one response; `None` before there was any.
    pub fn held_response(&self) -> Option<DeltaDiscoveryResponse> {
        self.heard.then(|| DeltaDiscoveryResponse {
            type_url: type_url(self.kind).to_owned(),
            resources: self.held.values().chain(self.unread.values()).cloned().collect(),
            ..Default::default()
        })
    }

    /// Applies what can be read of a response to the store as one change, and returns the ACK, or the NACK that names
    /// what could not. For a refused resource its last good version stays; a policy that never had one makes those
    /// whom it may be about unreachable, rules of traffic their service, and a namespace whose accounts never had one
    /// has none. Of a pod counts what can be read, and without its rules for tokens it takes no request.
    pub fn take(&mut self, store: &Store, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        self.apply(store, response, true)
    }

    fn apply(&mut self, store: &Store, response: DeltaDiscoveryResponse, confirms: bool) -> DeltaDiscoveryRequest {
        let DeltaDiscoveryResponse { system_version_info: _, resources, type_url, nonce, removed_resources } = response;
        let mut taken = Vec::with_capacity(resources.len());
        let mut unread = Vec::new();
        let mut upserts = Vec::with_capacity(resources.len());
        let mut rejections = Vec::new();
        for resource in resources {
            match resources::object(self.kind, &resource) {
                Ok(object) => {
                    upserts.push((resource.name.clone(), object));
                    taken.push(resource);
                }
                Err(rejection) => {
                    rejections.push(rejection);
                    unread.push(resource);
                }
            }
        }
        let is_known = |name: &String| {
            let held = self.held.contains_key(name) && !removed_resources.contains(name);
            held || taken.iter().any(|resource| resource.name == *name)
        };
        let unknown = rejections.iter().filter(|rejection| !is_known(&rejection.resource));
        upserts.extend(
            unknown.filter_map(|rejection| Some((rejection.resource.clone(), in_place_of(self.kind, rejection)?))),
        );
        for resource in unread.iter().filter(|_| self.kind == Kind::LocalPod) {
            let name = &resource.name;
            let held = || self.held.get(name).filter(|_| !removed_resources.contains(name));
            let earlier = taken.iter().find(|taken| taken.name == *name).or_else(held);
            if let Some(pod) = resources::stand_in(resource, earlier) {
                upserts.retain(|(known, _)| known != name);
                upserts.push((name.clone(), Object::LocalPod(pod)));
            }
        }
        let delta = Delta {
            removals: removed_resources.iter().map(|name| (self.kind, name.clone())).collect(),
            upserts,
            unreadable: rejections.iter().filter(|_| self.kind == Kind::Policy).map(unreadable).collect(),
            policies_answered: self.kind == Kind::Policy,
            pods_confirmed: confirms && self.kind == Kind::LocalPod && rejections.is_empty(),
        };
        let applied = store.apply(delta);
        let is_applied = applied.is_ok();
        let error = match (applied, rejections.as_slice()) {
            (Err(error), _) => Some(error.to_string()),
            (Ok(_), []) => None,
            (Ok(_), [only]) => Some(only.to_string()),
            (Ok(_), [first, more @ ..]) => Some(format!("{first} (and {} more resources)", more.len())),
        };
        self.hold(taken, unread, &removed_resources);
        self.heard = true;
        self.answered |= error.is_none();
        let error_detail = error.map(|why| {
            let refused = self.refused.get_or_insert_with(|| Refused { why: String::new(), stale: BTreeSet::new() });
            refused.why.clone_from(&why);
            // All others have been taken, unless it is the store that refuses.
            let details = if is_applied { refused_details(&rejections) } else { Vec::new() };
            refused.stale.extend(rejections.into_iter().map(|rejection| rejection.resource));
            rpc::Status { code: tonic::Code::InvalidArgument.into(), message: why, details }
        });
        DeltaDiscoveryRequest { type_url, response_nonce: nonce, error_detail, ..Default::default() }
    }

    fn hold(&mut self, taken: Vec<Resource>, unread: Vec<Resource>, removed: &[String]) {
        if let Some(refused) = &mut self.refused {
            for name in removed.iter().chain(taken.iter().map(|resource| &resource.name)) {
                refused.stale.remove(name);
            }
            if refused.stale.is_empty() {
                self.refused = None;
            }
        }
        for name in removed {
            self.held.remove(name);
            self.unread.remove(name);
        }
        for resource in taken {
            self.unread.remove(&resource.name);
            self.held.insert(resource.name.clone(), resource);
        }
        let is_kept = |resource: &Resource| match self.kind {
            // The last good version stands for one that cannot be read.
            Kind::Policy | Kind::Accounts | Kind::Traffic => !self.held.contains_key(&resource.name),
            Kind::LocalPod => true,
            Kind::Address | Kind::TrustBundle | Kind::OnDemand => false,
        };
        let unread: Vec<_> = unread.into_iter().filter(is_kept).collect();
        self.unread.extend(unread.into_iter().map(|resource| (resource.name.clone(), resource)));
    }
}

/// What stands for a resource of which no version could be read, where nothing at all would permit more.
fn in_place_of(kind: Kind, rejection: &resources::Rejection) -> Option<Object> {
    let name = &rejection.resource;
    match kind {
        Kind::Accounts => {
            let none = Accounts { namespace: name.clone(), names: BTreeSet::new(), mode: Mode::Mesh };
            Some(Object::Accounts(none))
        }
        Kind::Traffic => {
            // Under another name nobody would look for it.
            let service = name.parse().ok()?;
            let why = format!("{}: {}", rejection.field, rejection.why);
            Some(Object::Traffic(Arc::new(Rules::unreadable(service, &why))))
        }
        // Policies are known by name and reach; of pods there is `stand_in`; without the others there is less to reach.
        Kind::Policy | Kind::Address | Kind::LocalPod | Kind::TrustBundle | Kind::OnDemand => None,
    }
}

fn refused_details(rejections: &[resources::Rejection]) -> Vec<prost_types::Any> {
    refused::details(rejections.iter().map(|rejection| rejection.resource.as_str()))
}

fn unreadable(rejection: &resources::Rejection) -> Unreadable {
    let name = rejection
        .resource
        .parse()
        .unwrap_or_else(|_| PolicyName { namespace: String::new(), name: rejection.resource.clone() });
    Unreadable { name, reach: rejection.reach.clone() }
}

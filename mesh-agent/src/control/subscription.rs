//! One resource type of the discovery stream: what is held of it, and the answer to each response. Sends nothing.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::proto::{
    core::Node,
    discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
    rpc,
};

use super::resources::{self, type_url};
use crate::state::{Delta, Kind, Store};

/// A wildcard subscription. It outlives the streams that feed it.
#[derive(Debug)]
pub struct Subscription {
    kind: Kind,
    /// Name -> version of every resource of this type in the store.
    versions: BTreeMap<String, String>,
    /// A response was accepted.
    answered: bool,
    refused: Option<Refused>,
}

/// What the server said and the agent did not take.
#[derive(Debug)]
struct Refused {
    why: String,
    /// Resources that stand in the store as they were before a refused response.
    stale: BTreeSet<String>,
}

impl Subscription {
    pub fn new(kind: Kind) -> Self {
        Self { kind, versions: BTreeMap::new(), answered: false, refused: None }
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

    /// Asks for every resource that is not held in its newest version, and for the names of those that are gone.
    pub fn first_request(&self, node: Option<Node>) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            node,
            type_url: type_url(self.kind).to_owned(),
            initial_resource_versions: self.versions.clone(),
            ..Default::default()
        }
    }

    /// Applies a response to the store as one change, or nothing of it, and returns the ACK or NACK. A refused
    /// response leaves the versions as they were, so that a new stream asks for its resources again.
    pub fn take(&mut self, store: &Store, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        let DeltaDiscoveryResponse { system_version_info: _, resources, type_url, nonce, removed_resources } = response;
        let mut versions = Vec::with_capacity(resources.len());
        let mut upserts = Vec::with_capacity(resources.len());
        let mut rejections = Vec::new();
        for resource in resources {
            match resources::object(self.kind, &resource) {
                Ok(object) => upserts.push((resource.name.clone(), object)),
                Err(rejection) => rejections.push(rejection),
            }
            versions.push((resource.name, resource.version));
        }
        let error = match rejections.as_slice() {
            [] => {
                let removals = removed_resources.iter().map(|name| (self.kind, name.clone())).collect();
                store.apply(Delta { removals, upserts }).err().map(|error| error.to_string())
            }
            [only] => Some(only.to_string()),
            [first, more @ ..] => Some(format!("{first} (and {} more resources)", more.len())),
        };
        let error_detail = match error {
            None => {
                self.accepted(versions, &removed_resources);
                None
            }
            Some(why) => {
                let refused =
                    self.refused.get_or_insert_with(|| Refused { why: String::new(), stale: BTreeSet::new() });
                refused.why.clone_from(&why);
                refused.stale.extend(versions.into_iter().map(|(name, _)| name).chain(removed_resources));
                Some(rpc::Status { code: tonic::Code::InvalidArgument.into(), message: why, details: Vec::new() })
            }
        };
        DeltaDiscoveryRequest { type_url, response_nonce: nonce, error_detail, ..Default::default() }
    }

    fn accepted(&mut self, versions: Vec<(String, String)>, removed: &[String]) {
        self.answered = true;
        if let Some(refused) = &mut self.refused {
            for name in removed.iter().chain(versions.iter().map(|(name, _)| name)) {
                refused.stale.remove(name);
            }
            if refused.stale.is_empty() {
                self.refused = None;
            }
        }
        for name in removed {
            self.versions.remove(name);
        }
        self.versions.extend(versions);
    }
}

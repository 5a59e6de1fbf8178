//! What the kinds that speak of traffic have in common, one object at a time: whom a rule is about, for whom it holds,
//! and what it says. Rules of different objects are merged in `index::traffic`, which knows the services. What the
//! kinds owe it:
//!
//! - `Origin::object` is the object's key as text, `Origin::field` the rule's path, as in `spec.http[0]`.
//! - Backends stand in the order of the YAML: the one at `i` is told of as [`Api::backend`] says.
//! - A backend whose namespace is empty is looked up by its host name, see [`super::hosts::destination`].
//! - What must not be used, for want of a grant or for a fault, is `Target::Invalid` already.

use std::collections::BTreeMap;

use mesh_common::model::{
    ServiceName,
    traffic::{Clients, Protocol, Routes},
};

use crate::source::Key;

/// What one object says of traffic to some services, before it is merged with what others say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruled {
    pub object: Key,
    /// Seconds since 1970.
    pub created: i64,
    pub api: Api,
    /// The same rules hold for each of them.
    pub hosts: Vec<About>,
    /// As the object has it (`exportTo`). An object of another namespace than the service's holds for clients of its
    /// own namespace only, whatever it says: that is seen to where the service is known.
    pub exported: Clients,
    pub routes: Routes,
}

/// Which family of kinds an object is of. In this order they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Api {
    /// HTTPRoute, GRPCRoute, TLSRoute, TCPRoute. Rules of several objects are mixed by the precedence of their
    /// conditions: each route of `http` has one match at most.
    Gateway,
    /// VirtualService: its routes stay together, in their order.
    VirtualService,
}

/// A host, and the field that names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// As in `spec.hosts[0]`.
    pub field: String,
    pub host: HostRef,
}

/// A name of one service or several, as an object says it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostRef {
    /// A service of Kubernetes.
    Service(ServiceName),
    /// Whatever service has this host name; of several, that of the object's own namespace.
    Named(String),
    /// `*.example.com` without the star: all services whose names end so.
    Below(String),
    Every,
}

/// What is known of a service to those who speak of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Every port, and what is spoken at it.
    pub ports: BTreeMap<u16, Protocol>,
    /// Who may name it.
    pub exported: Clients,
}

impl Api {
    /// What a request is answered with that a rule sends to a host that no service has.
    pub const fn unknown_host(self) -> u16 {
        match self {
            // Gateway API: an invalid reference is 500.
            Self::Gateway => 500,
            Self::VirtualService => 503,
        }
    }

    /// The field of a rule's backend at this place.
    pub fn backend(self, rule: &str, place: usize) -> String {
        match self {
            Self::Gateway => format!("{rule}.backendRefs[{place}]"),
            Self::VirtualService => format!("{rule}.route[{place}].destination"),
        }
    }
}

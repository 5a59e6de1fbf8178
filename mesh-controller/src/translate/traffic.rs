//! What the kinds that speak of traffic have in common, one object at a time: whom a rule is about, for whom it holds,
//! and what it says. Rules of different objects are merged in `index::traffic`, which knows the services.
//!
//! `Origin::object` is an object's key as text, `Origin::field` a rule's path, as in `spec.http[0]`.

use std::collections::BTreeMap;

use mesh_common::model::{
    ServiceName,
    traffic::{Clients, Protocol, Routes},
};

use crate::source::Key;

/// What one VirtualService says of traffic to some services, before it is merged with what others say. Its routes stay
/// together, in their order. A backend whose namespace is empty is looked up by its host name, see
/// [`super::hosts::destination`]; backends stand in the order of the YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruled {
    pub object: Key,
    /// Seconds since 1970.
    pub created: i64,
    /// The same rules hold for each of them.
    pub hosts: Vec<About>,
    /// As the object has it (`exportTo`). An object of another namespace than the service's holds for clients of its
    /// own namespace only, whatever it says: that is seen to where the service is known.
    pub exported: Clients,
    pub routes: Routes,
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

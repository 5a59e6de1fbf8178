//! What routes may speak of: services by the names of their objects, and grants.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::model::{
    ServiceName,
    traffic::{Clients, Protocol},
};

use crate::translate::{
    gateway::{Kind, Parent, ParentKind, Reason, Reference, Route, Unresolved},
    reference_grant::ReferenceGrant,
    service,
};

/// A service as a route sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub name: ServiceName,
    /// Names and what is spoken, by number.
    pub ports: BTreeMap<u16, (String, Protocol)>,
    /// Clients dial it, not its endpoints.
    pub is_dialled: bool,
    /// Who may use it.
    pub exported: Clients,
}

#[derive(Debug, Default)]
pub struct Known<'a> {
    /// By namespace and name.
    services: BTreeMap<(String, String), Place>,
    entries: BTreeMap<(String, String), Vec<Place>>,
    grants: Vec<&'a ReferenceGrant>,
}

/// Ports at which a route is attached; `None`: a service of which no ports are known.
pub type Ports = BTreeSet<Option<u16>>;

/// Namespace and name of a service to which a route may refer without a ReferenceGrant.
pub type Exempt<'a> = Option<(&'a str, &'a str)>;

impl Place {
    pub fn of(service: &service::Service) -> Self {
        let ports = service.ports.iter().map(|port| (port.port, (port.name.clone(), port.protocol)));
        Self {
            name: service.service.service_name(),
            ports: ports.collect(),
            is_dialled: !service.service.addresses.is_empty(),
            exported: Clients::Everybody,
        }
    }

    /// All that a route may be attached to.
    pub fn all_ports(&self) -> Ports {
        if self.ports.is_empty() { [None].into() } else { self.ports.keys().copied().map(Some).collect() }
    }
}

impl<'a> Known<'a> {
    pub fn new(
        services: impl IntoIterator<Item = &'a service::Service>,
        grants: impl IntoIterator<Item = &'a ReferenceGrant>,
    ) -> Self {
        let services = services.into_iter().map(|service| {
            let model = &service.service;
            ((model.namespace.clone(), model.name.clone()), Place::of(service))
        });
        Self { services: services.collect(), entries: BTreeMap::new(), grants: grants.into_iter().collect() }
    }

    /// A ServiceEntry, and the services that it makes: one for each host.
    pub fn add_entry(&mut self, namespace: &str, name: &str, places: Vec<Place>) {
        self.entries.insert((namespace.to_owned(), name.to_owned()), places);
    }

    /// The services that a parent stands for, and the ports at which it takes this route.
    ///
    /// # Errors
    /// Says why it does not take it at any.
    pub fn attach(&self, route: &Route, parent: &Parent) -> Result<Vec<(&Place, Ports)>, String> {
        let Parent { kind, namespace, name, port, section, .. } = parent;
        let key = (namespace.clone(), name.clone());
        let (kind_name, places) = match kind {
            ParentKind::Service => ("Service", self.services.get(&key).map(std::slice::from_ref)),
            ParentKind::ServiceEntry => ("ServiceEntry", self.entries.get(&key).map(Vec::as_slice)),
        };
        let places = places.ok_or_else(|| format!("{kind_name} {namespace}/{name} does not exist"))?;
        let usable: Vec<&Place> = places.iter().filter(|place| place.exported.has(&route.namespace)).collect();
        if usable.is_empty() {
            return Err(format!("{kind_name} {namespace}/{name} is not exported to {}", route.namespace));
        }
        if usable.iter().all(|place| !place.is_dialled) {
            return Err(format!("{kind_name} {namespace}/{name} has no address of its own: nobody dials it"));
        }
        let fits = |(number, (called, protocol)): &(&u16, &(String, Protocol))| {
            port.is_none_or(|port| port == **number)
                && section.as_ref().is_none_or(|section| section == called)
                && speaks(route.kind, *protocol)
        };
        let attached = usable.into_iter().filter(|place| place.is_dialled).filter_map(|place| {
            let ports: Ports = if place.ports.is_empty() && section.is_none() {
                [*port].into()
            } else {
                place.ports.iter().filter(fits).map(|(number, _)| Some(*number)).collect()
            };
            (!ports.is_empty()).then_some((place, ports))
        });
        let attached: Vec<_> = attached.collect();
        if attached.is_empty() {
            let port = port.map(|port| format!(" {port}")).unwrap_or_default();
            let section = section.as_ref().map(|section| format!(" `{section}`")).unwrap_or_default();
            let kind = route.kind.name();
            return Err(format!("{kind_name} {namespace}/{name} has no port{port}{section} for a {kind}"));
        }
        Ok(attached)
    }

    /// Where a reference of this route leads.
    ///
    /// # Errors
    /// Says why it leads nowhere.
    pub fn resolve(
        &self,
        route: &Route,
        exempt: Exempt<'_>,
        reference: &Reference,
    ) -> Result<(ServiceName, u16), Unresolved> {
        let Reference { field: _, namespace, name, port, broken } = reference;
        if let Some(broken) = broken {
            return Err(broken.clone());
        }
        // Before it is looked for: who may not refer to it does not learn whether it is there.
        if *namespace != route.namespace && exempt != Some((namespace, name)) {
            let mut grants = self.grants.iter().filter(|grant| grant.namespace == *namespace);
            if !grants.any(|grant| grant.allows(route.kind.name(), &route.namespace, name)) {
                let why = format!("no ReferenceGrant in {namespace} allows Service {namespace}/{name}");
                return Err(Unresolved { reason: Reason::RefNotPermitted, why });
            }
        }
        let missing = |why: String| Unresolved { reason: Reason::BackendNotFound, why };
        let place = self.services.get(&(namespace.clone(), name.clone()));
        let place = place.ok_or_else(|| missing(format!("Service {namespace}/{name} does not exist")))?;
        if !place.ports.contains_key(port) {
            return Err(missing(format!("Service {namespace}/{name} has no port {port}")));
        }
        Ok((place.name.clone(), *port))
    }
}

/// Whether a route of this kind can do anything at a port where this is spoken.
fn speaks(kind: Kind, protocol: Protocol) -> bool {
    match kind {
        Kind::Grpc | Kind::Http => matches!(protocol, Protocol::Auto | Protocol::Http | Protocol::Http2),
        Kind::Tls => matches!(protocol, Protocol::Auto | Protocol::Tls | Protocol::Tcp),
        Kind::Tcp => true,
    }
}

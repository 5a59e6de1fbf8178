//! Where rules lead: the services that their backends name.

use mesh_common::model::traffic::{Action, Backend, Routes, Target, WeightedBackend};

use super::{
    Services,
    budget::Cost,
    settle::{Faults, add, laid_over},
};
use crate::{status::Fault, translate::traffic::Ruled};

/// What an object says, with every backend a service that there is, or something invalid.
#[derive(Debug)]
pub struct Resolved<'a> {
    pub ruled: &'a Ruled,
    pub routes: Routes,
    /// Backends with a subset, and the field that names it.
    pub subsets: Vec<(String, Backend)>,
    /// Of one copy of it.
    pub cost: Cost,
}

impl<'a> Resolved<'a> {
    pub fn new(services: &Services<'_>, ruled: &'a Ruled, faults: &mut Faults) -> Self {
        let (routes, cost) = (ruled.routes.clone(), Cost::default());
        let mut resolved = Self { ruled, routes, subsets: Vec::new(), cost };
        let mut routes = std::mem::take(&mut resolved.routes);
        for route in &mut routes.http {
            let field = &route.origin.field;
            if let Action::Forward(backends) = &mut route.action {
                resolved.backends(services, field, backends, faults);
            }
            let mirrors = std::mem::take(&mut route.mirrors).into_iter().filter_map(|mut mirror| {
                match lookup(services, ruled, &mirror.backend) {
                    Ok(backend) => {
                        resolved.remember(format!("{field}.mirror.subset"), &backend);
                        mirror.backend = backend;
                        Some(mirror)
                    }
                    Err((part, why)) => {
                        let why = format!("{why}; nothing is mirrored there");
                        add(faults, &ruled.object, Fault::new(format!("{field}.mirror.{part}"), why));
                        None
                    }
                }
            });
            route.mirrors = mirrors.collect();
        }
        for route in &mut routes.tls {
            resolved.backends(services, &route.origin.field, &mut route.backends, faults);
        }
        for route in &mut routes.tcp {
            resolved.backends(services, &route.origin.field, &mut route.backends, faults);
        }
        // After others' rules its faults are said apart from them.
        let faults = laid_over(&routes.http).collect();
        let over = Cost::of(&Routes { faults, ..Routes::default() });
        // An object without rules sets clients apart all the same.
        let least = Cost { rules: 1, ..Cost::default() };
        (resolved.cost, resolved.routes) = (least + Cost::of(&routes) + over, routes);
        resolved
    }

    fn backends(&mut self, services: &Services<'_>, rule: &str, backends: &mut [WeightedBackend], faults: &mut Faults) {
        for (i, WeightedBackend { target, .. }) in backends.iter_mut().enumerate() {
            let Target::Backend(backend) = target else { continue };
            let field = format!("{rule}.route[{i}].destination");
            match lookup(services, self.ruled, backend) {
                Ok(found) => {
                    self.remember(format!("{field}.subset"), &found);
                    *backend = found;
                }
                Err((part, why)) => {
                    let told = format!("{why}; what is sent there is answered 503");
                    add(faults, &self.ruled.object, Fault::new(format!("{field}.{part}"), told));
                    *target = Target::Invalid { status: 503, why };
                }
            }
        }
    }

    fn remember(&mut self, field: String, backend: &Backend) {
        if backend.subset.is_some() {
            self.subsets.push((field, backend.clone()));
        }
    }
}

/// The service that an object means, and its port: where there is only one, that is meant.
fn lookup(services: &Services<'_>, ruled: &Ruled, backend: &Backend) -> Result<Backend, (&'static str, String)> {
    let Backend { service, port, subset } = backend;
    let unknown = || ("host", format!("no service has the host name `{}`", service.hostname));
    let found = services.resolve(service, &ruled.object.namespace).ok_or_else(unknown)?;
    let ports = services.facts(found).map(|facts| &facts.ports);
    let port = match (port, ports) {
        (Some(port), Some(ports)) if !ports.is_empty() && !ports.contains_key(port) => {
            return Err(("port.number", format!("`{}` has no port {port}", found.hostname)));
        }
        (Some(port), _) => Some(*port),
        (None, Some(ports)) if ports.len() == 1 => ports.keys().next().copied(),
        (None, _) => None,
    };
    Ok(Backend { service: found.clone(), port, subset: subset.clone() })
}

/// All that rules lead to.
pub fn backends(routes: &Routes) -> impl Iterator<Item = &Backend> {
    let http = routes.http.iter().flat_map(|route| match &route.action {
        Action::Forward(backends) => backends.as_slice(),
        Action::Redirect(_) | Action::Respond(_) => &[],
    });
    let mirrors = routes.http.iter().flat_map(|route| &route.mirrors).map(|mirror| &mirror.backend);
    let tls = routes.tls.iter().flat_map(|route| &route.backends);
    let tcp = routes.tcp.iter().flat_map(|route| &route.backends);
    let targets = http.chain(tls).chain(tcp).filter_map(|backend| match &backend.target {
        Target::Backend(backend) => Some(backend),
        Target::Invalid { .. } => None,
    });
    targets.chain(mirrors)
}

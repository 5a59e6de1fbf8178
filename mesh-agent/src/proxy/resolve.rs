//! Where a connection goes, from what the client dialled and the configuration. Pure.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use mesh_common::model::{LoadBalancingMode, Service, ServiceName, Tunnel, Workload};

use super::Proxy;
use crate::{
    pods::Pod,
    state::{Snapshot, backends},
    telemetry::reason,
};

/// The answer.
#[derive(Debug)]
pub struct Resolved {
    /// The service that was dialled, if it was one.
    pub service: Option<ServiceName>,
    pub route: Route,
}

/// What the kernel chose, if it may be chosen still; otherwise whom the client keeps, or whose turn it is.
pub fn choose(hint: Option<SocketAddr>, endpoints: &[Endpoint<'_>], next: impl FnOnce() -> usize) -> usize {
    endpoints.iter().position(|(_, target)| Some(*target) == hint).unwrap_or_else(next)
}

#[derive(Debug)]
pub enum Route {
    /// A redirected pod of this node.
    Local { workload: Arc<Workload>, target: SocketAddr },
    /// A mesh workload elsewhere.
    Tunnel { workload: Arc<Workload>, target: SocketAddr },
    /// The caller itself, by way of its service.
    Own { workload: Arc<Workload>, target: SocketAddr },
    /// Outside the mesh.
    Passthrough { workload: Option<Arc<Workload>>, target: SocketAddr },
    /// A reason code, and why for people.
    Refuse { reason: &'static str, why: String },
}

/// `can_dial` says whether the source has an address of the other one's family, `redirected_here` whether a pod with
/// that address is redirected on this node; `choose` picks one of the endpoints of a service, of which there is one at
/// least; `hbone_port` is the tunnel's.
pub fn resolve(
    snapshot: &Snapshot,
    source_uid: &str,
    destination: SocketAddr,
    can_dial: impl Fn(IpAddr) -> bool,
    redirected_here: impl Fn(IpAddr) -> bool,
    choose: impl FnOnce(&Service, &[Endpoint<'_>]) -> usize,
    hbone_port: u16,
) -> Resolved {
    let place = Place { source_uid, redirected_here: &redirected_here, hbone_port };
    let Some(service) = snapshot.service_by_address(destination.ip()) else {
        let workload = snapshot.workload_by_address(destination.ip()).cloned();
        return Resolved { service: None, route: place.route(workload, destination) };
    };
    let name = service.service_name();
    let route = match endpoint(snapshot, service, &name, destination, source_uid, can_dial, choose) {
        Ok((workload, target)) => place.route(Some(workload), target),
        Err((reason, why)) => Route::Refuse { reason, why },
    };
    Resolved { service: Some(name), route }
}

/// The way from a pod of this node to an endpoint that was chosen.
pub fn route_to(proxy: &Proxy, pod: &Pod, workload: &Arc<Workload>, target: SocketAddr) -> Route {
    let redirected_here = |ip| proxy.pods.by_ip(ip).is_some();
    let place = Place { source_uid: &pod.uid, redirected_here: &redirected_here, hbone_port: proxy.hbone_port };
    place.route(Some(Arc::clone(workload)), target)
}

/// An endpoint of a service, and where it answers.
pub type Endpoint<'a> = (&'a Arc<Workload>, SocketAddr);

/// Who asks, and from where.
struct Place<'a> {
    source_uid: &'a str,
    redirected_here: &'a dyn Fn(IpAddr) -> bool,
    hbone_port: u16,
}

impl Place<'_> {
    fn route(&self, workload: Option<Arc<Workload>>, target: SocketAddr) -> Route {
        match workload {
            Some(workload) if workload.tunnel == Tunnel::Hbone && target.port() == self.hbone_port => Route::Refuse {
                reason: reason::HBONE_PORT,
                why: format!("port {} of {} is the agents' own", target.port(), workload.uid),
            },
            Some(workload) if workload.uid == self.source_uid => Route::Own { workload, target },
            Some(workload) if (self.redirected_here)(target.ip()) => Route::Local { workload, target },
            Some(workload) if workload.tunnel == Tunnel::Hbone => Route::Tunnel { workload, target },
            workload => Route::Passthrough { workload, target },
        }
    }
}

fn endpoint(
    snapshot: &Snapshot,
    service: &Service,
    name: &ServiceName,
    dialled: SocketAddr,
    source_uid: &str,
    can_dial: impl Fn(IpAddr) -> bool,
    choose: impl FnOnce(&Service, &[Endpoint<'_>]) -> usize,
) -> Result<(Arc<Workload>, SocketAddr), (&'static str, String)> {
    let port = dialled.port();
    if !service.ports.iter().any(|p| p.port == port) {
        return Err((reason::NO_SUCH_PORT, format!("service {name} has no port {port}")));
    }
    let Some(source) = snapshot.workload(source_uid) else {
        return Err((reason::WORKLOAD_UNKNOWN, format!("{source_uid} is not in the configuration")));
    };
    let endpoints = backends(snapshot, service, dialled, source, can_dial);
    if endpoints.is_empty() {
        let near = match &service.load_balancing {
            Some(wanted) if wanted.mode == LoadBalancingMode::Strict => format!(" that is near enough ({wanted})"),
            _ => String::new(),
        };
        let why = format!("service {name} has no healthy endpoint for port {port}{near}");
        return Err((reason::NO_HEALTHY_ENDPOINT, why));
    }
    let (workload, target) = endpoints[choose(service, &endpoints) % endpoints.len()];
    Ok((Arc::clone(workload), target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::tests::workload;

    #[test]
    fn the_kernels_choice_is_honoured_while_it_may_be_chosen() {
        let (one, other) = (Arc::new(workload("a", "10.0.0.1")), Arc::new(workload("b", "10.0.0.2")));
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let endpoints = [(&one, at("10.0.0.1:80")), (&other, at("10.0.0.2:80"))];
        assert_eq!(choose(Some(at("10.0.0.2:80")), &endpoints, || panic!("it was chosen")), 1);
        // Not healthy any more, another port, and nobody chose.
        for hint in [Some(at("10.0.0.3:80")), Some(at("10.0.0.2:81")), None] {
            assert_eq!(choose(hint, &endpoints, || 0), 0, "{hint:?}");
        }
    }
}

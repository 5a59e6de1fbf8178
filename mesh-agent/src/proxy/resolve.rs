//! Where a connection goes, from what the client dialled and the configuration. Pure.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use mesh_common::model::{Service, ServiceName, Tunnel, Workload};

use crate::{state::Snapshot, telemetry::reason};

/// The answer.
#[derive(Debug)]
pub struct Resolved {
    /// The service that was dialled, if it was one.
    pub service: Option<ServiceName>,
    pub route: Route,
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
/// that address is redirected on this node; `choose` picks one of n endpoints of a service; `hbone_port` is the
/// tunnel's.
pub fn resolve(
    snapshot: &Snapshot,
    source_uid: &str,
    destination: SocketAddr,
    can_dial: impl Fn(IpAddr) -> bool,
    redirected_here: impl Fn(IpAddr) -> bool,
    choose: impl FnOnce(&ServiceName, usize) -> usize,
    hbone_port: u16,
) -> Resolved {
    let place = Place { source_uid, redirected_here: &redirected_here, hbone_port };
    let Some(service) = snapshot.service_by_address(destination.ip()) else {
        let workload = snapshot.workload_by_address(destination.ip()).cloned();
        return Resolved { service: None, route: place.route(workload, destination) };
    };
    let name = service.service_name();
    let route = match endpoint(snapshot, service, &name, destination, can_dial, choose) {
        Ok((workload, target)) => place.route(Some(workload), target),
        Err((reason, why)) => Route::Refuse { reason, why },
    };
    Resolved { service: Some(name), route }
}

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
    can_dial: impl Fn(IpAddr) -> bool,
    choose: impl FnOnce(&ServiceName, usize) -> usize,
) -> Result<(Arc<Workload>, SocketAddr), (&'static str, String)> {
    let port = dialled.port();
    if !service.ports.iter().any(|p| p.port == port) {
        return Err((reason::NO_SUCH_PORT, format!("service {name} has no port {port}")));
    }
    let target = |workload: &Workload| {
        let port = workload.services.get(name)?.iter().find(|p| p.port == port && p.target != 0)?.target;
        Some(SocketAddr::new(address(&workload.addresses, dialled.ip(), &can_dial)?, port))
    };
    let healthy: Vec<_> =
        snapshot.endpoints(name).iter().filter(|w| w.healthy).filter_map(|w| Some((w, target(w)?))).collect();
    if healthy.is_empty() {
        return Err((reason::NO_HEALTHY_ENDPOINT, format!("service {name} has no healthy endpoint for port {port}")));
    }
    let (workload, target) = healthy[choose(name, healthy.len()) % healthy.len()];
    Ok((Arc::clone(workload), target))
}

/// The address of the family that was dialled, or else any that the source can dial.
fn address(addresses: &[IpAddr], dialled: IpAddr, can_dial: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let same_family = addresses.iter().find(|ip| ip.is_ipv4() == dialled.is_ipv4());
    same_family.or_else(|| addresses.iter().find(|ip| can_dial(**ip))).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_dialled_in_the_clients_family_if_it_can_be() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let both = [ip("10.0.0.2"), ip("fd00::2")];
        let chosen = |of: &[IpAddr], dialled, can: fn(IpAddr) -> bool| address(of, ip(dialled), can);
        assert_eq!(chosen(&both, "10.96.0.1", |_| true), Some(both[0]));
        assert_eq!(chosen(&both, "fd00::96", |_| true), Some(both[1]));
        assert_eq!(chosen(&both[1..], "10.96.0.1", |ip| ip.is_ipv6()), Some(both[1]));
        assert_eq!(chosen(&both[..1], "fd00::96", |ip| ip.is_ipv4()), Some(both[0]));
        // A source without IPv6 finds nobody there.
        assert_eq!(chosen(&both[1..], "10.96.0.1", |ip| ip.is_ipv4()), None);
    }
}

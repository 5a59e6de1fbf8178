//! Which endpoints of a service may be chosen, seen from a workload. It picks nobody and knows nothing of connections.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use mesh_common::model::{Level, LoadBalancing, LoadBalancingMode, Service, Workload};

use super::Snapshot;

/// The healthy endpoints of `service` that a client may be given that dials `dialled` (an address and port of it), each
/// with where it answers that port; by uid. Only those that the service's preference leaves; none if it has no such
/// port.
///
/// `from` is the client, or any other workload of its node: all of them have the place of their node, which the
/// controller writes into each. So the agent need not be told where it is, and cannot be told wrong. `can_dial` says
/// whether the client has an address of the same family as the one given.
pub fn backends<'a>(
    snapshot: &'a Snapshot,
    service: &Service,
    dialled: SocketAddr,
    from: &Workload,
    can_dial: impl Fn(IpAddr) -> bool,
) -> Vec<(&'a Arc<Workload>, SocketAddr)> {
    let name = service.service_name();
    if !service.ports.iter().any(|p| p.port == dialled.port()) {
        return Vec::new();
    }
    let target = |workload: &Workload| {
        let ports = workload.services.get(&name)?;
        let port = ports.iter().find(|p| p.port == dialled.port() && p.target != 0)?.target;
        Some(SocketAddr::new(address(&workload.addresses, dialled.ip(), &can_dial)?, port))
    };
    let endpoints = snapshot.endpoints(&name).iter().filter(|workload| workload.healthy);
    let mut healthy: Vec<_> = endpoints.filter_map(|workload| Some((workload, target(workload)?))).collect();
    if let Some(LoadBalancing { preference, mode }) = &service.load_balancing {
        let nearness =
            |workload: &Workload| preference.iter().take_while(|level| is_shared(**level, from, workload)).count();
        let wanted = match mode {
            LoadBalancingMode::Strict => preference.len(),
            LoadBalancingMode::Failover => healthy.iter().map(|(workload, _)| nearness(workload)).max().unwrap_or(0),
        };
        healthy.retain(|(workload, _)| nearness(workload) == wanted);
    }
    healthy
}

/// What neither of them says is shared: nodes without labels are in one and the same zone.
fn is_shared(level: Level, from: &Workload, to: &Workload) -> bool {
    match level {
        Level::Network => from.network == to.network,
        Level::Cluster => from.cluster == to.cluster,
        Level::Region => from.locality.region == to.locality.region,
        Level::Zone => from.locality.zone == to.locality.zone,
        Level::Subzone => from.locality.subzone == to.locality.subzone,
        // Nodes of two clusters may have one name.
        Level::Node => from.cluster == to.cluster && from.node == to.node,
    }
}

/// The address of the family that was dialled, or else any that the client can dial.
fn address(addresses: &[IpAddr], dialled: IpAddr, can_dial: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let same_family = addresses.iter().find(|ip| ip.is_ipv4() == dialled.is_ipv4());
    same_family.or_else(|| addresses.iter().find(|ip| can_dial(**ip))).copied()
}

#[cfg(test)]
mod tests {
    use mesh_common::model::Locality;

    use super::*;
    use crate::state::{
        Object, Store,
        tests::{ip, put, service, workload},
    };

    const WEB: &str = "10.96.0.1:80";

    /// At `region/zone/node`.
    fn at(name: &str, address: &str, place: &str) -> Workload {
        let mut parts = place.split('/').map(ToOwned::to_owned);
        let (region, zone) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let locality = Locality { region, zone, subzone: String::new() };
        Workload { locality, node: parts.next().unwrap_or_default(), ..workload(name, address) }
    }

    fn prefer(preference: &[Level], mode: LoadBalancingMode) -> Service {
        let load_balancing = Some(LoadBalancing { preference: preference.to_vec(), mode });
        Service { load_balancing, ..service("10.96.0.1") }
    }

    /// The names of the endpoints that a client at r1/z1/n1 may be given.
    fn chosen(service: &Service, endpoints: &[Workload]) -> Vec<String> {
        let store = Store::default();
        let snapshot = put(&store, endpoints.iter().cloned().map(Object::Workload));
        let client = at("client", "10.0.0.99", "r1/z1/n1");
        let found = backends(&snapshot, service, WEB.parse().unwrap(), &client, |_| true);
        found.into_iter().map(|(workload, _)| workload.name.clone()).collect()
    }

    fn four() -> Vec<Workload> {
        vec![
            at("a-node", "10.0.0.1", "r1/z1/n1"),
            at("b-zone", "10.0.0.2", "r1/z1/n2"),
            at("c-region", "10.0.0.3", "r1/z2/n3"),
            // Of the same names in another region.
            at("d-far", "10.0.0.4", "r2/z1/n4"),
        ]
    }

    #[test]
    fn failover_goes_from_near_to_far() {
        use Level::{Network, Node, Region, Zone};
        let node = prefer(&[Network, Region, Zone, Node], LoadBalancingMode::Failover);
        let mut endpoints = four();
        for nearest in ["a-node", "b-zone", "c-region", "d-far"] {
            assert_eq!(chosen(&node, &endpoints), [nearest]);
            // One that is not healthy is none.
            endpoints.iter_mut().find(|w| w.healthy).unwrap().healthy = false;
        }
        assert_eq!(chosen(&node, &endpoints), [""; 0]);
        let zone = prefer(&[Network, Region, Zone], LoadBalancingMode::Failover);
        assert_eq!(chosen(&zone, &four()), ["a-node", "b-zone"]);
        assert_eq!(chosen(&zone, &four()[2..]), ["c-region"]);
        assert_eq!(chosen(&service("10.96.0.1"), &four()).len(), 4, "no preference");
    }

    #[test]
    fn strict_takes_nobody_farther() {
        let node = prefer(&[Level::Node], LoadBalancingMode::Strict);
        assert_eq!(chosen(&node, &four()), ["a-node"]);
        assert_eq!(chosen(&node, &four()[1..]), [""; 0]);
        let elsewhere = Workload { cluster: "other".into(), ..four()[0].clone() };
        assert_eq!(chosen(&node, &[elsewhere]), [""; 0], "a node of that name in another cluster");
    }

    #[test]
    fn only_what_answers_the_port_can_be_near() {
        let node = prefer(&[Level::Node], LoadBalancingMode::Failover);
        let mut endpoints = four();
        endpoints[0].services.values_mut().for_each(|ports| ports[0].target = 0);
        assert_eq!(chosen(&node, &endpoints), ["b-zone", "c-region", "d-far"]);
        let store = Store::default();
        let snapshot = put(&store, four().into_iter().map(Object::Workload));
        let at_81 = backends(&snapshot, &node, "10.96.0.1:81".parse().unwrap(), &four()[0], |_| true);
        assert!(at_81.is_empty(), "the service has no such port");
        let at_80 = backends(&snapshot, &node, WEB.parse().unwrap(), &four()[0], |_| true);
        assert_eq!(at_80[0].1, "10.0.0.1:8080".parse().unwrap());
    }

    #[test]
    fn an_endpoint_is_dialled_in_the_clients_family_if_it_can_be() {
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

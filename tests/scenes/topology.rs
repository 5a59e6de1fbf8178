//! A service prefers pods that are near, as its Service asks.

use anyhow::{Result, ensure};
use mesh_tests::{A, B, End, Pod, Service, World};

use crate::cast::Cast;

const ZONE: &str = "topology.kubernetes.io/zone";

/// How many of ten connections to the service each of these pods served.
fn served(client: &Pod, service: &Service, pods: [&Pod; 2]) -> Result<[usize; 2]> {
    let mut counts = [0, 0];
    for report in client.dial(service.addr(), &["--count", "10"])? {
        let seen = report.seen()?;
        let at = pods.iter().position(|pod| seen.getsockname == pod.at(7001));
        counts[at.ok_or_else(|| anyhow::anyhow!("served by a stranger: {seen:?}"))?] += 1;
    }
    Ok(counts)
}

fn staged(title: &str) -> Result<(Cast, Service)> {
    let mut cast = Cast::meshed(title)?;
    for server in [&cast.near, &cast.far] {
        server.serve("peer", 7001)?;
    }
    let service = cast.world.service("shop", "both", 80, 7001, &[&cast.near, &cast.far])?;
    Ok((cast, service))
}

/// The service says so, and both agents know it.
fn change(world: &mut World, service: &Service, pods: &[&Pod], field: (&str, &str)) -> Result<()> {
    world.change_service(service, pods, &[field])?;
    world.settle()
}

#[test]
fn the_same_node_is_preferred_while_it_serves() -> Result<()> {
    let (Cast { mut world, client, near, far }, service) = staged("prefer the same node")?;
    let both = [&*near, &*far];
    let prefer = ("trafficDistribution", "PreferSameNode");
    change(&mut world, &service, &both, prefer)?;
    assert_eq!(served(&client, &service, both)?, [10, 0]);
    change(&mut world, &service, &[&far], prefer)?;
    assert_eq!(served(&client, &service, both)?, [0, 10], "the near pod does not serve any more");
    change(&mut world, &service, &both, prefer)?;
    assert_eq!(served(&client, &service, both)?, [10, 0], "it serves again");
    Ok(())
}

#[test]
fn a_local_service_is_not_served_from_elsewhere() -> Result<()> {
    let (Cast { mut world, client, near, far }, service) = staged("internalTrafficPolicy Local")?;
    let local = ("internalTrafficPolicy", "Local");
    change(&mut world, &service, &[&near, &far], local)?;
    assert_eq!(served(&client, &service, [&near, &far])?, [10, 0]);
    change(&mut world, &service, &[&far], local)?;
    let refused = client.say(service.addr(), "")?;
    assert_eq!((refused.connected, refused.end), (false, End::Refused), "{refused:?}");
    let flow = world.flow(A, "refused", |flow| flow.reason == "NO_HEALTHY_ENDPOINT")?;
    ensure!(flow.service == service.full_name(), "{flow:?}");
    // A client where it is served is served.
    let other = world.pod("shop", "other", B)?;
    world.wait_for(std::slice::from_ref(&other), true)?;
    assert_eq!(served(&other, &service, [&near, &far])?, [0, 10]);
    Ok(())
}

#[test]
fn zones_come_from_the_labels_of_nodes() -> Result<()> {
    let (Cast { mut world, client, near, far }, service) = staged("prefer the same zone")?;
    let both = [&*near, &*far];
    world.label_node(A, &[(ZONE, "z1")])?;
    world.label_node(B, &[(ZONE, "z2")])?;
    change(&mut world, &service, &both, ("trafficDistribution", "PreferSameZone"))?;
    assert_eq!(served(&client, &service, both)?, [10, 0]);
    // A zone of two nodes.
    world.label_node(B, &[(ZONE, "z1")])?;
    world.settle()?;
    let [here, there] = served(&client, &service, both)?;
    assert!(here > 0 && there > 0, "{here} and {there}");
    Ok(())
}

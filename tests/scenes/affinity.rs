//! Session affinity: a client keeps its endpoint of a service while that serves and it is used often enough.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{A, B, End, Families, NodeId, Patience, Pod, Service, World, eventually, patience};

const ANY: std::net::IpAddr = std::net::IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);
const CLIENT_IP: (&str, &str) = ("sessionAffinity", "ClientIP");

/// Clients on node a, and two servers on each node.
struct Stage {
    world: World,
    clients: Vec<Arc<Pod>>,
    servers: Vec<Arc<Pod>>,
    service: Service,
}

impl Stage {
    fn new(title: &str, fields: &[(&str, &str)]) -> Result<Self> {
        let mut world = World::new(title)?;
        let mut pod = |name: &str, node: NodeId| world.pod_with("shop", name, name, node, Families::Dual);
        let clients = ["client", "second", "third"].into_iter().map(|name| pod(name, A)).collect::<Result<Vec<_>>>()?;
        let servers = [("near", A), ("near2", A), ("far", B), ("far2", B)];
        let servers = servers.into_iter().map(|(name, node)| pod(name, node)).collect::<Result<Vec<_>>>()?;
        for server in &servers {
            server.serve_at("peer", ANY, 7001)?;
        }
        world.start()?;
        world.mesh("shop")?;
        let service = world.service_with("shop", "sticky", (80, 7001), &[], Families::Dual)?;
        let mut stage = Self { world, clients, servers, service };
        stage.served_by(&stage.all(), fields)?;
        Ok(stage)
    }

    fn all(&self) -> Vec<Arc<Pod>> {
        self.servers.clone()
    }

    /// All but this one.
    fn without(&self, name: &str) -> Vec<Arc<Pod>> {
        self.servers.iter().filter(|server| server.name != name).cloned().collect()
    }

    fn on(&self, node: NodeId) -> Vec<Arc<Pod>> {
        self.servers.iter().filter(|server| server.node == node).cloned().collect()
    }

    /// By these pods from now on, with these fields of the Service besides.
    fn served_by(&mut self, servers: &[Arc<Pod>], fields: &[(&str, &str)]) -> Result<()> {
        let servers: Vec<&Pod> = servers.iter().map(|server| &**server).collect();
        self.world.change_service(&self.service, &servers, fields)?;
        self.world.settle()
    }

    /// The names of those that serve so many connections of a client, one after the other.
    fn served(&self, client: &Pod, to: SocketAddr, count: usize) -> Result<BTreeSet<String>> {
        let reports = client.dial(to, &["--count", &count.to_string()])?;
        ensure!(reports.len() == count, "{reports:?}");
        let name = |report: &mesh_tests::Dialled| {
            let ip = report.seen()?.getsockname.ip().to_canonical();
            let server = self.servers.iter().find(|server| server.addresses().contains(&ip));
            Ok(server.with_context(|| format!("served by a stranger: {report:?}"))?.name.clone())
        };
        reports.iter().map(name).collect()
    }

    /// The one that serves them all.
    fn keeps(&self, client: &Pod, to: SocketAddr, count: usize) -> Result<String> {
        let served = self.served(client, to, count)?;
        ensure!(served.len() == 1, "{} has no affinity to {to}: {served:?}", client.name);
        Ok(served.into_iter().next().unwrap_or_default())
    }
}

#[test]
fn a_client_keeps_its_endpoint_until_that_leaves() -> Result<()> {
    let mut stage = Stage::new("affinity", &[])?;
    let (client, addresses) = (Arc::clone(&stage.clients[0]), [stage.service.addr(), stage.service.addr6()]);
    for to in addresses {
        let served = stage.served(&client, to, 40)?;
        assert!(served.len() > 1, "without affinity, {to}: {served:?}");
    }
    stage.served_by(&stage.all(), &[CLIENT_IP])?;
    let mut chosen = BTreeSet::new();
    for client in &stage.clients {
        for to in addresses {
            chosen.insert(stage.keeps(client, to, 40)?);
        }
    }
    assert!(chosen.len() > 1, "clients have endpoints of their own: {chosen:?}");

    for to in addresses {
        let left = stage.keeps(&client, to, 1)?;
        stage.served_by(&stage.without(&left), &[CLIENT_IP])?;
        let kept = stage.keeps(&client, to, 40)?;
        assert_ne!(kept, left, "{to}");
        // Neither its return moves anybody, nor what becomes of others.
        stage.served_by(&stage.all(), &[CLIENT_IP])?;
        assert_eq!(stage.keeps(&client, to, 10)?, kept, "{to}");
        let mut others = stage.all();
        others.retain(|server| server.name != kept && server.name != left);
        for other in others {
            stage.served_by(&stage.without(&other.name), &[CLIENT_IP])?;
            assert_eq!(stage.keeps(&client, to, 5)?, kept, "{to}, without {}", other.name);
        }
        stage.served_by(&stage.all(), &[CLIENT_IP])?;
    }

    // The kernel keeps it while no agent runs, and the next agent finds it.
    let kept = [stage.keeps(&client, addresses[0], 2)?, stage.keeps(&client, addresses[1], 2)?];
    stage.world.restart_agent(A)?;
    eventually("the pods are served", Patience::LONG, || {
        Ok((stage.world.redirected(A)?.len() == 5 && client.say(addresses[0], "")?.connected).then_some(()))
    })?;
    let both = || -> Result<_> { Ok([stage.keeps(&client, addresses[0], 5)?, stage.keeps(&client, addresses[1], 5)?]) };
    let again = eventually("both nodes are reached", Patience::LONG, || Ok(both().ok()))?;
    assert_eq!(again, kept);
    Ok(())
}

#[test]
fn a_client_that_was_away_too_long_may_move() -> Result<()> {
    let timeout = Duration::from_secs(2) * patience();
    let config = format!("{{ clientIP: {{ timeoutSeconds: {} }} }}", timeout.as_secs());
    let fields = [CLIENT_IP, ("sessionAffinityConfig", &*config)];
    let mut stage = Stage::new("affinity for a while", &fields)?;
    let (client, to) = (Arc::clone(&stage.clients[0]), stage.service.addr());
    let first = stage.keeps(&client, to, 5)?;
    stage.served_by(&stage.without(&first), &fields)?;
    let second = stage.keeps(&client, to, 5)?;
    assert_ne!(second, first);
    stage.served_by(&stage.all(), &fields)?;
    // The last use counts, not the first one.
    for _ in 0..5 {
        assert_eq!(stage.keeps(&client, to, 1)?, second);
        thread::sleep(timeout / 4);
    }
    thread::sleep(timeout * 13 / 16);
    // Of the same endpoints it gets the one that it got first.
    assert_eq!(stage.keeps(&client, to, 20)?, first);
    Ok(())
}

#[test]
fn it_is_kept_among_the_near_while_there_are_any() -> Result<()> {
    let fields = [CLIENT_IP, ("trafficDistribution", "PreferSameNode")];
    let mut stage = Stage::new("affinity to the near", &fields)?;
    let (clients, to) = (stage.clients.clone(), stage.service.addr());
    let is_on = |stage: &Stage, node, name: &str| stage.on(node).iter().any(|server| server.name == name);
    let (opened, mut chosen) = (stage.world.counter(A, "CONNECT_DIRECT")?, BTreeSet::new());
    for client in &clients {
        let near = stage.keeps(client, to, 40)?;
        assert!(is_on(&stage, A, &near), "{near}");
        chosen.insert(near);
    }
    // Those that the agent carried and those that it did not: to the same pod.
    assert!(stage.world.counter(A, "CONNECT_DIRECT")? > opened + 60);
    assert!(!chosen.is_empty());
    stage.served_by(&stage.on(B), &fields)?;
    let far = stage.keeps(&clients[0], to, 20)?;
    assert!(is_on(&stage, B, &far), "{far}");
    stage.served_by(&stage.all(), &fields)?;
    let near = stage.keeps(&clients[0], to, 20)?;
    assert!(is_on(&stage, A, &near), "a nearer one is there again, {near}");
    // Whom it kept is no reason to let it connect to nobody.
    stage.served_by(&[], &fields)?;
    let refused = clients[0].say(to, "")?;
    assert_eq!((refused.connected, refused.end), (false, End::Refused), "{refused:?}");
    Ok(())
}

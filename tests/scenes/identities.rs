//! A flow names both ends by identity, at both ends, and says how it was proven.

use anyhow::Result;
use mesh_tests::{A, B, World};

use crate::cast::Cast;

#[test]
fn both_agents_record_both_identities() -> Result<()> {
    let mut world = World::new("identities")?;
    world.metrics();
    let Cast { mut world, client, near, far } = Cast::in_world(world)?;
    world.mesh("shop")?;
    let service = world.service("shop", "web", 80, 7000, &[&far])?;
    world.settle()?;
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
        assert!(client.push(server.at(7000), 10_000)?.echoed());
    }
    assert_eq!(client.identity(), "spiffe://cluster.local/ns/shop/sa/client");

    // The source dialled the pod; the destination knows which service leads to that port of it.
    for (node, direction, service) in [(A, "outbound", String::new()), (B, "inbound", service.full_name())] {
        let flow = world.flow(node, "across nodes", |flow| {
            flow.direction == direction && flow.destination.pod == far.full_name()
        })?;
        assert_eq!(flow.source.pod, client.full_name(), "{flow:?}");
        assert_eq!(flow.source.identity, client.identity(), "{flow:?}");
        assert_eq!(flow.destination.identity, far.identity(), "{flow:?}");
        assert_eq!(flow.verdict, "forwarded", "{flow:?}");
        assert_eq!(flow.service, service, "{flow:?}");
        assert_eq!((flow.path.as_str(), flow.security.as_str()), ("tunnel", "mutual_tls"), "{flow:?}");
        assert!(flow.tls_version.contains("1.3") || flow.tls_version.contains("1_3"), "{flow:?}");
        assert_eq!((flow.bytes_sent, flow.bytes_received), (10_000, 10_000), "{flow:?}");
    }

    let local = world.flow(A, "within the node", |flow| flow.destination.pod == near.full_name())?;
    assert_eq!((&local.source.identity, &local.destination.identity), (&client.identity(), &near.identity()));
    assert_eq!((local.path.as_str(), local.security.as_str()), ("local", "kernel_attested"), "{local:?}");
    assert_eq!((local.bytes_sent, local.bytes_received), (10_000, 10_000), "{local:?}");
    // The kernel let it in as attested: the agent did not meet it a second time, as a stranger's.
    let met = |flow: &mesh_tests::Flow| flow.direction == "inbound" && flow.destination.pod == near.full_name();
    assert!(!world.flows(A)?.iter().any(met));
    // Who looks at what destinations report misses nothing of it.
    for reporter in ["source", "destination"] {
        let labels = [&*format!("reporter=\"{reporter}\""), "destination_workload=\"near\""];
        for (metric, count) in [("connections_opened", 1), ("connections_closed", 1), ("received_bytes", 10_000)] {
            let metric = format!("istio_tcp_{metric}_total{{");
            assert_eq!(world.metrics_sum(A, &metric, &labels)?, count, "{reporter}: {metric}");
        }
    }
    Ok(())
}

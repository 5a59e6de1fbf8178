//! A tunnel belongs to one pod: two pods of one service account never share a connection, one pod reuses its own.

use std::collections::BTreeSet;

use anyhow::Result;
use mesh_tests::{A, B, World};

const HBONE: u16 = 15008;

#[test]
fn two_pods_of_one_account_have_a_tunnel_each() -> Result<()> {
    let mut world = World::new("tunnels")?;
    let first = world.pod_as("shop", "first", "twin", A)?;
    let second = world.pod_as("shop", "second", "twin", A)?;
    let server = world.pod("shop", "server", B)?;
    server.serve("echo", 7000)?;
    world.start()?;
    world.mesh("shop")?;
    assert_eq!(first.identity(), second.identity());

    // Connections that stay open: two of the first pod share its tunnel, the second pod has its own.
    let held = [first.hold(server.at(7000))?, first.hold(server.at(7000))?, second.hold(server.at(7000))?];
    let tunnels = server.clients_of(HBONE)?;
    let from: BTreeSet<_> = tunnels.iter().map(std::net::SocketAddr::ip).collect();
    assert_eq!(
        from,
        BTreeSet::from([first.ip.into(), second.ip.into()]),
        "each tunnel comes from its pod: {tunnels:?}"
    );
    assert_eq!(tunnels.len(), 2, "one tunnel a pod: {tunnels:?}");
    for connection in &held {
        assert!(connection.is_open()?);
    }
    Ok(())
}

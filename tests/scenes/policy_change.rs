//! A policy reaches the agents within a second of being written, and ends the connections that it forbids.

use anyhow::Result;
use mesh_tests::Patience;

use crate::cast::{Cast, policy};

#[test]
fn new_connections_are_refused_and_live_ones_ended() -> Result<()> {
    let Cast { world, client, near, far } = Cast::meshed("policy change")?;
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
        server.serve("echo", 7070)?;
        let held = client.hold(server.at(7000))?;
        let untouched = client.hold(server.at(7070))?;
        let rules = "[{ to: [{ operation: { ports: ['7000'] } }] }]";
        world.manifests.write("deny", &policy("deny", &server.name, "DENY", rules))?;

        world.within_a_second("new connections are refused", || {
            Ok(client.say(server.at(7000), "still there?")?.turned_away())
        })?;
        let ended = held.ended(Patience::SHORT)?;
        assert!(ended.received > 0, "it had worked before: {ended:?}");
        world.flow(server.node, "that was ended by the policy", |flow| {
            flow.verdict == "dropped" && flow.policy == "shop/deny" && flow.bytes_sent > 0
        })?;
        assert!(untouched.is_open()?, "the policy does not name this port");

        world.manifests.remove("deny")?;
        world.within_a_second("and allowed again", || Ok(client.say(server.at(7000), "hello again")?.echoed()))?;
    }
    Ok(())
}

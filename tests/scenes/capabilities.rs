//! An agent needs no more of the kernel than the capabilities that its DaemonSet lists.

use std::net::Ipv6Addr;

use anyhow::Result;
use mesh_install::CAPABILITIES;
use mesh_tests::{A, B, End, Families, Patience, World, eventually};

use crate::cast::policy;

#[test]
fn an_agent_works_with_the_capabilities_of_its_daemon_set() -> Result<()> {
    let mut world = World::new("capabilities")?;
    let names = CAPABILITIES.iter().map(|(name, _)| format!(",+{}", name.to_lowercase())).collect::<String>();
    world.agent_options.push(format!("{}-all{names}", mesh_tests::CAPABILITIES));
    let client = world.pod_with("shop", "client", "client", A, Families::Dual)?;
    let near = world.pod_with("shop", "near", "near", A, Families::Dual)?;
    let far = world.pod_with("shop", "far", "far", B, Families::Dual)?;
    world.start()?;
    world.mesh("shop")?;
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
        server.serve_at("echo", Ipv6Addr::UNSPECIFIED.into(), 7006)?;
    }
    // Between nodes, within one by the agent, and straight; over both families.
    for _ in 0..3 {
        for to in [far.at(7000), near.at(7000), far.at6(7006), near.at6(7006)] {
            assert!(client.say(to, "hello")?.echoed(), "{to}");
        }
    }
    eventually("the kernel sends some straight", Patience::SHORT, || {
        client.say(near.at(7000), "straight")?;
        Ok((world.counter(A, "CONNECT_DIRECT")? > 0).then_some(()))
    })?;
    // What it sends can be captured.
    let verify = ["verify", "mtls", &client.full_name(), &far.full_name(), "--port", "7000"];
    assert_eq!(world.ask_agent(A, &verify)?[0]["outcome"], "encrypted");
    // A change ends a connection that no agent carries.
    let held = client.hold(near.at(7000))?;
    world.apply("deny", &policy("nobody", "near", "DENY", "[{ to: [{ operation: { ports: ['7000'] } }] }]"))?;
    assert_eq!(held.ended(Patience::SHORT)?.end, End::Reset);
    world.delete("deny")?;
    eventually("it is served again", Patience::SHORT, || {
        Ok(client.say(near.at(7000), "again")?.echoed().then_some(()))
    })?;

    // One takes over from the other, and one comes back from a crash.
    world.replace_agent(A)?;
    assert!(client.say(far.at(7000), "replaced")?.echoed());
    world.kill_agent(B)?;
    world.restart_agent(B)?;
    eventually("it finds its pods again", Patience::LONG, || {
        Ok(client.say(far.at(7000), "back")?.echoed().then_some(()))
    })?;
    assert_eq!(world.counter(A, "AUDIT_FAULTS").unwrap_or(0), 0);
    world.unmesh("shop")?;
    assert!(client.say(far.at(7000), "out of the mesh")?.echoed());
    Ok(())
}

//! What two pods say to each other is readable on the link between the nodes before they join, and not after.

use anyhow::Result;
use mesh_tests::End;

use crate::cast::Cast;

#[test]
fn the_canary_is_readable_before_joining_and_not_after() -> Result<()> {
    let Cast { mut world, client, far, .. } = Cast::waiting("canary")?;
    far.serve("echo", 7000)?;

    let before = world.capture()?;
    let said = client.say(far.at(7000), "canary-before-joining")?;
    assert!(said.echoed(), "{said:?}");
    assert!(before.contains(b"canary-before-joining")?, "the capture works: plaintext is seen");
    before.stop()?;

    world.mesh("shop")?;
    let after = world.capture()?;
    let said = client.say(far.at(7000), "canary-after-joining")?;
    assert!(said.echoed(), "{said:?}");
    assert_eq!(said.text, "canary-after-joining");
    assert!(!after.contains(b"canary-after-joining")?);
    // Nor is there any packet to the app's port: only the tunnel's.
    let tunnel = world.flow(client.node, "to far", |flow| flow.destination.pod == "shop/far")?;
    assert_eq!((tunnel.path.as_str(), tunnel.security.as_str()), ("tunnel", "mutual_tls"), "{tunnel:?}");
    Ok(())
}

#[test]
fn a_broken_tunnel_is_no_reason_for_plaintext() -> Result<()> {
    let Cast { world, client, far, .. } = Cast::meshed("broken tunnel")?;
    far.serve("echo", 7000)?;
    // The application itself can be reached, and PERMISSIVE would let plaintext in.
    far.block(15008, "reject with tcp reset")?;
    let capture = world.capture()?;
    let said = client.say(far.at(7000), "canary-without-a-tunnel")?;
    assert!(said.turned_away() && said.end != End::Eof, "{said:?}");
    assert!(!capture.contains(b"canary-without-a-tunnel")?);
    let flow = world.flow(client.node, "to far", |flow| flow.destination.pod == "shop/far")?;
    assert_eq!((flow.verdict.as_str(), flow.reason.as_str()), ("error", "CONNECT"), "{flow:?}");
    Ok(())
}

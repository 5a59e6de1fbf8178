//! Addresses and names are used again: what a pod is follows from who it is now.

use std::{fs, slice::from_ref};

use anyhow::Result;
use mesh_tests::A;

use crate::cast::{Cast, policy};

#[test]
fn a_new_pod_at_an_old_address_has_its_own_identity() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("recreated")?;
    far.serve("echo", 7000)?;
    world.apply(
        "only-client",
        &policy("only-client", "far", "ALLOW", "[{ from: [{ source: { serviceAccounts: [shop/client] } }] }]"),
    )?;
    assert!(client.say(far.at(7000), "hello")?.echoed());

    // client goes; another takes its address, and not its rights.
    world.delete_pod(&client)?;
    let heir = world.pod("shop", "heir", A)?;
    assert_eq!(heir.ip, client.ip);
    world.wait_for(from_ref(&heir), true)?;
    assert!(heir.say(far.at(7000), "hello")?.turned_away());
    let flow = world.flow(far.node, "of the heir", |flow| flow.verdict == "dropped")?;
    assert_eq!((flow.source.pod, flow.source.identity), (heir.full_name(), heir.identity()));

    // client again, by the same name, elsewhere: it has them back.
    let again = world.pod("shop", "client", A)?;
    assert_ne!((again.ip, &again.uid), (client.ip, &client.uid));
    world.wait_for(from_ref(&again), true)?;
    assert!(again.say(far.at(7000), "hello")?.echoed());
    near.serve("peer", 7001)?;
    assert_eq!(again.say(near.at(7001), "")?.seen()?.accepted.ip(), again.ip);

    // The one that is gone left nothing in the kernel: a link for each pod that is redirected, and no more.
    let links = fs::read_dir(world.node(A).bpffs.join("v2/links"))?.collect::<Result<Vec<_>, _>>()?;
    let ingress = links.iter().filter(|link| link.file_name().to_string_lossy().starts_with("ingress-")).count();
    assert_eq!(ingress, world.redirected(A)?.len(), "{links:?}");
    Ok(())
}

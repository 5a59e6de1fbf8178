//! What a pod says to itself is nobody's business: it passes under any policy.

use anyhow::Result;
use mesh_tests::A;

use crate::cast::{Cast, policy};

#[test]
fn a_pod_reaches_itself_whatever_the_policy() -> Result<()> {
    let Cast { mut world, client, near, .. } = Cast::meshed("own pod")?;
    near.serve("peer", 7001)?;
    let service = world.service("shop", "itself", 80, 7001, &[&near])?;
    world.apply("nobody", &policy("nobody", "near", "ALLOW", "[]"))?;
    assert!(client.say(near.at(7001), "")?.turned_away(), "the policy holds for others");

    let by_loopback = near.say(([127, 0, 0, 1], 7001).into(), "")?;
    assert_eq!(by_loopback.seen()?.accepted.ip(), std::net::Ipv4Addr::LOCALHOST);
    assert_eq!(Some(by_loopback.seen()?.accepted), by_loopback.local);
    for to in [near.at(7001), service.addr()] {
        let report = near.say(to, "")?;
        assert_eq!(report.peer, Some(to), "{report:?}");
        let seen = report.seen()?;
        assert_eq!((seen.accepted.ip(), seen.getsockname), (near.ip.into(), near.at(7001)), "{to}");
    }
    assert!(world.redirected(A)?.contains("shop/near"));
    Ok(())
}

//! PeerAuthentication: a client without identity is served under PERMISSIVE and refused under STRICT.

use anyhow::Result;
use mesh_tests::{A, End, Patience, Pod, eventually};

use crate::cast::Cast;

const REASON: &str = "PLAINTEXT_STRICT";

fn strict(namespace: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{ name: default, namespace: {namespace} }}\nspec: {{ mtls: {{ mode: STRICT }} }}\n"
    )
}

#[test]
fn an_unmeshed_client_is_served_until_strict() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("strict")?;
    let stranger = world.pod("legacy", "stranger", A)?;
    for server in [&near, &far] {
        server.serve("peer", 7001)?;
        // PERMISSIVE is what holds when nothing is said.
        let served = stranger.say(server.at(7001), "")?;
        assert_eq!(served.seen()?.accepted.ip(), stranger.ip);
        let flow = world.flow(server.node, "of the stranger", |flow| {
            flow.direction == "inbound" && flow.source.address.starts_with(&stranger.ip.to_string())
        })?;
        assert_eq!((flow.security.as_str(), flow.source.identity.as_str()), ("none", ""), "{flow:?}");
    }

    for namespace in ["shop", "istio-system"] {
        world.namespace(namespace)?;
        world.apply("strict", &strict(namespace))?;
        for server in [&near, &far] {
            let refused = stranger.say(server.at(7001), "")?;
            assert!(refused.turned_away(), "{namespace}: {refused:?}");
            // By the name that the user gave it, which arrives just behind the policy itself.
            let named = format!("{namespace}/default");
            eventually(format_args!("refused by {named}"), Patience::SHORT, || {
                assert!(stranger.say(server.at(7001), "")?.turned_away());
                Ok(world.flows(server.node)?.into_iter().find(|flow| {
                    flow.verdict == "dropped"
                        && flow.reason == REASON
                        && flow.policy == named
                        && flow.source.address.starts_with(&stranger.ip.to_string())
                }))
            })?;
            assert_eq!(client.say(server.at(7001), "")?.seen()?.accepted.ip(), client.ip, "{namespace}");
        }
        // So is a process of the node itself: it is no pod and has no identity.
        let host = world.node(A).host.say(near.at(7001), "")?;
        assert!(host.turned_away(), "{host:?}");
    }
    world.delete("strict")?;
    assert!(stranger.say(far.at(7001), "")?.connected);
    Ok(())
}

#[test]
fn a_port_is_excepted() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("strict but a port")?;
    let stranger = world.pod("legacy", "stranger", A)?;
    world.apply(
        "strict",
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: { name: near-and-far, namespace: shop }\n\
         spec:\n  selector: { matchLabels: { app: far } }\n  mtls: { mode: STRICT }\n  \
         portLevelMtls: { 7070: { mode: PERMISSIVE } }\n",
    )?;
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
        server.serve("echo", 7070)?;
    }
    let answers = |who: &Pod, server: &Pod, port| -> Result<bool> { Ok(who.say(server.at(port), "hi")?.echoed()) };
    assert!(answers(&stranger, &far, 7070)?, "the port is excepted");
    assert!(!answers(&stranger, &far, 7000)?, "the others are not");
    assert!(answers(&stranger, &near, 7000)?, "the selector names far alone");
    assert!(answers(&client, &far, 7070)? && answers(&client, &far, 7000)?);
    let refused = stranger.say(far.at(7000), "hi")?;
    assert_ne!(refused.end, End::Timeout, "refused, not forgotten: {refused:?}");
    Ok(())
}

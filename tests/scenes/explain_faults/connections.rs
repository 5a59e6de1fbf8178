//! Connections that are refused before a byte is read.

use anyhow::Result;
use mesh_tests::{A, World};
use serde_json::Value;

use super::Cause;
use crate::cast::{Cast, policy};

const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                      metadata: { name: ask, namespace: shop }\nspec: { mtls: { mode: STRICT } }\n---\n";

fn named(world: &World, between: (&str, &str), code: &str, said: &str) -> Result<Value> {
    Cause { between, code, said, path: "" }.is_named(world)
}

#[test]
fn who_may_not_come_and_who_cannot() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("explain connections")?;
    let plain = world.pod("legacy", "plain", A)?;
    let service = world.service("shop", "nobody", 80, 7000, &[])?;
    far.serve("echo", 7000)?;
    far.serve("echo", 7001)?;
    let by_near = "[{ from: [{ source: { principals: [cluster.local/ns/shop/sa/near] } }], \
                   to: [{ operation: { ports: ['7000'] } }] }]";
    let by_client = "[{ from: [{ source: { principals: [cluster.local/ns/shop/sa/client] } }] }, \
                     { from: [{ source: { principals: [cluster.local/ns/shop/sa/near] } }], \
                     to: [{ operation: { ports: ['7000'] } }] }]";
    let policies = [policy("no-near", "far", "DENY", by_near), policy("client", "far", "ALLOW", by_client)];
    world.apply("policies", &format!("{STRICT}{}---\n{}", policies[0], policies[1]))?;

    assert!(near.say(far.at(7000), "hello")?.turned_away());
    let told = named(&world, ("shop/near", "shop/far"), "POLICY_DENY", "denied by policy shop/no-near, rule 0")?;
    assert_eq!(told["node"], "b", "the one that decided: {told}");
    assert!(near.say(far.at(7001), "hello")?.turned_away());
    let told = named(&world, ("shop/near", "shop/far"), "POLICY_NO_ALLOW", "first of them in policy shop/client")?;
    assert_eq!(super::nearest(&told).0, "shop/client", "{told}");
    assert!(plain.say(far.at(7000), "hello")?.turned_away());
    named(&world, ("legacy/plain", "shop/far"), "PLAINTEXT_STRICT", "PeerAuthentication shop/ask is STRICT")?;
    assert!(client.say(far.at(15008), "hello")?.turned_away());
    named(&world, ("shop/client", "shop/far"), "HBONE_PORT", "Use another port")?;
    assert!(client.say(far.at(7999), "hello")?.turned_away());
    named(&world, ("shop/client", "shop/far"), "CONNECT", "Does its program listen on the port")?;
    assert!(client.say(service.addr(), "hello")?.turned_away());
    named(&world, ("shop/client", "shop/nobody"), "NO_HEALTHY_ENDPOINT", "no ready pod")?;

    world.manifests.remove(&format!("serviceaccount-shop-{}", client.service_account))?;
    world.settle()?;
    assert!(client.say(far.at(7000), "hello")?.turned_away());
    let said = "ServiceAccount shop/client does not exist";
    named(&world, ("shop/client", "shop/far"), "IDENTITY_REVOKED", said)?;
    Ok(())
}

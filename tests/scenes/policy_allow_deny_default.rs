//! AuthorizationPolicy: nothing said is allowed, DENY comes first, an ALLOW excludes everybody else, and a condition
//! that is not understood yet never opens a door.

use std::sync::Arc;

use anyhow::Result;
use mesh_tests::{A, Pod, World};

use crate::cast::{Cast, policy};

const BY_CLIENT: &str = "[{ from: [{ source: { principals: [cluster.local/ns/shop/sa/client] } }] }]";

struct Stage {
    world: World,
    client: Arc<Pod>,
    other: Arc<Pod>,
    servers: [Arc<Pod>; 2],
}

impl Stage {
    fn new(title: &str) -> Result<Self> {
        let Cast { mut world, client, near, far } = Cast::meshed(title)?;
        let other = world.pod("shop", "other", A)?;
        let servers = [near, far];
        for server in &servers {
            server.serve("echo", 7000)?;
            server.serve("echo", 7070)?;
        }
        world.wait_for(&[Arc::clone(&other)], true)?;
        Ok(Self { world, client, other, servers })
    }

    /// The same policy for each of the two servers, near and far.
    fn apply(&mut self, name: &str, action: &str, rules: &str) -> Result<()> {
        let yaml = ["near", "far"].map(|app| policy(&format!("{name}-{app}"), app, action, rules));
        self.world.apply(name, &yaml.join("---\n"))
    }

    fn reaches(&self, who: &Pod, port: u16) -> Result<()> {
        for server in &self.servers {
            let said = who.say(server.at(port), "hello")?;
            assert!(said.echoed(), "{} -> {}: {said:?}", who.name, server.name);
        }
        Ok(())
    }

    /// Refused by `policy`-near or `policy`-far, by this rule of it; the client sees nothing but a closed door, the
    /// destination's agent says why, and `authz check` agrees.
    fn refused(&self, who: &Pod, port: u16, reason: &str, policy: &str, rule: Option<i64>) -> Result<()> {
        for server in &self.servers {
            let said = who.say(server.at(port), "hello")?;
            assert!(said.turned_away(), "{} -> {}: {said:?}", who.name, server.name);
            let policy = format!("shop/{policy}-{}", server.name);
            let what = format!("of {} denied by {policy}", who.name);
            let flow = self.world.flow(server.node, &what, |flow| {
                flow.verdict == "dropped"
                    && flow.source.pod == who.full_name()
                    && flow.destination.address == server.at(port).to_string()
                    && flow.policy == policy
            })?;
            assert_eq!((flow.reason.as_str(), flow.rule), (reason, rule), "{flow:?}");
            assert_eq!(flow.source.identity, who.identity(), "{flow:?}");
            let asked = self.world.authz(&who.full_name(), server, port)?;
            if asked.depends_on_request {
                // Of the connection that may be opened, and not of the bytes that it turned out to carry.
                continue;
            }
            assert_eq!((asked.verdict.as_str(), asked.reason.as_str()), ("dropped", reason), "{asked:?}");
            assert_eq!((asked.policy, asked.rule), (policy, rule));
        }
        Ok(())
    }
}

#[test]
fn allow_by_principal_excludes_the_others() -> Result<()> {
    let mut stage = Stage::new("allow")?;
    // Nothing said: allowed.
    stage.reaches(&stage.client, 7000)?;
    stage.reaches(&stage.other, 7000)?;

    stage.apply("only-client", "ALLOW", BY_CLIENT)?;
    stage.reaches(&stage.client, 7000)?;
    stage.refused(&stage.other, 7000, "POLICY_NO_ALLOW", "only-client", None)?;
    assert_eq!(stage.world.authz("shop/client", &stage.servers[1], 7000)?.verdict, "forwarded");

    stage.world.delete("only-client")?;
    stage.reaches(&stage.other, 7000)
}

#[test]
fn deny_names_its_policy_and_rule_and_comes_first() -> Result<()> {
    let mut stage = Stage::new("deny")?;
    stage.apply("only-client", "ALLOW", BY_CLIENT)?;
    stage.apply(
        "not-7070",
        "DENY",
        "[{ to: [{ operation: { ports: ['9999'] } }] }, { to: [{ operation: { ports: ['7070'] } }] }]",
    )?;
    stage.reaches(&stage.client, 7000)?;
    stage.refused(&stage.client, 7070, "POLICY_DENY", "not-7070", Some(1))
}

#[test]
fn an_allow_policy_without_rules_denies_all() -> Result<()> {
    let mut stage = Stage::new("deny all")?;
    stage.apply("nobody", "ALLOW", "[]")?;
    stage.refused(&stage.client, 7000, "POLICY_NO_ALLOW", "nobody", None)
}

#[test]
fn conditions_on_requests_never_open_bytes_and_still_deny_them() -> Result<()> {
    let mut stage = Stage::new("http conditions")?;
    stage.apply("get-only", "ALLOW", "[{ to: [{ operation: { methods: [GET] } }] }]")?;
    stage.refused(&stage.client, 7000, "POLICY_NO_ALLOW", "get-only", None)?;
    stage.world.delete("get-only")?;

    stage.apply("no-post", "DENY", "[{ to: [{ operation: { ports: ['7070'], methods: [POST] } }] }]")?;
    stage.reaches(&stage.client, 7000)?;
    stage.refused(&stage.client, 7070, "POLICY_DENY", "no-post", Some(0))
}

#[test]
fn namespaces_and_service_accounts() -> Result<()> {
    let mut stage = Stage::new("namespaces")?;
    let stranger = stage.world.pod("market", "stranger", A)?;
    stage.world.mesh("market")?;
    stage.reaches(&stranger, 7000)?;
    stage.apply("no-market", "DENY", "[{ from: [{ source: { namespaces: [market] } }] }]")?;
    stage.reaches(&stage.client, 7000)?;
    stage.refused(&stranger, 7000, "POLICY_DENY", "no-market", Some(0))?;
    stage.world.delete("no-market")?;

    stage.apply("no-other", "DENY", "[{ from: [{ source: { serviceAccounts: [shop/other] } }] }]")?;
    stage.reaches(&stage.client, 7000)?;
    stage.refused(&stage.other, 7000, "POLICY_DENY", "no-other", Some(0))
}

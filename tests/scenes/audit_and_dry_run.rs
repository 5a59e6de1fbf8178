//! AUDIT and dry-run policies refuse nobody, and tell what they saw: in flows, by the verdict, in the metrics.

use std::sync::Arc;

use anyhow::Result;
use mesh_tests::{A, Flow, Observation, Pod, World};

use crate::cast::policy;

/// Where each agent serves its metrics.
const METRICS: &str = "127.0.0.1:15020";

fn dry_run(yaml: &str) -> String {
    yaml.replace("namespace: shop }", "namespace: shop, annotations: { istio.io/dry-run: 'true' } }")
}

fn from(account: &str) -> String {
    format!("[{{ from: [{{ source: {{ principals: [cluster.local/ns/shop/sa/{account}] }} }}] }}]")
}

fn seen(policy: &str, rule: Option<i64>, observed_as: &str, would_refuse: bool) -> Observation {
    Observation { policy: format!("shop/{policy}"), rule, observed_as: observed_as.to_owned(), would_refuse }
}

struct Stage {
    world: World,
    client: Arc<Pod>,
    other: Arc<Pod>,
    servers: [Arc<Pod>; 2],
}

impl Stage {
    /// The destination's record of the newest connection of `who`, which got through or was turned away.
    fn say(&self, who: &Pod, server: &Pod, through: bool) -> Result<Flow> {
        let before = self.world.flows(server.node)?.iter().map(|flow| flow.id).max().unwrap_or_default();
        let said = who.say(server.at(7000), "hello")?;
        assert!(if through { said.echoed() } else { said.turned_away() }, "{} -> {}: {said:?}", who.name, server.name);
        self.world.flow(server.node, &format!("of {}", who.name), |flow| {
            flow.id > before
                && flow.source.pod == who.full_name()
                && flow.destination.address == server.at(7000).to_string()
        })
    }
}

#[test]
fn they_refuse_nobody_and_say_what_they_saw() -> Result<()> {
    let mut world = World::new("audit and dry run")?;
    world.agent_options = ["--metrics", METRICS].map(str::to_owned).to_vec();
    let (client, other) = (world.pod("shop", "client", A)?, world.pod("shop", "other", A)?);
    let servers = [world.pod("shop", "near", A)?, world.pod("shop", "far", mesh_tests::B)?];
    world.start()?;
    world.mesh("shop")?;
    for server in &servers {
        server.serve("echo", 7000)?;
    }
    let mut stage = Stage { world, client, other, servers };

    // One of each sort for each server: an AUDIT and a DENY to come about client, an ALLOW to come for other.
    let all = ["near", "far"].map(|app| {
        [
            policy(&format!("audit-{app}"), app, "AUDIT", &from("client")),
            dry_run(&policy(&format!("deny-{app}"), app, "DENY", &from("client"))),
            dry_run(&policy(&format!("allow-{app}"), app, "ALLOW", &from("other"))),
        ]
        .join("---\n")
    });
    stage.world.apply("idle", &all.join("---\n"))?;
    for server in &stage.servers {
        let name = |kind: &str| format!("{kind}-{}", server.name);
        let flow = stage.say(&stage.client, server, true)?;
        assert_eq!((flow.verdict.as_str(), flow.policy.as_str(), flow.reason.as_str()), ("audit", "", ""), "{flow:?}");
        let expected = [
            seen(&name("allow"), None, "dry_run", true),
            seen(&name("audit"), Some(0), "audited", false),
            seen(&name("deny"), Some(0), "dry_run", true),
        ];
        assert_eq!(flow.observations, expected, "{flow:?}");
        // Whom nobody audits and nothing would refuse.
        let flow = stage.say(&stage.other, server, true)?;
        assert_eq!((flow.verdict.as_str(), flow.observations.len()), ("forwarded", 0), "{flow:?}");
        let audited = stage.world.ask_agent(server.node, &["flows", "--verdict", "audit"])?;
        assert_eq!(audited.len(), 1, "{audited:?}");
        let authz = stage.world.authz("shop/client", server, 7000)?;
        assert_eq!((authz.verdict.as_str(), authz.policy.as_str()), ("forwarded", ""), "{authz:?}");
    }
    for list in
        [stage.world.ask_agent(A, &["config", "policies"])?, stage.world.ask_controller(&["config", "policies"])?]
    {
        let action = |name: &str| list.iter().find(|p| p["name"] == name).map(|p| p["action"].clone());
        let both = ["audit-near", "deny-near"].map(action);
        assert_eq!(both, ["AUDIT", "DENY (dry run)"].map(|action| Some(action.into())), "{list:?}");
    }
    let problems = &stage.world.ask_controller(&["status"])?[0]["problems"];
    assert!(!problems.to_string().contains("AUDIT"), "{problems}");

    // A real ALLOW for other: the dry-run ALLOW for it changes nothing any more, one for client would let it in.
    let all = ["near", "far"].map(|app| {
        let allow = policy(&format!("allow-{app}"), app, "ALLOW", &from("other"));
        let to_come = dry_run(&policy(&format!("also-{app}"), app, "ALLOW", &from("client")));
        let audit = policy(&format!("audit-{app}"), app, "AUDIT", &from("client"));
        [allow, to_come, audit].join("---\n")
    });
    stage.world.apply("idle", &all.join("---\n"))?;
    for server in &stage.servers {
        let name = |kind: &str| format!("{kind}-{}", server.name);
        let flow = stage.say(&stage.client, server, false)?;
        assert_eq!((flow.verdict.as_str(), flow.reason.as_str()), ("dropped", "POLICY_NO_ALLOW"), "{flow:?}");
        let expected =
            [seen(&name("also"), Some(0), "dry_run", false), seen(&name("audit"), Some(0), "audited", false)];
        assert_eq!(flow.observations, expected, "{flow:?}");
        assert_eq!(stage.say(&stage.other, server, true)?.policy, format!("shop/allow-{}", server.name));
    }

    // The metrics agree with the flows; what idle policies said stands beside the connections' own verdicts.
    for server in &stage.servers {
        let text = stage.world.node(server.node).host.curl(&format!("http://{METRICS}/metrics"))?;
        let count = |verdict: &str, policy: &str, reason: &str, dry_run: bool| {
            let policy = if policy.is_empty() { String::new() } else { format!("shop/{policy}-{}", server.name) };
            let labels = [("verdict", verdict), ("policy", &policy), ("reason", reason)];
            let line = text.lines().find(|line| {
                line.starts_with("mesh_policy_verdicts_total{")
                    && labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")))
                    && line.contains(&format!("dry_run=\"{dry_run}\""))
            });
            line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or_default()
        };
        assert_eq!(count("AUDIT", "", "", false), 1, "{text}");
        assert_eq!(count("AUDIT", "audit", "", true), 2, "{text}");
        assert_eq!(count("DROPPED", "deny", "", true), 1, "{text}");
        assert_eq!(count("DROPPED", "allow", "", true), 1, "{text}");
        assert_eq!(count("FORWARDED", "also", "", true), 1, "{text}");
        assert_eq!(count("DROPPED", "allow", "POLICY_NO_ALLOW", false), 1, "{text}");
    }
    Ok(())
}

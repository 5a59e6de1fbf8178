//! An agent that tells nothing of single connections and requests: traffic and decisions are as they were, who was
//! refused is known, and whoever asks for the rest hears why there is nothing.

use std::{collections::BTreeMap, fs};

use anyhow::{Context, Result, ensure};
use mesh_common::audit::{Kind, Record};
use mesh_tests::{A, Ask, B, NodeId, Patience, World, eventually};

use crate::http_cast::HttpCast;

const PORT: u16 = 7000;
const DENY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: no-admin, namespace: shop }
spec:
  selector: { matchLabels: { version: v2 } }
  action: DENY
  rules: [{ to: [{ operation: { ports: ['8080'], paths: ['/admin*'] } }] }]
";

/// Values of the agent's metrics whose name begins so, by name and labels.
fn metrics(world: &World, node: NodeId, prefix: &str) -> Result<BTreeMap<String, f64>> {
    let text = world.node(node).host.curl("http://127.0.0.1:15020/metrics")?;
    let lines = text.lines().filter(|line| line.starts_with(prefix));
    let read = |line: &str| {
        let (name, value) = line.rsplit_once(' ').context("no value")?;
        Ok((name.to_owned(), value.parse().with_context(|| line.to_owned())?))
    };
    lines.map(read).collect()
}

#[test]
fn what_is_off_is_said_to_be_off_and_refusals_are_told_still() -> Result<()> {
    let mut world = World::new("telemetry off")?;
    world.metrics();
    let folder = world.root().to_owned();
    world.agent_options.extend([
        "--telemetry=off".to_owned(),
        "--access-log=json".to_owned(),
        format!("--audit-log={}/audit-{{node}}.json", folder.display()),
    ]);
    let mut cast = HttpCast::in_world(world, "orders", "shop")?;
    cast.v1.serve("echo", PORT)?;
    let held = cast.client.hold(cast.v1.at(PORT))?;
    cast.world.apply("deny", DENY)?;
    let ask = |path: &str| Ask::at(cast.v2.at(crate::http_cast::PORT), "orders").path(path);
    assert_eq!(cast.client.ask_http(&ask("/items").many(20, 2))?.status(200), 20);
    assert_eq!(cast.client.ask_http(&ask("/admin"))?.status(403), 1);

    let denied = eventually("the refusal is audited", Patience::LONG, || {
        let text = fs::read_to_string(folder.join("audit-b.json"))?;
        let records: Vec<Record> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(records.into_iter().find(|record| record.kind == Kind::Denied))
    })?;
    let request = denied.denied.and_then(|denied| denied.request).context("not of a request")?;
    assert_eq!((request.method.as_str(), request.path.as_str(), request.status), ("GET", "/admin", 403));
    let verdicts = metrics(&cast.world, B, "mesh_policy_verdicts_total{")?;
    ensure!(
        verdicts.len() == 1 && verdicts.iter().all(|(labels, count)| labels.contains("no-admin") && *count == 1.0),
        "{verdicts:?}"
    );
    assert_eq!(metrics(&cast.world, B, "mesh_requests_refused_total{")?.len(), 1);
    for node in [A, B] {
        for prefix in ["istio_", "mesh_access_log_written", "mesh_tcp_rtt", "mesh_flow_events_lost"] {
            let found = metrics(&cast.world, node, prefix)?;
            ensure!(found.values().all(|count| *count == 0.0), "{found:?}");
        }
        let of_itself = metrics(&cast.world, node, "process_cpu_seconds_total")?;
        assert_eq!(of_itself.len(), 1, "what is told of the agent itself stays");
        // What an agent asks for its own sake works.
        let status = cast.world.status(node)?;
        assert_eq!((&status["controller_connected"], &status["telemetry_off"]), (&true.into(), &true.into()));
        for question in [&["flows"][..], &["edges"], &["config", "connections"], &["cost"], &["stat", "workload"]] {
            let answer = cast.world.ask_agent(node, question);
            let said = answer.err().with_context(|| format!("{question:?} is answered"))?.to_string();
            let name = format!("telemetry of node {} is off (--telemetry off)", node.name());
            ensure!(said.contains(&name), "{question:?}: {said}");
        }
    }
    assert!(held.is_open()?);
    held.finish()?;
    Ok(())
}

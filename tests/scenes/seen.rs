//! What users see of requests that agents read: records by any filter, sums that are those of the client, requests as
//! they pass without their secrets, who speaks to whom, and what it cost.

use std::{
    io::Read,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{A, Ask, B, Patience, World, eventually, programs_dir};
use serde_json::Value;

use crate::http_cast::HttpCast;

const RULES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: orders, namespace: shop }
spec:
  hosts: [orders]
  http:
  - match: [{ uri: { prefix: /far } }]
    route: [{ destination: { host: orders, subset: v2 } }]
  - match: [{ uri: { prefix: /broken } }]
    fault: { abort: { percentage: { value: 100 }, httpStatus: 503 } }
    route: [{ destination: { host: orders, subset: v1 } }]
  - route: [{ destination: { host: orders, subset: v1 } }]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: orders, namespace: shop }
spec:
  host: orders
  subsets:
  - { name: v1, labels: { version: v1 } }
  - { name: v2, labels: { version: v2 } }
";

/// `meshctl flows` of all nodes, with these filters.
fn flows(world: &World, filters: &[&str]) -> Result<Vec<Value>> {
    world.ask_controller(&[&["flows"], filters].concat())
}

/// The row whose field is `name`.
fn row(rows: Vec<Value>, field: &str, name: &str) -> Option<Value> {
    rows.into_iter().find(|row| row[field] == name)
}

#[test]
fn requests_are_seen_as_they_were() -> Result<()> {
    let mut cast = HttpCast::meshed("seen", "orders", "shop")?;
    cast.rules("rules", RULES)?;
    let ask = |path: &str| Ask::service(&cast.service).path(path);
    let near = cast.client.ask_http(&ask("/near?token=s3cret").many(12, 2))?;
    let far = cast.client.ask_http(&ask("/far").method("POST").many(8, 2))?;
    let broken = cast.client.ask_http(&ask("/broken").many(3, 1))?;
    assert_eq!((near.status(200), far.status(200), broken.status(503)), (12, 8, 3), "{near:?} {far:?} {broken:?}");
    let world = &cast.world;
    let outbound = ["--direction", "outbound", "--protocol", "http"];
    let of = |filters: &[&str]| flows(world, &[&outbound, filters].concat());
    eventually("every request has its record", Patience::SHORT, || Ok((of(&[])?.len() == 23).then_some(())))?;
    for (filters, count) in [
        (&["--path", "/far"][..], 8),
        (&["--method", "post"], 8),
        (&["--http-status", "5xx"], 3),
        (&["--http-status", "200"], 20),
        (&["--service", "shop/orders", "--path", "/near"], 12),
        (&["--service", "shop/other"], 0),
        (&["--from", "shop/client", "--last", "5"], 5),
        (&["--path-taken", "tunnel", "--path", "/near"], 0),
    ] {
        assert_eq!(of(filters)?.len(), count, "{filters:?}");
    }
    let all = flows(world, &[])?;
    assert!(all.iter().all(|flow| !flow.to_string().contains("s3cret")), "queries are not kept");
    let ends: Vec<_> = all.iter().filter_map(|flow| flow["time"].as_str()).collect();
    assert!(ends.is_sorted(), "records of both nodes are in order: {ends:?}");

    // The sums are those of the client, whichever end told of them.
    let services = world.ask_controller(&["stat", "services", "-n", "shop"])?;
    let service = row(services, "service", "shop/orders").context("a row of the service")?;
    // What the mesh was told to refuse is refused, not failed.
    assert_eq!((&service["requests"], &service["refused_requests"]), (&23.into(), &3.into()), "{service}");
    assert_eq!((&service["answers"]["5xx"], &service["failed_requests"]), (&3.into(), &0.into()), "{service}");
    for (workload, count) in [("shop/v1", 12), ("shop/v2", 8)] {
        let workloads = world.ask_controller(&["stat", "workloads", "-n", "shop"])?;
        let sum = row(workloads, "workload", workload).context(workload)?;
        assert_eq!((&sum["requests"], &sum["answers"]["2xx"]), (&count.into(), &count.into()), "{sum}");
        assert!(sum["p99_ms"].as_f64() > Some(0.0), "{sum}");
        let edges = world.ask_controller(&["stat", "edges"])?;
        let edge = edges.into_iter().find(|row| row["destination"] == workload).context("an edge")?;
        assert_eq!((&edge["source"], &edge["requests"]), (&"shop/client".into(), &count.into()), "{edge}");
    }
    let edges = world.ask_agent(A, &["edges", "-n", "shop"])?;
    let read = |edge: &Value| edge["requests"]["requests"].as_u64().is_some_and(|requests| requests > 0);
    assert!(edges.iter().any(read), "{edges:?}");

    let costs = [world.ask_controller(&["cost", "-n", "shop"])?, world.ask_agent(B, &["cost"])?].concat();
    let client = row(costs, "pod", "client").context("what the client costs")?;
    assert_eq!(client["requests"], 23, "{client}");
    Ok(())
}

#[test]
fn requests_are_tapped_without_their_secrets() -> Result<()> {
    let mut cast = HttpCast::meshed("tap", "orders", "shop")?;
    cast.rules("rules", RULES)?;
    let meshctl = programs_dir()?.join("meshctl");
    let tap = |option: &str, socket: &std::path::Path, more: &[&str]| -> Result<Vec<Value>> {
        let mut command = Command::new(&meshctl);
        command.arg(option).arg(socket).args(["tap", "-o", "json", "--headers", "--direction", "outbound"]);
        command.args(["--path", "/far", "--count", "2"]).args(more);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("run meshctl")?;
        // It says nothing of those that began before it looked.
        let ended = eventually("two requests are tapped", Patience::LONG, || {
            let ask = Ask::service(&cast.service).path("/far?token=s3cret").header("authorization", "Bearer s3cret");
            cast.client.ask_http(&ask.header("x-colour", "blue"))?;
            cast.client.ask_http(&Ask::service(&cast.service).path("/near"))?;
            Ok(child.try_wait()?)
        });
        let _ = child.kill();
        let (mut text, mut error) = (String::new(), String::new());
        child.stdout.take().context("its output")?.read_to_string(&mut text)?;
        child.stderr.take().context("its errors")?.read_to_string(&mut error)?;
        ensure!(ended?.success(), "meshctl tap: {error}");
        serde_json::Deserializer::from_str(&text).into_iter().collect::<Result<_, _>>().context(text)
    };
    let controller = cast.world.controller()?.admin_socket();
    let seen = tap("--controller", &controller, &[])?;
    assert_eq!(seen.len(), 2, "{seen:?}");
    for request in &seen {
        assert_eq!((&request["http"]["path"], &request["http"]["status"]), (&"/far".into(), &200.into()), "{request}");
    }
    let header = |request: &Value, name: &str| {
        let all = request["request_headers"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|header| header["name"] == name).map(|header| header["value"].clone())
    };
    let last = &seen[1];
    assert_eq!(header(last, "authorization"), Some("[redacted]".into()), "{last}");
    assert_eq!(header(last, "x-colour"), Some("blue".into()), "{last}");
    assert!(!seen.iter().any(|request| request.to_string().contains("s3cret")), "{seen:?}");

    // Secrets are for who is root on the node.
    let refused = Command::new(&meshctl)
        .arg("--controller")
        .arg(&controller)
        .args(["tap", "--headers", "--secrets", "--count", "1"])
        .output()
        .context("run meshctl")?;
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{error}");
    assert!(error.contains("own socket only"), "{error}");
    let seen = tap("--agent", &cast.world.node(A).agent_socket(), &["--secrets"])?;
    assert_eq!(header(&seen[1], "authorization"), Some("Bearer s3cret".into()), "{seen:?}");
    assert!(!seen.iter().any(|request| request["http"]["path"].to_string().contains("s3cret")), "{seen:?}");
    Ok(())
}

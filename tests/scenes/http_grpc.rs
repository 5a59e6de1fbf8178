//! gRPC with grpcio from PyPI at both ends, through routes, retries and mutual TLS.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::{Pod, grpc_program};
use serde_json::Value;

use crate::http_cast::{HttpCast, subsets};

const PORT: u16 = 50051;
const ROUTES: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: web, namespace: default }
spec:
  hosts: [web]
  http:
  - match: [{ headers: { x-canary: { exact: 'true' } } }]
    route: [{ destination: { host: web, subset: v2 } }]
  - route: [{ destination: { host: web, subset: v1 } }]
    retries: { attempts: 3, retryOn: unavailable }
";

#[test]
fn calls_of_every_kind_are_routed_and_tried_again() -> Result<()> {
    let Some((python, script)) = grpc_program()? else {
        println!("there is no grpcio: cargo xtask setup");
        return Ok(());
    };
    let mut cast = HttpCast::meshed("http grpc", "web", "default")?;
    let line = |words: &[&str]| -> Vec<String> {
        [&script.display().to_string()]
            .into_iter()
            .cloned()
            .chain(words.iter().map(|word| (*word).to_owned()))
            .collect()
    };
    let start = |pod: &Pod| pod.start("grpc", &python, &line(&["serve", &PORT.to_string(), &pod.name]));
    let servers = [start(&cast.v1)?, start(&cast.v2)?];
    let ports = format!("[{{ name: tcp, appProtocol: grpc, port: 80, targetPort: {PORT} }}]");
    cast.world.change_service(&cast.service, &[&cast.v1, &cast.v2], &[("ports", &ports)])?;
    cast.slices_name("tcp", PORT)?;
    cast.rules("subsets", &subsets("web", [("v1", "v1"), ("v2", "v2")]))?;
    cast.rules("routes", ROUTES)?;
    servers.iter().try_for_each(|server| server.listens(PORT))?;

    let ask = line(&["ask", &cast.service.addr().to_string(), "web"]);
    let output = cast.client.output(&python, &ask, Duration::from_secs(20))?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let told: Value = serde_json::from_slice(&output.stdout).context("not a report")?;
    let far = cast.open_to(&cast.v2)?;
    assert!(far.contains("tunnel") && far.contains("mutual_tls"), "{far}");

    assert_eq!((&told["plain"]["code"], &told["plain"]["answer"]["name"]), (&"OK".into(), &"v1".into()), "{told}");
    assert_eq!(told["plain"]["trailers"]["x-trailer"], "v1", "{told}");
    let canary = &told["canary"]["answer"];
    assert_eq!((&canary["name"], &canary["metadata"]["x-other"]), (&"v2".into(), &"kept".into()), "{told}");
    let retried = &told["retried"];
    assert_eq!((&retried["code"], &retried["answer"]["asked"]), (&"OK".into(), &3.into()), "{told}");
    assert_eq!(told["given_up"]["code"], "UNAVAILABLE", "{told}");
    // An answer of trailers alone comes as it was, and such a failure is not tried again.
    let refused = &told["refused"];
    assert_eq!(refused["code"], "FAILED_PRECONDITION", "{told}");
    assert_eq!((&refused["details"], &refused["trailers"]["x-trailer"]), (&"v1 does not want to".into(), &"v1".into()));
    assert_eq!(told["late"]["code"], "DEADLINE_EXCEEDED", "{told}");
    assert!(told["late"]["seconds"].as_f64() < Some(1.5), "{told}");
    let numbers = |list: &Value| -> Vec<u64> {
        list.as_array().into_iter().flatten().filter_map(|one| one["number"].as_u64()).collect()
    };
    assert_eq!(numbers(&told["give"]), (0..200).collect::<Vec<_>>());
    assert_eq!(told["take"]["sum"], (0..200).sum::<u64>());
    assert_eq!(numbers(&told["both"]), (0..200).map(|number| number * 2).collect::<Vec<_>>());
    assert!(told["both"].as_array().is_some_and(|all| all.iter().all(|one| one["name"] == "v2")), "{told}");
    assert_eq!(told["turns"], serde_json::json!([0, 2, 4, 6, 8]), "{told}");
    Ok(())
}

//! `meshctl diff`: what is a change, and what it does to connections.

use mesh_common::proto::nodemesh::{ConnectionInfo, Endpoint};

use super::*;
use crate::{
    Verb,
    foretold::tests::{Files, flow, nowhere, policy},
    tests::Served,
};

const ROUTES: &str = "---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: cart, namespace: shop}
spec: {hosts: [cart], http: [{name: all, timeout: 3s, route: [{destination: {host: cart}}]}]}
";
const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";

async fn compared(running: &str, new: &str) -> (Outcome, Vec<Value>) {
    let files = Files::new(running, new);
    let server = Served::of_nodes(|_, kind| {
        let query::Kind::Config(query) = kind else { return Err(tonic::Status::internal("another question")) };
        assert_eq!(query.kind(), ConfigKind::Connections);
        let outbound = Flow {
            direction: Direction::Outbound.into(),
            service: "shop/cart.shop.svc.cluster.local".into(),
            ..flow(CLIENT)
        };
        let mut elsewhere = flow(CLIENT);
        elsewhere.destination = Some(Endpoint { pod: "client".into(), ..elsewhere.destination.unwrap() });
        let all = [flow(CLIENT), outbound, elsewhere];
        let item = |flow| item::Kind::Connection(ConnectionInfo { flow: Some(flow), tunnel: String::new() });
        Ok(all.map(|flow| ("node-a".to_owned(), item(flow))).to_vec())
    });
    let arguments = files.line("diff -o json");
    let Verb::Diff(diff) = arguments.verb else { panic!("another verb") };
    let servers = Servers::of_sockets(vec![server.socket()], String::new());
    let mut out = Vec::new();
    let mut screen = Screen::new(&mut out, arguments.common.output, false);
    let outcome = run(&diff, Ok(servers), &nowhere(), &mut screen).await.unwrap();
    let text = String::from_utf8(out).unwrap();
    (outcome, text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
}

/// Kind, whom it is about, and what happens.
fn told(all: &[Value]) -> Vec<String> {
    let records = all.iter().filter_map(|value| {
        let list = || value["changes"].as_array().unwrap().iter().map(|of| of.as_str().unwrap()).collect::<Vec<_>>();
        match value["kind"].as_str().unwrap() {
            "service" => Some(format!("service {}: {}", value["service"].as_str().unwrap(), list().join("; "))),
            "workload" => Some(format!("workload {}: {}", value["workload"].as_str().unwrap(), list().join("; "))),
            "connection" => {
                let (change, flow) = (value["change"].as_str().unwrap(), &value["flow"]);
                Some(format!("{change} {}: {}", flow["direction"].as_str().unwrap(), value["why"].as_str().unwrap()))
            }
            _ => None,
        }
    });
    records.collect()
}

#[tokio::test]
async fn an_equal_rewrite_is_no_change() {
    let deny = policy("deny", "DENY", "[{to: [{operation: {ports: ['80']}}]}]");
    for same in [
        ROUTES.to_owned(),
        ROUTES.replace("timeout: 3s", "timeout: 3000ms"),
        ROUTES.replace("host: cart}", "host: cart.shop.svc.cluster.local}"),
        deny.replace("ports: ['80']", "ports: [\"80\"]"),
        deny.replace("v1,", "v1beta1,"),
    ] {
        let (outcome, all) = compared(&format!("{ROUTES}{deny}"), &same).await;
        assert_eq!((outcome, told(&all)), (Outcome::Fine, vec![]), "{same}");
    }
}

#[tokio::test]
async fn rules_of_services_lead_elsewhere() {
    let longer = ROUTES.replace("3s", "4s");
    let (outcome, all) = compared(ROUTES, &longer).await;
    let expected = [
        "service shop/cart.shop.svc.cluster.local: route shop/cart/all is changed",
        "rerouted outbound: route shop/cart/all is changed",
    ];
    assert_eq!((outcome, told(&all)), (Outcome::Found, expected.map(str::to_owned).to_vec()));
    let (_, all) = compared("", ROUTES).await;
    let expected = [
        "service shop/cart.shop.svc.cluster.local: route shop/cart/all is new",
        "may_be_cut outbound: its service gets rules for requests, which it would go past",
    ];
    assert_eq!(told(&all), expected);
}

#[tokio::test]
async fn what_is_told_of_workloads_is_a_change_too() {
    let telemetry = |spec: &str| {
        format!(
            "---\n{{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {{name: t, namespace: shop}}, spec: \
             {{selector: {{matchLabels: {{app: cart}}}}, {spec}}}}}\n"
        )
    };
    let traced = "tracing: [{providers: [{name: otlp}], randomSamplingPercentage: 12.5}]";
    let expected = [
        "service shop/cart.shop.svc.cluster.local: requests to it are read, to be seen",
        "workload cart: requests to it are read wherever it speaks HTTP, to be seen; spans of requests to it: it was the \
         agent's share to the agent's collector, and is 12.5 % to the agent's collector; spans of its own requests: it was \
         the agent's share to the agent's collector, and is 12.5 % to the agent's collector",
        "may_be_cut outbound: its service gets rules for requests, which it would go past",
    ];
    let (outcome, all) = compared("", &telemetry(traced)).await;
    assert_eq!((outcome, told(&all)), (Outcome::Found, expected.map(str::to_owned).to_vec()), "{all:?}");
    let (outcome, all) = compared(&telemetry(traced), &telemetry(traced)).await;
    assert_eq!((outcome, told(&all)), (Outcome::Fine, vec![]));

    let (_, all) = compared(&telemetry(traced), &telemetry("tracing: [{disableSpanReporting: true}]")).await;
    let said = told(&all);
    assert!(said.iter().any(|line| line.contains("spans of requests to it: it was 12.5 %") && line.contains("is off")));
    let (_, all) = compared("", &telemetry("accessLogging: [{filter: {expression: response.code >= 400}}]")).await;
    let log = "access log of what comes to it: it was what the agent's setting says, and is some";
    assert!(told(&all).iter().any(|line| line.contains(log)), "{all:?}");
    let metrics =
        "metrics: [{providers: [{name: prometheus}], overrides: [{match: {metric: ALL_METRICS}, disabled: true}]}]";
    let (_, all) = compared("", &telemetry(metrics)).await;
    let counted = "which metrics and labels count what comes to it changes";
    assert!(told(&all).iter().any(|line| line.contains(counted)), "{all:?}");
}

#[tokio::test]
async fn policies_end_connections() {
    let (outcome, all) = compared("", &policy("deny", "DENY", "[{to: [{operation: {ports: ['80']}}]}]")).await;
    let expected = ["workload cart: policy shop/deny (DENY) begins to hold", "cut inbound: POLICY_DENY shop/deny#0"];
    assert_eq!((outcome, told(&all)), (Outcome::Found, expected.map(str::to_owned).to_vec()));
    let (_, all) = compared("", &policy("deny", "DENY", "[{to: [{operation: {ports: ['81']}}]}]")).await;
    assert_eq!(told(&all).len(), 1, "no connection: {all:?}");
    // What requests it carries nobody knows; but for them it must be read, and dialled again.
    let (_, all) = compared("", &policy("deny", "DENY", "[{to: [{operation: {methods: [PUT]}}]}]")).await;
    assert_eq!(told(&all)[1], "cut inbound: what it carries must be read from now on; who dials again is");
    let read = policy("read", "AUDIT", "[{to: [{operation: {methods: [PUT]}}]}]");
    let (_, all) = compared(&read, &policy("deny", "DENY", "[{to: [{operation: {methods: [PUT]}}]}]")).await;
    assert_eq!(told(&all)[1], "may_be_cut inbound: depends on: whether it carried requests, method");
    let strict = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: ask, namespace: shop}, \
                  spec: {mtls: {mode: STRICT}}}";
    let (_, all) = compared("", strict).await;
    let workloads: Vec<_> = all.iter().filter(|value| value["kind"] == "workload").collect();
    assert_eq!(workloads.len(), 2);
    assert_eq!(
        workloads[0]["changes"],
        json!(["that it asks for an identity begins to hold", "it was PERMISSIVE, and is STRICT by shop/ask"])
    );
}

#[tokio::test]
async fn a_namespace_that_leaves_is_all_its_pods() {
    let namespace = "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {nodemesh.io/mode: none}}}";
    let (_, all) = compared("", namespace).await;
    let expected =
        ["workload cart: its mode changes from mesh to none", "workload client: its mode changes from mesh to none"];
    assert_eq!(told(&all), expected);
}

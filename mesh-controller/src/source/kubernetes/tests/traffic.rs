//! The kinds that speak of traffic: each is followed, and says how it stands.

use std::time::Duration;

use kube::{
    Api,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    core::GroupVersionKind,
};
use serde_json::{Value, json};

use super::{RealApi, api::eventually, enrol::Replica, follow::Followed};
use crate::index::{World, tests::SHOP};

const OTHERS: &str = "
{apiVersion: v1, kind: Service, metadata: {name: east, namespace: shop}, spec: {clusterIP: 10.96.1.1, ports: [{name: tls, port: 443}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: west, namespace: shop}, spec: {clusterIP: 10.96.1.2, ports: [{name: tls, port: 443}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: pay, namespace: other}, spec: {clusterIP: 10.96.1.3, ports: [{name: http, port: 80}]}}
";

/// A definition, an object of its kind, a word of it that is told, and what it becomes.
const KINDS: [[&str; 4]; 8] = [
    [
        "virtualservices.networking.istio.io",
        "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: o, namespace: shop}, spec: \
         {hosts: [cart], http: [{rewrite: {uri: /word-one}, route: [{destination: {host: cart}}]}]}}",
        "word-one",
        "word-two",
    ],
    [
        "destinationrules.networking.istio.io",
        "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: o, namespace: shop}, spec: \
         {host: cart, trafficPolicy: {loadBalancer: {consistentHash: {httpHeaderName: word-one}}}}}",
        "word-one",
        "word-two",
    ],
    [
        "serviceentries.networking.istio.io",
        "{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: o, namespace: shop}, spec: \
         {hosts: [word-one.example.com], addresses: [240.0.0.1], ports: [{number: 80, name: http, protocol: HTTP}], \
         resolution: STATIC, endpoints: [{address: 192.0.2.1}]}}",
        "word-one",
        "word-two",
    ],
    [
        "httproutes.gateway.networking.k8s.io",
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: o, namespace: shop}, spec: \
         {parentRefs: [{group: '', kind: Service, name: cart}], rules: [{backendRefs: [{name: cart, port: 80}], filters: \
         [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x, value: word-one}]}}]}]}}",
        "word-one",
        "word-two",
    ],
    [
        "grpcroutes.gateway.networking.k8s.io",
        "{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {name: o, namespace: shop}, spec: \
         {parentRefs: [{group: '', kind: Service, name: cart}], rules: [{matches: [{headers: [{name: x, value: word-one}]}], \
         backendRefs: [{name: cart, port: 80}]}]}}",
        "word-one",
        "word-two",
    ],
    [
        "tcproutes.gateway.networking.k8s.io",
        "{apiVersion: gateway.networking.k8s.io/v1, kind: TCPRoute, metadata: {name: o, namespace: shop}, spec: \
         {parentRefs: [{group: '', kind: Service, name: cart}], rules: [{backendRefs: [{name: east, port: 443}]}]}}",
        "east",
        "west",
    ],
    [
        "tlsroutes.gateway.networking.k8s.io",
        "{apiVersion: gateway.networking.k8s.io/v1, kind: TLSRoute, metadata: {name: o, namespace: shop}, spec: \
         {parentRefs: [{group: '', kind: Service, name: east}], hostnames: [word-one.example.com], rules: [{backendRefs: \
         [{name: east, port: 443}]}]}}",
        "word-one",
        "word-two",
    ],
    [
        "backendtlspolicies.gateway.networking.k8s.io",
        "{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {name: o, namespace: shop}, spec: \
         {targetRefs: [{group: '', kind: Service, name: cart}], validation: {hostname: word-one.example.com, \
         wellKnownCACertificates: System}}}",
        "word-one",
        "word-two",
    ],
];
const GRANTS: &str = "referencegrants.gateway.networking.k8s.io";
const ROUTES: &str = KINDS[3][0];

/// All that is told of traffic, and of services outside.
fn told(world: &World) -> String {
    let outside = world.services.keys().filter(|name| !name.hostname.ends_with(".svc.cluster.local"));
    format!("{:?} {:?}", world.traffic, outside.collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_traffic_is_followed() {
    let Some(api) = RealApi::start().await else { return };
    api.apply(SHOP).await;
    api.apply(OTHERS).await;
    let source = Followed::new(&api).await;
    source.sees("the shop", |world| world.workloads.len() == 2 && world.services.len() == 4).await;
    // Installed while it is followed; the API serves each some seconds later.
    for definition in KINDS.iter().map(|[definition, ..]| *definition).chain([GRANTS]) {
        api.install(definition).await;
    }
    for [definition, object, first, second] in KINDS {
        api.create(object).await;
        source.sees(&format!("{definition}: a new one"), |world| told(world).contains(first)).await;
        let changed = object.replace(first, second);
        api.apply(&changed).await;
        let seen = |world: &World| told(world).contains(second) && !told(world).contains(first);
        // TLSRoutes stay with the service that is their parent.
        source.sees(&format!("{definition}: its change"), seen).await;
        api.delete(&changed).await;
        source.sees(&format!("{definition}: its end"), |world| !told(world).contains(second)).await;
    }
    api.create(
        "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: far, namespace: shop}, spec: \
         {parentRefs: [{group: '', kind: Service, name: cart}], rules: [{backendRefs: [{name: pay, namespace: other, port: \
         80}]}]}}",
    )
    .await;
    source.sees("a route", |world| !world.traffic.is_empty()).await;
    let leads = |world: &World| told(world).contains("pay.other.svc");
    assert!(!leads(&source.world()), "nothing allows it");
    let grant = "{apiVersion: gateway.networking.k8s.io/v1beta1, kind: ReferenceGrant, metadata: {name: g, namespace: \
                 other}, spec: {from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}], to: [{group: \
                 '', kind: Service}]}}";
    api.create(grant).await;
    source.sees("the grant", leads).await;
    api.apply(&grant.replace("namespace: shop", "namespace: web")).await;
    source.sees("another grant", |world| !leads(world)).await;
    api.apply(grant).await;
    source.sees("the grant again", leads).await;
    api.delete(grant).await;
    source.sees("its end", |world| !leads(world)).await;
    // The kind goes, and its objects with it.
    api.uninstall(ROUTES).await;
    source.sees("the routes' end", |world| world.traffic.is_empty() && world.routes.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_and_routes_say_how_they_stand() {
    let Some(api) = RealApi::start().await else { return };
    api.apply("{apiVersion: v1, kind: Namespace, metadata: {name: nodemesh-system}}").await;
    api.apply(SHOP).await;
    let [tls_definition, tls, ..] = KINDS[7];
    for [definition, ..] in &KINDS[..4] {
        api.install(definition).await;
    }
    api.install(tls_definition).await;
    for [_, object, ..] in &KINDS[..3] {
        api.create(object).await;
    }
    api.create(tls).await;
    let route = "{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: shop}, spec: \
                 {parentRefs: [{group: '', kind: Service, name: cart}, {name: gateway}], rules: [{backendRefs: [{name: \
                 nowhere, port: 80}]}]}}";
    api.create(route).await;
    let replica = Replica::start(&api, "one").await;
    let object = async |group: &str, kind: &str, name: &str| -> Value {
        let kind = GroupVersionKind::gvk(group, "v1", kind);
        let objects: Api<DynamicObject> =
            Api::namespaced_with(api.client.clone(), "shop", &ApiResource::from_gvk(&kind));
        serde_json::to_value(objects.get(name).await.expect("the object")).expect("JSON")
    };
    // As in `Accepted=True`, of the present generation.
    let said = |object: &Value, conditions: &Value| -> Vec<String> {
        let all = conditions.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let now = all.iter().filter(|c| c["observedGeneration"].as_i64() == object["metadata"]["generation"].as_i64());
        now.map(|c| format!("{}={} {}", text(&c["type"]), text(&c["status"]), text(&c["reason"]))).collect()
    };
    let _a = replica.serve("a");
    for kind in ["VirtualService", "DestinationRule", "ServiceEntry"] {
        let has = async || {
            let object = object("networking.istio.io", kind, "o").await;
            let said = said(&object, &object["status"]["conditions"]);
            said.starts_with(&["Accepted=True Accepted".to_owned(), "Programmed=True Programmed".to_owned()])
        };
        let waits = tokio::time::timeout(Duration::from_secs(20), eventually(kind, has)).await;
        assert!(waits.is_ok(), "{:#}", object("networking.istio.io", kind, "o").await);
    }
    // It and the route are about the same requests.
    let rule = object("networking.istio.io", "VirtualService", "o").await;
    assert_eq!(said(&rule, &rule["status"]["conditions"])[2..], ["Conflicted=True Conflicted"]);
    let parents = async || {
        let route = object("gateway.networking.k8s.io", "HTTPRoute", "r").await;
        let parents = route["status"]["parents"].as_array().cloned().unwrap_or_default();
        let said = parents.iter().map(|parent| {
            let controller = parent["controllerName"].as_str().unwrap_or_default();
            (controller.to_owned(), parent["parentRef"]["name"].clone(), said(&route, &parent["conditions"]))
        });
        said.collect::<Vec<_>>()
    };
    let own = |conditions: [&str; 2]| {
        ("nodemesh.io/controller".to_owned(), json!("cart"), conditions.map(ToOwned::to_owned).to_vec())
    };
    let missing = own(["Accepted=True Accepted", "ResolvedRefs=False BackendNotFound"]);
    eventually("of its parent that is a service", async || parents().await == std::slice::from_ref(&missing)).await;

    let ancestors = async || {
        let policy = object("gateway.networking.k8s.io", "BackendTLSPolicy", "o").await;
        let ancestors = policy["status"]["ancestors"].as_array().cloned().unwrap_or_default();
        let [one] = &ancestors[..] else { return false };
        one["controllerName"] == "nodemesh.io/controller"
            && one["ancestorRef"]["name"] == "cart"
            && said(&policy, &one["conditions"]) == ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]
    };
    eventually("a policy's service", ancestors).await;

    // Another controller speaks for the gateway; the author mends the route.
    let entry = json!({
        "parentRef": {"name": "gateway"}, "controllerName": "example.com/other",
        "conditions": [{"type": "Accepted", "status": "True", "reason": "Accepted", "message": "",
                        "lastTransitionTime": "2026-01-01T00:00:00Z"}],
    });
    let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "HTTPRoute");
    let routes: Api<DynamicObject> = Api::namespaced_with(api.client.clone(), "shop", &ApiResource::from_gvk(&kind));
    let now = object("gateway.networking.k8s.io", "HTTPRoute", "r").await["status"]["parents"][0].clone();
    let patch = Patch::Merge(json!({"status": {"parents": [entry, now]}}));
    routes.patch_status("r", &PatchParams::default(), &patch).await.expect("patched");
    api.apply(&route.replace("nowhere", "cart")).await;
    let other = ("example.com/other".to_owned(), json!("gateway"), Vec::new());
    let mended = own(["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]);
    eventually("it is mended", async || parents().await == [other.clone(), mended.clone()]).await;

    // It is no route of the mesh any more.
    api.apply(&route.replace("{group: '', kind: Service, name: cart}, ", "")).await;
    eventually("nothing of the mesh is left", async || parents().await == std::slice::from_ref(&other)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mesh_s_own_kind_is_served_checked_and_followed() {
    let Some(api) = RealApi::start().await else { return };
    api.apply(SHOP).await;
    let source = Followed::new(&api).await;
    let definition = serde_yaml_ng::to_string(&mesh_install::rate_limit_policy()).expect("YAML");
    api.apply(&definition).await;
    let policy = |spec: &str| {
        format!(
            "{{apiVersion: nodemesh.io/v1alpha1, kind: RateLimitPolicy, metadata: {{name: l, namespace: shop}}, spec: {spec}}}"
        )
    };
    let good = policy("{selector: {matchLabels: {app: cart}}, local: {total: {requests: 5, interval: 1s}}}");
    api.create(&good).await;
    let is_there =
        || source.updates.borrow().objects.iter().any(|object| object.key().to_string() == "RateLimitPolicy shop/l");
    eventually("it is followed", async || is_there()).await;
    for (bad, field) in [
        ("{local: {total: {requests: 0}}}", "spec.local.total.requests"),
        ("{local: {total: {interval: 1s}}}", "spec.local.total.requests"),
        ("{local: {total: {requests: 5, interval: soon}}}", "spec.local.total.interval"),
        ("{ports: [70000], local: {total: {requests: 5}}}", "spec.ports[0]"),
        ("{targetRefs: [{kind: Pod, name: cart}], local: {total: {requests: 5}}}", "spec.targetRefs[0].kind"),
        ("{rules: [{name: all}]}", "spec.rules[0].local"),
    ] {
        let mut value: Value = serde_yaml_ng::from_str(&policy(bad)).expect("YAML");
        value["metadata"]["name"] = "bad".into();
        let (policies, object) = api.of(value);
        let refused = policies.create(&Default::default(), &object).await.expect_err(bad);
        let kube::Error::Api(status) = &refused else { panic!("{bad}: {refused}") };
        assert!(status.code == 422 && status.message.contains(field), "{bad}: {}", status.message);
    }
    api.delete(&good).await;
    eventually("its end", async || !is_there()).await;
}

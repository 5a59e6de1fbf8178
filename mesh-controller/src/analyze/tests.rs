//! Files as users have them, and what is said of them.

use std::fs;

use serde_json::json;

use super::*;

fn usual() -> Settings {
    settings([]).expect("usual ones")
}

/// Says it of one file with this text.
fn said_of(text: &str, known: Option<Vec<Value>>) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.yaml");
    fs::write(&path, text).expect("written");
    let prefix = format!("{}: ", path.display());
    let analysis = analyze(&usual(), &[path], known);
    analysis.findings.iter().map(|finding| finding.to_string().replace(&prefix, "")).collect()
}

/// What is said of each sample that users apply as it stands, in a folder of this crate.
fn said_of_samples(folder: &str) -> Vec<String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src").join(folder);
    let mut samples: Vec<_> = fs::read_dir(&folder).expect("samples").map(|entry| entry.expect("one").path()).collect();
    samples.sort();
    let mut said = Vec::new();
    for sample in samples {
        let analysis = analyze(&usual(), std::slice::from_ref(&sample), None);
        let Analysis { findings, objects, fine, others, is_of_cluster: _ } = analysis;
        let name = sample.file_stem().expect("a name").to_string_lossy().into_owned();
        said.push(format!("{name}: {fine} of {objects}, {others} others"));
        let place = format!("{}: ", sample.display());
        said.extend(findings.iter().map(|finding| finding.to_string().replace(&place, "- ")));
    }
    said
}

const ALONE: &str = "is not among the files; the rest is looked at as if it were";

fn unknown_subset(object: &str, route: usize, subset: &str, host: &str) -> String {
    format!(
        "- VirtualService default/{object}: spec.http[0].route[{route}].destination.subset: error: subset `{subset}` of host \
         `{host}.default.svc.cluster.local` is not defined by any DestinationRule; what is sent there is answered 503"
    )
}

#[test]
fn what_users_apply_as_it_stands() {
    let missing = |object: &str, field: &str, host: &str| format!("- {object}: {field}: missing: `{host}` {ALONE}");
    let agent = "spec.meshConfig.defaultConfig.tracing.openCensusAgent";
    let outliers = "- DestinationRule default/inventory-service: spec.trafficPolicy.outlierDetection";
    let golden = [
        "001-1-peer-authentication: 1 of 1, 0 others".to_owned(),
        "001-4-circuit-breaking: 1 of 1, 0 others".to_owned(),
        missing("DestinationRule default/payment-service", "spec.host", "payment-service"),
        "003-2-mutual-tls: 2 of 2, 0 others".to_owned(),
        "003-4-observability: 0 of 1, 1 others".to_owned(),
        format!(
            "- IstioOperator: {agent}.address: warning: OpenCensus is spoken no more: spans go by OTLP over gRPC to \
             jaeger-collector.observability:4317"
        ),
        format!(
            "- IstioOperator: {agent}.context: warning: W3C Trace Context is always written, and B3 wherever it came, \
             whatever is said here"
        ),
        "003-5-app-mesh: 0 of 0, 0 others".to_owned(),
        "- error: document 2: AWS::AppMesh::VirtualNode is a resource of CloudFormation, not of Kubernetes; nothing of \
         it is honoured"
            .to_owned(),
        "004-2-circuit-breaking: 0 of 1, 0 others".to_owned(),
        missing("DestinationRule default/inventory-service", "spec.host", "inventory-service"),
        format!("{outliers}.consecutiveErrors: warning: is an old name: it is honoured as consecutive5xxErrors"),
    ];
    assert_eq!(said_of_samples("analyze/tests/samples"), golden);
    let virtual_service =
        |name: &str, host: &str| missing(&format!("VirtualService default/{name}"), "spec.hosts[0]", host);
    let golden = [
        "001-2-canary: 0 of 1, 0 others".to_owned(),
        virtual_service("order-service", "order-service"),
        unknown_subset("order-service", 0, "v1", "order-service"),
        unknown_subset("order-service", 1, "v2", "order-service"),
        "001-3-retries-timeouts: 1 of 1, 0 others".to_owned(),
        virtual_service("payment-service", "payment-service"),
        "003-1-traffic-management: 2 of 2, 0 others".to_owned(),
        missing("DestinationRule default/order-service", "spec.host", "order-service"),
        virtual_service("order-service", "order-service"),
        "003-3-fault-injection: 0 of 1, 0 others".to_owned(),
        virtual_service("order-service-chaos", "order-service"),
        unknown_subset("order-service-chaos", 0, "stable", "order-service"),
        "004-1-canary: 0 of 1, 0 others".to_owned(),
        virtual_service("payment-service", "payment-service"),
        unknown_subset("payment-service", 0, "v1", "payment-service"),
        unknown_subset("payment-service", 1, "v2", "payment-service"),
    ];
    assert_eq!(said_of_samples("translate/virtual_service/tests/samples"), golden);
}

#[test]
fn the_examples_are_honoured_as_they_are_written() {
    for (folder, objects) in [("example", 7), ("demo", 2)] {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../manifests").join(folder);
        let analysis = analyze(&usual(), std::slice::from_ref(&folder), None);
        let said: Vec<_> = analysis.findings.iter().map(ToString::to_string).collect();
        assert_eq!((said, analysis.objects), (Vec::new(), objects), "{}", folder.display());
    }
}

const ROUTE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: shop}
spec:
  parentRefs: [{group: '', kind: Service, name: web, port: 80}]
  rules:
  - backendRefs: [{name: web-v1, port: 8080}, {name: web, namespace: other, port: 80}]
";

#[test]
fn what_routes_speak_of_is_missing_once_and_what_is_wrong_stays() {
    assert_eq!(
        said_of(ROUTE, None),
        [
            format!("HTTPRoute shop/web: spec.parentRefs[0]: missing: `shop/web` {ALONE}"),
            format!("HTTPRoute shop/web: spec.rules[0].backendRefs[0]: missing: `shop/web-v1` {ALONE}"),
            "HTTPRoute shop/web: spec.rules[0].backendRefs[1]: error: no ReferenceGrant in other allows Service other/web"
                .to_owned(),
        ]
    );
}

#[test]
fn a_provider_that_nobody_defines_is_missing_and_wrong_beside_a_cluster() {
    let object = "{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {name: t, namespace: shop}, spec: \
                  {targetRefs: [{kind: Service, name: cart}], tracing: [{providers: [{name: jaeger}]}], accessLogging: \
                  [{providers: [{name: envoy}]}]}}";
    let field = "spec.tracing[0].providers[0].name";
    assert_eq!(
        said_of(object, None),
        [
            format!("Telemetry shop/t: spec.targetRefs[0]: missing: `shop/cart` {ALONE}"),
            format!("Telemetry shop/t: {field}: missing: nothing that `provider jaeger` means is among the files"),
        ]
    );
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "cart", "namespace": "shop"},
                         "spec": {"clusterIP": "10.96.0.1"}});
    let settings = |name: &str| {
        let mesh = format!("extensionProviders: [{{name: {name}, opentelemetry: {{service: a.b, port: 4317}}}}]");
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"},
               "data": {"mesh": mesh}})
    };
    assert_eq!(said_of(object, Some(vec![service.clone(), settings("jaeger")])), [] as [String; 0]);
    let why = "error: no provider `jaeger` is defined (meshConfig.extensionProviders); it is not honoured";
    let said = said_of(object, Some(vec![service, settings("other")]));
    assert_eq!(said, [format!("Telemetry shop/t: {field}: {why}")]);
}

#[test]
fn a_limit_of_a_service_that_is_not_there_is_missing() {
    let policy = "{apiVersion: nodemesh.io/v1alpha1, kind: RateLimitPolicy, metadata: {name: p, namespace: shop}, spec: \
                  {targetRefs: [{name: cart}], local: {total: {requests: 5}}}}";
    let missing = format!("RateLimitPolicy shop/p: spec.targetRefs[0]: missing: `shop/cart` {ALONE}");
    assert_eq!(said_of(policy, None), [missing]);
}

#[test]
fn a_host_that_no_service_can_have_is_missing_too() {
    let rule = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: out, namespace: shop}
spec:
  hosts: [api.eu.example.com, '*.eu.example.com', '*bad']
  http: [{route: [{destination: {host: cart.shop, port: {number: 80}}}]}]
";
    let said = said_of(rule, None);
    let missing = |i: usize, host: &str| {
        format!("VirtualService shop/out: spec.hosts[{i}]: missing: nothing that `{host}` means is among the files")
    };
    assert!(
        said.contains(&missing(0, "api.eu.example.com")) && said.contains(&missing(1, "*.eu.example.com")),
        "{said:#?}"
    );
    assert!(said.iter().any(|line| line.starts_with("VirtualService shop/out: spec.hosts[2]: error: ")), "{said:#?}");
    assert!(said.iter().any(|line| line.contains("destination.host: missing: `cart.shop` is not")), "{said:#?}");
}

#[test]
fn a_cluster_holds_what_files_speak_of_and_is_not_talked_about() {
    let service = |name: &str, port: u16| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "shop" },
            "spec": { "clusterIP": "10.0.0.1", "ports": [{ "port": port }] },
        })
    };
    let bad = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
        "metadata": { "name": "bad", "namespace": "shop" }, "spec": { "host": "nowhere", "nonsense": 1 },
    });
    let own = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": "web", "namespace": "shop" }, "spec": { "nonsense": 1 },
    });
    let mut backend = service("web-v1", 9090);
    backend["spec"]["clusterIP"] = "10.0.0.2".into();
    let said = said_of(ROUTE, Some(vec![service("web", 80), backend, bad, own]));
    assert_eq!(
        said,
        [
            "HTTPRoute shop/web: spec.rules[0].backendRefs[0]: error: Service shop/web-v1 has no port 8080",
            "HTTPRoute shop/web: spec.rules[0].backendRefs[1]: error: no ReferenceGrant in other allows Service other/web",
        ]
    );
}

#[test]
fn what_policies_ask_of_requests_is_honoured_and_what_fits_none_is_a_warning() {
    let policy = |spec: &str| {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\nspec:\n{spec}"
        );
        let said = said_of(&text, None);
        said.into_iter().map(|line| line.replace("AuthorizationPolicy shop/p: ", "")).collect::<Vec<_>>()
    };
    let all = "
  targetRefs: [{kind: Service, group: '', name: web}]
  rules:
  - from: [{source: {requestPrincipals: ['*'], remoteIpBlocks: [10.0.0.0/8]}}]
    to: [{operation: {hosts: ['*.Example.com'], methods: [GET], notPaths: ['/a/{*}/b/{**}', '*.css']}}]
    when: [{key: 'request.headers[X-Team]', values: [red]}, {key: 'request.auth.claims[realm][role]', values: [x]}]
  - when: [{key: connection.sni, values: [db.example.com]}]
";
    assert_eq!(policy(all), [format!("spec.targetRefs[0]: missing: `shop/web` {ALONE}")]);
    assert_eq!(
        policy("  rules: [{to: [{operation: {methods: [get], paths: [/ok, 'api/*', '/a?b=c']}}]}]"),
        [
            "spec.rules[0].to[0].operation.methods[0]: warning: `get` fits no request: methods are written in upper case",
            "spec.rules[0].to[0].operation.paths[1]: warning: `api/*` fits no request: paths begin with `/`",
            "spec.rules[0].to[0].operation.paths[2]: warning: `/a?b=c` fits no request: paths are asked for without their \
             query",
        ]
    );
    assert_eq!(
        policy("  targetRef: {group: networking.istio.io, kind: ServiceEntry, name: db}"),
        ["spec.targetRef: missing: nothing that `ServiceEntry shop/db` means is among the files"]
    );
    let gateway =
        policy("  targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]\n  rules: [{}]");
    let nobody = "there are no gateways here; the policy holds for nobody (label istio.io/use-waypoint)";
    assert_eq!(gateway, [format!("spec.targetRefs[0]: error: {nobody}")]);
    let elsewhere = policy("  targetRefs: [{kind: Service, name: web, namespace: other}]");
    assert!(elsewhere[0].starts_with("spec.targetRefs[0].namespace: error: is not the policy's own"), "{elsewhere:?}");
}

#[test]
fn what_a_cluster_does_not_hold_is_not_there() {
    let rule = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: out, namespace: shop}
spec:
  hosts: [crat]
  http: [{route: [{destination: {host: api.example.com}}]}]
";
    let of_cluster = |text: &str| said_of(text, Some(Vec::new()));
    let said = of_cluster(rule);
    assert!(said.iter().all(|line| line.contains(": error: ")), "{said:#?}");
    let no_service = "VirtualService shop/out: spec.hosts[0]: error: no service has this host name";
    assert!(said.iter().any(|line| line == no_service), "{said:#?}");
    let route = of_cluster(ROUTE);
    assert!(route.iter().any(|line| line.contains("spec.parentRefs[0]: error: Service shop/web does not exist")));
    let folder = tempfile::tempdir().expect("a folder");
    assert!(analyze(&usual(), &[folder.path().to_owned()], Some(Vec::new())).is_of_cluster);
}

#[test]
fn names_are_those_of_the_controllers_settings() {
    let rules = "
{apiVersion: v1, kind: Service, metadata: {name: cart, namespace: shop}, spec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: v, namespace: shop},
 spec: {hosts: [cart.shop.svc.own.domain], http: [{route: [{destination: {host: cart}}]}]}}
";
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.yaml");
    fs::write(&path, rules).expect("written");
    let paths = [path];
    let own = settings(["--cluster-domain=own.domain"]).expect("settings");
    assert_eq!(analyze(&own, &paths, Some(Vec::new())).findings, []);
    assert_eq!(analyze(&usual(), &paths, Some(Vec::new())).findings.len(), 1);
}

#[test]
fn what_cannot_be_read_at_all_is_said() {
    let gone = PathBuf::from("/nonexistent/a.yaml");
    let Analysis { findings, objects, fine, others, is_of_cluster } = analyze(&usual(), &[gone], None);
    assert_eq!((objects, fine, others, is_of_cluster), (0, 0, 0, false));
    assert!(findings[0].to_string().starts_with("/nonexistent/a.yaml: error: cannot be read: "), "{findings:?}");
    assert!(said_of("a: [", None)[0].starts_with("error: document 1: "));
}

//! What pods are told, of objects as users write them.

use mesh_common::model::{
    ServiceName,
    telemetry::{AccessLog, Collector, LogCondition, MetricChange, OtlpProtocol, Requests, Telemetry as Told},
    traffic::{Percent, Protocol},
};

use crate::index::{
    Cache, Redirection, World,
    tests::{CART, SHOP, objects, said, settings, world},
};

const CLIENT: &str = "Kubernetes//Pod/shop/client";
const CONFIG: &str = "
---
apiVersion: install.istio.io/v1alpha1
kind: IstioOperator
spec:
  meshConfig:
    extensionProviders:
    - {name: otel, opentelemetry: {service: otel.obs, port: 4317}}
    - {name: other, opentelemetry: {service: other.obs, port: 4318, http: {}}}
    - {name: als, envoyOtelAls: {service: als.obs, port: 4317}}
    - {name: jaeger, zipkin: {service: z.obs, port: 9411}}
";

fn object(namespace: &str, name: &str, created: u32, spec: &str) -> String {
    format!(
        "\n---\n{{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {{name: {name}, namespace: {namespace}, \
         creationTimestamp: '2026-01-0{created}T00:00:00Z'}}, spec: {{{spec}}}}}\n"
    )
}

fn all(texts: &[&str]) -> World {
    world(&[&[SHOP], texts].concat().concat())
}

fn told<'w>(world: &'w World, uid: &str) -> &'w Told {
    &world.local_pods.values().find_map(|pods| pods.get(uid)).expect("a pod of a node").telemetry
}

fn collector(host: &str) -> Option<Collector> {
    Some(Collector { host: host.to_owned(), port: 4317, protocol: OtlpProtocol::Grpc })
}

fn lines(only: &[LogCondition], to: Option<Collector>) -> Option<AccessLog> {
    Some(AccessLog::On { only: only.to_vec(), sampled: None, collector: to })
}

const SELECTOR: &str = "selector: {matchLabels: {app: cart}}";

#[test]
fn nothing_is_told_where_nothing_is_said() {
    for world in [all(&[]), all(&[CONFIG]), all(&[&object("pay", "t", 1, "tracing: [{}]")])] {
        assert_eq!((told(&world, CART), told(&world, CLIENT)), (&Told::default(), &Told::default()));
        assert!(world.traffic.is_empty());
    }
}

#[test]
fn each_field_of_spans_is_the_closest_that_is_said() {
    let mesh = object("istio-system", "mesh", 1, "tracing: [{providers: [{name: otel}], randomSamplingPercentage: 1}]");
    let wide = object("shop", "wide", 1, "tracing: [{match: {mode: SERVER}, randomSamplingPercentage: 50}]");
    let own =
        object("shop", "own", 1, &format!("{SELECTOR}, tracing: [{{customTags: {{a: {{literal: {{value: b}}}}}}}}]"));
    let world = all(&[CONFIG, &mesh, &wide, &own]);
    assert_eq!(said(&world).iter().filter(|said| said.contains("Telemetry")).count(), 0);
    let (cart, client) = (told(&world, CART), told(&world, CLIENT));
    assert_eq!(
        (cart.traced_server.sampled, cart.traced_client.sampled),
        (Some(Percent(500_000)), Some(Percent(10_000)))
    );
    assert_eq!(cart.traced_server.collector, collector("otel.obs"));
    assert_eq!((cart.traced_server.tags.len(), client.traced_server.tags.len()), (1, 0));
    assert_eq!(client.traced_server.sampled, Some(Percent(500_000)));
    let off = object("shop", "own", 1, &format!("{SELECTOR}, tracing: [{{disableSpanReporting: true}}]"));
    let world = all(&[CONFIG, &mesh, &wide, &off]);
    let (cart, client) = (told(&world, CART), told(&world, CLIENT));
    assert!(cart.traced_server.disabled && cart.traced_client.disabled && !client.traced_server.disabled);
    assert_eq!((cart.requests, client.requests), (Requests::AsNeeded, Requests::Seen));
}

#[test]
fn a_provider_that_takes_no_spans_gets_none_and_nobody_else_in_its_place() {
    let mesh = object("istio-system", "mesh", 1, "tracing: [{providers: [{name: otel}]}]");
    let field = "Telemetry shop/own: spec.tracing[0].providers[0]";
    for (name, why) in [
        ("nobody", ".name: no provider `nobody` is defined (meshConfig.extensionProviders); it is not honoured"),
        ("jaeger", ": provider `jaeger` takes nothing: its definition is refused; it is not honoured"),
        ("als", ": provider `als` takes access logs only; it is not honoured"),
        ("prometheus", ": provider `prometheus` takes metrics only; it is not honoured"),
    ] {
        let own = object("shop", "own", 1, &format!("{SELECTOR}, tracing: [{{providers: [{{name: {name}}}]}}]"));
        let world = all(&[CONFIG, &mesh, &own]);
        assert!(told(&world, CART).traced_server.disabled, "{name}");
        assert_eq!(told(&world, CLIENT).traced_server.collector, collector("otel.obs"));
        assert!(said(&world).contains(&format!("all.yaml: {field}{why}")), "{:?}", said(&world));
    }
    // The agents' own setting says where.
    let own = object("shop", "own", 1, &format!("{SELECTOR}, tracing: [{{providers: [{{name: otlp}}]}}]"));
    let world = all(&[CONFIG, &mesh, &own]);
    let cart = &told(&world, CART).traced_server;
    assert!(!cart.disabled && cart.collector.is_none());
}

#[test]
fn of_lines_the_closest_names_hold_and_entries_beat_earlier_ones() {
    let fails = LogCondition::Status { from: 500, to: u16::MAX };
    let mesh = object(
        "istio-system",
        "mesh",
        1,
        "accessLogging: [{providers: [{name: envoy}], filter: {expression: 'response.code >= 500'}}]",
    );
    let world = all(&[CONFIG, &mesh]);
    assert_eq!(told(&world, CART).logged_server, lines(std::slice::from_ref(&fails), None));
    assert_eq!((told(&world, CART).requests, told(&world, CLIENT).requests), (Requests::Seen, Requests::Seen));
    // One side less; the other stays as it is wider said.
    let own =
        object("shop", "own", 1, &format!("{SELECTOR}, accessLogging: [{{match: {{mode: SERVER}}, disabled: true}}]"));
    let world = all(&[CONFIG, &mesh, &own]);
    assert_eq!(told(&world, CART).logged_server, Some(AccessLog::Off));
    assert_eq!(told(&world, CART).logged_client, lines(std::slice::from_ref(&fails), None));
    // Another provider takes the place of the wider ones.
    let own = object("shop", "own", 1, &format!("{SELECTOR}, accessLogging: [{{providers: [{{name: ALS}}]}}]"));
    let world = all(&[CONFIG, &mesh, &own]);
    assert_eq!(told(&world, CART).logged_server, lines(&[], collector("als.obs")));
    // What is not understood is as if it was not there.
    let own = object("shop", "own", 1, &format!("{SELECTOR}, accessLogging: [{{filter: {{expression: 'x'}}}}]"));
    let world = all(&[CONFIG, &mesh, &own]);
    assert_eq!(told(&world, CART).logged_server, lines(&[fails], None));
    // Both, each with its own filter.
    let two = "accessLogging: [{providers: [{name: envoy}], filter: {expression: 'response.code == 404'}}, {providers: \
               [{name: als}], filter: {expression: 'connection.mtls && response.code == 500'}}]";
    let world = all(&[CONFIG, &object("shop", "two", 1, two)]);
    let code = |code| LogCondition::Status { from: code, to: code };
    let not = |condition| LogCondition::Not(Box::new(condition));
    let both = not(LogCondition::Any(vec![not(LogCondition::Authenticated), not(code(500))]));
    let either = LogCondition::Any(vec![both, code(404)]);
    assert_eq!(told(&world, CART).logged_client, lines(&[either], collector("als.obs")));
}

#[test]
fn what_is_different_about_metrics_adds_up() {
    let mesh = object(
        "istio-system",
        "mesh",
        1,
        "metrics: [{overrides: [{tagOverrides: {source_app: {operation: REMOVE}}}, {match: {metric: REQUEST_SIZE}, disabled: \
         true}]}]",
    );
    let own = object(
        "shop",
        "own",
        1,
        "metrics: [{overrides: [{match: {metric: REQUEST_SIZE, mode: CLIENT}, disabled: false}, {match: {metric: \
         REQUEST_COUNT, mode: SERVER}, tagOverrides: {source_version: {operation: REMOVE}}}]}]",
    );
    let world = all(&[&mesh, &own]);
    let change = |disabled, removed: &[&str]| MetricChange {
        disabled,
        removed: removed.iter().map(|label| (*label).to_owned()).collect(),
    };
    let told = told(&world, CART);
    assert_eq!(told.metrics_client, [(String::new(), change(false, &["source_app"]))].into());
    assert_eq!(
        told.metrics_server,
        [
            (String::new(), change(false, &["source_app"])),
            ("istio_request_bytes".to_owned(), change(true, &["source_app"])),
            ("istio_requests_total".to_owned(), change(false, &["source_app", "source_version"])),
        ]
        .into()
    );
    assert_eq!(told.requests, Requests::AsNeeded, "what is counted needs no reading for its own sake");
}

#[test]
fn of_two_as_wide_as_each_other_the_older_one_holds() {
    let sampled = |percent: u32| format!("tracing: [{{randomSamplingPercentage: {percent}}}]");
    let world = all(&[
        &object("shop", "a", 2, &sampled(2)),
        &object("shop", "b", 1, &sampled(1)),
        &object("shop", "c", 4, &format!("{SELECTOR}, {}", sampled(4))),
        &object("shop", "d", 3, &format!("targetRefs: [{{kind: Service, name: cart}}], {}", sampled(3))),
        &object("shop", "e", 5, &format!("selector: {{matchLabels: {{app: other}}}}, {}", sampled(5))),
    ]);
    let at = |uid| told(&world, uid).traced_client.sampled;
    assert_eq!((at(CART), at(CLIENT)), (Some(Percent(30_000)), Some(Percent(10_000))));
    let own = |name: &str, why: &str| format!("all.yaml: Telemetry shop/{name}: {why}");
    assert_eq!(
        said(&world),
        [
            own("a", "is not applied: shop/b is older and holds for the same"),
            own("c", "does not hold for 1 of the pods that it selects: shop/d is older"),
        ]
    );
    assert!(world.problems.iter().all(|problem| problem.extent == crate::status::Extent::Conflict));
}

#[test]
fn the_mesh_s_own_settings_come_first_and_annotations_last() {
    let mesh = |config: &str| {
        format!(
            "\n---\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: istio, namespace: istio-system}}, data: {{mesh: \
             '{{{config}}}'}}}}\n"
        )
    };
    let traced = "defaultConfig: {tracing: {sampling: 5, openCensusAgent: {address: \"otel.obs:55678\"}}}";
    let world = all(&[&mesh(traced)]);
    let cart = told(&world, CART);
    assert_eq!(
        (cart.traced_client.sampled, &cart.traced_client.collector),
        (Some(Percent(50_000)), &collector("otel.obs"))
    );
    assert_eq!(cart.requests, Requests::Seen);
    // None is sampled, or there is nobody who takes spans: nothing is read for it.
    for traced in [traced.replace("sampling: 5", "sampling: 0"), traced.replace("sampling: 5, ", "")] {
        assert_eq!(told(&all(&[&mesh(&traced)]), CART).requests, Requests::AsNeeded);
    }
    let off = mesh(&format!("enableTracing: false, {traced}"));
    let world = all(&[&off]);
    assert!(told(&world, CART).traced_client.disabled);
    let world = all(&[&off, &object("shop", "t", 1, "tracing: [{}]")]);
    assert_eq!(told(&world, CART).traced_client.collector, collector("otel.obs"), "whoever asks for spans has some");
    let defaults = CONFIG.trim_end().to_owned() + "\n    defaultProviders: {tracing: [otel], accessLogging: [als]}\n";
    let world = all(&[&defaults, &object("shop", "t", 1, "tracing: [{randomSamplingPercentage: 7}]")]);
    let cart = told(&world, CART);
    assert_eq!(cart.traced_server.collector, collector("otel.obs"));
    assert_eq!(cart.logged_server, lines(&[], collector("als.obs")));
    for (file, expected) in [("/dev/stdout", lines(&[], None)), ("", Some(AccessLog::Off))] {
        assert_eq!(told(&all(&[&mesh(&format!("accessLogFile: \"{file}\""))]), CART).logged_server, expected);
    }
    // The ConfigMap before any IstioOperator.
    let world = all(&[&defaults, &mesh("enableTracing: false")]);
    assert!(told(&world, CART).traced_client.disabled && told(&world, CART).logged_server.is_none());
    assert_eq!(
        said(&world)[0],
        "all.yaml: IstioOperator: is not applied: ConfigMap istio-system/istio holds for the mesh"
    );
    let errors =
        SHOP.replacen("namespace: shop\n", "namespace: shop\n  annotations: {nodemesh.io/access-log: errors}\n", 1);
    let world = crate::index::tests::world(&[&errors, defaults.as_str()].concat());
    assert_eq!(told(&world, CART).logged_server, lines(&[LogCondition::Errors], collector("als.obs")));
}

#[test]
fn who_asks_for_requests_has_them_seen_and_who_wants_none_has_not() {
    let tracing = object("shop", "t", 1, "tracing: [{}]");
    let cart = |annotation: &str| {
        SHOP.replacen(
            "namespace: shop\n",
            &format!("namespace: shop\n  annotations: {{nodemesh.io/l7: {annotation}}}\n"),
            1,
        )
    };
    let shop =
        |text: &str, label: &str| text.replace("nodemesh.io/mode: mesh", &format!("nodemesh.io/mode: mesh, {label}"));
    use Requests::{AsNeeded, Seen};
    for (text, expected) in [
        (cart("auto"), (Seen, AsNeeded)),
        (cart("off") + &tracing, (AsNeeded, Seen)),
        (SHOP.to_owned() + &tracing, (Seen, Seen)),
        (shop(SHOP, "nodemesh.io/l7: auto"), (Seen, Seen)),
        (shop(&cart("off"), "nodemesh.io/l7: auto"), (AsNeeded, Seen)),
        (shop(&cart("auto"), "nodemesh.io/l7: off"), (Seen, AsNeeded)),
    ] {
        let world = world(&text);
        assert_eq!((told(&world, CART).requests, told(&world, CLIENT).requests), expected, "{text}");
        assert_eq!(said(&world), [] as [String; 0]);
        let name: ServiceName = "shop/cart.shop.svc.cluster.local".parse().expect("a name");
        let traffic = world.traffic.get(&name);
        assert_eq!(traffic.is_some_and(|traffic| traffic.seen), expected.0 == Seen, "{text}");
        assert!(traffic.is_none_or(|traffic| traffic.protocols == [(80, Protocol::Http)].into()));
    }
    let world = world(&cart("Auto"));
    assert_eq!(told(&world, CART).requests, AsNeeded);
    let field = "metadata.annotations[nodemesh.io/l7]";
    assert_eq!(
        said(&world),
        [format!("all.yaml: Pod shop/cart-6f5d8-x1: {field}: `Auto` is none of auto, off; it counts as absent")]
    );
}

#[test]
fn only_services_that_are_dialled_and_may_speak_http_are_seen() {
    let seen = SHOP.replace("nodemesh.io/mode: mesh", "nodemesh.io/mode: mesh, nodemesh.io/l7: auto");
    for (text, expected) in [
        (seen.clone(), 1),
        (seen.replace("name: http", "name: tcp"), 0),
        (seen.replace("name: http, port: 80", "name: x, port: 80"), 1),
        (seen.replace("clusterIP: 10.96.0.1\n  clusterIPs: [10.96.0.1]", "clusterIP: None"), 0),
        // Its clients' connections do not end because a pod is not ready for a moment.
        (seen.replace("status: 'True'", "status: 'False'").replace("ready: true", "ready: false"), 1),
        (seen.replace("nodemesh.io/mode: mesh", "nodemesh.io/mode: observe"), 0),
    ] {
        assert_eq!(world(&text).traffic.values().filter(|traffic| traffic.seen).count(), expected, "{text}");
    }
    // Rules stay what they are.
    let rule = "\n---\n{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: v, namespace: shop}, spec: \
                {hosts: [cart], http: [{route: [{destination: {host: cart}}], timeout: 5s}]}}\n";
    let (without, with) = (world(&[SHOP, rule].concat()), world(&[&seen, rule].concat()));
    let (without, with) =
        (without.traffic.values().next().expect("rules"), with.traffic.values().next().expect("rules"));
    assert!(with.seen && !without.seen && with.routes == without.routes);
}

#[test]
fn what_is_said_of_nobody_else_changes_nothing_in_memory() {
    let text = [SHOP, CONFIG, &object("shop", "t", 1, "tracing: [{providers: [{name: otel}]}]")].concat();
    let (mut cache, settings) = (Cache::default(), settings());
    let update = objects(&text);
    let first = World::with(&settings, &update, &Redirection::default(), &mut cache);
    let again = World::with(&settings, &update, &Redirection::default(), &mut cache);
    assert!(again.since(&first).is_empty());
    for (name, traffic) in &first.traffic {
        assert!(traffic.seen && std::sync::Arc::ptr_eq(traffic, &again.traffic[name]));
    }
    let off = objects(&text.replace("tracing: [{", "tracing: [{disableSpanReporting: true, "));
    let off = World::with(&settings, &off, &Redirection::default(), &mut cache);
    assert!(off.traffic.is_empty() && told(&off, CART).traced_client.disabled);
}

#[test]
fn a_target_that_is_not_there_is_said() {
    let spec = "targetRefs: [{kind: Service, name: crat}], tracing: [{}]";
    let world = all(&[&object("shop", "t", 1, spec)]);
    let why = "no such Service (crat.shop.svc.cluster.local); the object holds for nobody of it";
    assert_eq!(said(&world), [format!("all.yaml: Telemetry shop/t: spec.targetRefs[0]: {why}")]);
    assert_eq!(told(&world, CART), &Told::default());
}

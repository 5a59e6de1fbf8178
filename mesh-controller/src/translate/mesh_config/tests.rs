//! What of an IstioOperator and of the ConfigMap is read, noted and refused.

use super::*;
use crate::{
    index::tests::settings,
    translate::fields::tests::{custom, said},
};

fn operator(config: &str) -> (Option<MeshConfig>, Vec<Fault>) {
    let mut faults = Vec::new();
    let object = custom(&format!("{{metadata: {{}}, spec: {{meshConfig: {{{config}}}}}}}"));
    (istio_operator(&settings(), &object, &mut faults), faults)
}

fn read(config: &str) -> (MeshConfig, Vec<String>) {
    let (found, faults) = operator(config);
    (found.expect("settings"), said(faults))
}

fn grpc(host: &str, port: u16) -> Collector {
    Collector { host: host.to_owned(), port, protocol: OtlpProtocol::Grpc }
}

const NOTHING: [String; 0] = [];

#[test]
fn the_sample_is_read_with_warnings_only() {
    let text = include_str!("../../analyze/tests/samples/003-4-observability.yaml");
    let document = text.split("---").nth(1).expect("the second document").replace("spec:", "metadata: {}\nspec:");
    let mut faults = Vec::new();
    let found = istio_operator(&settings(), &custom(&document), &mut faults).expect("settings");
    assert_eq!(found.collector, Some(grpc("jaeger-collector.observability", 4317)));
    assert_eq!((found.sampled, found.untraced), (Some(Percent(1_000_000)), false));
    assert!(faults.iter().all(|fault| fault.extent == Extent::Note), "{faults:?}");
    assert_eq!(
        said(faults),
        [
            "spec.meshConfig.defaultConfig.tracing.openCensusAgent.context: W3C Trace Context is always written, and B3 \
             wherever it came, whatever is said here",
            "spec.meshConfig.defaultConfig.tracing.openCensusAgent.address: OpenCensus is spoken no more: spans go by OTLP \
             over gRPC to jaeger-collector.observability:4317",
        ]
    );
}

#[test]
fn what_is_said_of_telemetry_is_read() {
    let (found, faults) = read(
        "enableTracing: false, accessLogFile: /dev/stdout, defaultConfig: {tracing: {sampling: 10}}, defaultProviders: \
         {tracing: [otel], accessLogging: [envoy, als], metrics: [prometheus]}, extensionProviders: [{name: OTel, \
         opentelemetry: {service: ns/otel.obs.svc.cluster.local, port: 4317}}, {name: http, opentelemetry: {service: otel, \
         port: 4318, http: {path: /v1/traces}}}, {name: als, envoyOtelAls: {service: '10.0.0.1', port: 4317}}, {name: file, \
         envoyFileAccessLog: {}}, {name: prom, prometheus: {}}]",
    );
    assert_eq!(faults, NOTHING);
    let name = |name: &str, field: &str| (name.to_owned(), format!("spec.meshConfig.defaultProviders.{field}"));
    assert_eq!(found.tracing, [name("otel", "tracing[0]")]);
    assert_eq!(found.logging, [name("envoy", "accessLogging[0]"), name("als", "accessLogging[1]")]);
    assert_eq!(found.metrics, [name("prometheus", "metrics[0]")]);
    assert_eq!((found.untraced, found.sampled, found.logged), (true, Some(Percent(100_000)), Some(true)));
    let http =
        Collector { host: "otel.istio-system.svc.cluster.local".into(), port: 4318, protocol: OtlpProtocol::Http };
    for (name, provider) in [
        ("otel", Some(Provider::Spans(grpc("otel.obs.svc.cluster.local", 4317)))),
        ("OTEL", Some(Provider::Spans(grpc("otel.obs.svc.cluster.local", 4317)))),
        ("http", Some(Provider::Spans(http))),
        ("als", Some(Provider::Lines(grpc("10.0.0.1", 4317)))),
        ("file", Some(Provider::File)),
        ("prom", Some(Provider::Prometheus)),
        ("prometheus", Some(Provider::Prometheus)),
        ("envoy", Some(Provider::File)),
        ("otlp", Some(Provider::Own)),
        ("other", None),
    ] {
        assert_eq!(found.providers.get(name), provider.as_ref(), "{name}");
    }
}

#[test]
fn what_is_not_honoured_is_named_once() {
    let otlp = "is not spoken here: spans and lines go by OTLP only, as an `opentelemetry` provider takes them";
    let only = "is not honoured: only what is said of telemetry is read";
    let takes = "the provider takes nothing";
    let provider = |given: &str| format!("extensionProviders: [{{name: p, {given}}}]");
    let tracing = |given: &str| format!("defaultConfig: {{tracing: {{{given}}}}}");
    let at = "extensionProviders[0].";
    let spans = "defaultConfig.tracing.";
    for (config, expected) in [
        (
            "outboundTrafficPolicy: {mode: REGISTRY_ONLY}".into(),
            vec!["outboundTrafficPolicy: is not read; connections to hosts that no service has pass".to_owned()],
        ),
        (
            "accessLogFormat: x, accessLogEncoding: JSON".into(),
            vec![
                "accessLogEncoding: is not honoured: agents' settings say how lines are written".to_owned(),
                "accessLogFormat: is not honoured: agents' settings say how lines are written".to_owned(),
            ],
        ),
        (
            "accessLogFile: /var/log/a".into(),
            vec!["accessLogFile: is not honoured: there are lines, and agents' settings say where they go".to_owned()],
        ),
        (
            "rootNamespace: a, trustDomain: b".into(),
            vec![format!("rootNamespace: {only}"), format!("trustDomain: {only}")],
        ),
        ("defaultConfig: {concurrency: 2}".into(), vec![format!("defaultConfig.concurrency: {only}")]),
        (
            "defaultProviders: {traces: [a]}".into(),
            vec!["defaultProviders.traces: is not a known field; it is not honoured".to_owned()],
        ),
        (tracing("zipkin: {address: 'z:9411'}"), vec![format!("{spans}zipkin: zipkin {otlp}")]),
        (
            tracing("maxPathTagLength: 5"),
            vec![format!("{spans}maxPathTagLength: is not honoured: spans go by OTLP, and have what Telemetry says")],
        ),
        (
            tracing("openCensusAgent: {address: collector}"),
            vec![format!(
                "{spans}openCensusAgent.address: is not a host and a port, as in collector.observability:55678; no spans go there"
            )],
        ),
        (provider("zipkin: {service: z, port: 9411}"), vec![format!("{at}zipkin: zipkin {otlp}")]),
        (provider("lightstep: {}"), vec![format!("{at}lightstep: lightstep {otlp}")]),
        (provider("datadog: {}"), vec![format!("{at}datadog: datadog {otlp}")]),
        (provider("envoyExtAuthzHttp: {}"), vec![format!("{at}envoyExtAuthzHttp: is not read; it is not honoured")]),
        (
            provider("mine: {}"),
            vec![
                format!("{at}name: has no kind of provider beside it that is read; it is left out"),
                format!("{at}mine: is not a known field; it is not honoured"),
            ],
        ),
        (
            provider("opentelemetry: {service: a b, port: 4317}"),
            vec![format!("{at}opentelemetry.service: is not the name of a service; {takes}")],
        ),
        (
            provider("opentelemetry: {service: a.b}"),
            vec![format!("{at}opentelemetry.port: is not a port (1 to 65535); {takes}")],
        ),
        (
            provider("opentelemetry: {service: a.b, port: 1, maxTagLength: 5}"),
            vec![format!(
                "{at}opentelemetry.maxTagLength: is not honoured: spans and lines go by OTLP with the agents' own settings"
            )],
        ),
        (
            provider("opentelemetry: {service: a.b, port: 1, http: {path: /x, headers: [{name: a}]}}"),
            vec![
                format!("{at}opentelemetry.http.path: is not honoured: spans go to /v1/traces, lines to /v1/logs"),
                format!(
                    "{at}opentelemetry.http.headers: is not honoured: OTLP over HTTP has its own bounds and no headers"
                ),
            ],
        ),
        (
            provider("envoyFileAccessLog: {path: /x}"),
            vec![format!(
                "{at}envoyFileAccessLog.path: is not honoured: agents' settings say where lines go, and how they are written"
            )],
        ),
    ] {
        let (_, faults) = operator(&config);
        let faults = said(faults);
        let expected: Vec<_> = expected.into_iter().map(|fault| format!("spec.meshConfig.{fault}")).collect();
        assert_eq!(faults, expected, "{config}");
    }
    let mut faults = Vec::new();
    let object = custom("{metadata: {}, spec: {profile: demo, components: {}, meshConfig: {}}}");
    assert!(istio_operator(&settings(), &object, &mut faults).is_some());
    let why = "is not honoured: of an IstioOperator only spec.meshConfig is read";
    assert_eq!(said(faults), [format!("spec.components: {why}"), format!("spec.profile: {why}")]);
}

#[test]
fn a_provider_that_is_refused_is_known_by_its_name() {
    for given in ["zipkin: {}", "opentelemetry: {service: a.b}"] {
        let (found, _) = read(&format!("extensionProviders: [{{name: p, {given}}}]"));
        assert!(matches!(found.providers.get("p"), Some(Provider::Refused(_))), "{given}");
    }
}

#[test]
fn only_the_root_namespace_speaks_for_the_mesh() {
    for (namespace, counts) in [("", true), ("namespace: istio-system", true), ("namespace: shop", false)] {
        let mut faults = Vec::new();
        let object = custom(&format!("{{metadata: {{{namespace}}}, spec: {{meshConfig: {{}}}}}}"));
        assert_eq!(istio_operator(&settings(), &object, &mut faults).is_some(), counts, "{namespace}");
        assert_eq!(faults.iter().any(|fault| fault.extent == Extent::Whole), !counts, "{namespace}");
    }
    let map = |namespace: &str, mesh: &str| {
        let mut faults = Vec::new();
        let object = serde_yaml_ng::from_str(&format!(
            "metadata: {{name: istio, namespace: {namespace}}}\ndata:\n  mesh: |-\n    {mesh}\n  meshNetworks: 'networks: {{}}'\n"
        ));
        (config_map(&settings(), &object.expect("a ConfigMap"), &mut faults), said(faults))
    };
    let (found, faults) = map("istio-system", "enableTracing: false");
    assert!(found.is_some_and(|found| found.untraced && found.is_map) && faults.is_empty(), "{faults:?}");
    assert_eq!(map("shop", "enableTracing: false"), (None, Vec::new()));
    let (found, faults) = map("istio-system", "enableTracing: [");
    assert!(found.is_none() && faults[0].starts_with("data.mesh: is not YAML: "), "{faults:?}");
}

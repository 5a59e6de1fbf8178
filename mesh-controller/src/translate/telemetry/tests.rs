//! Each field of Telemetry: read, noted or refused.

use std::collections::BTreeMap;

use mesh_common::model::{
    telemetry::{LogCondition, Tag},
    traffic::Percent,
};

use super::*;
use crate::{
    index::tests::settings,
    translate::fields::tests::{any_json, broken, custom, said},
};

fn read_in(namespace: &str, spec: &str) -> (Telemetry, Vec<Fault>) {
    let mut faults = Vec::new();
    let object = custom(&format!("{{metadata: {{name: t, namespace: {namespace}}}, spec: {{{spec}}}}}"));
    (telemetry(&settings(), &object, &mut faults), faults)
}

fn read(spec: &str) -> (Telemetry, Vec<String>) {
    let (telemetry, faults) = read_in("shop", spec);
    (telemetry, said(faults))
}

const NOTHING: [String; 0] = [];

#[test]
fn whom_an_object_is_about() {
    let service =
        |field: &str, name| Workloads::Of(vec![(field.to_owned(), hosts::service(&settings(), "shop", name))]);
    let app = || Workloads::Labelled([("app".to_owned(), "cart".to_owned())].into());
    let whole = "; the object holds for nobody";
    for (spec, expected, fault) in [
        ("", Workloads::All, None),
        ("selector: {}", Workloads::All, None),
        ("selector: {matchLabels: {app: cart}}", app(), None),
        ("targetRefs: [{kind: Service, name: cart}]", service("spec.targetRefs[0]", "cart"), None),
        ("targetRef: {kind: Service, group: core, name: cart}", service("spec.targetRef", "cart"), None),
        ("selector: {matchLabels: [a]}", Workloads::Nobody, Some(format!("spec.selector: cannot be read{whole}"))),
        ("selector: {matchExpressions: []}", Workloads::Nobody, Some(format!("spec.selector: cannot be read{whole}"))),
        (
            "selector: {matchLabels: {app: cart}}, targetRefs: [{kind: Service, name: cart}]",
            Workloads::Nobody,
            Some(format!("spec.targetRefs: stands beside `selector`, only one of them may{whole}")),
        ),
        (
            "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: gw}]",
            Workloads::Nobody,
            Some("spec.targetRefs[0].kind: there are no gateways here; the target is left out".to_owned()),
        ),
        (
            "targetRefs: [{kind: Pod, name: p}, {kind: Service, name: cart}]",
            service("spec.targetRefs[1]", "cart"),
            Some(
                "spec.targetRefs[0].kind: only a Service of the core group may be the target; it is left out"
                    .to_owned(),
            ),
        ),
        (
            "targetRefs: [{kind: Service, name: cart, namespace: pay}]",
            Workloads::Nobody,
            Some(
                "spec.targetRefs[0].namespace: is another namespace than the object's; the target is left out"
                    .to_owned(),
            ),
        ),
        (
            "targetRefs: [{kind: Service, name: 'a.b'}]",
            Workloads::Nobody,
            Some("spec.targetRefs[0].name: is not the name of a Service; the target is left out".to_owned()),
        ),
    ] {
        let (found, faults) = read(spec);
        assert_eq!(found.workloads, expected, "{spec}");
        assert!(fault.as_ref().map_or(faults.is_empty(), |fault| faults.contains(fault)), "{spec}: {faults:?}");
    }
    let (found, faults) = read_in("istio-system", "selector: {matchLabels: {app: cart}}");
    assert!(found.is_root && found.workloads == app());
    assert_eq!(faults[0].extent, Extent::Note, "{faults:?}");
    let (found, faults) = read_in("istio-system", "");
    assert!(found.is_root && faults.is_empty());
}

#[test]
fn what_is_said_of_spans() {
    let (found, faults) = read(
        "tracing: [{match: {mode: SERVER}, providers: [{name: otel}], randomSamplingPercentage: 12.5, disableSpanReporting: \
         false, enableIstioTags: true, customTags: {a: {literal: {value: x}}, b: {header: {name: X-Team, defaultValue: \
         none}}, c: {header: {name: x-d}}}}, {}]",
    );
    assert_eq!(faults, NOTHING);
    let named = Named { name: "otel".into(), field: "spec.tracing[0].providers[0]".into(), purpose: Purpose::Tracing };
    let header =
        |name: &str, default: Option<&str>| Tag::Header { name: name.into(), default: default.map(Into::into) };
    let tags: BTreeMap<String, Tag> = [
        ("a".to_owned(), Tag::Literal("x".into())),
        ("b".to_owned(), header("x-team", Some("none"))),
        ("c".to_owned(), header("x-d", None)),
    ]
    .into();
    let first = Tracing {
        sides: Sides::Server,
        provider: Some(named.clone()),
        disabled: Some(false),
        sampled: Some(Percent(125_000)),
        tags: Some(tags),
    };
    let second = Tracing { sides: Sides::Both, provider: None, disabled: None, sampled: None, tags: None };
    assert_eq!((found.tracing, found.named), (vec![first, second], vec![named]));
}

#[test]
fn what_of_spans_is_not_honoured_is_named() {
    let at = "spec.tracing[0]";
    for (entry, fault) in [
        (
            "match: {mode: CLIENTS}",
            "match.mode: is none of CLIENT_AND_SERVER, CLIENT, SERVER; what it is about is left out",
        ),
        ("match: {side: CLIENT}", "match.side: is not a known field; it is not honoured"),
        ("providers: [{name: a}, {name: b}]", "providers: has several; spans go to the first"),
        ("providers: [{}]", "providers[0].name: is missing; the provider is left out"),
        ("randomSamplingPercentage: 101", "randomSamplingPercentage: 101 is not from 0 to 100; it is not honoured"),
        ("randomSamplingPercentage: -1", "randomSamplingPercentage: -1 is not from 0 to 100; it is not honoured"),
        (
            "useRequestIdForTraceSampling: false",
            "useRequestIdForTraceSampling: has no meaning here: whether a trace is sampled its headers say",
        ),
        ("enableIstioTags: false", "enableIstioTags: is not honoured: who spoke to whom is in every span"),
        (
            "disableContextPropagation: true",
            "disableContextPropagation: is not honoured: what came of a trace is passed on",
        ),
        (
            "customTags: {a: {environment: {name: HOME}}}",
            "customTags.a.environment: an agent has not the environment of the applications; the tag is left out",
        ),
        (
            "customTags: {a: {formatter: {value: x}}}",
            "customTags.a.formatter: formats of Envoy's log are not read; the tag is left out",
        ),
        (
            "customTags: {a: {}}",
            "customTags.a.literal: one of `literal` and `header` must stand here; the tag is left out",
        ),
        (
            "customTags: {a: {literal: {value: ''}}}",
            "customTags.a.literal.value: is no text of 1 to 256 bytes; the tag is left out",
        ),
        (
            "customTags: {a: {header: {name: 'a b'}}}",
            "customTags.a.header.name: is not the name of a header; the tag is left out",
        ),
        (
            "customTags: {a: {header: {name: Authorization}}}",
            "customTags.a.header.name: is a header that holds secrets, which no span tells; the tag is left out",
        ),
        (
            "customTags: {a: {header: {name: cookie}}}",
            "customTags.a.header.name: is a header that holds secrets, which no span tells; the tag is left out",
        ),
        ("sampling: 5", "sampling: is not a known field; it is not honoured"),
    ] {
        let (found, faults) = read(&format!("tracing: [{{{entry}}}]"));
        assert_eq!(faults, [format!("{at}.{fault}")], "{entry}");
        let tags = found.tracing.first().and_then(|entry| entry.tags.clone()).unwrap_or_default();
        assert!(tags.is_empty(), "{entry}: {tags:?}");
        assert_eq!(found.tracing.is_empty(), entry.contains("CLIENTS"), "{entry}");
    }
    let tags: Vec<String> = (0..40).map(|i| format!("t{i:02}: {{literal: {{value: x}}}}")).collect();
    let (found, faults) = read(&format!("tracing: [{{customTags: {{{}}}}}]", tags.join(", ")));
    assert_eq!(found.tracing[0].tags.as_ref().map(BTreeMap::len), Some(32));
    assert_eq!(faults.len(), 8, "{faults:?}");
}

#[test]
fn what_is_said_of_lines() {
    let (found, faults) = read(
        "accessLogging: [{match: {mode: CLIENT}, providers: [{name: envoy}], filter: {expression: 'response.code >= 500'}}, \
         {disabled: true}]",
    );
    assert_eq!(faults, NOTHING);
    let [first, second] = found.logging.as_slice() else { panic!("{found:?}") };
    assert_eq!((first.sides, first.providers.len(), first.disabled), (Sides::Client, 1, false));
    assert_eq!(first.only, [LogCondition::Status { from: 500, to: u16::MAX }]);
    assert_eq!((second.sides, second.providers.len(), second.disabled), (Sides::Both, 0, true));
    for (entry, fault) in [
        (
            "filter: {expression: 'response.code >= x'}",
            "spec.accessLogging[0].filter.expression: at character 18: `x` is not an attribute that lines know",
        ),
        ("filter: {expression: ''}", "spec.accessLogging[0].filter.expression: is missing; the entry is left out"),
        ("filter: {}", "spec.accessLogging[0].filter.expression: is missing; the entry is left out"),
        ("filter: {expression: 5}", "spec.accessLogging[0].filter.expression: invalid type"),
        ("filter: {expr: a}", "spec.accessLogging[0].filter.expression: is missing"),
        ("disabled: 1", "spec.accessLogging[0].disabled: invalid type"),
    ] {
        let (found, faults) = read(&format!("accessLogging: [{{{entry}}}]"));
        assert!(faults[0].starts_with(fault), "{faults:?}");
        assert_eq!(found.logging, [], "as if it were not there: {entry}");
    }
    let (_, faults) = read(
        "accessLogging: [{providers: [{name: a}], filter: {expression: connection.mtls}}, {providers: [{name: b}]}, \
         {match: {mode: CLIENT}, providers: [{name: a}]}]",
    );
    assert_eq!(
        faults,
        [
            "spec.accessLogging[1].filter: differs from that of spec.accessLogging[0]: a line goes to all providers where \
          either holds"
        ]
    );
}

#[test]
fn what_is_said_of_metrics() {
    let (found, faults) = read(
        "metrics: [{providers: [{name: prometheus}], overrides: [{match: {metric: REQUEST_COUNT, mode: SERVER}, disabled: \
         true}, {match: {metric: ALL_METRICS}, tagOverrides: {source_principal: {operation: REMOVE}}}, {match: \
         {customMetric: istio_request_bytes}, disabled: false}, {tagOverrides: {}}]}]",
    );
    assert_eq!(faults, NOTHING);
    let change = |sides, metric, disabled| Override { sides, metric, disabled, removed: [].into() };
    assert_eq!(
        found.overrides,
        [
            change(Sides::Server, Some("istio_requests_total"), Some(true)),
            Override { removed: ["source_principal"].into(), ..change(Sides::Both, None, None) },
            change(Sides::Both, Some("istio_request_bytes"), Some(false)),
            change(Sides::Both, None, None),
        ]
    );
    for (entry, fault) in [
        (
            "overrides: [{match: {metric: REQUESTS}, disabled: true}]",
            "overrides[0].match.metric: is not a metric of Istio's that is counted here; the override is left out",
        ),
        (
            "overrides: [{match: {customMetric: my_own}, disabled: true}]",
            "overrides[0].match.customMetric: is not a metric of Istio's that is counted here; the override is left out",
        ),
        (
            "overrides: [{match: {mode: ALL}, disabled: true}]",
            "overrides[0].match.mode: is none of CLIENT_AND_SERVER, CLIENT, SERVER; what it is about is left out",
        ),
        (
            "reportingInterval: 5s",
            "reportingInterval: has no meaning here: metrics are counted at once, and read when asked for",
        ),
    ] {
        let (found, faults) = read(&format!("metrics: [{{{entry}}}]"));
        assert_eq!((faults, found.overrides), (vec![format!("spec.metrics[0].{fault}")], vec![]), "{entry}");
    }
    let upsert = "operation: UPSERT is not honoured: what a label says is not computed; only REMOVE is";
    for (tag, fault) in [
        ("source_app: {operation: UPSERT, value: x}", format!("source_app.{upsert}")),
        ("source_app: {value: x}", format!("source_app.{upsert}")),
        ("source_app: {operation: DROP}", "source_app.operation: is none of REMOVE, UPSERT".to_owned()),
        ("my_label: {operation: REMOVE}", "my_label: is not a label of these metrics".to_owned()),
        ("source_app: {op: REMOVE}", "source_app.op: unknown field".to_owned()),
    ] {
        let (found, faults) = read(&format!("metrics: [{{overrides: [{{tagOverrides: {{{tag}}}}}]}}]"));
        assert!(faults[0].starts_with(&format!("spec.metrics[0].overrides[0].tagOverrides.{fault}")), "{faults:?}");
        assert!(faults.len() == 1 && found.overrides[0].removed.is_empty(), "{tag}");
    }
    // What another provider is told changes nothing of what is counted.
    let (found, _) = read("metrics: [{providers: [{name: stackdriver}], overrides: [{disabled: true}]}]");
    assert_eq!(found.overrides, []);
}

#[test]
fn lists_are_bounded_and_an_empty_object_says_nothing() {
    let entries = vec!["{}"; 70].join(", ");
    for (list, count) in [("tracing", 64), ("accessLogging", 64)] {
        let (found, faults) = read(&format!("{list}: [{entries}]"));
        assert_eq!(found.tracing.len() + found.logging.len(), count);
        assert_eq!(faults, [format!("spec.{list}: has 70 entries, at most 64 are read; the others are left out")]);
    }
    let mut faults = Vec::new();
    let found = telemetry(&settings(), &custom("{metadata: {name: t, namespace: shop}}"), &mut faults);
    assert_eq!((said(faults), found.workloads), (NOTHING.to_vec(), Workloads::All));
}

proptest::proptest! {
    #[test]
    fn a_careless_author_is_told_and_never_answered_by_a_crash(value in any_json()) {
        let spec = serde_json::json!({
            "selector": {"matchLabels": {"a": "b"}},
            "tracing": [{"match": {"mode": "CLIENT"}, "providers": [{"name": "p"}], "customTags": {"a": {"literal": {"value": "v"}}}}],
            "accessLogging": [{"filter": {"expression": "response.code == 1"}, "disabled": false}],
            "metrics": [{"overrides": [{"match": {"metric": "ALL_METRICS"}, "tagOverrides": {"source_app": {"operation": "REMOVE"}}}]}],
        });
        for spec in broken(&spec, &value) {
            let object = Custom { spec, ..custom("{metadata: {name: t, namespace: shop}}") };
            telemetry(&settings(), &object, &mut Vec::new());
        }
    }
}

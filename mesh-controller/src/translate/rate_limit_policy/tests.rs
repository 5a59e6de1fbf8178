//! RateLimitPolicies as YAML, and what becomes of them.

use std::collections::BTreeSet;

use mesh_common::model::traffic::{LimitOverride, Millis, PathMatch, TextMatch, TokenBucket};
use proptest::prelude::*;

use super::*;
use crate::{
    index::tests::settings,
    translate::fields::tests::{any_json, broken, custom, said},
};

fn translated(spec: &str) -> (RateLimitPolicy, Vec<String>) {
    let mut faults = Vec::new();
    let object = custom(&format!("metadata: {{name: p, namespace: shop}}\nspec: {spec}"));
    let policy = rate_limit_policy(&settings(), &object, &mut faults);
    (policy, said(faults))
}

/// Every field that there is.
const WHOLE: &str = "
  targetRefs: [{group: '', kind: Service, name: cart}]
  ports: [8080]
  local:
    total: {requests: 100, interval: 1m, burst: 20}
    identity: {requests: 10, interval: 1s, burst: 10}
    overrides:
    - requests: 50
      interval: 2s
      burst: 5
      clientRefs: [{group: '', kind: ServiceAccount, namespace: web, name: front}]
      identities: [cluster.local/ns/a/sa/b]
  rules:
  - name: search
    ports: [8081]
    matches:
    - path: {prefix: /search}
      methods: [GET, POST]
      headers: [{name: X-A, exact: b}]
    local:
      total: {requests: 5, interval: 1s, burst: 5}
      identity: {requests: 1, interval: 1s, burst: 1}
      overrides:
      - requests: 2
        interval: 1s
        burst: 2
        clientRefs: [{group: '', kind: ServiceAccount, namespace: web, name: front}]
        identities: [cluster.local/ns/a/sa/b]
";

fn bucket(requests: u32, interval: u64, burst: u32) -> TokenBucket {
    TokenBucket { requests, interval: Millis(interval), burst }
}

#[test]
fn every_field() {
    let (policy, said) = translated(WHOLE);
    assert_eq!(said, [""; 0]);
    let service = hosts::service(&settings(), "shop", "cart");
    assert_eq!(policy.workloads, Workloads::Serving(vec![service]));
    let [all, search] = policy.limits.as_slice() else { panic!("{:?}", policy.limits) };
    assert_eq!((all.origin.object.as_str(), all.origin.field.as_str()), ("RateLimitPolicy shop/p", "spec.local"));
    assert_eq!((all.ports.as_slice(), all.matches.len()), (&[8080][..], 0));
    assert_eq!((&all.total, &all.identity), (&Some(bucket(100, 60_000, 20)), &Some(bucket(10, 1_000, 10))));
    let identities = ["cluster.local/ns/a/sa/b", "cluster.local/ns/web/sa/front"].map(str::to_owned).to_vec();
    assert_eq!(all.overrides, [LimitOverride { identities, bucket: bucket(50, 2_000, 5) }]);
    assert_eq!(search.origin.field, "spec.rules[search]");
    let [matched] = search.matches.as_slice() else { panic!("one condition for all methods: {:?}", search.matches) };
    assert_eq!(matched.method, Some(TextMatch::Regex("GET|POST".into())));
    assert_eq!(matched.path, Some(PathMatch::Prefix("/search".into())));
    assert_eq!(matched.headers[0].name, "x-a");
}

#[test]
fn what_is_not_said_is_usual() {
    let (policy, said) = translated("{local: {total: {requests: 7}}}");
    assert_eq!(said, [""; 0]);
    assert_eq!(policy.workloads, Workloads::All);
    assert_eq!(policy.limits[0].total, Some(bucket(7, 1_000, 7)));
    let (policy, _) = translated("{selector: {matchLabels: {app: a}}, local: {total: {requests: 7}}}");
    assert_eq!(policy.workloads, Workloads::Labelled([("app".to_owned(), "a".to_owned())].into()));
}

#[test]
fn a_policy_that_may_be_about_somebody_else_limits_nobody() {
    for workloads in [
        "selector: {matchExpressions: []}",
        "selector: {matchLabels: {a: 1}}",
        "selector: a",
        "selector: {}, targetRefs: [{name: a}]",
        "targetRefs: [{kind: Deployment, name: a}]",
        "targetRefs: []",
        "targetRefs: a",
    ] {
        let (policy, said) = translated(&format!("{{{workloads}, local: {{total: {{requests: 7}}}}}}"));
        assert_eq!(policy.workloads, Workloads::Nobody, "{workloads}");
        assert!(said.iter().any(|said| said.ends_with("the policy limits nobody")), "{workloads}: {said:?}");
    }
}

#[test]
fn what_cannot_be_read_is_named_and_limits_nothing() {
    for (spec, field) in [
        ("{}", "spec.local: is missing, and"),
        ("{local: {}}", "spec.local.total: no limit can be read"),
        ("{local: {total: {requests: 0}}}", "spec.local.total.requests: 0 is not from 1"),
        ("{local: {total: {requests: -1}}}", "spec.local.total.requests: -1 is not from 1"),
        ("{local: {total: {requests: 5000000000}}}", "spec.local.total.requests: 5000000000 is not"),
        ("{local: {total: {interval: 1s}}}", "spec.local.total.requests: is missing"),
        ("{local: {total: {requests: 1, interval: 0s}}}", "spec.local.total.interval: must be"),
        ("{local: {total: {requests: 1, interval: 25h}}}", "spec.local.total.interval: is more than a day"),
        ("{local: {total: {requests: 1, burst: 0}}}", "spec.local.total.burst: 0 is not"),
        ("{ports: [0], local: {total: {requests: 1}}}", "spec.ports[0]: is not a port"),
        ("{ports: a, local: {total: {requests: 1}}}", "spec.ports: "),
        ("{rules: [{local: {total: {requests: 1}}, matches: a}]}", "spec.rules[0].matches: "),
        ("{local: {overrides: [{requests: 1}]}}", "spec.local.overrides[0].identities: names no client"),
        ("{local: {overrides: [{requests: 1, identities: [a]}]}}", "spec.local.overrides[0].identities[0]: "),
        (
            "{local: {overrides: [{requests: 1, clientRefs: [{name: A}]}]}}",
            "spec.local.overrides[0].clientRefs[0].name",
        ),
        ("{rules: [{matches: [{path: {exact: /}}]}]}", "spec.rules[0].local: is missing"),
        (
            "{rules: [{local: {total: {requests: 1}}, matches: [{path: {}}]}]}",
            "spec.rules[0].matches[0].path.exact: is",
        ),
        ("{rules: [{local: {total: {requests: 1}}, matches: [{host: a}]}]}", "spec.rules[0].matches[0].host: is not a"),
        ("{rules: [{local: {total: {requests: 1}}, match: [{host: a}]}]}", "spec.rules[0].match: is not a known"),
        (
            "{rules: [{local: {total: {requests: 1}}, matches: [{methods: [get]}]}]}",
            "spec.rules[0].matches[0].methods[0]",
        ),
        (
            "{rules: [{local: {total: {requests: 1}}, matches: [{path: {regex: '(a{999}){999}'}}]}]}",
            "spec.rules[0].matches[0].path",
        ),
        (
            "{rules: [{local: {total: {requests: 1}}, matches: [{headers: [{name: 'a b', exact: c}]}]}]}",
            "spec.rules[0].matches[0].headers[0].name: is not",
        ),
    ] {
        let (policy, said) = translated(spec);
        assert!(said.iter().any(|said| said.starts_with(field)), "{spec}: {said:?}");
        assert_eq!(policy.limits, [], "{spec}");
    }
}

/// Names of fields, with `[]` for the entries of lists.
fn paths(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                found.insert(format!("{path}.{name}"));
                paths(value, &format!("{path}.{name}"), found);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| paths(value, &format!("{path}[]"), found)),
        _ => {}
    }
}

/// The same, of a schema. Maps with names of the user's own have none.
fn declared(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        found.insert(format!("{path}.{name}"));
        declared(schema, &format!("{path}.{name}"), found);
    }
    if schema["items"].is_object() {
        declared(&schema["items"], &format!("{path}[]"), found);
    }
}

#[test]
fn the_schema_that_is_installed_has_the_fields_that_are_read() {
    let definition = mesh_install::rate_limit_policy();
    let version = &definition["spec"]["versions"][0];
    assert_eq!(definition["spec"]["names"]["kind"], KIND);
    let mut known = BTreeSet::new();
    declared(&version["schema"]["openAPIV3Schema"]["properties"]["spec"], "spec", &mut known);
    // These exclude what stands in `WHOLE`; all are read without a fault.
    let alternatives = [
        WHOLE.to_owned(),
        "{selector: {matchLabels: {}}, local: {total: {requests: 1}}}".to_owned(),
        "{rules: [{local: {total: {requests: 1}}, matches: [{path: {exact: /a}, headers: [{name: a, prefix: b}]}, \
         {path: {regex: '/a.*'}, headers: [{name: a, regex: b}, {name: c, present: true}]}]}]}"
            .to_owned(),
    ];
    let mut read = BTreeSet::new();
    for text in alternatives {
        let (policy, said) = translated(&text);
        assert_eq!((policy.limits.is_empty(), said.len()), (false, 0), "{text}: {said:?}");
        paths(&serde_yaml_ng::from_str(&text).expect("YAML"), "spec", &mut read);
    }
    assert_eq!(known, read);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_spec_makes_it_panic(value in any_json()) {
        let spec = serde_yaml_ng::from_str(WHOLE).expect("YAML");
        for spec in broken(&spec, &value) {
            let metadata = custom("metadata: {name: r, namespace: shop}").metadata;
            let mut faults = Vec::new();
            let policy = rate_limit_policy(&settings(), &Custom { metadata, spec, fault: None }, &mut faults);
            prop_assert!(faults.iter().all(|fault| fault.field.starts_with("spec")));
            let buckets = policy.limits.iter().flat_map(|limit| limit.total.iter().chain(&limit.identity));
            for bucket in buckets {
                prop_assert!(bucket.requests > 0 && bucket.burst > 0 && bucket.interval > Millis(0));
            }
        }
    }
}

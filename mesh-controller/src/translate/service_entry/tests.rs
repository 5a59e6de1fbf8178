//! ServiceEntries as YAML, and what becomes of them.

use proptest::prelude::*;

use super::*;
use crate::{
    index::tests::settings,
    translate::fields::tests::{any_json, broken, custom, said},
};

fn translated(spec: &str) -> (ServiceEntry, Vec<String>) {
    let mut faults = Vec::new();
    let object = custom(&format!("metadata: {{name: e, namespace: shop}}\nspec: {spec}"));
    let entry = service_entry(&settings(), &object, &mut faults);
    (entry, said(faults))
}

/// With the rest of a good one.
fn with(rest: &str) -> (ServiceEntry, Vec<String>) {
    translated(&format!("{{ports: [{{number: 443, name: tls, protocol: TLS}}], {rest}}}"))
}

#[test]
fn endpoints_by_address() {
    let (entry, said) = translated(
        "
  hosts: [Db.example.com]
  addresses: [240.0.0.1, 240.0.0.2/32]
  location: MESH_EXTERNAL
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}, {number: 81, name: grpc-a}]
  resolution: STATIC
  exportTo: [.]
  endpoints:
  - {address: 192.0.2.1, ports: {http: 9090}, labels: {version: v1}, locality: eu/a, serviceAccount: db}
  - {address: '2001:db8::1'}
",
    );
    assert_eq!(said, [""; 0]);
    assert_eq!(entry.hosts[0].1.to_string(), "shop/db.example.com");
    let addresses: Vec<_> = entry.addresses.iter().map(|(_, ip)| ip.to_string()).collect();
    assert_eq!(addresses, ["240.0.0.1", "240.0.0.2"]);
    assert_eq!(entry.facts().ports, BTreeMap::from([(80, Protocol::Http), (81, Protocol::Http2)]));
    let at = |i: usize| entry.ports_at(&entry.endpoints[i]).into_iter().map(|p| (p.port, p.target)).collect::<Vec<_>>();
    assert_eq!((at(0), at(1)), (vec![(80, 9090), (81, 81)], vec![(80, 8080), (81, 81)]));
    let first = &entry.endpoints[0];
    assert_eq!((first.locality.region.as_str(), first.locality.zone.as_str()), ("eu", "a"));
    assert_eq!((first.service_account.as_deref(), first.labels["version"].as_str()), (Some("db"), "v1"));
}

#[test]
fn a_host_of_somebody_else_is_refused() {
    for host in [
        "cart.evil.svc.cluster.local",
        "cart.evil.svc",
        "cluster.local",
        "a.cluster.local",
        "*.example.com",
        "*.svc.cluster.local",
        "*",
        "cart",
        "10.0.0.1",
        "a_b.c",
    ] {
        let (entry, said) = with(&format!("hosts: ['{host}'], resolution: STATIC"));
        assert_eq!(entry.hosts, [], "{host}");
        assert!(said[0].starts_with("spec.hosts[0]: "), "{host}: {said:?}");
    }
    for host in ["own.shop.svc.cluster.local", "own.shop.svc", "own.shop", "api.example.com"] {
        let (entry, said) = with(&format!("hosts: ['{host}'], resolution: STATIC"));
        assert_eq!((entry.hosts.len(), said.len()), (1, 0), "{host}: {said:?}");
    }
}

#[test]
fn without_resolution_what_is_dialled_is_reached() {
    let (entry, said) = with("hosts: [a.b], addresses: [192.0.2.7]");
    assert_eq!(said, [""; 0]);
    assert_eq!((entry.addresses.len(), entry.endpoints.len()), (0, 1));
    assert_eq!(entry.endpoints[0].address.to_string(), "192.0.2.7");
    assert_eq!(entry.endpoints[0].field, "spec.addresses[0]");
}

#[test]
fn names_are_not_resolved_and_nothing_is_captured() {
    let (entry, said) = with("hosts: [a.b], addresses: [192.0.2.7], resolution: DNS, endpoints: [{address: x.y}]");
    assert_eq!((entry.addresses.len(), entry.endpoints.len()), (0, 0));
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].starts_with("spec.endpoints[0].address: names are not resolved"), "{said:?}");
    assert!(said[1].starts_with("spec.resolution: names are not resolved"), "{said:?}");
    let (entry, said) =
        with("hosts: [a.b], addresses: [192.0.2.7], resolution: DNS, endpoints: [{address: 192.0.2.1}]");
    assert_eq!((entry.addresses.len(), entry.endpoints.len(), said.len()), (1, 1, 0));
}

#[test]
fn what_cannot_be_read_is_named() {
    for (rest, field) in [
        ("resolution: STATIC, endpoints: [{address: 127.0.0.1}]", "spec.endpoints[0].address: `127.0.0.1` is not"),
        ("resolution: STATIC, endpoints: [{address: 'unix:///a'}]", "spec.endpoints[0].address: `unix:///a`"),
        ("resolution: STATIC, endpoints: [{address: 1.1.1.1, ports: {x: 1}}]", "spec.endpoints[0].ports.x: the entry"),
        ("resolution: STATIC, endpoints: [{address: 1.1.1.1, ports: {tls: 0}}]", "spec.endpoints[0].ports.tls: 0 is"),
        ("resolution: STATIC, endpoints: [{address: 1.1.1.1, ports: 1}]", "spec.endpoints[0].ports: "),
        ("resolution: STATIC, endpoints: [{address: 1.1.1.1, serviceAccount: A}]", "spec.endpoints[0].serviceAccount"),
        ("resolution: STATIC, endpoints: [{address: 1.1.1.1, weight: 5}]", "spec.endpoints[0].weight: is not supp"),
        ("addresses: [10.0.0.0/8]", "spec.addresses[0]: `10.0.0.0/8`: networks are not supported"),
        ("addresses: [169.254.1.1]", "spec.addresses[0]: `169.254.1.1` is not"),
        ("resolution: SOON", "spec.resolution: `SOON` is none of"),
        ("location: MOON", "spec.location: `MOON` is neither"),
        ("subjectAltNames: [a]", "spec.subjectAltNames: is not supported"),
        ("workloadSelector: {labels: {a: 1}}", "spec.workloadSelector.labels.a: "),
        ("workloadSelector: {}", "spec.workloadSelector.labels: selects nothing"),
        ("workloadSelector: {labels: {a: b}}, endpoints: [{address: 1.1.1.1}]", "spec.workloadSelector: stands"),
        ("host: a", "spec.host: is not a known field"),
    ] {
        let (entry, said) = with(&format!("hosts: [a.b], {rest}"));
        assert!(said.iter().any(|said| said.starts_with(field)), "{rest}: {said:?}");
        assert_eq!(entry.selector, None);
    }
    let (_, said) = translated("{hosts: [a.b], ports: [{number: 0, name: a}, {number: 1, name: a, protocol: SMTP}]}");
    let fields: Vec<_> = said.iter().map(|said| said.split(": ").next().unwrap_or_default()).collect();
    assert_eq!(fields, ["spec.ports[0].number", "spec.ports[0].number", "spec.ports[1].protocol"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn no_spec_makes_it_panic_and_none_takes_anothers_name(value in any_json()) {
        let spec = serde_yaml_ng::from_str(
            "
hosts: [a.b]
addresses: [240.0.0.1]
resolution: STATIC
location: MESH_EXTERNAL
ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
endpoints: [{address: 192.0.2.1, ports: {http: 1}, labels: {a: b}, locality: a/b, weight: 1, serviceAccount: c}]
workloadSelector: {labels: {a: b}}
exportTo: ['.']
",
        ).expect("YAML");
        for spec in broken(&spec, &value) {
            let metadata = custom("metadata: {name: r, namespace: shop}").metadata;
            let mut faults = Vec::new();
            let entry = service_entry(&settings(), &Custom { metadata, spec, fault: None }, &mut faults);
            prop_assert!(faults.iter().all(|fault| fault.field.starts_with("spec")));
            for (_, name) in &entry.hosts {
                prop_assert_eq!(name.namespace.as_str(), "shop");
                prop_assert!(!name.hostname.ends_with("cluster.local") || name.hostname.contains(".shop.svc."));
            }
        }
    }
}

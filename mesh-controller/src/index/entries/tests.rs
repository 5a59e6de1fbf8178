//! Entries beside pods and services of Kubernetes.

use super::*;
use crate::{
    index::tests::{SHOP, objects, settings, world},
    source::Kind,
    translate::{fields::tests::custom, pod, service_entry::service_entry},
};

/// Entries as `namespace/name year: spec`, in the mesh of [`SHOP`].
fn found(texts: &[&str]) -> (Entries, Vec<String>) {
    let settings = settings();
    let mut faults = Vec::new();
    let read = |text: &&str| {
        let (head, spec) = text.split_once(": ").expect("a head");
        let (name, year) = head.split_once(' ').expect("a year");
        let (namespace, name) = name.split_once('/').expect("a namespace");
        let object = custom(&format!(
            "metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '{year}-01-01T00:00:00Z'}}\nspec: \
             {{ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: STATIC, {spec}}}"
        ));
        service_entry(&settings, &object, &mut faults)
    };
    let list: Vec<_> = texts.iter().map(read).collect();
    assert_eq!(faults, []);
    let update = objects(SHOP);
    let pods: Vec<_> = update
        .objects
        .iter()
        .filter_map(|object| match &object.kind {
            Kind::Pod(v1) => pod::pod(&settings, v1, &mut Vec::new()).expect("a pod"),
            _ => None,
        })
        .collect();
    let world = world(SHOP);
    let found =
        entries(&settings, &list.iter().collect::<Vec<_>>(), &pods.iter().collect::<Vec<_>>(), &world.services, []);
    let said = found.faults.iter().map(|(key, fault)| format!("{key}: {}: {}", fault.field, fault.why)).collect();
    (found, said)
}

#[test]
fn a_host_outside_has_an_address_and_endpoints() {
    let (found, said) = found(&[
        "shop/db 2020: hosts: [db.example.com], addresses: [240.0.0.1], endpoints: [{address: 192.0.2.1, labels: {app: db}}]",
    ]);
    assert_eq!(said, [""; 0]);
    let name: ServiceName = "shop/db.example.com".parse().expect("a name");
    assert_eq!(found.services[&name].addresses, ["240.0.0.1".parse::<IpAddr>().expect("address")]);
    let workload = &found.workloads["Kubernetes/networking.istio.io/ServiceEntry/shop/db/192.0.2.1"];
    assert_eq!(workload.services[&name], [ServicePort { port: 80, target: 80 }]);
    assert_eq!((workload.tunnel, workload.canonical_name.as_str()), (Tunnel::None, "db"));
}

#[test]
fn what_is_of_kubernetes_is_never_taken() {
    // Older than everything.
    let (found, said) = found(&[
        "evil/e 1999: hosts: [a.example.com], addresses: [10.0.0.1, 10.96.0.1, 240.0.0.1], endpoints: [{address: 10.0.0.1}]",
        "evil/n 1999: hosts: [cart.shop], endpoints: [{address: 192.0.2.66}]",
    ]);
    let name: ServiceName = "evil/a.example.com".parse().expect("a name");
    assert_eq!(found.services[&name].addresses, ["240.0.0.1".parse::<IpAddr>().expect("address")]);
    assert_eq!((found.services.len(), found.workloads.len(), found.pods.len()), (1, 0, 0));
    assert_eq!(
        said,
        [
            "ServiceEntry evil/e: spec.addresses[0]: 10.0.0.1 belongs to Pod shop/cart-6f5d8-x1; it is left out",
            "ServiceEntry evil/e: spec.addresses[1]: 10.96.0.1 belongs to Service shop/cart; it is left out",
            "ServiceEntry evil/e: spec.endpoints[0].address: 10.0.0.1 belongs to Pod shop/cart-6f5d8-x1; it is left out",
            "ServiceEntry evil/n: spec.hosts[0]: is Service shop/cart; it is left out",
        ]
    );
}

#[test]
fn who_is_not_for_everybody_takes_no_address_from_them() {
    let (found, said) = found(&[
        "evil/e 2020: hosts: [a.example.com], exportTo: [evil], addresses: [198.51.100.7], endpoints: [{address: 192.0.2.66}]",
        "shop/e 2021: hosts: [b.example.com], addresses: [198.51.100.7], endpoints: [{address: 192.0.2.1}]",
        // A name that another namespace has is seen by its own namespace only.
        "late/e 2022: hosts: [b.example.com], addresses: [198.51.100.8], endpoints: [{address: 192.0.2.67}]",
    ]);
    let addresses = |name: &str| found.services[&name.parse().expect("a name")].addresses.clone();
    assert_eq!(addresses("evil/a.example.com"), [] as [IpAddr; 0]);
    assert_eq!(addresses("shop/b.example.com"), ["198.51.100.7".parse::<IpAddr>().expect("address")]);
    assert_eq!(addresses("late/b.example.com"), [] as [IpAddr; 0]);
    let everybody = "is dialled by everybody, and";
    assert_eq!(
        said,
        [
            format!(
                "ServiceEntry evil/e: spec.addresses[0]: 198.51.100.7 {everybody} a.example.com is not exported to all; it \
                 is left out"
            ),
            "ServiceEntry late/e: spec.hosts[0]: ServiceEntry shop/e has it already; others than namespace late do not see \
             it"
                .to_owned(),
            format!(
                "ServiceEntry late/e: spec.addresses[0]: 198.51.100.8 {everybody} b.example.com is not exported to all; it \
                 is left out"
            ),
        ]
    );
}

#[test]
fn who_is_no_pod_proves_nothing_and_that_is_said() {
    let internal = "location: MESH_INTERNAL, hosts: [a.example.com], endpoints";
    let (found, said) = found(&[
        &format!("shop/e 2020: {internal}: [{{address: 192.0.2.1, serviceAccount: db}}, {{address: 192.0.2.2}}]"),
        &format!("shop/pods 2020: {}: [{{address: 10.0.0.1}}]", internal.replace("a.", "b.")),
    ]);
    assert!(found.workloads.values().all(|workload| workload.tunnel == Tunnel::None));
    assert_eq!(
        said,
        [
            "ServiceEntry shop/e: spec.endpoints[0].serviceAccount: is not asked for yet: nobody proves who answers",
            "ServiceEntry shop/e: spec.location: MESH_INTERNAL is not supported yet for what is no pod: 2 of the endpoints \
             are reached in plaintext, as if they were outside",
        ]
    );
}

#[test]
fn pods_of_the_own_namespace_may_serve() {
    let (found, said) = found(&[
        "shop/a 2020: hosts: [a.example.com], endpoints: [{address: 10.0.0.1, ports: {http: 8080}}]",
        "shop/b 2020: hosts: [b.example.com], workloadSelector: {labels: {app: cart}}",
        "evil/c 2020: hosts: [c.example.com], workloadSelector: {labels: {app: cart}}",
    ]);
    assert_eq!(said, [""; 0]);
    assert_eq!(found.pods.len(), 1);
    let serves = found.pods.values().next().expect("a pod");
    let names: Vec<_> = serves.keys().map(|name| name.hostname.as_str()).collect();
    assert_eq!(names, ["a.example.com", "b.example.com"]);
    assert_eq!(serves.values().next(), Some(&BTreeSet::from([ServicePort { port: 80, target: 8080 }])));
}

#[test]
fn among_entries_the_oldest_owns() {
    let (found, said) = found(&[
        "late/e 2021: hosts: [a.example.com], addresses: [240.0.0.1], endpoints: [{address: 192.0.2.1}]",
        "shop/e 2020: hosts: [a.example.com], addresses: [240.0.0.1], endpoints: [{address: 192.0.2.1}]",
        "shop/f 2021: hosts: [a.example.com, b.example.com], endpoints: [{address: 192.0.2.1}]",
    ]);
    let exported = |name: &str| found.facts[&name.parse().expect("a name")].exported.clone();
    assert_eq!(exported("shop/a.example.com"), Clients::Everybody);
    assert_eq!(exported("late/a.example.com"), Clients::Namespaces(BTreeSet::from(["late".into()])));
    // One address is one workload, which serves all hosts of its namespace.
    assert_eq!(found.workloads.len(), 1);
    let services: Vec<_> = found.workloads.values().flat_map(|w| w.services.keys()).map(ToString::to_string).collect();
    assert_eq!(services, ["shop/a.example.com", "shop/b.example.com"]);
    let starts: Vec<_> = said.iter().map(|said| said.split(": ").take(2).collect::<Vec<_>>().join(": ")).collect();
    assert_eq!(
        starts,
        [
            "ServiceEntry late/e: spec.hosts[0]",
            "ServiceEntry late/e: spec.addresses[0]",
            "ServiceEntry late/e: spec.endpoints[0].address",
            "ServiceEntry shop/f: spec.hosts[0]",
        ]
    );
}

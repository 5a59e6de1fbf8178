//! VirtualServices as YAML, together with services and what DestinationRules would say.

mod bounds;
pub mod conformance;
mod merge;
mod overlaps;
mod resolution;

use mesh_common::model::traffic::{Action, Backend, Clients, Subset, Target, TrafficPolicy};
use proptest::prelude::*;

use super::*;
use crate::{
    index::tests::settings,
    source::Custom,
    status::Extent,
    translate::{hosts::service, traffic::Facts, virtual_service::virtual_service},
};

/// Services, by namespace and name, with their ports.
fn services() -> Services<'static> {
    let settings: &'static Settings = Box::leak(Box::new(settings()));
    let facts = |ports: &[(u16, Protocol)], exported| Facts { ports: ports.iter().copied().collect(), exported };
    let web = || facts(&[(80, Protocol::Http), (81, Protocol::Auto)], Clients::Everybody);
    let one = |protocol| facts(&[(8080, protocol)], Clients::Everybody);
    let outside = |namespace: &str| ServiceName { namespace: namespace.into(), hostname: "api.example.com".into() };
    let all = [
        (service(settings, "shop", "cart"), web()),
        (service(settings, "shop", "order-service"), web()),
        (service(settings, "shop", "stock"), one(Protocol::Auto)),
        (service(settings, "shop", "ledger"), one(Protocol::Http2)),
        (service(settings, "other", "cart"), web()),
        (outside("other"), facts(&[(443, Protocol::Tls)], Clients::Everybody)),
        (
            ServiceName { namespace: "other".into(), hostname: "own.example.com".into() },
            facts(&[(443, Protocol::Tls)], Clients::Namespaces(["other".to_owned()].into())),
        ),
    ];
    Services::new(settings, all.into())
}

fn ruled(namespace: &str, name: &str, created: i64, spec: &str) -> Ruled {
    let mut metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta::default();
    (metadata.namespace, metadata.name) = (Some(namespace.to_owned()), Some(name.to_owned()));
    let spec = serde_yaml_ng::from_str(spec).expect("YAML");
    let mut faults = Vec::new();
    let custom = Custom { metadata, spec, fault: None };
    let translated = virtual_service(&settings(), &custom, &mut faults).ruled;
    assert_eq!(faults, [], "{spec}", spec = custom.spec);
    Ruled { created, ..translated.expect("rules") }
}

fn assembled(ruled: &[Ruled]) -> Assembled {
    let ruled: Vec<&Ruled> = ruled.iter().collect();
    assemble(&settings(), &services(), &GatewayRoutes::new(), &ruled, Policies::new())
}

/// `object: field: why` and its extent.
fn said(assembled: &Assembled) -> Vec<(String, Extent)> {
    let said = |(key, fault): &(Key, Fault)| (format!("{key}: {}: {}", fault.field, fault.why), fault.extent);
    assembled.faults.iter().map(said).collect()
}

fn cart(assembled: &Assembled) -> &Traffic {
    &assembled.traffic[&service(&settings(), "shop", "cart")]
}

/// Names of the routes that clients of a namespace have to `shop/cart`, in their order.
fn routes_of(assembled: &Assembled, namespace: &str) -> Vec<String> {
    let routes = cart(assembled).routes_for(namespace);
    routes.map(|routes| routes.http.iter().map(|route| route.name.clone()).collect()).unwrap_or_default()
}

/// Subsets of these names, for these clients.
fn subsets(clients: Clients, names: &[&str]) -> For<DestinationPolicy> {
    let subset = || Subset { labels: Default::default(), all: TrafficPolicy::default(), ports: Default::default() };
    let subsets = names.iter().map(|name| ((*name).to_owned(), subset())).collect();
    For { clients, value: DestinationPolicy { subsets, ..DestinationPolicy::default() } }
}

fn only(namespaces: &[&str]) -> Clients {
    Clients::Namespaces(namespaces.iter().map(|namespace| (*namespace).to_owned()).collect())
}

const TO_CART: &str = "route: [{destination: {host: cart.shop.svc}}]";

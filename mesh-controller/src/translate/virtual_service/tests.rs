//! VirtualServices as YAML, and what they become.

mod fields;
mod hostile;
mod samples;

use mesh_common::model::traffic::{Action, HttpRoute, RequestMatch, Target, WeightedBackend};
use serde_json::Value;

use super::*;
use crate::index::tests::settings;

pub fn custom(namespace: &str, name: &str, spec: &str) -> Custom {
    let mut metadata = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta::default();
    (metadata.namespace, metadata.name) = (Some(namespace.to_owned()), Some(name.to_owned()));
    let spec: Value = serde_yaml_ng::from_str(spec).expect("YAML");
    Custom { metadata, spec, fault: None }
}

/// What a spec in namespace `shop` becomes, and what is said of it.
fn translated(spec: &str) -> (Option<Ruled>, Vec<String>) {
    let mut faults = Vec::new();
    let VirtualService { ruled } = virtual_service(&settings(), &custom("shop", "v", spec), &mut faults);
    (ruled, faults.into_iter().map(|f| format!("{}: {}", f.field, f.why)).collect())
}

/// The one rule that a text becomes, without anything to say.
fn rule(text: &str) -> HttpRoute {
    let (route, said) = faulty(text);
    assert_eq!(said, [] as [String; 0], "{text}");
    route
}

/// The one rule that a text becomes, and what is said of it.
fn faulty(text: &str) -> (HttpRoute, Vec<String>) {
    let (ruled, said) = translated(&format!("{{hosts: [cart], http: [{text}]}}"));
    let mut http = ruled.expect("something").routes.http;
    assert_eq!(http.len(), 1, "{text}");
    (http.remove(0), said)
}

const TO_CART: &str = "route: [{destination: {host: cart}}]";

/// The conditions of a rule with this one match.
fn matched(text: &str) -> RequestMatch {
    let mut route = rule(&format!("{{match: [{text}], {TO_CART}}}"));
    assert_eq!(route.matches.len(), 1);
    route.matches.remove(0)
}

fn is_refusing(route: &HttpRoute) -> bool {
    let Action::Forward(backends) = &route.action else { return false };
    refuses(backends)
}

fn refuses(backends: &[WeightedBackend]) -> bool {
    matches!(backends, [WeightedBackend { target: Target::Invalid { status: 500, .. }, .. }])
}

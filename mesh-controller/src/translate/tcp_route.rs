//! `TCPRoute` (gateway.networking.k8s.io, v1 and v1alpha2) for services. What holds for all routes: see
//! [`super::gateway`]. It has no conditions: its first rule takes every connection, others are reported. What cannot be
//! sent anywhere is refused.

use serde::Deserialize;
use serde_json::Value;

use super::gateway::{BackendRefSpec, Draft, Kind, Route, backends, read_rule, route};
use crate::{source::Custom, status::Fault};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RuleSpec {
    /// Read by who names the rule.
    #[serde(rename = "name")]
    _name: Option<String>,
    backend_refs: Option<Vec<BackendRefSpec>>,
}

/// Reads one object; what is not honoured as written is added to `faults`.
pub fn tcp_route(object: &Custom, faults: &mut Vec<Fault>) -> Route {
    let mut read = route(Kind::Tcp, object, faults, rule);
    only_first(&mut read, faults);
    read
}

pub(super) fn rule(draft: &mut Draft<'_>, written: &Value) {
    if let Some(RuleSpec { _name: _, backend_refs }) = read_rule(draft, written) {
        backends(draft, backend_refs);
    }
}

/// A second rule would have the same connections as the first.
pub(super) fn only_first(route: &mut Route, faults: &mut Vec<Fault>) {
    for rule in route.rules.iter().skip(1) {
        let why = format!("gets nothing: {} takes every connection", route.rules[0].template.origin.field);
        faults.push(Fault::new(&rule.template.origin.field, why));
    }
    route.rules.truncate(1);
}

//! `GRPCRoute` (gateway.networking.k8s.io, v1) for services. What holds for all routes: see [`super::gateway`].
//!
//! - A request's path is `/<service>/<method>`. A match takes precedence by the number of characters of its service,
//!   then of its method, then by the number of its headers; then as with HTTPRoutes.
//! - What cannot be sent anywhere is answered 503, which gRPC's clients read as UNAVAILABLE.
//! - Filters may be RequestHeaderModifier, ResponseHeaderModifier and RequestMirror.
//!
//! A port for which there are HTTPRoutes too: see `index/traffic/gateway.rs`.

use mesh_common::model::traffic::PathMatch;
use serde::Deserialize;
use serde_json::Value;

use super::gateway::{
    BackendRefSpec, Draft, FilterSpec, Kind, LONGEST, Match, Route, backends, edits, header_matches, lenient_matches,
    listed, pattern, read_rule, route, text,
};
use crate::{
    source::Custom,
    status::{Fault, read},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RuleSpec {
    /// Read by who names the rule.
    #[serde(rename = "name")]
    _name: Option<String>,
    filters: Option<Vec<FilterSpec>>,
    backend_refs: Option<Vec<BackendRefSpec>>,
    session_persistence: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MethodSpec {
    #[serde(rename = "type")]
    type_: Option<String>,
    service: Option<String>,
    method: Option<String>,
}

/// Reads one object; what is not honoured as written is added to `faults`.
pub fn grpc_route(object: &Custom, faults: &mut Vec<Fault>) -> Route {
    route(Kind::Grpc, object, faults, rule)
}

fn rule(draft: &mut Draft<'_>, written: &Value) {
    lenient_matches(draft, written.get("matches"), one);
    let Some(spec) = read_rule::<RuleSpec>(draft, written) else { return };
    let RuleSpec { _name: _, filters, backend_refs, session_persistence } = spec;
    edits(draft, filters);
    backends(draft, backend_refs);
    if session_persistence.is_some() {
        draft.note("sessionPersistence", "is not honoured");
    }
}

fn one(draft: &mut Draft<'_>, field: &str, written: &Value) -> Match {
    let mut matched = Match::default();
    let Some(fields) = draft.fields(field, written, &["method", "headers"]) else { return matched };
    if let Some(value) = fields.get("method").filter(|value| !value.is_null()) {
        let read = method(&format!("{field}.method"), value);
        if let Some((service, method, path)) = draft.take(read) {
            (matched.rank[0], matched.rank[1]) = (service, method);
            matched.request.path = Some(path);
        }
    }
    matched.request.headers = header_matches(draft, field, fields.get("headers"));
    matched.rank[2] = listed(fields.get("headers"));
    matched
}

/// The lengths of service and method, and the path that both make.
fn method(field: &str, value: &Value) -> Result<(usize, usize, PathMatch), Fault> {
    let MethodSpec { type_, service, method } = read(value.clone()).map_err(|fault| fault.within(field))?;
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (service, method) = (given(service), given(method));
    let (service_field, method_field) = (format!("{field}.service"), format!("{field}.method"));
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let lengths = (length(&service), length(&method));
    if service.is_none() && method.is_none() {
        return Err(Fault::new(field, "names neither service nor method"));
    }
    let path = match type_.as_deref().unwrap_or("Exact") {
        "Exact" => {
            let exact = |field: &str, name: &Option<String>, dots: bool| {
                let Some(name) = name else { return Ok(()) };
                text(field, name, LONGEST)?;
                let is_char = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || (dots && b == b'.');
                let fits = name.bytes().all(is_char) && !name.contains("..") && !name.ends_with('.');
                fits.then_some(()).ok_or_else(|| Fault::new(field, format_args!("`{name}` is no name of gRPC's")))
            };
            exact(&service_field, &service, true)?;
            exact(&method_field, &method, false)?;
            match (service, method) {
                (Some(service), Some(method)) => PathMatch::Exact(format!("/{service}/{method}")),
                (Some(service), None) => PathMatch::Elements(format!("/{service}")),
                (None, method) => PathMatch::Regex(format!("/[^/]+/{}", method.unwrap_or_default())),
            }
        }
        "RegularExpression" => {
            let part = |field: &str, text: Option<String>| match text {
                None => Ok("[^/]+".to_owned()),
                Some(text) => {
                    // Alone first: `a)|(b` is no pattern, but becomes one between parentheses.
                    let alone = PathMatch::Regex(pattern(field, &text)?);
                    let request = mesh_common::model::traffic::RequestMatch { path: Some(alone), ..Default::default() };
                    mesh_common::route::Matches::new(&[request]).map_err(|error| Fault::new(field, error.why))?;
                    Ok(format!("(?:{text})"))
                }
            };
            let (service, method) = (part(&service_field, service)?, part(&method_field, method)?);
            PathMatch::Regex(format!("/{service}/{method}"))
        }
        other => {
            let why = format!("`{other}` is neither Exact nor RegularExpression");
            return Err(Fault::new(format!("{field}.type"), why));
        }
    };
    Ok((lengths.0, lengths.1, path))
}

#[cfg(test)]
mod tests;

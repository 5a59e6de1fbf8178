//! Conditions on requests and connections.

use std::collections::BTreeMap;

use ipnet::IpNet;
use mesh_common::{
    model::traffic::{ConnectionMatch, HeaderMatch, PathMatch, QueryMatch, RequestMatch, TextMatch},
    route::path::written,
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    MESH, Rules,
    part::{Found, Part},
};
use crate::{
    names,
    status::{Fault, read},
    translate::{Labels, pattern::pattern},
};

/// Of one rule: a list that people keep is far shorter, and one that is longer is slow for every request.
const MATCHES: usize = 256;
/// Headers, parameters or labels of one match.
const CONDITIONS: usize = 64;
/// Bytes: no request has more in its head.
const TEXT: usize = 8 * 1024;
/// Istio takes these as other conditions' names, and reads no header by them.
const NO_HEADERS: [&str; 4] = ["uri", "scheme", "method", "authority"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StringMatch {
    exact: Option<String>,
    prefix: Option<String>,
    regex: Option<String>,
}

/// The conditions of a rule, those of its matches that are about the mesh. `None`: the rule is for gateways only. What
/// cannot be read is left out, so that the match has more requests, not fewer: whoever reads on sees to that none of
/// them gets through.
pub fn matches<T>(
    rules: &mut Rules<'_>,
    part: &mut Part,
    found: &mut Found,
    condition: impl Fn(&mut Rules<'_>, &mut Part, &mut Found) -> T,
) -> Option<Vec<T>> {
    let field = part.field("match");
    let listed: Vec<Value> = found.must(part.list("match", MATCHES)).unwrap_or_default();
    let given = listed.len();
    let mut matches = Vec::new();
    for (i, value) in listed.into_iter().enumerate() {
        let Some(mut part) = found.must(Part::new(format!("{field}[{i}]"), value)) else {
            // It might have been about anything.
            return Some(Vec::new());
        };
        let gateways = found.must(part.list::<String>("gateways", MATCHES)).unwrap_or_default();
        if gateways.is_empty() || gateways.iter().any(|gateway| gateway == MESH) {
            matches.push(condition(rules, &mut part, found));
            part.unknown().for_each(|fault| found.broken(fault));
        }
    }
    (given == 0 || !matches.is_empty()).then_some(matches)
}

pub fn request(rules: &mut Rules<'_>, part: &mut Part, found: &mut Found) -> RequestMatch {
    // Names of matches are for people only.
    let _: Option<Option<String>> = found.may(part.take("name"));
    if found.may(part.take::<String>("statPrefix")).flatten().is_some() {
        found.lacking(Fault::new(part.field("statPrefix"), "is not supported"));
    }
    let mut text = |rules: &mut Rules<'_>, part: &mut Part, name: &str| -> Option<TextMatch> {
        let value = found.must(part.take::<Value>(name)).flatten()?;
        match found.must(string_match(rules, &part.field(name), value))? {
            TextMatch::Any => {
                found.broken(Fault::new(part.field(name), "is none of exact, prefix, regex"));
                None
            }
            matched => Some(matched),
        }
    };
    let path = text(rules, part, "uri").map(|matched| match matched {
        TextMatch::Exact(text) => PathMatch::Exact(written(&text)),
        TextMatch::Prefix(text) => PathMatch::Prefix(written(&text)),
        TextMatch::Regex(text) => PathMatch::Regex(text),
        TextMatch::Any => PathMatch::Prefix("/".to_owned()),
    });
    let method = text(rules, part, "method");
    let scheme = text(rules, part, "scheme");
    let authority = text(rules, part, "authority");
    let mut headers = header_matches(rules, part, found, "headers", false);
    headers.extend(header_matches(rules, part, found, "withoutHeaders", true));
    let query = named(rules, part, found, "queryParams");
    RequestMatch {
        path,
        ignore_path_case: found.must(part.take("ignoreUriCase")).flatten().unwrap_or_default(),
        method,
        scheme,
        authority,
        headers,
        query: query.into_iter().map(|(name, value)| QueryMatch { name, value }).collect(),
        port: dialled_port(part, found),
        source_labels: source_labels(part, found),
        source_namespace: source_namespace(part, found),
    }
}

pub fn connection(part: &mut Part, found: &mut Found) -> ConnectionMatch {
    let field = part.field("destinationSubnets");
    let subnets: Vec<String> = found.must(part.list("destinationSubnets", CONDITIONS)).unwrap_or_default();
    let subnets = subnets.iter().enumerate().filter_map(|(i, text)| {
        let net = text.parse::<IpNet>().ok().or_else(|| Some(text.parse::<std::net::IpAddr>().ok()?.into()));
        found.must(net.ok_or_else(|| Fault::new(format!("{field}[{i}]"), format_args!("`{text}` is no network"))))
    });
    let destination_subnets = subnets.map(|net| net.trunc()).collect();
    ConnectionMatch {
        destination_subnets,
        port: dialled_port(part, found),
        source_labels: source_labels(part, found),
        source_namespace: source_namespace(part, found),
    }
}

fn dialled_port(part: &mut Part, found: &mut Found) -> Option<u16> {
    let port = found.must(part.take::<i64>("port")).flatten()?;
    found.must(super::destinations::port(part.field("port"), port))
}

fn source_labels(part: &mut Part, found: &mut Found) -> Labels {
    let labels: Labels = found.must(part.take("sourceLabels")).flatten().unwrap_or_default();
    if labels.len() > CONDITIONS {
        found.broken(too_many(part.field("sourceLabels"), labels.len()));
        return Labels::new();
    }
    labels
}

fn source_namespace(part: &mut Part, found: &mut Found) -> Option<String> {
    let namespace = found.must(part.take::<String>("sourceNamespace")).flatten().filter(|text| !text.is_empty())?;
    let named = names::label(&namespace).map_err(|why| Fault::new(part.field("sourceNamespace"), why));
    found.must(named).map(|()| namespace)
}

fn header_matches(
    rules: &mut Rules<'_>,
    part: &mut Part,
    found: &mut Found,
    name: &str,
    not: bool,
) -> Vec<HeaderMatch> {
    let mut headers = Vec::new();
    let field = part.field(name);
    for (name, value) in named(rules, part, found, name) {
        let lower = name.to_ascii_lowercase();
        if NO_HEADERS.contains(&lower.as_str()) || http::HeaderName::from_bytes(lower.as_bytes()).is_err() {
            found.broken(Fault::new(format!("{field}[{name}]"), format_args!("`{name}` is not the name of a header")));
        } else {
            headers.push(HeaderMatch { name: lower, value, not });
        }
    }
    headers
}

/// Conditions by name; one that is empty asks only that there is such a thing.
fn named(rules: &mut Rules<'_>, part: &mut Part, found: &mut Found, name: &str) -> Vec<(String, TextMatch)> {
    let field = part.field(name);
    let given: BTreeMap<String, Value> = found.must(part.take(name)).flatten().unwrap_or_default();
    if given.len() > CONDITIONS {
        found.broken(too_many(field, given.len()));
        return Vec::new();
    }
    let read = given.into_iter().filter_map(|(name, value)| {
        let value = if value.is_null() { Value::Object(serde_json::Map::new()) } else { value };
        let value = found.must(string_match(rules, &format!("{field}[{name}]"), value))?;
        Some((name, value))
    });
    read.collect()
}

/// `Any` if it says nothing.
pub fn string_match(rules: &mut Rules<'_>, field: &str, value: Value) -> Result<TextMatch, Fault> {
    let matched: StringMatch = read(value).map_err(|fault| fault.within(field))?;
    let bounded = |kind: &str, text: &str| {
        let why = || format!("a text of {} bytes is too long (at most {TEXT})", text.len());
        if text.len() > TEXT { Err(Fault::new(format!("{field}.{kind}"), why())) } else { Ok(()) }
    };
    match matched {
        StringMatch { exact: Some(text), prefix: None, regex: None } => {
            bounded("exact", &text).map(|()| TextMatch::Exact(text))
        }
        StringMatch { exact: None, prefix: Some(text), regex: None } => {
            bounded("prefix", &text).map(|()| TextMatch::Prefix(text))
        }
        StringMatch { exact: None, prefix: None, regex: Some(text) } => {
            regex(rules, &format!("{field}.regex"), &text).map(|_| TextMatch::Regex(text))
        }
        StringMatch { exact: None, prefix: None, regex: None } => Ok(TextMatch::Any),
        _ => Err(Fault::new(field, "says more than one of exact, prefix, regex")),
    }
}

/// How many groups it has.
pub fn regex(rules: &mut Rules<'_>, field: &str, text: &str) -> Result<usize, Fault> {
    rules.regexes += 1;
    if rules.regexes > super::REGEXES {
        let why = format!("the object has more than {} regular expressions", super::REGEXES);
        return Err(Fault::new(field, why));
    }
    pattern(text).map_err(|why| Fault::new(field, why))
}

fn too_many(field: String, given: usize) -> Fault {
    Fault::new(field, format_args!("{given} are too many (at most {CONDITIONS})"))
}

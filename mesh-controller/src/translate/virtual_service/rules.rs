//! The three lists of rules: http, tls, tcp.

use mesh_common::model::traffic::{Action, HttpRoute, PathMatch, PathRewrite, RequestMatch, TcpRoute, TlsRoute};
use serde_json::Value;

use super::{
    Rules, changes, conditions,
    destinations::{nowhere, route},
    part::{Found, Part},
    resilience,
    taken::taken,
};
use crate::{names, status::Fault};

/// Names in one match.
const SERVER_NAMES: usize = 256;
/// Bytes.
const RULE_NAME: usize = 253;

const HTTP_BROKEN: &str = "the rule answers 500 until that is mended";
const BROKEN: &str = "the rule refuses connections until that is mended";

/// `None`: the rule is for gateways only.
pub fn http(rules: &mut Rules<'_>, number: usize, value: Value) -> Option<HttpRoute> {
    let field = format!("spec.http[{number}]");
    let mut found = Found::default();
    let Some(mut part) = found.must(Part::new(&field, value)) else {
        rules.faults.extend(found.told(HTTP_BROKEN));
        return Some(refusing(rules, number.to_string(), field, Vec::new()));
    };
    let name = found.may(part.take::<String>("name")).flatten().filter(|name| !name.is_empty());
    let name = name.filter(|name| {
        let fits = name.len() <= RULE_NAME;
        if !fits {
            found.lacking(Fault::new(part.field("name"), format_args!("is longer than {RULE_NAME} bytes")));
        }
        fits
    });
    let name = name.unwrap_or_else(|| number.to_string());
    let mut matches = conditions::matches(rules, &mut part, &mut found, conditions::request);
    let backends = route(rules, &mut part, &mut found, true);
    let redirect = changes::redirect(&mut part, &mut found);
    let respond = changes::direct_response(&mut part, &mut found);
    if found.must(part.take::<Value>("delegate")).flatten().is_some() {
        found.broken(Fault::new(part.field("delegate"), "is not supported"));
    }
    let route = HttpRoute {
        name: rules.name(&name),
        origin: rules.origin(&field),
        matches: Vec::new(),
        action: Action::Forward(Vec::new()),
        headers: changes::headers(&mut part, &mut found),
        rewrite: changes::rewrite(rules, &mut part, &mut found),
        cors: changes::cors(rules, &mut part, &mut found),
        timeout: found.may(resilience::time(&mut part, "timeout")).flatten(),
        try_timeout: None,
        retries: resilience::retries(&mut part, &mut found),
        fault: resilience::fault(&mut part, &mut found),
        mirrors: resilience::mirrors(rules, &mut part, &mut found),
    };
    part.unknown().for_each(|fault| found.broken(fault));
    if route.rewrite.is_some() && redirect.is_some() {
        found.broken(Fault::new(format!("{field}.rewrite"), "a redirect is not rewritten"));
    }
    let action = match (backends.is_empty(), redirect, respond) {
        (false, None, None) => Some(Action::Forward(backends)),
        (true, Some(redirect), None) => Some(Action::Redirect(redirect)),
        (true, None, Some(respond)) => Some(Action::Respond(respond)),
        // What was to be there is said already.
        _ if found.is_broken() => None,
        (true, None, None) => {
            found.broken(Fault::new(&field, "has none of route, redirect, directResponse"));
            None
        }
        _ => {
            found.broken(Fault::new(&field, "has more than one of route, redirect, directResponse"));
            None
        }
    };
    if matches!(route.rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref()), Some(PathRewrite::Matched(_))) {
        matches.iter_mut().for_each(every_path_has_a_root);
    }
    let readable = matches.clone();
    let whole = action.zip(matches).map(|(action, matches)| HttpRoute { matches, action, ..route });
    let whole = whole.filter(|_| !found.is_broken()).filter(|route| found.must(taken(route)).is_some());
    rules.faults.extend(found.told(HTTP_BROKEN));
    let readable = readable?;
    Some(whole.unwrap_or_else(|| refusing(rules, name, field, readable)))
}

/// A condition that says nothing of the path has matched its `/`, as far as a rewrite goes.
fn every_path_has_a_root(matches: &mut Vec<RequestMatch>) {
    if matches.is_empty() {
        matches.push(RequestMatch::default());
    }
    for matched in matches.iter_mut() {
        matched.path.get_or_insert_with(|| PathMatch::Prefix("/".to_owned()));
    }
}

/// A rule that takes what it can be read to match, and answers 500.
pub fn refusing(rules: &Rules<'_>, name: String, field: String, matches: Vec<RequestMatch>) -> HttpRoute {
    let action = Action::Forward(nowhere(&field));
    HttpRoute { matches, ..HttpRoute::new(rules.name(&name), rules.origin(&field), action) }
}

/// `None`: the rule is for gateways only.
pub fn tcp(rules: &mut Rules<'_>, number: usize, value: Value) -> Option<TcpRoute> {
    let field = format!("spec.tcp[{number}]");
    let mut found = Found::default();
    let part = found.must(Part::new(&field, value));
    let (mut matches, mut backends) = (Some(Vec::new()), Vec::new());
    if let Some(mut part) = part {
        matches =
            conditions::matches(rules, &mut part, &mut found, |_, part, found| conditions::connection(part, found));
        backends = route(rules, &mut part, &mut found, false);
        part.unknown().for_each(|fault| found.broken(fault));
    }
    let backends = settled(&field, backends, &mut found);
    rules.faults.extend(found.told(BROKEN));
    let (name, origin) = (rules.name(&number.to_string()), rules.origin(&field));
    matches.map(|matches| TcpRoute { name, origin, matches, backends })
}

/// One for each match, since each has names of its own; none if the rule is for gateways only.
pub fn tls(rules: &mut Rules<'_>, number: usize, value: Value) -> Vec<TlsRoute> {
    let field = format!("spec.tls[{number}]");
    let mut found = Found::default();
    let part = found.must(Part::new(&field, value));
    let (mut matches, mut backends) = (Some(Vec::new()), Vec::new());
    if let Some(mut part) = part {
        matches = conditions::matches(rules, &mut part, &mut found, |_, part, found| {
            (server_names(part, found), conditions::connection(part, found))
        });
        if matches.as_ref().is_some_and(Vec::is_empty) && !found.is_broken() {
            found.broken(Fault::new(part.field("match"), "is missing"));
        }
        backends = route(rules, &mut part, &mut found, false);
        part.unknown().for_each(|fault| found.broken(fault));
    }
    let backends = settled(&field, backends, &mut found);
    rules.faults.extend(found.told(BROKEN));
    let Some(mut matches) = matches else { return Vec::new() };
    if matches.is_empty() {
        matches.push((any_name(), Default::default()));
    }
    let (name, origin) = (rules.name(&number.to_string()), rules.origin(&field));
    let route = |(server_names, matched)| TlsRoute {
        name: name.clone(),
        origin: origin.clone(),
        server_names,
        matches: if matched == Default::default() { Vec::new() } else { vec![matched] },
        backends: backends.clone(),
    };
    matches.into_iter().map(route).collect()
}

fn settled(
    field: &str,
    backends: Vec<mesh_common::model::traffic::WeightedBackend>,
    found: &mut Found,
) -> Vec<mesh_common::model::traffic::WeightedBackend> {
    if backends.is_empty() && !found.is_broken() {
        found.broken(Fault::new(format!("{field}.route"), "is missing"));
    }
    if found.is_broken() { nowhere(field) } else { backends }
}

fn any_name() -> Vec<String> {
    vec!["*".to_owned()]
}

/// Every name if they cannot be read: the rule is broken then.
fn server_names(part: &mut Part, found: &mut Found) -> Vec<String> {
    let field = part.field("sniHosts");
    let given: Vec<String> = found.must(part.list("sniHosts", SERVER_NAMES)).unwrap_or_default();
    let mut read = Vec::new();
    for (i, name) in given.iter().enumerate() {
        let lower = name.to_ascii_lowercase();
        let bare = lower.strip_prefix("*.").unwrap_or(&lower);
        if lower != "*" && names::subdomain(bare).is_err() {
            found.broken(Fault::new(format!("{field}[{i}]"), format_args!("`{name}` is no host name")));
            return any_name();
        }
        read.push(lower);
    }
    if read.is_empty() {
        if !found.is_broken() {
            found.broken(Fault::new(field, "is missing"));
        }
        return any_name();
    }
    read
}

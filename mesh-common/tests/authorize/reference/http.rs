//! Conditions on requests, read from their JSON: field by field, by name.

use mesh_common::model::{Action, Connection, HttpMatch, Passed, RequestFacts};
use serde_json::Value;

use super::net_fits;

/// Whether they hold of what passes in a rule of this action.
pub fn holds(http: &HttpMatch, action: Action, connection: &Connection, passed: &Passed) -> bool {
    let Value::Object(fields) = serde_json::to_value(http).expect("JSON") else { panic!("not an object") };
    let mut of_server_name = Vec::new();
    let mut of_request = Vec::new();
    for (name, value) in &fields {
        let list = value.as_array().expect("a list").clone();
        match name.as_str() {
            "serverNames" | "notServerNames" => of_server_name.push((name.as_str(), list)),
            _ => of_request.push((name.as_str(), list)),
        }
    }
    let server_name =
        |name: &[&str]| of_server_name.iter().all(|(field, list)| either(field, list, |want| any(want, name)));
    match passed {
        Passed::Open => matches!(action, Action::Allow),
        Passed::Bytes { server_name: name } => {
            let name: Vec<&str> = name.iter().map(String::as_str).collect();
            server_name(&name) && (of_request.is_empty() || matches!(action, Action::Deny))
        }
        Passed::Unnamed => match action {
            Action::Deny => true,
            Action::Audit => of_request.is_empty(),
            Action::Allow => of_request.is_empty() && of_server_name.is_empty(),
        },
        Passed::Request(facts) => {
            server_name(&[])
                && of_request.iter().all(|(field, list)| request_fits(field, list, action, connection, facts))
        }
    }
}

/// A list of wants, or its opposite.
fn either(field: &str, list: &[Value], fits: impl Fn(&Value) -> bool) -> bool {
    list.iter().any(fits) != field.starts_with("not")
}

fn request_fits(field: &str, list: &[Value], action: Action, connection: &Connection, facts: &RequestFacts) -> bool {
    let permits = matches!(action, Action::Allow);
    let token = facts.token.as_deref();
    let audiences: Vec<&str> = token.iter().flat_map(|t| t.audiences.iter().map(String::as_str)).collect();
    let presenter: Vec<&str> = token.iter().filter_map(|t| t.presenter.as_deref()).collect();
    match field {
        "hosts" | "notHosts" => either(field, list, |want| host(want, &facts.host)),
        "methods" | "notMethods" => either(field, list, |want| any(want, &[&facts.method])),
        "paths" | "notPaths" => either(field, list, |want| path(want, &facts.path)),
        "remoteIps" | "notRemoteIps" => either(field, list, |want| {
            let net = want.as_str().expect("a text").parse().expect("a network");
            net_fits(&net, connection.source_ip)
        }),
        "requestPrincipals" | "notRequestPrincipals" => either(field, list, |want| {
            let claim = |name: &str| token.and_then(|t| t.claims.get(name)).and_then(Value::as_str).unwrap_or_default();
            let (issuer, subject) = (claim("iss"), claim("sub"));
            // Who is let in by it must be meant by it; who is kept out may be.
            match permits != field.starts_with("not") {
                true => principal(want, issuer, subject),
                false if issuer.is_empty() || subject.is_empty() => false,
                false => any(want, &[&[issuer, subject].join("/")]),
            }
        }),
        "audiences" | "notAudiences" => either(field, list, |want| any(want, &audiences)),
        "presenters" | "notPresenters" => either(field, list, |want| any(want, &presenter)),
        "headers" => list.iter().all(|condition| {
            let values = header(condition["name"].as_str().expect("a name"), facts);
            let list = |name: &str| condition.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
            let fitting = |wants: &[Value]| {
                let one = |value: &&String| {
                    wants.iter().any(|want| want.as_str() == Some("presence") || any(want, &[value.as_str()]))
                };
                values.iter().filter(one).count()
            };
            let (some, all) = (|fit: usize| fit > 0, |fit: usize| fit > 0 && fit == values.len());
            let (yes, no) = (list("values"), list("notValues"));
            let (met, excepted) = (fitting(&yes), fitting(&no));
            let (met, excepted) = if permits { (all(met), some(excepted)) } else { (some(met), all(excepted)) };
            (yes.is_empty() || met) && (no.is_empty() || !excepted)
        }),
        "claims" => list.iter().all(|condition| {
            let mut at = token.map(|t| Value::Object(t.claims.clone())).unwrap_or_default();
            let path: Vec<&str> =
                condition["path"].as_array().expect("a path").iter().filter_map(Value::as_str).collect();
            for name in &path {
                at = at.as_object().and_then(|object| object.get(*name)).cloned().unwrap_or_default();
            }
            let mut texts: Vec<String> = match &at {
                Value::Array(list) => list.iter().filter(|v| !v.is_array() && !v.is_object()).map(plain).collect(),
                Value::Object(_) | Value::Null => vec![],
                other => vec![plain(other)],
            };
            if let (Value::String(text), ["scope" | "permission"]) = (&at, &path[..]) {
                texts.extend(text.split(' ').map(str::to_owned));
            }
            value_lists(condition, |want| any(want, &texts.iter().map(String::as_str).collect::<Vec<_>>()))
        }),
        other => panic!("the reference does not know {other}"),
    }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn value_lists(condition: &Value, fits: impl Fn(&Value) -> bool) -> bool {
    let list = |name: &str| condition.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    (list("values").is_empty() || list("values").iter().any(&fits))
        && list("notValues").iter().filter(|w| fits(w)).count() == 0
}

/// Characters, so that nothing is shared with the code that compares bytes.
fn any(want: &Value, values: &[&str]) -> bool {
    values.iter().filter(|value| !value.is_empty()).any(|value| {
        let value: Vec<char> = value.chars().collect();
        let chars = |kind: &str| want.get(kind).and_then(Value::as_str).map(|text| text.chars().collect::<Vec<char>>());
        match (chars("exact"), chars("prefix"), chars("suffix")) {
            (Some(exact), _, _) => value == exact,
            (_, Some(prefix), _) => value.len() >= prefix.len() && value[..prefix.len()] == prefix,
            (_, _, Some(suffix)) => value.len() >= suffix.len() && value[value.len() - suffix.len()..] == suffix,
            _ => want.as_str() == Some("presence"),
        }
    })
}

fn header(name: &str, facts: &RequestFacts) -> Vec<String> {
    match name {
        "host" | ":authority" if facts.host.is_empty() => vec![],
        "host" | ":authority" => vec![facts.host.clone()],
        ":method" => vec![facts.method.clone()],
        "cookie" => {
            let all = facts.headers.iter().filter(|(key, _)| key.as_str() == name);
            let mut whole = String::new();
            for (number, (_, value)) in all.enumerate() {
                whole += if number == 0 { "" } else { "; " };
                whole += value.to_str().expect("text");
            }
            if facts.headers.contains_key(name) { vec![whole] } else { vec![] }
        }
        _ => {
            let all = facts.headers.iter().filter(|(key, _)| key.as_str() == name);
            let mut values: Vec<String> = all.map(|(_, value)| value.to_str().expect("text").to_owned()).collect();
            if values.len() > 1 {
                values.push(values.join(","));
            }
            values
        }
    }
}

/// The name and the port.
fn parted(host: &str) -> (String, Option<String>) {
    let brackets = host.find(']').map_or(0, |end| end + 1);
    let (inside, outside) = host.split_at(brackets);
    let parts: Vec<&str> = outside.split(':').collect();
    let (name, port) = match parts[..] {
        [name, port] if port.chars().all(|c| c.is_ascii_digit()) => (format!("{inside}{name}"), Some(port.to_owned())),
        _ => (host.to_owned(), None),
    };
    let name = if name.ends_with('.') { name[..name.len() - 1].to_owned() } else { name };
    (name, port)
}

fn host(want: &Value, host: &str) -> bool {
    let whole = |(name, port): (String, Option<String>)| match port {
        Some(port) => format!("{name}:{port}"),
        None => name,
    };
    let (name, port) = parted(host);
    let mut want = want.clone();
    for kind in ["exact", "suffix"] {
        if let Some(text) = want.get(kind).and_then(Value::as_str) {
            let text = whole(parted(text));
            want[kind] = Value::String(text);
        }
    }
    any(&want, &[&name, &whole((name.clone(), port))])
}

fn path(want: &Value, path: &str) -> bool {
    match want.get("template").and_then(Value::as_str) {
        None => any(&want["text"], &[path]),
        Some(template) => {
            let one_char = template.replace("{**}", "\u{2}").replace("{*}", "\u{1}");
            glob(&one_char.chars().collect::<Vec<_>>(), &path.chars().collect::<Vec<_>>())
        }
    }
}

/// U+0001 is one character or more without `/`, U+0002 any number of any.
fn glob(template: &[char], path: &[char]) -> bool {
    match template.first() {
        None => path.is_empty(),
        Some('\u{1}') => (1..=path.len()).any(|n| !path[..n].contains(&'/') && glob(&template[1..], &path[n..])),
        Some('\u{2}') => (0..=path.len()).any(|n| glob(&template[1..], &path[n..])),
        Some(c) => path.first() == Some(c) && glob(&template[1..], &path[1..]),
    }
}

/// Issuer and subject apart.
fn principal(want: &Value, issuer: &str, subject: &str) -> bool {
    if issuer.is_empty() || subject.is_empty() {
        return false;
    }
    let text = |kind: &str| want.get(kind).and_then(Value::as_str);
    // Where the text has its last `/`.
    let parted = |text: &str| text.rfind('/').map(|at| (text[..at].to_owned(), text[at + 1..].to_owned()));
    match (text("exact"), text("prefix"), text("suffix")) {
        (Some(exact), _, _) => parted(exact) == Some((issuer.to_owned(), subject.to_owned())),
        (_, Some(prefix), _) => match parted(prefix) {
            Some((want, _)) if want.ends_with(":/") => issuer.starts_with(prefix),
            // Some issuers end with `/`.
            Some((_, rest)) if rest.is_empty() && issuer == prefix => true,
            Some((want, rest)) => issuer == want && subject.starts_with(&rest),
            None => issuer.starts_with(prefix),
        },
        (_, _, Some(suffix)) => match parted(suffix) {
            Some((want, rest)) => issuer.ends_with(&want) && subject == rest,
            None => subject.ends_with(suffix),
        },
        _ => true,
    }
}

//! The rules read again, one after the other, as slowly as they are easily seen to be right.

use mesh_common::{
    model::traffic::{HeaderMatch, HttpRoute, PathMatch, RequestMatch, TextMatch},
    route::{Found, Matched, Request},
};

pub fn find(routes: &[HttpRoute], request: &Request<'_>) -> Option<Found> {
    for (number, route) in routes.iter().enumerate() {
        if route.matches.is_empty() {
            return Some(Found { route: number, matched: Matched::Elements(0) });
        }
        for matched in &route.matches {
            if let Some(matched) = holds(matched, request) {
                return Some(Found { route: number, matched });
            }
        }
    }
    None
}

pub fn concerns(routes: &[HttpRoute], port: u16) -> bool {
    let of = |matched: &RequestMatch| matched.port.is_none() || matched.port == Some(port);
    routes.iter().any(|route| route.matches.is_empty() || route.matches.iter().any(of))
}

fn holds(matched: &RequestMatch, request: &Request<'_>) -> Option<Matched> {
    let lower = |text: &str| text.to_ascii_lowercase();
    if let Some(method) = &matched.method
        && !has(method, request.method.as_str())
    {
        return None;
    }
    if let Some(scheme) = &matched.scheme
        && !has(scheme, request.scheme)
    {
        return None;
    }
    if let Some(authority) = &matched.authority
        && !has_authority(authority, request.authority)
    {
        return None;
    }
    let wrong_port = matched.port.is_some_and(|port| port != request.port);
    let wrong_namespace = matched.source_namespace.as_ref().is_some_and(|name| name != request.source_namespace);
    let wrong_label = matched.source_labels.iter().any(|(key, value)| request.source_labels.get(key) != Some(value));
    if wrong_port || wrong_namespace || wrong_label {
        return None;
    }
    for HeaderMatch { name, value, not } in &matched.headers {
        let there = match name.as_str() {
            "host" => has_authority(value, request.authority),
            ":method" => has(value, request.method.as_str()),
            name => {
                let values: Vec<_> =
                    request.headers.get_all(name).iter().map(|value| value.to_str().expect("ASCII")).collect();
                !values.is_empty() && has(value, &values.join(","))
            }
        };
        if there == *not {
            return None;
        }
    }
    for query in &matched.query {
        let decoded = request.query.unwrap_or("").replace("%78", "x").replace("%6b", "k");
        let mut values = decoded.split('&').filter_map(|parameter| match parameter.split_once('=') {
            Some((name, value)) => (name == query.name).then(|| value.to_owned()),
            None => (parameter == query.name).then(String::new),
        });
        if !values.next().is_some_and(|value| has(&query.value, &value)) {
            return None;
        }
    }
    let fold = matched.ignore_path_case;
    let cased = |text: &str| if fold { lower(text) } else { text.to_owned() };
    let path = cased(request.path);
    match &matched.path {
        None => Some(Matched::Elements(0)),
        Some(PathMatch::Exact(exact)) => (cased(exact) == path).then_some(Matched::Whole),
        Some(PathMatch::Prefix(prefix)) => path.starts_with(&cased(prefix)).then_some(Matched::Prefix(prefix.len())),
        Some(PathMatch::Elements(elements)) if elements == "/" => Some(Matched::Elements(0)),
        Some(PathMatch::Elements(elements)) => {
            let has = path == cased(elements) || path.starts_with(&(cased(elements) + "/"));
            has.then_some(Matched::Elements(elements.len()))
        }
        Some(PathMatch::Regex(pattern)) => {
            let pattern = format!("(?s)^(?{}:{pattern})$", if fold { "i" } else { "" });
            regex::Regex::new(&pattern).expect("a pattern").is_match(request.path).then_some(Matched::Whole)
        }
    }
}

fn has(text: &TextMatch, value: &str) -> bool {
    match text {
        TextMatch::Exact(exact) => exact == value,
        TextMatch::Prefix(prefix) => value.starts_with(prefix.as_str()),
        TextMatch::Regex(pattern) => regex::Regex::new(&format!("^(?:{pattern})$")).expect("a pattern").is_match(value),
        TextMatch::Any => true,
    }
}

fn has_authority(text: &TextMatch, authority: &str) -> bool {
    let text = match text {
        TextMatch::Exact(exact) => &TextMatch::Exact(exact.to_ascii_lowercase()),
        TextMatch::Prefix(prefix) => &TextMatch::Prefix(prefix.to_ascii_lowercase()),
        other => other,
    };
    let authority = authority.to_ascii_lowercase();
    has(text, &authority) || has(text, authority.split(':').next().expect("one part"))
}

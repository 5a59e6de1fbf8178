//! What is changed about requests and answers, and answers that need no backend.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use mesh_common::model::traffic::{
    Cors, DirectResponse, HeaderChanges, HeaderEdit, PathRewrite, Redirect, RedirectPort, Rewrite, TextMatch,
};
use serde_json::Value;

use super::{
    Rules, conditions,
    destinations::port,
    part::{Found, Part},
};
use crate::{status::Fault, translate::span};

/// Headers of one edit.
const HEADERS: usize = 128;
/// Bytes of a header's value, a path or an authority.
const TEXT: usize = 8 * 1024;
/// Bytes of an answer: it travels to every agent that may give it.
const BODY: usize = 64 * 1024;
/// Words of one list about cross-origin requests.
const WORDS: usize = 256;
/// The redirects that HTTP knows (RFC 9110).
const REDIRECTS: [i64; 5] = [301, 302, 303, 307, 308];
/// In Istio's words: what the condition on the path matched.
const PREFIX: &str = "%PREFIX()%";

pub fn headers(part: &mut Part, found: &mut Found) -> Option<HeaderChanges> {
    let mut part = found.must(part.part("headers")).flatten()?;
    let mut edit = |name: &str, is_request: bool| {
        let edit = found.must(part.part(name)).flatten().map(|part| edit(part, found, is_request));
        edit.unwrap_or_default()
    };
    let changes = HeaderChanges { request: edit("request", true), response: edit("response", false) };
    part.unknown().for_each(|fault| found.broken(fault));
    Some(changes).filter(|changes| *changes != HeaderChanges::default())
}

fn edit(mut part: Part, found: &mut Found, is_request: bool) -> HeaderEdit {
    let values = |part: &mut Part, found: &mut Found, kind: &str| -> Vec<(String, String)> {
        let field = part.field(kind);
        let given: BTreeMap<String, String> = found.must(part.take(kind)).flatten().unwrap_or_default();
        if given.len() > HEADERS {
            found.broken(Fault::new(field, format_args!("{} are too many (at most {HEADERS})", given.len())));
            return Vec::new();
        }
        let given = given.into_iter().filter_map(|(name, value)| {
            let field = format!("{field}[{name}]");
            let name = found.must(header_name(&field, &name, is_request && kind == "set"))?;
            Some((name, found.must(header_value(&field, &value))?))
        });
        given.collect()
    };
    let set = values(&mut part, found, "set");
    let add = values(&mut part, found, "add");
    let field = part.field("remove");
    let remove: Vec<String> = found.must(part.list("remove", HEADERS)).unwrap_or_default();
    let remove = remove.iter().enumerate();
    let remove = remove.filter_map(|(i, name)| found.must(header_name(&format!("{field}[{i}]"), name, false)));
    let edit = HeaderEdit { remove: remove.collect(), set, add };
    part.unknown().for_each(|fault| found.broken(fault));
    edit
}

/// In lower case. The authority can be set, and nothing else be done to it; other pseudo-headers are no headers.
fn header_name(field: &str, name: &str, may_be_host: bool) -> Result<String, Fault> {
    let lower = name.to_ascii_lowercase();
    match lower.as_str() {
        "host" | ":authority" if may_be_host => Ok("host".to_owned()),
        "host" | ":authority" => Err(Fault::new(field, "the authority of a request can only be set")),
        _ if http::HeaderName::from_bytes(lower.as_bytes()).is_ok() => Ok(lower),
        _ => Err(Fault::new(field, format_args!("`{name}` is not the name of a header"))),
    }
}

/// `%%` is a per cent sign; what else Envoy would put in for `%…%` is not known here.
fn header_value(field: &str, value: &str) -> Result<String, Fault> {
    if value.len() > TEXT {
        return Err(Fault::new(field, format_args!("{} bytes are too many (at most {TEXT})", value.len())));
    }
    if http::HeaderValue::from_str(value).is_err() {
        return Err(Fault::new(field, "is not a value that a header can have"));
    }
    if value.replace("%%", "").contains('%') {
        return Err(Fault::new(field, format_args!("`{value}`: variables (%…%) are not supported; a sign is `%%`")));
    }
    Ok(value.replace("%%", "%"))
}

pub fn rewrite(rules: &mut Rules<'_>, part: &mut Part, found: &mut Found) -> Option<Rewrite> {
    let mut part = found.must(part.part("rewrite")).flatten()?;
    let authority = found.must(text(&mut part, "authority")).flatten();
    let authority = authority.filter(|authority| {
        let named = host_and_port(authority).map_err(|why| Fault::new(part.field("authority"), why));
        found.must(named).is_some()
    });
    let uri = found.must(text(&mut part, "uri")).flatten();
    let regex = found.must(part.part("uriRegexRewrite")).flatten();
    let path = match (uri, regex) {
        (Some(_), Some(_)) => {
            found.broken(Fault::new(&part.path, "says both uri and uriRegexRewrite"));
            None
        }
        (Some(uri), None) => Some(PathRewrite::Matched(uri)),
        (None, Some(regex)) => regex_rewrite(rules, regex, found),
        (None, None) => None,
    };
    part.unknown().for_each(|fault| found.broken(fault));
    Some(Rewrite { authority, path }).filter(|rewrite| *rewrite != Rewrite::default())
}

fn regex_rewrite(rules: &mut Rules<'_>, mut part: Part, found: &mut Found) -> Option<PathRewrite> {
    let pattern = found.must(text(&mut part, "match"));
    let with = found.must(part.take::<String>("rewrite"));
    let field = part.path.clone();
    part.unknown().for_each(|fault| found.broken(fault));
    let (pattern, with) = (pattern?, with?.unwrap_or_default());
    let pattern = found.must(pattern.ok_or_else(|| Fault::new(format!("{field}.match"), "is missing")))?;
    let groups = found.must(conditions::regex(rules, &format!("{field}.match"), &pattern))?;
    let field = format!("{field}.rewrite");
    if with.len() > TEXT {
        found.broken(Fault::new(field, format_args!("{} bytes are too many (at most {TEXT})", with.len())));
        return None;
    }
    let mut letters = with.chars();
    while let Some(letter) = letters.next() {
        let known = letter != '\\'
            || match letters.next() {
                Some('\\') => true,
                Some(digit) => digit.to_digit(10).is_some_and(|group| group as usize <= groups),
                None => false,
            };
        if !known {
            found.broken(Fault::new(field, format_args!("`{with}` names a group that the pattern does not have")));
            return None;
        }
    }
    Some(PathRewrite::Regex { pattern, with })
}

pub fn redirect(part: &mut Part, found: &mut Found) -> Option<Redirect> {
    let mut part = found.must(part.part("redirect")).flatten()?;
    let path = found.must(text(&mut part, "uri")).flatten();
    let path = path.map(|uri| match uri.strip_prefix(PREFIX) {
        Some(rest) => PathRewrite::Matched(rest.to_owned()),
        None => PathRewrite::Full(uri),
    });
    let authority = found.must(text(&mut part, "authority")).flatten();
    let scheme = found.must(text(&mut part, "scheme")).flatten();
    if let Some(scheme) = scheme.as_ref().filter(|scheme| !matches!(scheme.as_str(), "http" | "https")) {
        let why = format!("`{}` is neither http nor https", scheme.chars().take(64).collect::<String>());
        found.broken(Fault::new(part.field("scheme"), why));
    }
    let number = found.must(part.take::<i64>("port")).flatten();
    let number = number.and_then(|number| found.must(port(part.field("port"), number)));
    let derived: Option<String> = found.must(part.take("derivePort")).flatten();
    let status = found.must(part.take::<i64>("redirectCode")).flatten().unwrap_or(301);
    let status = if status == 0 { 301 } else { status };
    if !REDIRECTS.contains(&status) {
        let why = format!("{status} is none of {REDIRECTS:?}");
        found.broken(Fault::new(part.field("redirectCode"), why));
    }
    let (host, own_port) = match authority.as_deref().map(host_and_port) {
        None => (None, None),
        Some(Ok((host, port))) => (Some(host.to_owned()), port),
        Some(Err(why)) => {
            found.broken(Fault::new(part.field("authority"), why));
            (None, None)
        }
    };
    let port = match (number, own_port, derived.as_deref()) {
        (None, None, Some("FROM_PROTOCOL_DEFAULT")) => RedirectPort::Scheme,
        (None, None, Some("FROM_REQUEST_PORT")) => RedirectPort::Request,
        // Another host has its port with it, if it has one; the same host keeps its.
        (None, None, None) if host.is_some() => RedirectPort::Scheme,
        (None, None, None) => RedirectPort::Request,
        (Some(number), None, None) | (None, Some(number), None) => RedirectPort::Number(number),
        (None, None, Some(other)) => {
            let why = format_args!("`{other}` is neither FROM_PROTOCOL_DEFAULT nor FROM_REQUEST_PORT").to_string();
            found.broken(Fault::new(part.field("derivePort"), why));
            RedirectPort::Scheme
        }
        _ => {
            found.broken(Fault::new(&part.path, "says its port more than once (port, derivePort, authority)"));
            RedirectPort::Scheme
        }
    };
    part.unknown().for_each(|fault| found.broken(fault));
    Some(Redirect { scheme, host, port, path, status: u16::try_from(status).unwrap_or(301) })
}

pub fn direct_response(part: &mut Part, found: &mut Found) -> Option<DirectResponse> {
    let mut part = found.must(part.part("directResponse")).flatten()?;
    let status = found.must(part.take::<i64>("status")).flatten();
    let field = part.field("status");
    let status = found.must(super::resilience::status(field, status.unwrap_or_default())).unwrap_or(500);
    let body = found.must(part.part("body")).flatten().and_then(|part| body(part, found));
    part.unknown().for_each(|fault| found.broken(fault));
    Some(DirectResponse { status, body })
}

fn body(mut part: Part, found: &mut Found) -> Option<String> {
    let string: Option<String> = found.must(part.take("string")).flatten();
    let bytes: Option<String> = found.must(part.take("bytes")).flatten();
    let field = part.path.clone();
    part.unknown().for_each(|fault| found.broken(fault));
    let body = match (string, bytes) {
        (Some(_), Some(_)) => Err(Fault::new(&field, "says both string and bytes")),
        (Some(text), None) => Ok(Some(text)),
        (None, Some(bytes)) => {
            let decoded = STANDARD.decode(bytes).map_err(|e| Fault::new(format!("{field}.bytes"), e));
            let utf8 = |bytes| String::from_utf8(bytes).map_err(|e| Fault::new(format!("{field}.bytes"), e));
            decoded.and_then(utf8).map(Some)
        }
        (None, None) => Ok(None),
    };
    let bounded = body.and_then(|body| match &body {
        Some(text) if text.len() > BODY => {
            Err(Fault::new(field, format_args!("{} bytes are too many (at most {BODY})", text.len())))
        }
        _ => Ok(body),
    });
    found.must(bounded).flatten()
}

/// Without it no other origin is let in: what is wrong with it leaves it out.
pub fn cors(rules: &mut Rules<'_>, part: &mut Part, found: &mut Found) -> Option<Cors> {
    let mut part = found.may(part.part("corsPolicy")).flatten()?;
    match read_cors(rules, &mut part) {
        Ok(cors) => {
            let before = part.unknown().map(|fault| found.lacking(fault)).count();
            (before == 0).then_some(cors)
        }
        Err(fault) => {
            found.lacking(fault);
            None
        }
    }
}

fn read_cors(rules: &mut Rules<'_>, part: &mut Part) -> Result<Cors, Fault> {
    let any = |text: TextMatch| if text == TextMatch::Exact("*".to_owned()) { TextMatch::Any } else { text };
    let field = part.field("allowOrigins");
    let mut allow_origins = Vec::new();
    for (i, value) in part.list::<Value>("allowOrigins", WORDS)?.into_iter().enumerate() {
        let field = format!("{field}[{i}]");
        match conditions::string_match(rules, &field, value)? {
            TextMatch::Any => return Err(Fault::new(field, "is none of exact, prefix, regex")),
            matched => allow_origins.push(any(matched)),
        }
    }
    // The older form is not read where the newer one is there, as in Istio.
    let older: Vec<String> = part.list("allowOrigin", WORDS)?;
    if allow_origins.is_empty() {
        allow_origins.extend(older.into_iter().map(|origin| any(TextMatch::Exact(origin))));
    }
    let words = |part: &mut Part, name: &str| -> Result<Vec<String>, Fault> {
        let words: Vec<String> = part.list(name, WORDS)?;
        let wrong = words.iter().position(|word| http::HeaderName::from_bytes(word.as_bytes()).is_err());
        match wrong {
            Some(i) => Err(Fault::new(format!("{}[{i}]", part.field(name)), "is not a word of HTTP")),
            None => Ok(words),
        }
    };
    let max_age: Option<String> = part.take("maxAge")?;
    let max_age = max_age.map(|text| span::parse(&text).map_err(|why| Fault::new(part.field("maxAge"), why)));
    let unmatched: Option<String> = part.take("unmatchedPreflights")?;
    let forward_unmatched_preflights = match unmatched.as_deref() {
        None | Some("UNSPECIFIED" | "FORWARD") => true,
        Some("IGNORE") => false,
        Some(other) => {
            let why = format!("`{other}` is neither FORWARD nor IGNORE");
            return Err(Fault::new(part.field("unmatchedPreflights"), why));
        }
    };
    Ok(Cors {
        allow_origins,
        allow_methods: words(part, "allowMethods")?,
        allow_headers: words(part, "allowHeaders")?,
        expose_headers: words(part, "exposeHeaders")?,
        max_age: max_age.transpose()?.map(|age| age.0 / 1000),
        allow_credentials: part.take("allowCredentials")?,
        forward_unmatched_preflights,
    })
}

/// Not empty, and no more than a request may have.
fn text(part: &mut Part, name: &str) -> Result<Option<String>, Fault> {
    let text: Option<String> = part.take(name)?;
    let text = text.filter(|text| !text.is_empty());
    match &text {
        Some(long) if long.len() > TEXT => {
            Err(Fault::new(part.field(name), format_args!("{} bytes are too many (at most {TEXT})", long.len())))
        }
        Some(odd) if odd.chars().any(|c| c.is_control() || c == ' ') => {
            Err(Fault::new(part.field(name), "has spaces or control characters"))
        }
        _ => Ok(text),
    }
}

/// `host` or `host:port`.
fn host_and_port(text: &str) -> Result<(&str, Option<u16>), String> {
    let why = || format!("`{}` is neither a host nor host:port", text.chars().take(256).collect::<String>());
    let authority: http::uri::Authority = text.parse().map_err(|_| why())?;
    let port = authority.port().map(|port| port.as_str().parse().ok().filter(|port| *port != 0).ok_or_else(why));
    let port = port.transpose()?;
    let host = match text.rsplit_once(':') {
        Some((host, _)) if port.is_some() => host,
        _ => text,
    };
    if host.is_empty() || host.contains('@') || (host.ends_with(':')) { Err(why()) } else { Ok((host, port)) }
}

//! Whether a request is one that a rule is about.
//!
//! Read as Envoy reads it, where users know it from there:
//! - a header that is there more than once is one text, its values joined with `,`; `host` and `:authority` are both
//!   the request's authority, `:method` and `:scheme` what they say;
//! - `not` holds too where the header is not there;
//! - of a query parameter that is there more than once the first counts; names and values are percent-decoded, `+`
//!   stays;
//! - an authority is compared with its port and without, whichever fits, in any case of its letters (RFC 9110, 4.2.3);
//! - `ignore_path_case` is about ASCII letters, in patterns too.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, Method};
use percent_encoding::percent_decode_str;

use super::{
    RouteError,
    effort::{Effort, Pattern, TooMuch},
    text::{Literals, Patterns, Text, begins, same},
};
use crate::model::traffic::{Labels, PathMatch, QueryMatch, RequestMatch, TextMatch};

/// What is known of a request when it must be routed.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub method: &'a Method,
    /// As it was sent, not decoded.
    pub path: &'a str,
    /// Without its `?`.
    pub query: Option<&'a str>,
    pub scheme: &'a str,
    /// Of `Host` or `:authority`; empty: none was sent.
    pub authority: &'a str,
    pub headers: &'a HeaderMap,
    /// Of the service, that was dialled.
    pub port: u16,
    pub source_labels: &'a Labels,
    pub source_namespace: &'a str,
}

/// Which part of the path a rule's condition matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Matched {
    Whole,
    /// So many bytes.
    Prefix(usize),
    /// So many bytes, before the slash that ends the elements. 0 for `/`, and where nothing is said of the path.
    Elements(usize),
}

/// A compiled list of conditions: one of them must hold; of none: every request's.
#[derive(Debug)]
pub struct Matches(Vec<Condition>);

/// A compiled [`RequestMatch`].
#[derive(Debug, Default)]
pub(super) struct Condition {
    path: Option<Path>,
    fold_path: bool,
    method: Option<Text>,
    scheme: Option<Text>,
    authority: Option<Text>,
    headers: Vec<Header>,
    query: Vec<(String, Text)>,
    port: Option<u16>,
    source_labels: Labels,
    source_namespace: Option<String>,
}

#[derive(Debug)]
pub(super) enum Path {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    /// Without a slash at its end.
    Elements(Box<[u8]>),
    Regex(Pattern, Literals),
}

#[derive(Debug)]
struct Header {
    name: Name,
    value: Text,
    not: bool,
}

#[derive(Debug)]
enum Name {
    Header(HeaderName),
    Authority,
    Method,
    Scheme,
}

impl Matches {
    /// Errors name fields as in `matches[0].path.regex`.
    pub fn new(matches: &[RequestMatch]) -> Result<Self, RouteError> {
        compiled(matches, &mut Patterns::default()).map(Self)
    }

    /// # Errors
    /// If the patterns, with those that were asked by the same effort before, would have to read too much.
    pub fn matches(&self, request: &Request<'_>, effort: &Effort) -> Result<bool, TooMuch> {
        effort.so(self.0.is_empty() || self.0.iter().any(|condition| condition.holds(request, effort).is_some()))
    }
}

pub(super) fn compiled(matches: &[RequestMatch], patterns: &mut Patterns) -> Result<Vec<Condition>, RouteError> {
    let one = |(number, matched)| {
        Condition::new(matched, patterns).map_err(|error| error.within(format_args!("matches[{number}]")))
    };
    matches.iter().enumerate().map(one).collect()
}

impl Condition {
    fn new(matched: &RequestMatch, patterns: &mut Patterns) -> Result<Self, RouteError> {
        let RequestMatch {
            path,
            ignore_path_case: fold_path,
            method,
            scheme,
            authority,
            headers,
            query,
            port,
            source_labels,
            source_namespace,
        } = matched;
        let mut text = |text: &Option<TextMatch>, fold, field: &str| {
            let compiled = text.as_ref().map(|text| Text::new(text, fold, patterns)).transpose();
            compiled.map_err(|why| RouteError::new(format!("{field}.regex"), why))
        };
        Ok(Self {
            method: text(method, false, "method")?,
            scheme: text(scheme, true, "scheme")?,
            authority: text(authority, true, "authority")?,
            path: path.as_ref().map(|path| Path::new(path, *fold_path, patterns)).transpose()?,
            fold_path: *fold_path,
            headers: headers
                .iter()
                .enumerate()
                .map(|(number, header)| {
                    let named = |error: RouteError| error.within(format_args!("headers[{number}]"));
                    let name = Name::new(&header.name).map_err(named)?;
                    let value = Text::new(&header.value, name.folds(), patterns)
                        .map_err(|why| named(RouteError::new("value.regex", why)))?;
                    Ok(Header { name, value, not: header.not })
                })
                .collect::<Result<_, _>>()?,
            query: query
                .iter()
                .enumerate()
                .map(|(number, QueryMatch { name, value })| {
                    let value = Text::new(value, false, patterns)
                        .map_err(|why| RouteError::new(format!("query[{number}].value.regex"), why))?;
                    Ok((name.clone(), value))
                })
                .collect::<Result<_, RouteError>>()?,
            port: *port,
            source_labels: source_labels.clone(),
            source_namespace: source_namespace.clone(),
        })
    }

    pub fn port(&self) -> Option<u16> {
        self.port
    }

    pub fn path(&self) -> Option<&Path> {
        self.path.as_ref()
    }

    pub fn folds_path(&self) -> bool {
        self.fold_path
    }

    /// Of its pattern, if it has one for the path.
    pub fn literals(&self) -> Option<&Literals> {
        match &self.path {
            Some(Path::Regex(_, literals)) => Some(literals),
            _ => None,
        }
    }

    /// A header that must be there with this value.
    pub fn wanted_header(&self) -> Option<(&HeaderName, &[u8])> {
        self.headers.iter().find_map(|header| match header {
            Header { name: Name::Header(name), value: Text::Exact(value), not: false } => Some((name, &**value)),
            _ => None,
        })
    }

    /// What of the path it matched, if all that it says holds. What costs least is asked first.
    pub fn holds(&self, request: &Request<'_>, effort: &Effort) -> Option<Matched> {
        let Self { path, fold_path, method, scheme, authority, headers, query, port, source_labels, source_namespace } =
            self;
        let said = |text: &Option<Text>, value: &str, fold| {
            text.as_ref().is_none_or(|text| text.has(value.as_bytes(), fold, effort))
        };
        let holds = port.is_none_or(|port| port == request.port)
            && said(method, request.method.as_str(), false)
            && said(scheme, request.scheme, true)
            && source_namespace.as_ref().is_none_or(|namespace| namespace == request.source_namespace)
            && authority.as_ref().is_none_or(|authority| has_authority(authority, request.authority, effort));
        if !holds {
            return None;
        }
        let matched = match path {
            None => Matched::Elements(0),
            Some(path) => path.holds(request.path.as_bytes(), *fold_path, effort)?,
        };
        let holds = source_labels.iter().all(|(key, value)| request.source_labels.get(key) == Some(value))
            && headers.iter().all(|header| header.holds(request, effort))
            && query.iter().all(|(name, value)| has_parameter(request.query, name, value, effort));
        holds.then_some(matched)
    }
}

impl Path {
    fn new(path: &PathMatch, fold: bool, patterns: &mut Patterns) -> Result<Self, RouteError> {
        Ok(match path {
            PathMatch::Exact(path) => Self::Exact(path.as_bytes().into()),
            PathMatch::Prefix(path) => Self::Prefix(path.as_bytes().into()),
            PathMatch::Elements(path) => Self::Elements(path.trim_end_matches('/').as_bytes().into()),
            PathMatch::Regex(pattern) => {
                let compiled = patterns.whole(pattern, fold).map_err(|why| RouteError::new("path.regex", why))?;
                Self::Regex(compiled, Literals::of(pattern, fold))
            }
        })
    }

    fn holds(&self, path: &[u8], fold: bool, effort: &Effort) -> Option<Matched> {
        let (holds, matched) = match self {
            Self::Exact(exact) => (same(exact, path, fold), Matched::Whole),
            Self::Prefix(prefix) => (begins(path, prefix, fold), Matched::Prefix(prefix.len())),
            Self::Elements(elements) => {
                let ended = matches!(path.get(elements.len()), None | Some(b'/'));
                // `/` is a path's first element's own: `*` (RFC 9112, 3.2.4) has none.
                let some = !elements.is_empty() || path.starts_with(b"/");
                (some && ended && begins(path, elements, fold), Matched::Elements(elements.len()))
            }
            Self::Regex(pattern, _) => (pattern.is_match(path, effort), Matched::Whole),
        };
        holds.then_some(matched)
    }
}

impl Header {
    fn holds(&self, request: &Request<'_>, effort: &Effort) -> bool {
        let has = match &self.name {
            Name::Authority => has_authority(&self.value, request.authority, effort),
            Name::Method => self.value.has(request.method.as_str().as_bytes(), false, effort),
            Name::Scheme => self.value.has(request.scheme.as_bytes(), true, effort),
            Name::Header(name) => {
                joined(request.headers, name).is_some_and(|value| self.value.has(&value, false, effort))
            }
        };
        has != self.not
    }
}

impl Name {
    fn new(name: &str) -> Result<Self, RouteError> {
        Ok(match name {
            "host" | ":authority" => Self::Authority,
            ":method" => Self::Method,
            ":scheme" => Self::Scheme,
            name => Self::Header(
                HeaderName::from_bytes(name.as_bytes())
                    .map_err(|_| RouteError::new("name", format_args!("`{name}` is no header's name")))?,
            ),
        })
    }

    fn folds(&self) -> bool {
        matches!(self, Self::Authority | Self::Scheme)
    }
}

/// All values of a header as one text.
pub(super) fn joined<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
    let mut joined = first.to_vec();
    for value in std::iter::once(second).chain(values) {
        joined.push(b',');
        joined.extend_from_slice(value.as_bytes());
    }
    Some(Cow::Owned(joined))
}

fn has_authority(text: &Text, authority: &str, effort: &Effort) -> bool {
    !authority.is_empty()
        && (text.has(authority.as_bytes(), true, effort)
            || without_port(authority).is_some_and(|host| text.has(host.as_bytes(), true, effort)))
}

/// The host of an authority that has a port.
pub(super) fn without_port(authority: &str) -> Option<&str> {
    let (host, port) = authority.rsplit_once(':')?;
    // Colons of an IPv6 address stand between brackets (RFC 3986, 3.2.2).
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    (digits && !host.is_empty()).then_some(host)
}

fn has_parameter(query: Option<&str>, name: &str, value: &Text, effort: &Effort) -> bool {
    let parameters =
        query.unwrap_or_default().split('&').map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")));
    let mut named = parameters.filter(|(key, _)| !key.is_empty() && percent_decode_str(key).eq(name.bytes()));
    named.next().is_some_and(|(_, text)| value.has(&Vec::from_iter(percent_decode_str(text)), false, effort))
}

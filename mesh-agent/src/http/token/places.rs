//! Where requests have their tokens: headers, parameters of the query, cookies. Everything that an application could
//! take for a token in such a place is one, however it is spelled: any blanks may end what stands before it, `;` parts
//! parameters as `&` does, and in their names `.` and a space are `_`, as in PHP.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, Uri, header, request::Parts, uri::PathAndQuery};
use mesh_common::model::traffic::{TokenHeader, TokenRule};
use percent_encoding::percent_decode;

use super::{MAX_TOKEN, Refused, Unreadable, header_name};
use crate::telemetry::reason;

/// A set of rules, by their numbers.
type Rules = u64;

#[derive(Debug, Default)]
pub struct Places {
    headers: Vec<Header>,
    /// Folded.
    params: Vec<(Vec<u8>, Rules)>,
    cookies: Vec<(String, Rules)>,
}

#[derive(Debug)]
struct Header {
    name: HeaderName,
    /// What stands before a token, the longest first.
    prefixes: Vec<(String, Rules)>,
}

/// The one token of a request.
pub struct Found {
    pub text: String,
    /// Which look at every place where it is.
    pub rules: Rules,
}

impl Places {
    pub fn new(rules: &[TokenRule]) -> Result<Self, Unreadable> {
        let mut places = Self::default();
        for (number, rule) in rules.iter().enumerate() {
            let bit = 1 << number;
            let TokenRule { from_headers, from_params, from_cookies, .. } = rule;
            for (at, TokenHeader { name, prefix }) in from_headers.iter().enumerate() {
                let name = header_name(name, || format!("tokens[{number}].fromHeaders[{at}].name"))?;
                places.header(name, prefix, bit);
            }
            from_params.iter().for_each(|name| add(&mut places.params, &folded(name.as_bytes()), bit));
            from_cookies.iter().for_each(|name| add(&mut places.cookies, name, bit));
            if from_headers.is_empty() && from_params.is_empty() && from_cookies.is_empty() {
                places.header(header::AUTHORIZATION, "Bearer ", bit);
                add(&mut places.params, &b"access_token"[..], bit);
            }
        }
        Ok(places)
    }

    fn header(&mut self, name: HeaderName, prefix: &str, rule: Rules) {
        let at = self.headers.iter().position(|known| known.name == name).unwrap_or_else(|| {
            self.headers.push(Header { name, prefixes: Vec::new() });
            self.headers.len() - 1
        });
        let prefixes = &mut self.headers[at].prefixes;
        // Schemes have no case (RFC 9110, 11.1), and other prefixes need none.
        add(prefixes, &prefix.to_ascii_lowercase(), rule);
        prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
    }

    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.headers.iter().map(|header| &header.name)
    }

    pub fn find(&self, parts: &Parts) -> Result<Option<Found>, Refused> {
        let mut only = Only(None);
        for Header { name, prefixes } in &self.headers {
            for value in parts.headers.get_all(name) {
                if let Some((token, rules)) = after(prefixes, value.as_bytes())? {
                    only.add(token, rules)?;
                }
            }
        }
        if !self.params.is_empty() {
            for (_, pair) in pairs(parts.uri.query()) {
                if let Some((value, rules)) = self.param(pair) {
                    only.add(&value, rules)?;
                }
            }
        }
        if !self.cookies.is_empty() {
            for cookie in cookies(parts) {
                if let Some((value, rules)) = self.cookie(cookie) {
                    only.add(value, rules)?;
                }
            }
        }
        Ok(only.0)
    }

    /// Takes tokens out, from every place.
    pub fn strip(&self, parts: &mut Parts) {
        for Header { name, prefixes } in &self.headers {
            let values = parts.headers.get_all(name).iter();
            let kept: Vec<_> = values.filter(|value| matches!(after(prefixes, value.as_bytes()), Ok(None))).collect();
            let kept: Vec<HeaderValue> = kept.into_iter().cloned().collect();
            parts.headers.remove(name);
            for value in kept {
                parts.headers.append(name, value);
            }
        }
        if pairs(parts.uri.query()).any(|(_, pair)| self.param(pair).is_some()) {
            let mut path = parts.uri.path().to_owned();
            let kept = pairs(parts.uri.query()).filter(|(_, pair)| self.param(pair).is_none());
            for (number, (before, pair)) in kept.enumerate() {
                path.push_str(if number == 0 { "?" } else { before });
                path.push_str(pair);
            }
            let mut uri = std::mem::take(&mut parts.uri).into_parts();
            uri.path_and_query = Some(PathAndQuery::try_from(path).expect("less than a query is one"));
            parts.uri = Uri::from_parts(uri).expect("it has the parts that it had");
        }
        if cookies(parts).any(|cookie| self.cookie(cookie).is_some()) {
            let kept = cookies(parts).filter(|cookie| !cookie.is_empty() && self.cookie(cookie).is_none());
            let kept = kept.collect::<Vec<_>>().join(&b"; "[..]);
            parts.headers.remove(header::COOKIE);
            if !kept.is_empty() {
                let kept = HeaderValue::from_bytes(&kept).expect("of bytes that were in a header");
                parts.headers.insert(header::COOKIE, kept);
            }
        }
    }

    fn param<'a>(&self, pair: &'a str) -> Option<(Cow<'a, [u8]>, Rules)> {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = folded(&decoded(name));
        let (_, rules) = self.params.iter().find(|(known, _)| *known == name)?;
        Some((decoded(value), *rules))
    }

    fn cookie<'a>(&self, cookie: &'a [u8]) -> Option<(&'a [u8], Rules)> {
        let at = cookie.iter().position(|byte| *byte == b'=')?;
        let name = cookie[..at].trim_ascii();
        let (_, rules) = self.cookies.iter().find(|(known, _)| known.as_bytes() == name)?;
        let value = cookie[at + 1..].trim_ascii();
        // RFC 6265, 4.1.1.
        let bare = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value);
        Some((bare, *rules))
    }
}

fn add<T, N: ToOwned<Owned = T> + ?Sized>(known: &mut Vec<(T, Rules)>, name: &N, rule: Rules)
where
    T: PartialEq<N>,
{
    match known.iter_mut().find(|(known, _)| *known == *name) {
        Some((_, rules)) => *rules |= rule,
        None => known.push((name.to_owned(), rule)),
    }
}

/// As long as there is one.
struct Only(Option<Found>);

impl Only {
    fn add(&mut self, token: &(impl AsRef<[u8]> + ?Sized), rules: Rules) -> Result<(), Refused> {
        let token = token.as_ref();
        let text = std::str::from_utf8(token).ok().filter(|text| !text.is_empty() && text.len() <= MAX_TOKEN);
        let text = text.ok_or(Refused(reason::JWT_MALFORMED))?;
        match &mut self.0 {
            None => self.0 = Some(Found { text: text.to_owned(), rules }),
            Some(known) if known.text == text => known.rules &= rules,
            Some(_) => return Err(Refused(reason::JWT_SEVERAL)),
        }
        Ok(())
    }
}

/// The token in a header's value. A prefix that is not at its beginning may be read by the application all the same.
fn after<'a>(prefixes: &[(String, Rules)], value: &'a [u8]) -> Result<Option<(&'a [u8], Rules)>, Refused> {
    let is_at = |at: usize, prefix: &str| {
        // Where a blank ends it, any does: readers split at blanks.
        let word = prefix.trim_ascii_end();
        let rest = value.get(at + word.len()..);
        value.get(at..at + word.len()).is_some_and(|part| part.eq_ignore_ascii_case(word.as_bytes()))
            && (word.len() == prefix.len() || rest.is_some_and(|rest| matches!(rest.first(), Some(b' ' | b'\t'))))
    };
    let first = prefixes.iter().find(|(prefix, _)| is_at(0, prefix));
    if let Some((prefix, rules)) = first {
        return Ok(Some((value[prefix.trim_ascii_end().len()..].trim_ascii(), *rules)));
    }
    let later = prefixes.iter().any(|(prefix, _)| (1..value.len()).any(|at| is_at(at, prefix)));
    if later { Err(Refused(reason::JWT_MALFORMED)) } else { Ok(None) }
}

/// Each with what parts it from the one before.
fn pairs(query: Option<&str>) -> impl Iterator<Item = (&str, &str)> {
    query.into_iter().flat_map(|query| {
        let mut at = 0;
        query.split(['&', ';']).map(move |pair| {
            let before = &query[at.max(1) - 1..at];
            at += pair.len() + 1;
            (before, pair)
        })
    })
}

fn folded(name: &[u8]) -> Vec<u8> {
    name.trim_ascii_start().iter().map(|byte| if matches!(byte, b' ' | b'.') { b'_' } else { *byte }).collect()
}

/// As forms write it (WHATWG URL, 5.1).
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if text.contains('+') {
        Cow::Owned(percent_decode(text.replace('+', " ").as_bytes()).collect())
    } else {
        percent_decode(text.as_bytes()).into()
    }
}

fn cookies(parts: &Parts) -> impl Iterator<Item = &[u8]> {
    let values = parts.headers.get_all(header::COOKIE).iter();
    values.flat_map(|value| value.as_bytes().split(|byte| *byte == b';')).map(<[u8]>::trim_ascii)
}

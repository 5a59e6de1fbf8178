//! May a request, or a connection, have the conditions of two rules at once? Where that is not known it may.
//!
//! It is only said, and changes nothing of what rules do. So it is looked at no longer than [`Comparisons`] last.

use mesh_common::model::traffic::{
    ConnectionMatch, HeaderMatch, PathMatch, RequestMatch, Routes, TcpRoute, TextMatch, TlsRoute,
};

use super::before::Before;

/// How many pairs of conditions are compared for one object at one service: some milliseconds.
const OF_ONE: usize = 100_000;
/// For all objects together, whenever rules are made anew: a quarter of a second. Nothing is published meanwhile.
const OF_ALL: usize = 2_000_000;

/// Of a rule that was there before, and one that takes the same.
#[derive(Debug, PartialEq, Eq)]
pub struct Overlap<'a> {
    /// Who says it.
    pub earlier: &'a str,
    /// The rule's field.
    pub later: &'a str,
}

/// How many are left.
#[derive(Debug)]
pub struct Comparisons {
    all: usize,
    one: usize,
}

/// It would take more comparisons to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "whether other objects' rules take the same is not said: it would take more than {OF_ONE} comparisons, or {OF_ALL} \
     for all objects"
)]
pub struct Unknown;

/// All rules of which it is asked whether later ones overlap them.
#[derive(Debug, Default)]
pub struct Earlier<'a> {
    http: Before<'a>,
    tls: Vec<&'a TlsRoute>,
    tcp: Vec<&'a TcpRoute>,
}

impl Default for Comparisons {
    fn default() -> Self {
        Self { all: OF_ALL, one: OF_ONE }
    }
}

impl Comparisons {
    /// Of the next object, at the next service.
    pub fn next(&mut self) -> &mut Self {
        self.one = OF_ONE;
        self
    }

    /// # Errors
    /// If there are fewer left.
    pub fn spend(&mut self, work: usize) -> Result<(), Unknown> {
        self.one = self.one.checked_sub(work).ok_or(Unknown)?;
        self.all = self.all.checked_sub(work).ok_or(Unknown)?;
        Ok(())
    }

    #[cfg(test)]
    pub fn spent(&self) -> usize {
        OF_ALL - self.all
    }
}

impl<'a> Earlier<'a> {
    pub fn add(&mut self, routes: &'a Routes) {
        let Routes { http, faults: _, tls, tcp } = routes;
        self.http.extend(http);
        self.tls.extend(tls);
        self.tcp.extend(tcp);
    }

    /// Two rules that overlap, the first of the later ones that does.
    pub fn overlap(&self, later: &'a Routes, left: &mut Comparisons) -> Result<Option<Overlap<'a>>, Unknown> {
        let Routes { http, faults: _, tls, tcp } = later;
        for route in http {
            if let Some(earlier) = self.http.overlapping(route, left)? {
                return Ok(Some(Overlap { earlier: &earlier.origin.object, later: &route.origin.field }));
            }
        }
        for route in tls {
            for earlier in &self.tls {
                left.spend(1 + earlier.server_names.len() * route.server_names.len())?;
                if names(earlier, route) && connections(&earlier.matches, &route.matches, left)? {
                    return Ok(Some(Overlap { earlier: &earlier.origin.object, later: &route.origin.field }));
                }
            }
        }
        for route in tcp {
            for earlier in &self.tcp {
                left.spend(1)?;
                if connections(&earlier.matches, &route.matches, left)? {
                    return Ok(Some(Overlap { earlier: &earlier.origin.object, later: &route.origin.field }));
                }
            }
        }
        Ok(None)
    }
}

/// Whether any two of the alternatives overlap; no alternatives: everything.
fn any<T>(a: &[T], b: &[T], overlap: impl Fn(&T, &T) -> bool) -> bool {
    a.is_empty() || b.is_empty() || a.iter().any(|a| b.iter().any(|b| overlap(a, b)))
}

/// No request has both.
pub fn disjoint(a: &RequestMatch, b: &RequestMatch, left: &mut Comparisons) -> Result<bool, Unknown> {
    let lists = a.headers.len() * b.headers.len() + a.query.len() * b.query.len() + a.source_labels.len();
    left.spend(1 + lists)?;
    let both = |a: &Option<TextMatch>, b: &Option<TextMatch>, fold: bool| match (a, b) {
        (Some(a), Some(b)) => texts_differ(a, b, fold),
        _ => false,
    };
    let paths = match (&a.path, &b.path) {
        (Some(of_a), Some(of_b)) => paths_differ(of_a, of_b, a.ignore_path_case || b.ignore_path_case),
        _ => false,
    };
    Ok(paths
        || both(&a.method, &b.method, false)
        || both(&a.scheme, &b.scheme, true)
        || both(&a.authority, &b.authority, true)
        || differ(a.port.as_ref(), b.port.as_ref())
        || differ(a.source_namespace.as_ref(), b.source_namespace.as_ref())
        || a.source_labels.iter().any(|(key, value)| differ(Some(value), b.source_labels.get(key)))
        || a.headers.iter().any(|a| b.headers.iter().any(|b| headers_differ(a, b)))
        || a.query.iter().any(|a| b.query.iter().any(|b| a.name == b.name && texts_differ(&a.value, &b.value, false))))
}

fn connections(a: &[ConnectionMatch], b: &[ConnectionMatch], left: &mut Comparisons) -> Result<bool, Unknown> {
    let size = |matches: &[ConnectionMatch]| {
        matches.iter().map(|m| 1 + m.destination_subnets.len() + m.source_labels.len()).sum::<usize>()
    };
    left.spend(size(a).saturating_mul(size(b)))?;
    Ok(any(a, b, |a, b| {
        let subnets = any(&a.destination_subnets, &b.destination_subnets, |a, b| a.contains(b) || b.contains(a));
        subnets
            && !differ(a.port.as_ref(), b.port.as_ref())
            && !differ(a.source_namespace.as_ref(), b.source_namespace.as_ref())
            && !a.source_labels.iter().any(|(key, value)| differ(Some(value), b.source_labels.get(key)))
    }))
}

fn names(a: &TlsRoute, b: &TlsRoute) -> bool {
    let below = |wild: &str, name: &str| wild.strip_prefix('*').is_some_and(|suffix| name.ends_with(suffix));
    any(&a.server_names, &b.server_names, |a, b| a == b || below(a, b) || below(b, a))
}

fn differ<T: PartialEq>(a: Option<&T>, b: Option<&T>) -> bool {
    matches!((a, b), (Some(a), Some(b)) if a != b)
}

fn headers_differ(a: &HeaderMatch, b: &HeaderMatch) -> bool {
    a.name == b.name
        && match (a.not, b.not) {
            (false, false) => texts_differ(&a.value, &b.value, false),
            (true, true) => false,
            (true, false) => a.value == TextMatch::Any || a.value == b.value,
            (false, true) => b.value == TextMatch::Any || a.value == b.value,
        }
}

fn paths_differ(a: &PathMatch, b: &PathMatch, fold: bool) -> bool {
    // Whole elements are a prefix, and fewer paths.
    match (a, b) {
        (PathMatch::Regex(_), _) | (_, PathMatch::Regex(_)) => false,
        (PathMatch::Exact(a), PathMatch::Exact(b)) => !same(a, b, fold),
        (PathMatch::Exact(text), PathMatch::Prefix(prefix) | PathMatch::Elements(prefix))
        | (PathMatch::Prefix(prefix) | PathMatch::Elements(prefix), PathMatch::Exact(text)) => {
            !begins(text, prefix, fold)
        }
        (PathMatch::Prefix(a) | PathMatch::Elements(a), PathMatch::Prefix(b) | PathMatch::Elements(b)) => {
            !begins(a, b, fold) && !begins(b, a, fold)
        }
    }
}

/// No text has both.
fn texts_differ(a: &TextMatch, b: &TextMatch, fold: bool) -> bool {
    match (a, b) {
        (TextMatch::Exact(a), TextMatch::Exact(b)) => !same(a, b, fold),
        (TextMatch::Exact(text), TextMatch::Prefix(prefix)) | (TextMatch::Prefix(prefix), TextMatch::Exact(text)) => {
            !begins(text, prefix, fold)
        }
        (TextMatch::Prefix(a), TextMatch::Prefix(b)) => !begins(a, b, fold) && !begins(b, a, fold),
        _ => false,
    }
}

fn same(a: &str, b: &str, fold: bool) -> bool {
    if fold { a.eq_ignore_ascii_case(b) } else { a == b }
}

fn begins(text: &str, prefix: &str, fold: bool) -> bool {
    let beginning = text.as_bytes().get(..prefix.len());
    beginning.is_some_and(|b| if fold { b.eq_ignore_ascii_case(prefix.as_bytes()) } else { b == prefix.as_bytes() })
}

//! May a request, or a connection, have the conditions of two rules at once? Where that is not known it may.

use mesh_common::model::traffic::{
    ConnectionMatch, HeaderMatch, HttpRoute, PathMatch, RequestMatch, Routes, TcpRoute, TextMatch, TlsRoute,
};

/// How many pairs of conditions are compared; beyond that the rules count as overlapping.
const PAIRS: usize = 100_000;

/// Of a rule that was there before, and one that takes the same.
#[derive(Debug, PartialEq, Eq)]
pub struct Overlap<'a> {
    /// Who says it.
    pub earlier: &'a str,
    /// The rule's field.
    pub later: &'a str,
}

/// The first two rules that overlap.
pub fn overlap<'a>(earlier: &'a Routes, later: &'a Routes) -> Option<Overlap<'a>> {
    http(&earlier.http, &later.http)
        .map(|(earlier, later)| Overlap { earlier: &earlier.origin.object, later: &later.origin.field })
        .or_else(|| {
            let tls = |a: &TlsRoute, b: &TlsRoute| names(a, b) && connections(&a.matches, &b.matches);
            let (earlier, later) = pair(&earlier.tls, &later.tls, tls)?;
            Some(Overlap { earlier: &earlier.origin.object, later: &later.origin.field })
        })
        .or_else(|| {
            let tcp = |a: &TcpRoute, b: &TcpRoute| connections(&a.matches, &b.matches);
            let (earlier, later) = pair(&earlier.tcp, &later.tcp, tcp)?;
            Some(Overlap { earlier: &earlier.origin.object, later: &later.origin.field })
        })
}

fn http<'a>(earlier: &'a [HttpRoute], later: &'a [HttpRoute]) -> Option<(&'a HttpRoute, &'a HttpRoute)> {
    // The usual case, and quickly found: one that takes everything.
    let all = earlier.iter().find(|route| route.matches.is_empty());
    if let (Some(all), Some(first)) = (all, later.first()) {
        return Some((all, first));
    }
    let matches = |routes: &[HttpRoute]| routes.iter().map(|route| route.matches.len().max(1)).sum::<usize>();
    if matches(earlier).saturating_mul(matches(later)) > PAIRS {
        return earlier.first().zip(later.first());
    }
    pair(earlier, later, |a, b| any(&a.matches, &b.matches, |a, b| !disjoint(a, b)))
}

fn pair<'a, T>(earlier: &'a [T], later: &'a [T], overlap: impl Fn(&T, &T) -> bool) -> Option<(&'a T, &'a T)> {
    if earlier.len().saturating_mul(later.len()) > PAIRS {
        return earlier.first().zip(later.first());
    }
    later
        .iter()
        .find_map(|later| earlier.iter().find(|earlier| overlap(earlier, later)).map(|earlier| (earlier, later)))
}

/// Whether any two of the alternatives overlap; no alternatives: everything.
fn any<T>(a: &[T], b: &[T], overlap: impl Fn(&T, &T) -> bool) -> bool {
    a.is_empty() || b.is_empty() || a.iter().any(|a| b.iter().any(|b| overlap(a, b)))
}

fn disjoint(a: &RequestMatch, b: &RequestMatch) -> bool {
    let both = |a: &Option<TextMatch>, b: &Option<TextMatch>, fold: bool| match (a, b) {
        (Some(a), Some(b)) => texts_differ(a, b, fold),
        _ => false,
    };
    let paths = match (&a.path, &b.path) {
        (Some(of_a), Some(of_b)) => paths_differ(of_a, of_b, a.ignore_path_case || b.ignore_path_case),
        _ => false,
    };
    paths
        || both(&a.method, &b.method, false)
        || both(&a.scheme, &b.scheme, true)
        || both(&a.authority, &b.authority, true)
        || differ(a.port.as_ref(), b.port.as_ref())
        || differ(a.source_namespace.as_ref(), b.source_namespace.as_ref())
        || a.source_labels.iter().any(|(key, value)| differ(Some(value), b.source_labels.get(key)))
        || a.headers.iter().any(|a| b.headers.iter().any(|b| headers_differ(a, b)))
        || a.query.iter().any(|a| b.query.iter().any(|b| a.name == b.name && texts_differ(&a.value, &b.value, false)))
}

fn connections(a: &[ConnectionMatch], b: &[ConnectionMatch]) -> bool {
    any(a, b, |a, b| {
        let subnets = any(&a.destination_subnets, &b.destination_subnets, |a, b| a.contains(b) || b.contains(a));
        subnets
            && !differ(a.port.as_ref(), b.port.as_ref())
            && !differ(a.source_namespace.as_ref(), b.source_namespace.as_ref())
            && !a.source_labels.iter().any(|(key, value)| differ(Some(value), b.source_labels.get(key)))
    })
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
    let text = |path: &PathMatch| match path {
        PathMatch::Exact(text) => TextMatch::Exact(text.clone()),
        PathMatch::Prefix(text) | PathMatch::Elements(text) => TextMatch::Prefix(text.clone()),
        PathMatch::Regex(_) => TextMatch::Any,
    };
    texts_differ(&text(a), &text(b), fold)
}

/// No text has both.
fn texts_differ(a: &TextMatch, b: &TextMatch, fold: bool) -> bool {
    let folded = |text: &str| if fold { text.to_ascii_lowercase() } else { text.to_owned() };
    match (a, b) {
        (TextMatch::Exact(a), TextMatch::Exact(b)) => folded(a) != folded(b),
        (TextMatch::Exact(text), TextMatch::Prefix(prefix)) | (TextMatch::Prefix(prefix), TextMatch::Exact(text)) => {
            !folded(text).starts_with(&folded(prefix))
        }
        (TextMatch::Prefix(a), TextMatch::Prefix(b)) => {
            let (a, b) = (folded(a), folded(b));
            !a.starts_with(&b) && !b.starts_with(&a)
        }
        _ => false,
    }
}

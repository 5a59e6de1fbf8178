//! Conditions on requests, put in order by what tells them apart: by their paths, and those of one path by one of their
//! other conditions. So a new one is compared with those only that it may overlap.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Included, Unbounded},
};

use mesh_common::model::traffic::{HttpRoute, PathMatch, RequestMatch, TextMatch};

use super::overlap::{Comparisons, Unknown, disjoint};

#[derive(Debug, Default)]
pub struct Before<'a> {
    /// The first of all.
    any: Option<&'a HttpRoute>,
    /// The first that takes everything.
    all: Option<&'a HttpRoute>,
    /// By the path, in lower case: whether that counts is seen when two are compared.
    exact: BTreeMap<Vec<u8>, Bucket<'a>>,
    prefix: BTreeMap<Vec<u8>, Bucket<'a>>,
    /// Of the paths in `prefix`.
    lengths: BTreeSet<usize>,
    /// Of any path, or of those of a pattern.
    others: Bucket<'a>,
}

/// Conditions on one path.
#[derive(Debug, Default)]
struct Bucket<'a> {
    by_facet: BTreeMap<Facet<'a>, BTreeMap<Value<'a>, Vec<Entry<'a>>>>,
    plain: Vec<Entry<'a>>,
}

#[derive(Clone, Copy, Debug)]
struct Entry<'a> {
    route: &'a HttpRoute,
    condition: &'a RequestMatch,
}

/// Something of which a request has one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Facet<'a> {
    Header(&'a str),
    Query(&'a str),
    Method,
    Namespace,
    Port,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Value<'a> {
    Text(&'a str),
    Port(u16),
}

impl<'a> Before<'a> {
    pub fn extend(&mut self, routes: &'a [HttpRoute]) {
        for route in routes {
            self.any.get_or_insert(route);
            if route.matches.is_empty() {
                self.all.get_or_insert(route);
            }
            for condition in &route.matches {
                let bucket = match &condition.path {
                    Some(PathMatch::Exact(path)) => self.exact.entry(folded(path)).or_default(),
                    Some(PathMatch::Prefix(path) | PathMatch::Elements(path)) => {
                        self.lengths.insert(path.len());
                        self.prefix.entry(folded(path)).or_default()
                    }
                    Some(PathMatch::Regex(_)) | None => &mut self.others,
                };
                bucket.add(Entry { route, condition });
            }
        }
    }

    /// One that takes some or all of the same.
    pub fn overlapping(&self, route: &HttpRoute, left: &mut Comparisons) -> Result<Option<&'a HttpRoute>, Unknown> {
        left.spend(1)?;
        if self.all.is_some() {
            return Ok(self.all);
        }
        if route.matches.is_empty() {
            return Ok(self.any);
        }
        for condition in &route.matches {
            if let Some(found) = self.with(condition, left)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    fn with(&self, condition: &RequestMatch, left: &mut Comparisons) -> Result<Option<&'a HttpRoute>, Unknown> {
        if let Some(found) = self.others.with(condition, left)? {
            return Ok(Some(found));
        }
        let (path, is_prefix) = match &condition.path {
            Some(PathMatch::Exact(path)) => (folded(path), false),
            Some(PathMatch::Prefix(path) | PathMatch::Elements(path)) => (folded(path), true),
            // Any path may be meant.
            Some(PathMatch::Regex(_)) | None => (Vec::new(), true),
        };
        // Those that this one's path begins with.
        let lengths = if is_prefix { self.lengths.range(..path.len()) } else { self.lengths.range(..=path.len()) };
        for length in lengths {
            left.spend(1)?;
            if let Some(found) = found(self.prefix.get(&path[..*length]), condition, left)? {
                return Ok(Some(found));
            }
        }
        if !is_prefix {
            return found(self.exact.get(&path), condition, left);
        }
        // Those that begin with it.
        for map in [&self.exact, &self.prefix] {
            let longer = map.range::<[u8], _>((Included(path.as_slice()), Unbounded));
            for (_, bucket) in longer.take_while(|(longer, _)| longer.starts_with(&path)) {
                left.spend(1)?;
                if let Some(found) = bucket.with(condition, left)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }
}

fn found<'a>(
    bucket: Option<&Bucket<'a>>,
    condition: &RequestMatch,
    left: &mut Comparisons,
) -> Result<Option<&'a HttpRoute>, Unknown> {
    bucket.map_or(Ok(None), |bucket| bucket.with(condition, left))
}

impl<'a> Bucket<'a> {
    fn add(&mut self, entry: Entry<'a>) {
        match facets(entry.condition).next() {
            Some((facet, value)) => {
                self.by_facet.entry(facet).or_default().entry(value).or_default().push(entry);
            }
            None => self.plain.push(entry),
        }
    }

    fn with(&self, condition: &RequestMatch, left: &mut Comparisons) -> Result<Option<&'a HttpRoute>, Unknown> {
        if let Some(found) = first(&self.plain, condition, left)? {
            return Ok(Some(found));
        }
        for (facet, by_value) in &self.by_facet {
            left.spend(1 + condition.headers.len() + condition.query.len())?;
            let value = facets(condition).find(|(own, _)| own == facet);
            // With another value of the same no request has both.
            let lists = match value {
                Some((_, value)) => by_value.range(value..=value),
                None => by_value.range(..),
            };
            for (_, list) in lists {
                if let Some(found) = first(list, condition, left)? {
                    return Ok(Some(found));
                }
            }
        }
        Ok(None)
    }
}

fn first<'a>(
    list: &[Entry<'a>],
    condition: &RequestMatch,
    left: &mut Comparisons,
) -> Result<Option<&'a HttpRoute>, Unknown> {
    for entry in list {
        if !disjoint(entry.condition, condition, left)? {
            return Ok(Some(entry.route));
        }
    }
    Ok(None)
}

/// What a request must have of which it has one value.
fn facets(condition: &RequestMatch) -> impl Iterator<Item = (Facet<'_>, Value<'_>)> {
    let headers = condition.headers.iter().filter(|header| !header.not);
    let headers = headers.filter_map(|header| Some((Facet::Header(&header.name), exact(&header.value)?)));
    let query = condition.query.iter().filter_map(|query| Some((Facet::Query(&query.name), exact(&query.value)?)));
    let method = condition.method.iter().filter_map(|method| Some((Facet::Method, exact(method)?)));
    let namespace = condition.source_namespace.iter().map(|name| (Facet::Namespace, Value::Text(name)));
    let port = condition.port.iter().map(|port| (Facet::Port, Value::Port(*port)));
    headers.chain(query).chain(method).chain(namespace).chain(port)
}

fn exact(text: &TextMatch) -> Option<Value<'_>> {
    match text {
        TextMatch::Exact(text) => Some(Value::Text(text)),
        TextMatch::Prefix(_) | TextMatch::Regex(_) | TextMatch::Any => None,
    }
}

fn folded(path: &str) -> Vec<u8> {
    path.to_ascii_lowercase().into_bytes()
}

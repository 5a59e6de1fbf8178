//! Which entries of a router may match a request: few of many, found without asking each. What it names is still asked;
//! what it does not name cannot match.
//!
//! By the path: whole ones in a hash map, beginnings (prefixes, elements, what a pattern begins with) in a sorted list,
//! other certain parts of patterns in one automaton, the rest apart. Entries of one path again by the first header of
//! which they want one value. Patterns without any certain part are tried one by one.

use std::collections::HashMap;

use aho_corasick::AhoCorasick;
use http::{HeaderMap, HeaderName};

use super::{
    condition::{Condition, Path, joined},
    effort::Effort,
};

/// A place in the list of entries.
pub(super) type Place = u32;

#[derive(Debug, Default)]
pub(super) struct Index {
    as_sent: Paths,
    /// Of entries to which upper and lower case are one in the path; in lower case.
    folded: Paths,
    parts: Parts,
    /// Entries of which the path tells nothing.
    rest: Bucket,
}

#[derive(Debug, Default)]
struct Paths {
    exact: HashMap<Vec<u8>, Bucket>,
    beginnings: Beginnings,
}

/// Texts in their order. Those that a path begins with are a chain: the last one that is not behind the path or one of
/// those that this one begins with, and from there on all that it begins with.
#[derive(Debug, Default)]
struct Beginnings(Vec<Beginning>);

#[derive(Debug)]
struct Beginning {
    text: Vec<u8>,
    bucket: Bucket,
    /// The longest other one that it begins with.
    shorter: Option<usize>,
    /// Of its bucket and all shorter ones'.
    lowest: Place,
}

/// Texts that may be anywhere in a path.
#[derive(Debug, Default)]
struct Parts {
    /// None: there are none.
    texts: Option<AhoCorasick>,
    buckets: Vec<Bucket>,
}

/// Entries that the path does not tell apart, in their order.
#[derive(Debug, Default)]
struct Bucket {
    /// Each of them is asked.
    plain: Vec<Place>,
    /// By name and value.
    by_header: HashMap<HeaderName, HashMap<Vec<u8>, Vec<Place>>>,
}

impl Index {
    pub fn new<'a>(conditions: impl Iterator<Item = &'a Condition> + Clone) -> Self {
        // A text that many patterns have helps little: another of the pattern's may be better.
        let mut alike = HashMap::<(bool, &[u8]), usize>::new();
        for literals in conditions.clone().filter_map(Condition::literals) {
            for text in literals.all() {
                *alike.entry(text).or_default() += 1;
            }
        }
        let mut index = Self::default();
        let mut beginnings = [HashMap::<Vec<u8>, Bucket>::new(), HashMap::new()];
        let mut parts = HashMap::<Vec<u8>, Bucket>::new();
        for (place, condition) in (0..).zip(conditions) {
            let folds = condition.folds_path();
            let text = |text: &[u8]| if folds { text.to_ascii_lowercase() } else { text.to_vec() };
            let begins = &mut beginnings[usize::from(folds)];
            let bucket = match condition.path() {
                Some(Path::Exact(path)) => index.paths(folds).exact.entry(text(path)).or_default(),
                Some(Path::Prefix(path) | Path::Elements(path)) if !path.is_empty() => {
                    begins.entry(text(path)).or_default()
                }
                Some(Path::Regex(_, literals)) => match literals.all().min_by_key(|text| alike[text]) {
                    Some((true, first)) => begins.entry(text(first)).or_default(),
                    Some((false, part)) => parts.entry(part.to_vec()).or_default(),
                    None => &mut index.rest,
                },
                _ => &mut index.rest,
            };
            bucket.put(place, condition);
        }
        let [as_sent, folded] = beginnings.map(Beginnings::new);
        index.as_sent.beginnings = as_sent;
        index.folded.beginnings = folded;
        index.parts = Parts::new(parts);
        index
    }

    fn paths(&mut self, folded: bool) -> &mut Paths {
        if folded { &mut self.folded } else { &mut self.as_sent }
    }

    /// The lowest place that `holds`, with what it said; `holds` is asked of candidates only, and of none above one
    /// that held.
    pub fn lowest<T>(
        &self,
        path: &[u8],
        headers: &HeaderMap,
        effort: &Effort,
        holds: impl FnMut(Place) -> Option<T>,
    ) -> Option<(Place, T)> {
        let mut search = Search { headers, effort, holds, best: None };
        search.paths(&self.as_sent, path);
        if !self.folded.is_empty() {
            search.paths(&self.folded, &path.to_ascii_lowercase());
        }
        search.parts(&self.parts, path);
        search.bucket(&self.rest);
        search.best
    }
}

impl Paths {
    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.beginnings.0.is_empty()
    }
}

impl Beginnings {
    fn new(texts: HashMap<Vec<u8>, Bucket>) -> Self {
        let mut texts: Vec<_> = texts.into_iter().collect();
        texts.sort_by(|(one, _), (other, _)| one.cmp(other));
        let mut list = Vec::<Beginning>::with_capacity(texts.len());
        for (text, bucket) in texts {
            let mut shorter = list.len().checked_sub(1);
            while let Some(place) = shorter.filter(|&place| !text.starts_with(&list[place].text)) {
                shorter = list[place].shorter;
            }
            let lowest = bucket.lowest().min(shorter.map_or(Place::MAX, |place| list[place].lowest));
            list.push(Beginning { text, bucket, shorter, lowest });
        }
        Self(list)
    }
}

impl Parts {
    fn new(parts: HashMap<Vec<u8>, Bucket>) -> Self {
        let (texts, buckets): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
        let built = || AhoCorasick::new(&texts).expect("texts within patterns, whose number and length are bounded");
        Self { texts: (!texts.is_empty()).then(built), buckets }
    }
}

impl Bucket {
    fn put(&mut self, place: Place, condition: &Condition) {
        let list = match condition.wanted_header() {
            Some((name, value)) => self.by_header.entry(name.clone()).or_default().entry(value.to_vec()).or_default(),
            None => &mut self.plain,
        };
        list.push(place);
    }

    fn lowest(&self) -> Place {
        let lists = self.by_header.values().flat_map(HashMap::values).chain([&self.plain]);
        lists.filter_map(|list| list.first()).copied().min().unwrap_or(Place::MAX)
    }
}

struct Search<'a, F, T> {
    headers: &'a HeaderMap,
    effort: &'a Effort,
    holds: F,
    best: Option<(Place, T)>,
}

impl<T, F: FnMut(Place) -> Option<T>> Search<'_, F, T> {
    fn paths(&mut self, paths: &Paths, path: &[u8]) {
        if let Some(bucket) = paths.exact.get(path) {
            self.bucket(bucket);
        }
        self.beginnings(&paths.beginnings, path);
    }

    fn beginnings(&mut self, Beginnings(list): &Beginnings, path: &[u8]) {
        let mut next = list.partition_point(|beginning| beginning.text.as_slice() <= path).checked_sub(1);
        while let Some(Beginning { text, bucket, shorter, lowest }) = next.map(|place| &list[place]) {
            if !self.below(*lowest) {
                return;
            }
            if path.starts_with(text) {
                self.bucket(bucket);
            }
            next = *shorter;
        }
    }

    fn parts(&mut self, Parts { texts, buckets }: &Parts, path: &[u8]) {
        let Some(texts) = texts else { return };
        // A path may have a text many times; its entries are asked once.
        let mut asked = Vec::new();
        for found in texts.find_overlapping_iter(path) {
            // Texts may end in one another, and a path in all of them at each of its bytes.
            if !self.effort.takes(1) {
                return;
            }
            asked.resize(buckets.len(), false);
            let number = found.pattern().as_usize();
            if !std::mem::replace(&mut asked[number], true) {
                self.bucket(&buckets[number]);
            }
        }
    }

    fn bucket(&mut self, Bucket { plain, by_header }: &Bucket) {
        self.list(plain);
        if by_header.is_empty() {
            return;
        }
        // Whichever are fewer: the headers that were sent or those that are asked for.
        if by_header.len() <= self.headers.keys_len() {
            for (name, values) in by_header {
                self.header(name, values);
            }
        } else {
            for name in self.headers.keys() {
                if let Some(values) = by_header.get(name) {
                    self.header(name, values);
                }
            }
        }
    }

    fn header(&mut self, name: &HeaderName, values: &HashMap<Vec<u8>, Vec<Place>>) {
        if let Some(list) = joined(self.headers, name).and_then(|value| values.get(&*value)) {
            self.list(list);
        }
    }

    fn list(&mut self, list: &[Place]) {
        for place in list {
            if !self.below(*place) {
                return;
            }
            if let Some(told) = (self.holds)(*place) {
                self.best = Some((*place, told));
                return;
            }
        }
    }

    fn below(&self, place: Place) -> bool {
        self.best.as_ref().is_none_or(|(best, _)| place < *best)
    }
}

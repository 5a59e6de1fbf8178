//! Which rules may match: few of many, found without asking each. What it names is still asked; what it does not name
//! cannot match.
//!
//! Every rule lies under keys of one of its clauses, chosen so that few others lie there; those that lie under one key
//! are told apart again by other keys of theirs. Rules without any key are asked one by one.

use std::{
    collections::{HashMap, HashSet},
    hash::BuildHasherDefault,
    net::IpAddr,
};

use super::{
    hash::{self, As, Same},
    keys::{self, Asked, Attribute, Key, Keyed, Lookup},
};
use crate::model::{
    Passing, Requested,
    http_policy::{Host, claim_texts, header_values},
};

/// A rule's place in the list.
type Place = u32;

/// So many rules are asked one by one.
const FEW: usize = 8;
/// How often rules under one key are told apart again.
const DEPTH: usize = 4;
/// A rule with many values lies in many places: on the average of a list, in no more than this.
const COPIES: usize = 4;
/// Headers and claims that are looked for; rules about others are found by other conditions.
const NAMES: usize = 32;

#[derive(Debug, Default)]
pub(super) struct Index {
    attributes: Vec<Looked>,
    buckets: HashMap<u64, Bucket, BuildHasherDefault<Same>>,
    /// Rules without a key.
    rest: Vec<Place>,
}

#[derive(Debug)]
enum Bucket {
    Few(Vec<Place>),
    Many { lowest: Place, index: Box<Index> },
}

/// An attribute, and what of it is some rule's key.
#[derive(Debug)]
struct Looked {
    attribute: Attribute,
    base: u64,
    whole: bool,
    present: bool,
    segments: bool,
    /// Lengths, ascending.
    beginnings: Vec<usize>,
    ends: Vec<usize>,
    nets: Vec<(bool, u8)>,
}

impl Index {
    /// Places are those in `rules`; `seed` is that of their keys.
    pub fn new(rules: &[Keyed], seed: u64) -> Self {
        let all: Vec<_> = (0..).zip(rules).map(|(place, _)| place).collect();
        if all.len() <= FEW {
            return Self { rest: all, ..Self::default() };
        }
        let mut work = Work::over(rules);
        Self::of(&all, rules, seed, 0, &mut work).unwrap_or_else(|| Self { rest: all, ..Self::default() })
    }

    /// `None`: `places` are not told apart well enough.
    fn of(places: &[Place], rules: &[Keyed], seed: u64, depth: usize, work: &mut Work) -> Option<Self> {
        if !work.takes(places, rules) {
            return None;
        }
        let counted = Counted::new(places, rules);
        // What lies under a key that all of them have is not told apart by it again.
        let most = if depth == 0 { u64::MAX } else { places.len() as u64 };
        let mut index = Self::default();
        let mut looked = HashMap::<&Attribute, Looked>::new();
        let mut lists = HashMap::<u64, Vec<Place>, BuildHasherDefault<Same>>::default();
        let mut copies = 0;
        for place in places {
            let Some((_, keys)) = counted.best(&rules[*place as usize]).filter(|(cost, _)| *cost < most) else {
                index.rest.push(*place);
                continue;
            };
            for Key { hash, attribute, lookup } in keys {
                looked.entry(attribute).or_insert_with(|| Looked::new(attribute, seed)).add(lookup);
                let list = lists.entry(*hash).or_default();
                if list.last() != Some(place) {
                    list.push(*place);
                    copies += 1;
                }
            }
        }
        if depth > 0 && (index.rest.len() * 2 > places.len() || copies > places.len() * COPIES) {
            return None;
        }
        index.attributes = looked.into_values().collect();
        index.attributes.iter_mut().for_each(Looked::sort);
        index.buckets =
            lists.into_iter().map(|(hash, list)| (hash, Bucket::new(list, rules, seed, depth + 1, work))).collect();
        Some(index)
    }

    /// The lowest place that `holds`; `holds` is asked of candidates only, and of none above one that held.
    pub fn lowest(&self, asked: &Asked<'_>, holds: impl FnMut(Place) -> bool) -> Option<Place> {
        let mut search = Search { asked, holds, best: Place::MAX };
        search.index(self);
        (search.best != Place::MAX).then_some(search.best)
    }
}

impl Bucket {
    fn new(places: Vec<Place>, rules: &[Keyed], seed: u64, depth: usize, work: &mut Work) -> Self {
        if places.len() > FEW
            && depth < DEPTH
            && let Some(index) = Index::of(&places, rules, seed, depth, work)
        {
            return Self::Many { lowest: places[0], index: Box::new(index) };
        }
        Self::Few(places)
    }
}

/// How many keys may still be looked at. Who writes many values that many rules share would have them looked at once
/// for each pair; what is left then is asked one by one.
struct Work {
    left: usize,
}

impl Work {
    /// In lists whose rules can be told apart, each key is looked at once a depth and place.
    fn over(rules: &[Keyed]) -> Self {
        Self { left: rules.iter().map(Keyed::count).sum::<usize>().saturating_mul(DEPTH * COPIES) }
    }

    fn takes(&mut self, places: &[Place], rules: &[Keyed]) -> bool {
        let keys: usize = places.iter().map(|place| rules[*place as usize].count()).sum();
        self.left.checked_sub(keys).map(|left| self.left = left).is_some()
    }
}

/// How many rules have a key.
struct Counted<'a> {
    keys: HashMap<u64, u64, BuildHasherDefault<Same>>,
    /// Headers and claims that are no keys, since there are too many of them.
    left_out: HashSet<&'a Attribute>,
}

impl<'a> Counted<'a> {
    fn new(places: &[Place], rules: &'a [Keyed]) -> Self {
        let mut keys = HashMap::<_, _, BuildHasherDefault<Same>>::default();
        let mut named = HashMap::<&Attribute, u64>::new();
        let all = places.iter().flat_map(|place| &rules[*place as usize].clauses);
        for Key { hash, attribute, lookup: _ } in all.flatten().flatten().flatten().flatten() {
            *keys.entry(*hash).or_default() += 1;
            if matches!(attribute, Attribute::Header(_) | Attribute::Claim(_)) {
                *named.entry(attribute).or_default() += 1;
            }
        }
        let mut named: Vec<_> = named.into_iter().collect();
        named.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let left_out = named.into_iter().skip(NAMES).map(|(attribute, _)| attribute).collect();
        Self { keys, left_out }
    }

    /// The keys under which the fewest others lie, with how many these are; `None`: the rule has no keys.
    fn best<'r>(&self, rule: &'r Keyed) -> Option<(u64, Vec<&'r Key>)> {
        let by_count = |(count, _): &(u64, Vec<&Key>)| *count;
        let all = |(count, mut keys): (u64, Vec<&'r Key>), (more, others): (u64, Vec<&'r Key>)| {
            keys.extend(others);
            (count + more, keys)
        };
        let value = |keys: &'r Vec<Key>| {
            let usable = keys.iter().filter(|key| !self.left_out.contains(&key.attribute));
            usable.map(|key| (self.keys[&key.hash], vec![key])).min_by_key(by_count)
        };
        let condition = |values: &'r keys::Condition| {
            values.iter().try_fold((0, Vec::new()), |sum, one| Some(all(sum, value(one)?)))
        };
        let one_match = |conditions: &'r keys::KeyedMatch| conditions.iter().filter_map(condition).min_by_key(by_count);
        let clause = |matches: &'r Vec<keys::KeyedMatch>| {
            let found = matches.iter().try_fold((0, Vec::new()), |sum, one| Some(all(sum, one_match(one)?)));
            // A clause without matches always holds.
            found.filter(|(_, keys)| !keys.is_empty())
        };
        rule.clauses.iter().filter_map(clause).min_by_key(by_count)
    }
}

impl Looked {
    fn new(attribute: &Attribute, seed: u64) -> Self {
        Self {
            attribute: attribute.clone(),
            base: attribute.base(seed),
            whole: false,
            present: false,
            segments: false,
            beginnings: Vec::new(),
            ends: Vec::new(),
            nets: Vec::new(),
        }
    }

    fn add(&mut self, lookup: &Lookup) {
        fn once<T: PartialEq>(list: &mut Vec<T>, value: T) {
            if !list.contains(&value) {
                list.push(value);
            }
        }
        match *lookup {
            Lookup::Whole => self.whole = true,
            Lookup::Present => self.present = true,
            Lookup::Segment => self.segments = true,
            Lookup::Beginning(length) => once(&mut self.beginnings, length),
            Lookup::End(length) => once(&mut self.ends, length),
            Lookup::Net { v6, length } => once(&mut self.nets, (v6, length)),
        }
    }

    fn sort(&mut self) {
        self.beginnings.sort_unstable();
        self.ends.sort_unstable();
    }
}

struct Search<'a, F> {
    asked: &'a Asked<'a>,
    holds: F,
    best: Place,
}

impl<F: FnMut(Place) -> bool> Search<'_, F> {
    fn index(&mut self, index: &Index) {
        for looked in &index.attributes {
            self.attribute(index, looked);
        }
        self.list(&index.rest);
    }

    fn attribute(&mut self, index: &Index, looked: &Looked) {
        let asked = self.asked;
        let identity = asked.connection.source_identity.as_ref();
        match &looked.attribute {
            Attribute::Namespace => {
                if let Some(identity) = identity {
                    self.text(index, looked, identity.namespace());
                }
            }
            Attribute::Principal => {
                if let Some(principal) = asked.principal() {
                    self.text(index, looked, principal);
                }
            }
            Attribute::Account => {
                if let Some(identity) = identity {
                    self.bucket(index, keys::account(looked.base, identity.namespace(), identity.service_account()));
                }
            }
            Attribute::SourceIp => self.ip(index, looked, asked.connection.source_ip),
            Attribute::DestinationIp => self.ip(index, looked, asked.connection.destination.ip()),
            Attribute::Port => {
                let port = hash::number(looked.base, asked.connection.destination.port().into());
                self.bucket(index, hash::done(port, As::Whole));
            }
            Attribute::ServerName => {
                if let Passing::Bytes { server_name: Some(name) } = asked.passing {
                    self.text(index, looked, name);
                }
            }
            _ => {
                if let Some(request) = asked.request() {
                    self.of_request(index, looked, request);
                }
            }
        }
    }

    fn of_request(&mut self, index: &Index, looked: &Looked, request: &Requested<'_>) {
        let Requested { method, path, host, headers: _, token } = *request;
        match &looked.attribute {
            Attribute::Host => {
                let host = Host::new(host);
                self.text(index, looked, &host.whole);
                if host.name.len() != host.whole.len() {
                    self.text(index, looked, host.name);
                }
            }
            Attribute::Method => self.text(index, looked, method),
            Attribute::Path => {
                self.text(index, looked, path);
                if looked.segments {
                    for (number, text) in path.split('/').enumerate() {
                        self.bucket(index, keys::segment(looked.base, number, text));
                    }
                }
            }
            Attribute::RequestPrincipal => {
                if let Some(token) = token {
                    self.text(index, looked, &token.principal);
                }
            }
            Attribute::Audience => {
                for audience in token.into_iter().flat_map(|token| &token.audiences) {
                    self.text(index, looked, audience);
                }
            }
            Attribute::Presenter => {
                if let Some(presenter) = token.and_then(|token| token.presenter.as_deref()) {
                    self.text(index, looked, presenter);
                }
            }
            Attribute::Header(name) => {
                header_values(name, request, |value| {
                    self.text(index, looked, value);
                    false
                });
            }
            Attribute::Claim(path) => {
                claim_texts(path, token, |text| {
                    self.text(index, looked, text);
                    false
                });
            }
            // Of the connection.
            Attribute::Namespace
            | Attribute::Principal
            | Attribute::Account
            | Attribute::SourceIp
            | Attribute::DestinationIp
            | Attribute::Port
            | Attribute::ServerName => {}
        }
    }

    /// All rules with a text that `value` is, begins with or ends with.
    fn text(&mut self, index: &Index, looked: &Looked, value: &str) {
        let bytes = value.as_bytes();
        let (mut state, mut from) = (looked.base, 0);
        for &length in looked.beginnings.iter().take_while(|length| **length <= bytes.len()) {
            state = hash::text(state, &bytes[from..length]);
            from = length;
            self.bucket(index, hash::done(state, As::Beginning));
        }
        if looked.whole {
            self.bucket(index, hash::done(hash::text(state, &bytes[from..]), As::Whole));
        }
        let (mut state, mut to) = (looked.base, bytes.len());
        for &length in looked.ends.iter().take_while(|length| **length <= bytes.len()) {
            let from = bytes.len() - length;
            state = hash::backwards(state, &bytes[from..to]);
            to = from;
            self.bucket(index, hash::done(state, As::End));
        }
        if looked.present {
            self.bucket(index, hash::done(looked.base, As::Present));
        }
    }

    fn ip(&mut self, index: &Index, looked: &Looked, ip: IpAddr) {
        let (is_v6, address) = match ip.to_canonical() {
            IpAddr::V4(v4) => (false, u128::from(v4.to_bits())),
            IpAddr::V6(v6) => (true, v6.to_bits()),
        };
        for &(v6, length) in looked.nets.iter().filter(|(v6, _)| *v6 == is_v6) {
            self.bucket(index, keys::net(looked.base, v6, length, address));
        }
    }

    fn bucket(&mut self, index: &Index, hash: u64) {
        match index.buckets.get(&hash) {
            Some(Bucket::Few(list)) => self.list(list),
            Some(Bucket::Many { lowest, index }) if *lowest < self.best => self.index(index),
            Some(Bucket::Many { .. }) | None => {}
        }
    }

    fn list(&mut self, list: &[Place]) {
        for place in list {
            if *place >= self.best {
                return;
            }
            if (self.holds)(*place) {
                self.best = *place;
                return;
            }
        }
    }
}

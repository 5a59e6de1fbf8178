//! What must be true of a connection or request for a rule to match, as keys that it can be found by. Conditions that
//! are no key (every `not_`) are left to the rule itself.

use std::cell::OnceCell;

use ipnet::IpNet;

use super::hash::{self, As};
use crate::model::{
    Action, Clause, Connection, HttpMatch, Identity, Match, Passing, PathPattern, Requested, Rule, StringMatch,
    http_policy::{Template, undotted},
};

/// What a decision is about.
pub(super) struct Asked<'a> {
    pub connection: &'a Connection,
    pub passing: &'a Passing<'a>,
    principal: OnceCell<Option<String>>,
}

/// The sorts of [`Passing`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Open,
    Bytes,
    Request,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Attribute {
    Namespace,
    Principal,
    Account,
    SourceIp,
    DestinationIp,
    Port,
    ServerName,
    Host,
    Method,
    Path,
    RequestPrincipal,
    Audience,
    Presenter,
    Header(String),
    Claim(Vec<String>),
}

/// How an attribute is looked up to find a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lookup {
    Whole,
    /// Of this length.
    Beginning(usize),
    End(usize),
    Present,
    Segment,
    Net {
        v6: bool,
        length: u8,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub hash: u64,
    pub attribute: Attribute,
    pub lookup: Lookup,
}

/// Each of these finds the value.
type Value = Vec<Key>;
/// The values of one condition: one of them is found if it holds.
pub(super) type Condition = Vec<Value>;
/// Any of the conditions finds the match.
pub(super) type KeyedMatch = Vec<Condition>;

/// Clauses by their matches: any clause finds the rule, by the keys of each of its matches.
#[derive(Debug)]
pub(super) struct Keyed {
    pub clauses: Vec<Vec<KeyedMatch>>,
}

impl<'a> Asked<'a> {
    pub fn new(connection: &'a Connection, passing: &'a Passing<'a>) -> Self {
        Self { connection, passing, principal: OnceCell::new() }
    }

    pub fn principal(&self) -> Option<&str> {
        let made = || self.connection.source_identity.as_ref().map(Identity::principal);
        self.principal.get_or_init(made).as_deref()
    }

    pub fn request(&self) -> Option<&'a Requested<'a>> {
        match *self.passing {
            Passing::Request(request) => Some(request),
            Passing::Open | Passing::Bytes { .. } | Passing::Unnamed => None,
        }
    }
}

impl Attribute {
    /// Where the hashes of its values begin.
    pub fn base(&self, seed: u64) -> u64 {
        let kind = |kind| hash::number(seed, kind);
        match self {
            Self::Namespace => kind(1),
            Self::Principal => kind(2),
            Self::Account => kind(3),
            Self::SourceIp => kind(4),
            Self::DestinationIp => kind(5),
            Self::Port => kind(6),
            Self::ServerName => kind(7),
            Self::Host => kind(8),
            Self::Method => kind(9),
            Self::Path => kind(10),
            Self::RequestPrincipal => kind(11),
            Self::Audience => kind(12),
            Self::Presenter => kind(13),
            Self::Header(name) => hash::text(kind(14), name.as_bytes()),
            Self::Claim(path) => {
                path.iter().fold(kind(15), |state, name| hash::text(hash::step(state, 0), name.as_bytes()))
            }
        }
    }
}

impl Keyed {
    /// `None`: it never holds of what is seen.
    pub fn new(rule: &Rule, action: Action, seen: Seen, seed: u64) -> Option<Self> {
        let clause = |Clause { matches }: &Clause| {
            let keyed: Vec<_> = matches.iter().filter_map(|m| match_of(m, action, seen, seed)).collect();
            // Without matches it holds always; with none that can hold, never.
            (matches.is_empty() || !keyed.is_empty()).then_some(keyed)
        };
        Some(Self { clauses: rule.clauses.iter().map(clause).collect::<Option<_>>()? })
    }
}

impl Keyed {
    /// Of keys.
    pub fn count(&self) -> usize {
        self.clauses.iter().flatten().flatten().flatten().map(Vec::len).sum()
    }
}

/// `None`: it never holds.
fn match_of(m: &Match, action: Action, seen: Seen, seed: u64) -> Option<KeyedMatch> {
    let Match {
        namespaces,
        principals,
        source_ips,
        destination_ips,
        destination_ports,
        service_accounts,
        http,
        not_namespaces: _,
        not_principals: _,
        not_source_ips: _,
        not_destination_ips: _,
        not_destination_ports: _,
        not_service_accounts: _,
    } = m;
    let mut keys = Keys { seed, conditions: Vec::new() };
    keys.texts(&Attribute::Namespace, namespaces);
    keys.texts(&Attribute::Principal, principals);
    keys.nets(&Attribute::SourceIp, source_ips);
    keys.nets(&Attribute::DestinationIp, destination_ips);
    keys.each(&Attribute::Port, destination_ports, |base, port| {
        vec![(hash::done(hash::number(base, u64::from(*port)), As::Whole), Lookup::Whole)]
    });
    keys.each(&Attribute::Account, service_accounts, |base, want| {
        vec![(account(base, &want.namespace, &want.service_account), Lookup::Whole)]
    });
    if let Some(http) = http.as_deref() {
        let holds = match seen {
            Seen::Open => action == Action::Allow,
            Seen::Bytes => action == Action::Deny || !http.asks_requests(),
            Seen::Request => http.server_names.is_empty(),
        };
        if !holds {
            return None;
        }
        match seen {
            Seen::Open => {}
            Seen::Bytes => keys.texts(&Attribute::ServerName, &http.server_names),
            Seen::Request => keys.request(http),
        }
    }
    Some(keys.conditions)
}

pub(super) fn account(base: u64, namespace: &str, account: &str) -> u64 {
    let state = hash::step(hash::text(base, namespace.as_bytes()), b'/');
    hash::done(hash::text(state, account.as_bytes()), As::Whole)
}

/// Its network, and of which family.
pub(super) fn net(base: u64, v6: bool, length: u8, address: u128) -> u64 {
    let width = if v6 { 128 } else { 32 };
    let masked = address & (!0_u128).checked_shl(width - u32::from(length)).unwrap_or(0);
    let state = hash::number(base, u64::from(v6) << 8 | u64::from(length));
    hash::done(hash::number(hash::number(state, masked as u64), (masked >> 64) as u64), As::Net)
}

struct Keys {
    seed: u64,
    conditions: KeyedMatch,
}

impl Keys {
    fn request(&mut self, http: &HttpMatch) {
        let HttpMatch {
            hosts,
            methods,
            paths,
            request_principals,
            remote_ips,
            audiences,
            presenters,
            headers,
            claims,
            // A request has none.
            server_names: _,
            not_server_names: _,
            not_hosts: _,
            not_methods: _,
            not_paths: _,
            not_request_principals: _,
            not_remote_ips: _,
            not_audiences: _,
            not_presenters: _,
        } = http;
        let undotted = |want: &StringMatch| match want {
            StringMatch::Exact(text) => StringMatch::Exact(undotted(text).into_owned()),
            StringMatch::Suffix(text) => StringMatch::Suffix(undotted(text).into_owned()),
            StringMatch::Prefix(_) | StringMatch::Presence => want.clone(),
        };
        self.texts(&Attribute::Host, &hosts.iter().map(undotted).collect::<Vec<_>>());
        self.texts(&Attribute::Method, methods);
        self.each(&Attribute::Path, paths, path);
        self.texts(&Attribute::RequestPrincipal, request_principals);
        self.nets(&Attribute::SourceIp, remote_ips);
        self.texts(&Attribute::Audience, audiences);
        self.texts(&Attribute::Presenter, presenters);
        for header in headers {
            self.texts(&Attribute::Header(header.name.clone()), &header.values);
        }
        for claim in claims {
            self.texts(&Attribute::Claim(claim.path.clone()), &claim.values);
        }
    }

    fn each<T>(&mut self, attribute: &Attribute, list: &[T], keys: impl Fn(u64, &T) -> Vec<(u64, Lookup)>) {
        if list.is_empty() {
            return;
        }
        let base = attribute.base(self.seed);
        let key = |(hash, lookup)| Key { hash, attribute: attribute.clone(), lookup };
        self.conditions.push(list.iter().map(|want| keys(base, want).into_iter().map(key).collect()).collect());
    }

    fn texts(&mut self, attribute: &Attribute, list: &[StringMatch]) {
        self.each(attribute, list, |base, want| vec![text(base, want)]);
    }

    fn nets(&mut self, attribute: &Attribute, list: &[IpNet]) {
        self.each(attribute, list, |base, want| {
            // A network of IPv4-mapped addresses is that of IPv4.
            let (v6, length, address) = match want {
                IpNet::V4(net) => (false, net.prefix_len(), u128::from(net.addr().to_bits())),
                IpNet::V6(net) => match net.addr().to_ipv4_mapped().filter(|_| net.prefix_len() >= 96) {
                    Some(v4) => (false, net.prefix_len() - 96, u128::from(v4.to_bits())),
                    None => (true, net.prefix_len(), net.addr().to_bits()),
                },
            };
            vec![(self::net(base, v6, length, address), Lookup::Net { v6, length })]
        });
    }
}

fn text(base: u64, want: &StringMatch) -> (u64, Lookup) {
    match want {
        StringMatch::Exact(text) => (hash::done(hash::text(base, text.as_bytes()), As::Whole), Lookup::Whole),
        StringMatch::Prefix(text) => beginning(base, text),
        StringMatch::Suffix(text) => end(base, text),
        StringMatch::Presence => (hash::done(base, As::Present), Lookup::Present),
    }
}

fn beginning(base: u64, text: &str) -> (u64, Lookup) {
    (hash::done(hash::text(base, text.as_bytes()), As::Beginning), Lookup::Beginning(text.len()))
}

fn end(base: u64, text: &str) -> (u64, Lookup) {
    (hash::done(hash::backwards(base, text.as_bytes()), As::End), Lookup::End(text.len()))
}

fn path(base: u64, want: &PathPattern) -> Vec<(u64, Lookup)> {
    let template = match want {
        PathPattern::Text(want) => return vec![text(base, want)],
        PathPattern::Template(template) => Template::new(template),
    };
    let segments = template.segments().map(|(number, text)| (segment(base, number, text), Lookup::Segment));
    [beginning(base, template.beginning()), end(base, template.end())].into_iter().chain(segments).collect()
}

pub(super) fn segment(base: u64, number: usize, text: &str) -> u64 {
    hash::done(hash::text(hash::number(base, number as u64), text.as_bytes()), As::Segment)
}

//! What routes of the Gateway API (HTTPRoute, GRPCRoute, TLSRoute, TCPRoute) have in common, as a mesh reads them
//! (GAMMA, GEP-1426): they are about services, named in `parentRefs`. Parents of other kinds, a Gateway's above all,
//! are the business of others and are passed over.
//!
//! - A route in its service's own namespace holds for all clients, one of another namespace for clients of that
//!   namespace only.
//! - `hostnames` mean nothing for HTTPRoute and GRPCRoute here (GEP-1426 reserves them): they are reported. A condition
//!   on the header `host` does what they would do.
//! - A rule that cannot be honoured as written keeps its place and those of its conditions that can be read, and
//!   answers with an error: what its author wanted to treat otherwise must not fall through to a wider rule. So does
//!   every rule of a route that has, beside its rules, something that nobody knows.
//! - A parent that cannot be read is none.
//! - Of a route of which no parent is the mesh's nothing is looked at: others may honour what the mesh does not know.
//!
//! References are not resolved here: what they lead to is seen when all objects are there (`index/traffic/gateway.rs`).

mod checks;
mod conditions;
mod filters;
mod references;

pub(super) use checks::{LONGEST, bounded, duration, header_name, hostname, is_default, pattern, port_number, text};
pub(super) use conditions::{header_matches, lenient_matches, listed, read_rule};
pub(super) use filters::{FilterSpec, edits, header_changes};
pub(super) use references::{BackendRefSpec, backends, parents};

use mesh_common::{
    model::traffic::{Action, HeaderChanges, HttpRoute, Origin, Percent, RequestMatch},
    route::Plan,
};
use serde_json::{Map, Value};

use super::created;
use crate::{
    source::Custom,
    status::{Extent, Fault},
};

/// One object of any of the four kinds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
    /// Seconds since 1970.
    pub created: i64,
    /// Those that are the mesh's business.
    pub parents: Vec<Parent>,
    /// None of a route that is passed over.
    pub rules: Vec<Rule>,
    /// Of a TLSRoute, one at least: as in the model.
    pub server_names: Vec<String>,
}

/// The order is that in which they win where two kinds are about one port (GEP-1426); but of HTTPRoutes and GRPCRoutes
/// the kind of the oldest wins, as the specification of GRPCRoute has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Grpc,
    Http,
    Tls,
    Tcp,
}

/// A service that a route is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// As in `spec.parentRefs[0]`.
    pub field: String,
    /// As the author wrote it: the status repeats it.
    pub written: Value,
    pub kind: ParentKind,
    pub namespace: String,
    pub name: String,
    /// None: every port.
    pub port: Option<u16>,
    /// A port's name.
    pub section: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParentKind {
    Service,
    /// Of `networking.istio.io`: all of its hosts.
    ServiceEntry,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Of HTTPRoutes and GRPCRoutes, one at least.
    pub matches: Vec<Match>,
    /// Without matches and mirrors. Its action is a redirect, or to forward to `backends`.
    pub template: HttpRoute,
    pub backends: Vec<BackendRef>,
    pub mirrors: Vec<MirrorRef>,
    /// Why it answers with an error, whatever else it says.
    pub refused: Option<String>,
}

/// One condition, and how it compares to those of other rules: the greater rank goes first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    pub rank: Rank,
    pub request: RequestMatch,
}

pub type Rank = [usize; 5];

/// Of an HTTPRoute's path, the first of its rank; a prefix has 0.
pub const RANK_EXACT: usize = 2;
pub const RANK_REGEX: usize = 1;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRef {
    pub weight: u32,
    pub reference: Reference,
    pub headers: Option<HeaderChanges>,
    /// It has a filter that is not honoured: what is sent to it is answered with an error.
    pub refused: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorRef {
    pub reference: Reference,
    pub percent: Percent,
}

/// A service that is referred to, in whatever namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// As in `spec.rules[0].backendRefs[1]`.
    pub field: String,
    pub namespace: String,
    pub name: String,
    pub port: u16,
    /// It cannot lead anywhere.
    pub broken: Option<Unresolved>,
}

/// Why a reference does not lead to a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unresolved {
    pub reason: Reason,
    pub why: String,
}

/// Reasons of the condition `ResolvedRefs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    InvalidKind,
    BackendNotFound,
    RefNotPermitted,
    UnsupportedValue,
}

/// Bounds, those of the API's own schemas.
pub const PARENTS: usize = 32;
pub const RULES: usize = 16;
pub const MATCHES: usize = 64;
/// Of all rules together.
pub const ALL_MATCHES: usize = 128;
/// Of each other list, where nothing else is said.
pub const ITEMS: usize = 16;
pub const WEIGHT: i64 = 1_000_000;

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidKind => "InvalidKind",
            Self::BackendNotFound => "BackendNotFound",
            Self::RefNotPermitted => "RefNotPermitted",
            Self::UnsupportedValue => "UnsupportedValue",
        }
    }
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
            Self::Tls => "TLSRoute",
            Self::Tcp => "TCPRoute",
        }
    }

    /// Of requests, not of connections.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Grpc | Self::Http)
    }

    /// What a request is answered that nobody takes: 500, and for gRPC what its clients read as UNAVAILABLE
    /// (grpc/doc/http-grpc-status-mapping.md).
    pub fn refusal(self) -> u16 {
        if self == Self::Grpc { 503 } else { 500 }
    }
}

impl Route {
    /// Of several that say as much, the first counts.
    pub fn age(&self) -> (i64, &str, &str) {
        (self.created, &self.namespace, &self.name)
    }

    /// It is others' business.
    pub fn is_passed_over(&self) -> bool {
        self.parents.is_empty() && self.rules.is_empty()
    }

    /// Its parent is of another namespace: it holds for clients of its own.
    pub fn is_consumer_of(&self, parent: &Parent) -> bool {
        parent.namespace != self.namespace
    }
}

/// One rule as its kind reads it, and its faults: those in `errors` make it answer with an error.
pub(super) struct Draft<'a> {
    pub kind: Kind,
    pub namespace: &'a str,
    /// As in `spec.rules[0]`.
    pub field: String,
    pub rule: Rule,
    pub errors: Vec<Fault>,
    pub notes: Vec<Fault>,
}

impl Draft<'_> {
    /// The value without its fault.
    pub fn take<T>(&mut self, read: Result<T, Fault>) -> Option<T> {
        read.map_err(|fault| self.errors.push(fault)).ok()
    }

    pub fn refuse(&mut self, field: &str, why: impl std::fmt::Display) {
        self.errors.push(Fault::new(format!("{}.{field}", self.field), why));
    }

    pub fn note(&mut self, field: &str, why: impl std::fmt::Display) {
        self.notes.push(Fault::new(format!("{}.{field}", self.field), why));
    }
}

/// Reads what all kinds have, and each rule by `rule`; what is not honoured as written is added to `faults`.
pub(super) fn route(
    kind: Kind,
    object: &Custom,
    faults: &mut Vec<Fault>,
    rule: impl Fn(&mut Draft<'_>, &Value),
) -> Route {
    let Custom { metadata, spec, fault } = object;
    let mut route = Route {
        kind,
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        created: created(metadata),
        parents: Vec::new(),
        rules: Vec::new(),
        server_names: Vec::new(),
    };
    let mut whole: Vec<Fault> = fault.iter().cloned().collect();
    let none = Map::new();
    let fields = match spec {
        Value::Object(fields) => fields,
        Value::Null => &none,
        _ => {
            whole.push(Fault::new("spec", "is no object"));
            &none
        }
    };
    let before = faults.len();
    route.parents = parents(&route.namespace, fields.get("parentRefs"), faults);
    if whole.is_empty() && route.parents.is_empty() && faults.len() == before {
        return route;
    }
    const KNOWN: [&str; 4] = ["parentRefs", "useDefaultGateways", "hostnames", "rules"];
    for key in fields.keys().filter(|key| !KNOWN.contains(&key.as_str())) {
        whole.push(Fault::new(format!("spec.{key}"), "is not known"));
    }
    if !matches!(kind, Kind::Http | Kind::Grpc | Kind::Tls) && fields.get("hostnames").is_some_and(|h| !h.is_null()) {
        whole.push(Fault::new("spec.hostnames", "is not known"));
    } else if kind.is_http() && fields.get("hostnames").is_some_and(|h| !is_default(h)) && !route.parents.is_empty() {
        let why = "have no meaning where a service is the parent (a condition on the header `host` has); not honoured";
        faults.push(Fault::new("spec.hostnames", why));
    }
    let one = [Value::Object(Map::new())];
    let written: &[Value] = match fields.get("rules") {
        None | Some(Value::Null) if kind.is_http() => &one,
        Some(Value::Array(list)) if list.len() > RULES => {
            whole.push(Fault::new("spec.rules", format_args!("has {} rules, {RULES} are the most", list.len())));
            &one
        }
        Some(Value::Array(list)) if !list.is_empty() => list,
        _ => {
            whole.push(Fault::new("spec.rules", "is no list of rules"));
            &one
        }
    };
    for (i, value) in written.iter().enumerate() {
        let field = format!("spec.rules[{i}]");
        let named = value.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
        let number = i.to_string();
        let name = format!("{}/{}/{}", route.namespace, route.name, named.unwrap_or(&number));
        let origin =
            Origin { object: format!("{} {}/{}", kind.name(), route.namespace, route.name), field: field.clone() };
        let template = HttpRoute::new(name, origin, Action::Forward(Vec::new()));
        let empty = Rule { matches: Vec::new(), template, backends: Vec::new(), mirrors: Vec::new(), refused: None };
        let (errors, notes) = (Vec::new(), Vec::new());
        let mut draft = Draft { kind, namespace: &route.namespace, field, rule: empty, errors, notes };
        rule(&mut draft, value);
        if named.is_some_and(|name| written[..i].iter().any(|other| other["name"] == *name)) {
            draft.refuse("name", "stands twice");
        }
        // One rule that an agent does not take would make it refuse all rules of the service, other authors' too.
        if let Err(error) = Plan::new(&draft.rule.template) {
            draft.refuse("filters", error);
        }
        let Draft { mut rule, errors, notes, .. } = draft;
        let why = errors.iter().chain(&whole).next();
        rule.refused = why.map(|fault| format!("{}: {}", fault.field, fault.why));
        faults.extend(notes);
        faults.extend(errors.into_iter().map(|fault| refusing(fault, "the rule", Extent::Part)));
        route.rules.push(rule);
    }
    let all: usize = route.rules.iter().map(|rule| rule.matches.len()).sum();
    if all > ALL_MATCHES {
        whole.push(Fault::new("spec.rules", format_args!("have {all} matches together, {ALL_MATCHES} are the most")));
        // What they match is not looked at any more: everything is refused.
        route.rules.truncate(1);
        for rule in &mut route.rules {
            rule.matches = vec![Match::default()];
            rule.refused = Some(format!("spec.rules: have {all} matches together"));
        }
    }
    let extent = if route.rules.iter().all(|rule| rule.refused.is_some()) { Extent::Whole } else { Extent::Part };
    faults.extend(whole.into_iter().map(|fault| refusing(fault, "every rule", extent)));
    route
}

fn refusing(fault: Fault, what: &str, extent: Extent) -> Fault {
    let why = format!("{}; until that is mended {what} answers with an error", fault.why);
    Fault { why, extent, ..fault }
}

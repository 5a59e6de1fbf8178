//! A decision taken apart: every policy, rule, clause, match and condition, with what the connection has and whether
//! it holds. It is worked out from the conditions up; a test holds it against [`super::authorize`].

mod http;
mod nearest;

pub use nearest::{Nearest, nearest};

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

use super::{
    Action, Connection, Identity, Match, Passing, Policy, PolicyName, Rule, Scope, ServiceAccountMatch, StringMatch,
    policy::covers,
};

/// One policy that applies to the connection's destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    pub name: PolicyName,
    /// `None`: what it says is not known, which denies.
    pub known: Option<Known>,
    /// It decided the connection. Of several ALLOW policies of which none matched: the first.
    pub decided: bool,
    pub rules: Vec<ConsideredRule>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub action: Action,
    pub scope: Scope,
    pub dry_run: bool,
    /// It carries a PeerAuthentication.
    pub strict: bool,
}

/// A rule holds if all its clauses do. It stands at the place that it has in the user's YAML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsideredRule {
    pub matched: bool,
    pub clauses: Vec<ConsideredClause>,
}

/// Alternatives, of which one must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsideredClause {
    pub matched: bool,
    pub matches: Vec<ConsideredMatch>,
}

/// Conditions, which must all hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsideredMatch {
    pub matched: bool,
    pub conditions: Vec<ConsideredCondition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsideredCondition {
    /// As in the user's YAML: `principals`, `notIpBlocks`, `ports`; of `when` its key, as `when[source.ip].values`.
    /// Where the clause could be either (the first of its sort in a rule), the name below `from` or `to` is used.
    pub field: String,
    pub values: Vec<String>,
    /// What the connection or request has; empty: nothing. Secrets are shown as `(set)`.
    pub actual: String,
    pub holds: bool,
}

/// Every policy that applies, in the order in which they are asked: DENY, ALLOW, then those that are not enforced. All
/// are worked out, also those behind the one that decided. The arguments are those of [`super::authorize`].
pub fn explain<'a>(
    policies: impl Iterator<Item = &'a Policy> + Clone,
    unknown: Option<&PolicyName>,
    connection: &Connection,
    passing: &Passing<'_>,
) -> Vec<Considered> {
    let missing = unknown.map(|name| Considered { name: name.clone(), known: None, decided: true, rules: Vec::new() });
    let with = |action| policies.clone().filter(move |policy| policy.is_enforced() && policy.action == action);
    let idle = policies.clone().filter(|policy| !policy.is_enforced());
    let ordered = with(Action::Deny).chain(with(Action::Allow)).chain(idle);
    let mut all: Vec<_> =
        missing.into_iter().chain(ordered.map(|policy| considered(policy, connection, passing))).collect();
    if unknown.is_none() {
        let enforced = |c: &Considered, action| c.known.is_some_and(|known| !known.dry_run && known.action == action);
        let matched = |c: &Considered| c.rules.iter().any(|rule| rule.matched);
        let deciding = all
            .iter()
            .position(|c| enforced(c, Action::Deny) && matched(c))
            .or_else(|| all.iter().position(|c| enforced(c, Action::Allow) && matched(c)))
            .or_else(|| all.iter().position(|c| enforced(c, Action::Allow)));
        if let Some(deciding) = deciding {
            all[deciding].decided = true;
        }
    }
    all
}

fn considered(policy: &Policy, connection: &Connection, passing: &Passing<'_>) -> Considered {
    let Policy { name, scope, action, rules, dry_run } = policy;
    let known = Known { action: *action, scope: *scope, dry_run: *dry_run, strict: policy.is_strict_mtls() };
    let rules = rules.iter().map(|rule| considered_rule(rule, *action, connection, passing)).collect();
    Considered { name: name.clone(), known: Some(known), decided: false, rules }
}

fn considered_rule(rule: &Rule, action: Action, connection: &Connection, passing: &Passing<'_>) -> ConsideredRule {
    let first = |is: fn(&Match) -> bool| rule.clauses.first().is_some_and(|clause| clause.matches.iter().any(is));
    // Without a source in front, what comes second can be `to` only if nothing else stands there.
    let first_is_last = first(is_operation) || !first(is_source);
    let clauses: Vec<_> = rule
        .clauses
        .iter()
        .enumerate()
        .map(|(index, clause)| {
            // `from` is the first clause, `to` comes next, then one clause for each `when`.
            let source = clause.matches.iter().any(is_source);
            let place = Place { when: index > 1 || (index == 1 && (source || first_is_last)) };
            let matches: Vec<_> =
                clause.matches.iter().map(|m| considered_match(m, place, action, connection, passing)).collect();
            ConsideredClause { matched: matches.is_empty() || matches.iter().any(|m| m.matched), matches }
        })
        .collect();
    ConsideredRule { matched: clauses.iter().all(|clause| clause.matched), clauses }
}

fn is_source(m: &Match) -> bool {
    let Match { namespaces, not_namespaces, principals, not_principals, source_ips, not_source_ips, .. } = m;
    let strings = [namespaces, not_namespaces, principals, not_principals];
    let accounts = [&m.service_accounts, &m.not_service_accounts];
    strings.iter().any(|list| !list.is_empty())
        || [source_ips, not_source_ips].iter().any(|list| !list.is_empty())
        || accounts.iter().any(|list| !list.is_empty())
        || m.http.as_deref().is_some_and(http::is_source)
}

fn is_operation(m: &Match) -> bool {
    !m.destination_ports.is_empty()
        || !m.not_destination_ports.is_empty()
        || m.http.as_deref().is_some_and(http::is_operation)
}

/// Where a clause stands in the YAML.
#[derive(Clone, Copy)]
struct Place {
    when: bool,
}

impl Place {
    fn field(self, field: &str, not_field: &str, key: &str, not: bool) -> String {
        match (self.when, not) {
            (true, false) => format!("when[{key}].values"),
            (true, true) => format!("when[{key}].notValues"),
            (false, false) => field.to_owned(),
            (false, true) => not_field.to_owned(),
        }
    }
}

fn considered_match(
    m: &Match,
    place: Place,
    action: Action,
    connection: &Connection,
    passing: &Passing<'_>,
) -> ConsideredMatch {
    if *m == Match::nobody() {
        let http = ConsideredCondition {
            field: "(HTTP conditions)".to_owned(),
            values: vec!["of a request".to_owned()],
            actual: "a TCP connection".to_owned(),
            holds: false,
        };
        return ConsideredMatch { matched: false, conditions: vec![http] };
    }
    let Match {
        namespaces,
        not_namespaces,
        principals,
        not_principals,
        source_ips,
        not_source_ips,
        destination_ips,
        not_destination_ips,
        destination_ports,
        not_destination_ports,
        service_accounts,
        not_service_accounts,
        http,
    } = m;
    let identity = connection.source_identity.as_ref();
    let principal = identity.map(Identity::principal);
    let namespace = identity.map(Identity::namespace);
    let (source, destination) = (connection.source_ip.to_canonical(), connection.destination.ip().to_canonical());
    let port = connection.destination.port();

    let string = |want: &StringMatch, value: Option<&str>| want.matches(value);
    let account = |want: &ServiceAccountMatch| {
        identity.is_some_and(|i| i.namespace() == want.namespace && i.service_account() == want.service_account)
    };
    let own_account = identity.map(|i| format!("{}/{}", i.namespace(), i.service_account())).unwrap_or_default();
    let own_namespace = namespace.unwrap_or_default().to_owned();
    let own_principal = principal.clone().unwrap_or_default();

    let mut all = Conditions { place, conditions: Vec::new() };
    let name = ["namespaces", "notNamespaces", "source.namespace"];
    all.both(name, namespaces, not_namespaces, &own_namespace, |want| string(want, namespace));
    let name = ["principals", "notPrincipals", "source.principal"];
    all.both(name, principals, not_principals, &own_principal, |want| string(want, principal.as_deref()));
    let name = ["serviceAccounts", "notServiceAccounts", "source.serviceAccount"];
    all.both(name, service_accounts, not_service_accounts, &own_account, account);
    let name = ["ipBlocks", "notIpBlocks", "source.ip"];
    all.both(name, &nets(source_ips), &nets(not_source_ips), &source.to_string(), |net| net.covers(source));
    let name = ["ports", "notPorts", "destination.port"];
    all.both(name, destination_ports, not_destination_ports, &port.to_string(), |want| *want == port);
    // Only `when` can name it.
    all.place = Place { when: true };
    let name = ["", "", "destination.ip"];
    let (yes, no) = (nets(destination_ips), nets(not_destination_ips));
    all.both(name, &yes, &no, &destination.to_string(), |net| net.covers(destination));
    if let Some(http) = http {
        all.place = place;
        all.http(http, action, connection, passing);
    }
    ConsideredMatch { matched: all.conditions.iter().all(|condition| condition.holds), conditions: all.conditions }
}

struct Conditions {
    place: Place,
    conditions: Vec<ConsideredCondition>,
}

impl Conditions {
    /// A kind of condition and its opposite; one without values is none.
    fn both<T: fmt::Display>(
        &mut self,
        [field, not_field, key]: [&str; 3],
        yes: &[T],
        no: &[T],
        actual: &str,
        fits: impl Fn(&T) -> bool,
    ) {
        for (list, not) in [(yes, false), (no, true)] {
            if !list.is_empty() {
                self.conditions.push(ConsideredCondition {
                    field: self.place.field(field, not_field, key, not),
                    values: list.iter().map(ToString::to_string).collect(),
                    actual: actual.to_owned(),
                    holds: list.iter().any(&fits) != not,
                });
            }
        }
    }
}

/// A network as users write it: one address without its length.
struct Net<'a>(&'a IpNet);

fn nets(list: &[IpNet]) -> Vec<Net<'_>> {
    list.iter().map(Net).collect()
}

impl Net<'_> {
    fn covers(&self, ip: IpAddr) -> bool {
        covers(self.0, ip)
    }
}

impl fmt::Display for Net<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

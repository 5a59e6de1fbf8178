//! One rule: its sources, operations and conditions.

use mesh_common::model::{Action, Clause, HttpMatch, Match, Rule};

use super::spec::{From, List, Operation, RuleSpec, Source, To};
use crate::{status::Fault, translate::Settings};

/// As the kind has it, but for `when`, which it does not bound.
const RULES: usize = 512;
const ITEMS: usize = 512;

/// What is known of the policy that a rule belongs to, and what was found wrong with it.
pub struct Context<'a> {
    pub settings: &'a Settings,
    pub namespace: &'a str,
    pub action: Action,
    /// The policy cannot be honoured.
    pub errors: Vec<Fault>,
    /// Conditions that are honoured, and do nothing.
    pub notes: Vec<Fault>,
}

impl Context<'_> {
    pub fn rules(&mut self, rules: Vec<RuleSpec>) -> Vec<Rule> {
        let rules = self.bounded("spec.rules", rules, RULES).into_iter().enumerate();
        rules.map(|(i, rule)| self.rule(&format!("spec.rules[{i}]"), rule)).collect()
    }

    fn bounded<T>(&mut self, field: &str, list: Vec<T>, most: usize) -> Vec<T> {
        if list.len() <= most {
            return list;
        }
        self.errors.push(Fault::new(field, format_args!("has {} items, {most} are the most", list.len())));
        Vec::new()
    }

    /// A list without items says nothing of whom it means. To take it for an absent one would mean anybody.
    fn alternatives<T>(&mut self, field: &str, list: List<T>) -> Vec<T> {
        if list.as_ref().is_some_and(Vec::is_empty) {
            self.errors.push(Fault::new(field, "has no items; who means anybody leaves it out"));
        }
        self.bounded(field, list.unwrap_or_default(), ITEMS)
    }

    fn rule(&mut self, field: &str, rule: RuleSpec) -> Rule {
        let RuleSpec { from, to, when } = rule;
        let name = |name: &str| format!("{field}.{name}");
        let from = self.alternatives(&name("from"), from).into_iter().enumerate();
        let from: Vec<_> = from.map(|(i, f)| self.source(&format!("{field}.from[{i}].source"), f)).collect();
        let to = self.alternatives(&name("to"), to).into_iter().enumerate();
        let to: Vec<_> = to.map(|(i, t)| self.operation(&format!("{field}.to[{i}].operation"), t)).collect();
        let when = self.bounded(&name("when"), when.unwrap_or_default(), ITEMS).into_iter().enumerate();
        let when: Vec<_> = when.map(|(i, c)| self.condition(&format!("{field}.when[{i}]"), c)).collect();

        // Sources are alternatives of each other, so are operations; every condition must hold.
        let alternatives = [from, to].into_iter().chain(when.into_iter().map(|one| vec![one]));
        let clauses = alternatives.filter(|matches| !matches.is_empty()).map(|matches| Clause { matches });
        let rule = Rule { clauses: clauses.collect() };
        if self.action != Action::Deny && is_of_two_worlds(&rule) {
            let why = "asks for a server name and for requests: those of TLS that the application itself ends nobody \
                       sees, and the rule fits nothing";
            self.notes.push(Fault::new(field, why));
        }
        rule
    }

    fn source(&mut self, field: &str, From { source }: From) -> Match {
        let Source {
            principals,
            not_principals,
            namespaces,
            not_namespaces,
            service_accounts,
            not_service_accounts,
            ip_blocks,
            not_ip_blocks,
            request_principals,
            not_request_principals,
            remote_ip_blocks,
            not_remote_ip_blocks,
        } = source;
        let name = |name: &str| format!("{field}.{name}");
        let before = self.errors.len();
        let matches = Match {
            principals: self.principals(&name("principals"), principals),
            not_principals: self.principals(&name("notPrincipals"), not_principals),
            namespaces: self.strings(&name("namespaces"), namespaces),
            not_namespaces: self.strings(&name("notNamespaces"), not_namespaces),
            service_accounts: self.accounts(&name("serviceAccounts"), service_accounts),
            not_service_accounts: self.accounts(&name("notServiceAccounts"), not_service_accounts),
            source_ips: self.networks(&name("ipBlocks"), ip_blocks),
            not_source_ips: self.networks(&name("notIpBlocks"), not_ip_blocks),
            ..Match::default()
        };
        let http = HttpMatch {
            request_principals: self.request_principals(&name("requestPrincipals"), request_principals),
            not_request_principals: self.request_principals(&name("notRequestPrincipals"), not_request_principals),
            remote_ips: self.networks(&name("remoteIpBlocks"), remote_ip_blocks),
            not_remote_ips: self.networks(&name("notRemoteIpBlocks"), not_remote_ip_blocks),
            ..HttpMatch::default()
        };
        self.some(field, before, matching(matches, http))
    }

    fn operation(&mut self, field: &str, To { operation }: To) -> Match {
        let Operation { ports, not_ports, hosts, not_hosts, methods, not_methods, paths, not_paths } = operation;
        let name = |name: &str| format!("{field}.{name}");
        let before = self.errors.len();
        let matches = Match {
            destination_ports: self.ports(&name("ports"), ports),
            not_destination_ports: self.ports(&name("notPorts"), not_ports),
            ..Match::default()
        };
        let http = HttpMatch {
            hosts: self.hosts(&name("hosts"), hosts),
            not_hosts: self.hosts(&name("notHosts"), not_hosts),
            methods: self.methods(&name("methods"), methods),
            not_methods: self.methods(&name("notMethods"), not_methods),
            paths: self.paths(&name("paths"), paths),
            not_paths: self.paths(&name("notPaths"), not_paths),
            ..HttpMatch::default()
        };
        self.some(field, before, matching(matches, http))
    }

    fn some(&mut self, field: &str, before: usize, matches: Match) -> Match {
        // Also of conditions that could not be read there is one: that fault is enough.
        if matches == Match::default() && self.errors.len() == before {
            self.errors.push(Fault::new(field, "has no condition"));
        }
        matches
    }
}

pub fn matching(matches: Match, http: HttpMatch) -> Match {
    let http = (http != HttpMatch::default()).then(|| Box::new(http));
    Match { http, ..matches }
}

/// Whether one of its clauses always asks for a server name, and one always for requests: no connection has both.
fn is_of_two_worlds(rule: &Rule) -> bool {
    let always = |asks: fn(&HttpMatch) -> bool| {
        rule.clauses.iter().any(|clause| clause.matches.iter().all(|m| m.http.as_deref().is_some_and(asks)))
    };
    always(|http| !http.server_names.is_empty()) && always(HttpMatch::asks_requests)
}

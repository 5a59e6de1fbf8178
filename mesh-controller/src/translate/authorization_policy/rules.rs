//! One rule: its sources, operations and conditions, and what becomes of those that speak of HTTP.

use mesh_common::model::{Action, Clause, Match, Rule};

use super::{
    everybody, only,
    spec::{Condition, From, List, Operation, RuleSpec, Source, To},
};
use crate::{status::Fault, translate::Settings};

/// What is known of the policy that a rule belongs to, and what was found wrong with it.
pub struct Context<'a> {
    pub settings: &'a Settings,
    pub namespace: &'a str,
    pub action: Action,
    /// The policy cannot be honoured.
    pub errors: Vec<Fault>,
    /// Conditions that it is honoured without.
    pub notes: Vec<Fault>,
}

/// The L4 part of one source, operation or condition.
struct Part {
    matches: Match,
    /// It also had HTTP conditions.
    http: bool,
}

impl Context<'_> {
    pub fn rule(&mut self, number: usize, rule: RuleSpec) -> Rule {
        let field = format!("spec.rules[{number}]");
        let RuleSpec { from, to, when } = rule;
        let from = from.unwrap_or_default().into_iter().enumerate();
        let from: Vec<Part> = from.map(|(i, f)| self.source(&format!("{field}.from[{i}].source"), f)).collect();
        let to = to.unwrap_or_default().into_iter().enumerate();
        let to: Vec<Part> = to.map(|(i, t)| self.operation(&format!("{field}.to[{i}].operation"), t)).collect();
        let when = when.unwrap_or_default().into_iter().enumerate();
        let when: Vec<Part> = when.map(|(i, c)| self.condition(&format!("{field}.when[{i}]"), c)).collect();

        // Sources are alternatives of each other, so are operations; every condition must hold.
        let groups: Vec<Vec<Part>> = [from, to].into_iter().chain(when.into_iter().map(|part| vec![part])).collect();
        let http = groups.iter().flatten().any(|part| part.http);
        if http && matches!(self.action, Action::Allow | Action::Audit) {
            return only(Match::nobody());
        }
        let clauses: Vec<Clause> = groups.into_iter().filter_map(clause).collect();
        if http && clauses.is_empty() { only(everybody()) } else { Rule { clauses } }
    }

    fn source(&mut self, field: &str, From { source }: From) -> Part {
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
        let http = [
            ("requestPrincipals", request_principals),
            ("notRequestPrincipals", not_request_principals),
            // The address that HTTP headers name.
            ("remoteIpBlocks", remote_ip_blocks),
            ("notRemoteIpBlocks", not_remote_ip_blocks),
        ];
        self.part(field, matches, http)
    }

    fn operation(&mut self, field: &str, To { operation }: To) -> Part {
        let Operation { ports, not_ports, hosts, not_hosts, methods, not_methods, paths, not_paths } = operation;
        let matches = Match {
            destination_ports: self.ports(&format!("{field}.ports"), ports),
            not_destination_ports: self.ports(&format!("{field}.notPorts"), not_ports),
            ..Match::default()
        };
        let http = [
            ("hosts", hosts),
            ("notHosts", not_hosts),
            ("methods", methods),
            ("notMethods", not_methods),
            ("paths", paths),
            ("notPaths", not_paths),
        ];
        self.part(field, matches, http)
    }

    fn part<const N: usize>(&mut self, field: &str, matches: Match, http: [(&str, List<String>); N]) -> Part {
        let given: Vec<_> = http.iter().filter(|(_, list)| list.as_ref().is_some_and(|l| !l.is_empty())).collect();
        for (name, _) in &given {
            self.note(format!("{field}.{name}"));
        }
        let part = Part { matches, http: !given.is_empty() };
        // Also of conditions that could not be read there is one: that fault is enough.
        if part.matches == Match::default() && !part.http && !self.errors.iter().any(|e| e.field.starts_with(field)) {
            self.errors.push(Fault::new(field, "has no condition"));
        }
        part
    }

    fn condition(&mut self, field: &str, condition: Condition) -> Part {
        let Condition { key, values, not_values } = condition;
        let mut matches = Match::default();
        let (yes, no) = (&*format!("{field}.values"), &*format!("{field}.notValues"));
        if [&values, &not_values].into_iter().flatten().flatten().next().is_none() {
            self.errors.push(Fault::new(field, "has neither values nor notValues"));
        }
        match key.as_str() {
            "source.ip" => {
                matches.source_ips = self.networks(yes, values);
                matches.not_source_ips = self.networks(no, not_values);
            }
            "source.namespace" => {
                matches.namespaces = self.strings(yes, values);
                matches.not_namespaces = self.strings(no, not_values);
            }
            "source.principal" => {
                matches.principals = self.principals(yes, values);
                matches.not_principals = self.principals(no, not_values);
            }
            "source.serviceAccount" => {
                matches.service_accounts = self.accounts(yes, values);
                matches.not_service_accounts = self.accounts(no, not_values);
            }
            "destination.ip" => {
                matches.destination_ips = self.networks(yes, values);
                matches.not_destination_ips = self.networks(no, not_values);
            }
            "destination.port" => {
                matches.destination_ports = self.ports(yes, values);
                matches.not_destination_ports = self.ports(no, not_values);
            }
            key if is_http(key) => {
                self.note(format!("{field}.key"));
                return Part { matches, http: true };
            }
            other => self.errors.push(Fault::new(format!("{field}.key"), format_args!("`{other}` is not a known key"))),
        }
        Part { matches, http: false }
    }

    fn note(&mut self, field: String) {
        let why = match self.action {
            Action::Allow | Action::Audit => "HTTP conditions are not supported yet: the rule never matches",
            Action::Deny => "HTTP conditions are not supported yet: the rule matches by its other conditions alone",
        };
        self.notes.push(Fault::new(field, why));
    }
}

/// Conditions that only a request can answer.
fn is_http(key: &str) -> bool {
    ["request.", "experimental.envoy.filters."].iter().any(|prefix| key.starts_with(prefix))
        || matches!(key, "remote.ip" | "connection.sni")
}

/// `None` if it holds for everybody: an alternative without conditions makes the others idle.
fn clause(alternatives: Vec<Part>) -> Option<Clause> {
    let matches: Vec<Match> = alternatives.into_iter().map(|part| part.matches).collect();
    let limits = !matches.is_empty() && matches.iter().all(|m| *m != Match::default());
    limits.then_some(Clause { matches })
}

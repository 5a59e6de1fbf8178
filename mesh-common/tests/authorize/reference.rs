//! The rules again, written for reading only: every condition is worked out on texts and bits, in steps of its own,
//! and nothing ends early. It shares no code with what it judges.

#[path = "reference/http.rs"]
mod http;

use std::net::IpAddr;

use ipnet::IpNet;
use mesh_common::model::{
    Action, Connection, Denied, Match, Passed, Permit, Policy, PolicyName, ServiceAccountMatch, StringMatch,
};

/// Names of policies as texts, and the number of the rule.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// By this rule of an ALLOW policy; `None`: no ALLOW policy applies.
    Permitted(Option<(String, usize)>),
    Denied {
        code: &'static str,
        policy: Option<String>,
        rule: Option<usize>,
    },
}

impl Outcome {
    pub fn of(result: &Result<Permit, Denied>) -> Self {
        match result {
            Ok(permit) => Self::Permitted(permit.policy().map(ToString::to_string).zip(permit.rule())),
            Err(denied) => Self::Denied {
                code: denied.reason.code(),
                policy: denied.policy.as_ref().map(ToString::to_string),
                rule: denied.rule,
            },
        }
    }
}

pub fn decide(policies: &[Policy], unknown: Option<&PolicyName>, connection: &Connection, passed: &Passed) -> Outcome {
    // All (policy, rule) pairs that match, of policies that are enforced, in order.
    let mut denying = Vec::new();
    let mut allowing = Vec::new();
    let mut allow_policies = Vec::new();
    for policy in policies {
        if policy.dry_run {
            continue;
        }
        if policy.action == Action::Allow {
            allow_policies.push(policy);
        }
        for (number, rule) in policy.rules.iter().enumerate() {
            let mut all_clauses = true;
            for clause in &rule.clauses {
                let holding = clause.matches.iter().filter(|m| holds(m, policy.action, connection, passed)).count();
                if holding == 0 && !clause.matches.is_empty() {
                    all_clauses = false;
                }
            }
            if all_clauses {
                match policy.action {
                    Action::Deny => denying.push((policy, number)),
                    Action::Allow => allowing.push((policy, number)),
                    Action::Audit => {}
                }
            }
        }
    }

    if let Some(name) = unknown {
        return Outcome::Denied { code: "POLICY_UNKNOWN", policy: Some(text(name)), rule: None };
    }
    if let Some((policy, rule)) = denying.first() {
        let name = policy.name.name.as_str();
        let peer_authentication =
            name == "istio_converted_static_strict" || name.starts_with("converted_peer_authentication_");
        let policy = Some(text(&policy.name));
        return if peer_authentication {
            Outcome::Denied { code: "PLAINTEXT_STRICT", policy, rule: None }
        } else {
            Outcome::Denied { code: "POLICY_DENY", policy, rule: Some(*rule) }
        };
    }
    if let Some((policy, rule)) = allowing.first() {
        return Outcome::Permitted(Some((text(&policy.name), *rule)));
    }
    match allow_policies.first() {
        None => Outcome::Permitted(None),
        Some(policy) => Outcome::Denied { code: "POLICY_NO_ALLOW", policy: Some(text(&policy.name)), rule: None },
    }
}

fn text(name: &PolicyName) -> String {
    [name.namespace.as_str(), name.name.as_str()].join("/")
}

/// Each kind of condition is a truth table of (values given, one of them fits).
fn holds(m: &Match, action: Action, connection: &Connection, passed: &Passed) -> bool {
    // The principal taken apart again, so that its three parts come from one text.
    let spiffe = connection.source_identity.as_ref().map(ToString::to_string);
    let principal = spiffe.as_deref().map(|id| &id["spiffe://".len()..]);
    let parts: Option<Vec<&str>> = principal.map(|id| id.split('/').collect());
    let (namespace, account) = (parts.as_ref().map(|p| p[2]), parts.as_ref().map(|p| p[4]));
    let (source, destination) = (connection.source_ip, connection.destination.ip());
    let port = connection.destination.port();

    let string = |list: &[StringMatch], value| list.iter().filter(|m| string_fits(m, value)).count() > 0;
    let net = |list: &[IpNet], ip| list.iter().filter(|net| net_fits(net, ip)).count() > 0;
    let accounts = |list: &[ServiceAccountMatch]| {
        let fits = |m: &&ServiceAccountMatch| {
            namespace == Some(m.namespace.as_str()) && account == Some(m.service_account.as_str())
        };
        list.iter().filter(fits).count() > 0
    };
    let positive = [
        (m.namespaces.len(), string(&m.namespaces, namespace)),
        (m.principals.len(), string(&m.principals, principal)),
        (m.source_ips.len(), net(&m.source_ips, source)),
        (m.destination_ips.len(), net(&m.destination_ips, destination)),
        (m.destination_ports.len(), m.destination_ports.iter().filter(|p| **p == port).count() > 0),
        (m.service_accounts.len(), accounts(&m.service_accounts)),
    ];
    let negative = [
        string(&m.not_namespaces, namespace),
        string(&m.not_principals, principal),
        net(&m.not_source_ips, source),
        net(&m.not_destination_ips, destination),
        m.not_destination_ports.iter().filter(|p| **p == port).count() > 0,
        accounts(&m.not_service_accounts),
    ];
    positive.iter().filter(|(given, fits)| *given > 0 && !fits).count() == 0
        && negative.iter().filter(|fits| **fits).count() == 0
        && m.http.iter().filter(|http| !http::holds(http, action, connection, passed)).count() == 0
}

fn string_fits(m: &StringMatch, value: Option<&str>) -> bool {
    let Some(value) = value else { return false };
    match m {
        StringMatch::Exact(want) => value.chars().eq(want.chars()),
        StringMatch::Prefix(want) => value.chars().take(want.chars().count()).eq(want.chars()),
        StringMatch::Suffix(want) => value.chars().rev().take(want.chars().count()).eq(want.chars().rev()),
        StringMatch::Presence => true,
    }
}

/// Both as texts of binary digits behind their family; ::ffff:0:0/96 is the other way to write IPv4.
fn net_fits(net: &IpNet, ip: IpAddr) -> bool {
    let length = usize::from(net.prefix_len());
    let (net_family, net_digits, length) = match (net.addr(), digits(net.addr())) {
        (IpAddr::V6(_), (4, digits)) if length >= 96 => (4, digits, length - 96),
        (IpAddr::V6(v6), (4, _)) => (6, format!("{:0128b}", v6.to_bits()), length),
        (_, (family, digits)) => (family, digits, length),
    };
    let (ip_family, ip_digits) = digits(ip);
    net_family == ip_family && net_digits[..length] == ip_digits[..length]
}

fn digits(ip: IpAddr) -> (u8, String) {
    match ip {
        IpAddr::V4(v4) => (4, format!("{:032b}", v4.to_bits())),
        IpAddr::V6(v6) if v6.to_bits() >> 32 == 0xffff => (4, format!("{:032b}", v6.to_bits() as u32)),
        IpAddr::V6(v6) => (6, format!("{:0128b}", v6.to_bits())),
    }
}

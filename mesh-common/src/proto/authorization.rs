//! `istio.security.Authorization` <-> [`Policy`].

use ipnet::IpNet;

use super::{WireError, ip_from_bytes, ip_to_bytes, port, security as wire};
use crate::model::{Action, Clause, Match, Policy, PolicyName, Rule, Scope, ServiceAccountMatch, StringMatch};

impl TryFrom<wire::Authorization> for Policy {
    type Error = WireError;

    fn try_from(message: wire::Authorization) -> Result<Self, WireError> {
        if message.name.is_empty() || message.namespace.is_empty() {
            return Err(WireError::new("name", "name and namespace must both be set"));
        }
        // Workloads and resources name it `namespace/name`.
        if message.name.contains('/') || message.namespace.contains('/') {
            return Err(WireError::new("name", "name and namespace must not contain `/`"));
        }
        let scope = match wire::Scope::try_from(message.scope) {
            Ok(wire::Scope::Global) => Scope::Global,
            Ok(wire::Scope::Namespace) => Scope::Namespace,
            Ok(wire::Scope::WorkloadSelector) => Scope::WorkloadSelector,
            Err(e) => return Err(WireError::new("scope", e)),
        };
        let action = match wire::Action::try_from(message.action) {
            Ok(wire::Action::Allow) => Action::Allow,
            Ok(wire::Action::Deny) => Action::Deny,
            Err(e) => return Err(WireError::new("action", e)),
        };
        let action = match (message.audit, action, message.dry_run) {
            (false, action, _) => action,
            // A reader that does not know the field would enforce it.
            (true, _, false) => return Err(WireError::new("audit", "needs dry_run, for readers that do not know it")),
            (true, Action::Allow, true) => Action::Audit,
            (true, _, true) => return Err(WireError::new("audit", "needs action ALLOW")),
        };
        let http = !message.http_rules.is_empty();
        let rules = if http { message.http_rules } else { message.rules };
        let rules = rules
            .into_iter()
            .enumerate()
            .map(|(r, rule)| {
                let clauses = rule
                    .clauses
                    .into_iter()
                    .enumerate()
                    .map(|(c, clause)| {
                        clause_of(&format!("{}[{r}].clauses[{c}]", if http { "http_rules" } else { "rules" }), clause)
                    })
                    .collect::<Result<_, _>>()?;
                Ok(Rule { clauses })
            })
            .collect::<Result<_, WireError>>()?;
        let dry_run = message.dry_run && action != Action::Audit;
        let name = PolicyName { namespace: message.namespace, name: message.name };
        let policy = Self { name, scope, action, rules, dry_run };
        if policy.is_strict_mtls() && !policy.is_enforced() {
            return Err(WireError::new("dry_run", "what makes STRICT is always enforced"));
        }
        Ok(policy)
    }
}

fn clause_of(field: &str, clause: wire::Clause) -> Result<Clause, WireError> {
    let matches = clause
        .matches
        .into_iter()
        .enumerate()
        .map(|(m, message)| {
            let field = format!("{field}.matches[{m}]");
            // Readers of this protocol disagree on what a match without conditions means.
            if message == wire::Match::default() {
                return Err(WireError::new(field, "has no condition"));
            }
            match_of(&field, message)
        })
        .collect::<Result<_, _>>()?;
    Ok(Clause { matches })
}

fn match_of(field: &str, message: wire::Match) -> Result<Match, WireError> {
    let wire::Match {
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
    } = message;
    Ok(Match {
        namespaces: strings(field, "namespaces", namespaces)?,
        not_namespaces: strings(field, "not_namespaces", not_namespaces)?,
        principals: strings(field, "principals", principals)?,
        not_principals: strings(field, "not_principals", not_principals)?,
        source_ips: nets(field, "source_ips", &source_ips)?,
        not_source_ips: nets(field, "not_source_ips", &not_source_ips)?,
        destination_ips: nets(field, "destination_ips", &destination_ips)?,
        not_destination_ips: nets(field, "not_destination_ips", &not_destination_ips)?,
        destination_ports: ports(field, "destination_ports", &destination_ports)?,
        not_destination_ports: ports(field, "not_destination_ports", &not_destination_ports)?,
        service_accounts: accounts(field, "service_accounts", service_accounts)?,
        not_service_accounts: accounts(field, "not_service_accounts", not_service_accounts)?,
        http: if http.is_empty() { None } else { Some(super::traffic::read(&format!("{field}.http"), &http)?) },
    })
}

fn strings(field: &str, kind: &str, list: Vec<wire::StringMatch>) -> Result<Vec<StringMatch>, WireError> {
    use wire::string_match::MatchType;
    list.into_iter()
        .enumerate()
        .map(|(i, message)| {
            let text = |text: String| {
                // An empty prefix or suffix would match everything.
                if text.is_empty() { Err(WireError::new(format!("{field}.{kind}[{i}]"), "is empty")) } else { Ok(text) }
            };
            match message.match_type {
                Some(MatchType::Exact(exact)) => Ok(StringMatch::Exact(text(exact)?)),
                Some(MatchType::Prefix(prefix)) => Ok(StringMatch::Prefix(text(prefix)?)),
                Some(MatchType::Suffix(suffix)) => Ok(StringMatch::Suffix(text(suffix)?)),
                Some(MatchType::Presence(())) => Ok(StringMatch::Presence),
                None => Err(WireError::new(format!("{field}.{kind}[{i}]"), "unknown kind of match")),
            }
        })
        .collect()
}

fn nets(field: &str, kind: &str, list: &[wire::Address]) -> Result<Vec<IpNet>, WireError> {
    list.iter()
        .enumerate()
        .map(|(i, message)| {
            let field = format!("{field}.{kind}[{i}]");
            let ip = ip_from_bytes(&field, &message.address)?;
            u8::try_from(message.length)
                .ok()
                .and_then(|length| IpNet::new(ip, length).ok())
                .ok_or_else(|| WireError::new(field, format_args!("{ip}/{} is not a network", message.length)))
        })
        .collect()
}

fn ports(field: &str, kind: &str, list: &[u32]) -> Result<Vec<u16>, WireError> {
    list.iter().enumerate().map(|(i, value)| port(&format!("{field}.{kind}[{i}]"), *value)).collect()
}

fn accounts(
    field: &str,
    kind: &str,
    list: Vec<wire::ServiceAccountMatch>,
) -> Result<Vec<ServiceAccountMatch>, WireError> {
    list.into_iter()
        .enumerate()
        .map(|(i, message)| {
            let wire::ServiceAccountMatch { namespace, service_account } = message;
            if namespace.is_empty() || service_account.is_empty() {
                return Err(WireError::new(format!("{field}.{kind}[{i}]"), "namespace and account must both be set"));
            }
            Ok(ServiceAccountMatch { namespace, service_account })
        })
        .collect()
}

impl From<&Policy> for wire::Authorization {
    fn from(policy: &Policy) -> Self {
        let Policy { name, scope, action, rules, dry_run } = policy;
        let scope = match scope {
            Scope::Global => wire::Scope::Global,
            Scope::Namespace => wire::Scope::Namespace,
            Scope::WorkloadSelector => wire::Scope::WorkloadSelector,
        };
        let audit = *action == Action::Audit;
        let all = || rules.iter().map(wire_rule).collect();
        let action = match action {
            Action::Allow | Action::Audit => wire::Action::Allow,
            Action::Deny => wire::Action::Deny,
        };
        Self {
            name: name.name.clone(),
            namespace: name.namespace.clone(),
            scope: scope.into(),
            action: action.into(),
            rules: if policy.asks() { narrowed(policy).iter().map(wire_rule).collect() } else { all() },
            http_rules: if policy.asks() { all() } else { Vec::new() },
            // Who does not know what AUDIT is enforces nothing.
            dry_run: *dry_run || audit,
            audit,
        }
    }
}

/// The rules for readers that know no HTTP. A rule keeps its place. An ALLOW or AUDIT rule with conditions on requests
/// matches nobody; a DENY rule matches by its other conditions alone, and everybody if it has none.
fn narrowed(policy: &Policy) -> Vec<Rule> {
    let nobody = || Rule { clauses: vec![Clause { matches: vec![Match::nobody()] }] };
    let rule = |rule: &Rule| {
        if !rule.asks() {
            return rule.clone();
        }
        if policy.action != Action::Deny {
            return nobody();
        }
        let clauses = rule.clauses.iter().filter_map(|clause| {
            let matches: Vec<_> = clause.matches.iter().map(|m| Match { http: None, ..m.clone() }).collect();
            // An alternative without conditions makes the others idle.
            matches.iter().all(|m| *m != Match::default()).then_some(Clause { matches })
        });
        let clauses: Vec<_> = clauses.collect();
        if clauses.is_empty() {
            Rule { clauses: vec![Clause { matches: vec![Match::everybody()] }] }
        } else {
            Rule { clauses }
        }
    };
    policy.rules.iter().map(rule).collect()
}

fn wire_rule(rule: &Rule) -> wire::Rule {
    let clause = |clause: &Clause| wire::Clause { matches: clause.matches.iter().map(wire_match).collect() };
    wire::Rule { clauses: rule.clauses.iter().map(clause).collect() }
}

fn wire_match(m: &Match) -> wire::Match {
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
    wire::Match {
        namespaces: wire_strings(namespaces),
        not_namespaces: wire_strings(not_namespaces),
        principals: wire_strings(principals),
        not_principals: wire_strings(not_principals),
        source_ips: wire_nets(source_ips),
        not_source_ips: wire_nets(not_source_ips),
        destination_ips: wire_nets(destination_ips),
        not_destination_ips: wire_nets(not_destination_ips),
        destination_ports: destination_ports.iter().map(|p| u32::from(*p)).collect(),
        not_destination_ports: not_destination_ports.iter().map(|p| u32::from(*p)).collect(),
        service_accounts: wire_accounts(service_accounts),
        not_service_accounts: wire_accounts(not_service_accounts),
        http: http.as_deref().map(super::traffic::written).unwrap_or_default(),
    }
}

fn wire_strings(list: &[StringMatch]) -> Vec<wire::StringMatch> {
    use wire::string_match::MatchType;
    list.iter()
        .map(|m| wire::StringMatch {
            match_type: Some(match m {
                StringMatch::Exact(text) => MatchType::Exact(text.clone()),
                StringMatch::Prefix(text) => MatchType::Prefix(text.clone()),
                StringMatch::Suffix(text) => MatchType::Suffix(text.clone()),
                StringMatch::Presence => MatchType::Presence(()),
            }),
        })
        .collect()
}

fn wire_nets(list: &[IpNet]) -> Vec<wire::Address> {
    list.iter().map(|net| wire::Address { address: ip_to_bytes(net.addr()), length: net.prefix_len().into() }).collect()
}

fn wire_accounts(list: &[ServiceAccountMatch]) -> Vec<wire::ServiceAccountMatch> {
    list.iter()
        .map(|m| wire::ServiceAccountMatch {
            namespace: m.namespace.clone(),
            service_account: m.service_account.clone(),
        })
        .collect()
}

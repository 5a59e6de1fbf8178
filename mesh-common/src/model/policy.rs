//! Authorisation policies as data. Rules are OR-ed, the clauses of a rule AND-ed, the matches of a clause OR-ed;
//! within a match the kinds of condition are AND-ed and the values of one kind OR-ed.

pub(crate) mod http;

pub use http::{ClaimCondition, HeaderCondition, HttpMatch, PathPattern};

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use serde::{Deserialize, Serialize};

use super::{
    Connection, Passing,
    service::{NameError, split_name},
};

/// `namespace/name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyName {
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub name: PolicyName,
    pub scope: Scope,
    pub action: Action,
    pub rules: Vec<Rule>,
    /// Evaluated and reported, never enforced. Without meaning for [`Action::Audit`], which refuses nobody anyway.
    pub dry_run: bool,
}

/// Which workloads a policy is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every workload of the mesh.
    Global,
    /// Every workload of the policy's namespace.
    Namespace,
    /// Workloads that name it (`Workload::policies`).
    WorkloadSelector,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Allow,
    Deny,
    /// Tells of the connections that it matches, and decides none.
    Audit,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    pub clauses: Vec<Clause>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Clause {
    pub matches: Vec<Match>,
}

/// An empty kind of condition always holds; a `not_` kind holds if none of its values does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    pub namespaces: Vec<StringMatch>,
    pub not_namespaces: Vec<StringMatch>,
    pub principals: Vec<StringMatch>,
    pub not_principals: Vec<StringMatch>,
    pub source_ips: Vec<IpNet>,
    pub not_source_ips: Vec<IpNet>,
    pub destination_ips: Vec<IpNet>,
    pub not_destination_ips: Vec<IpNet>,
    pub destination_ports: Vec<u16>,
    pub not_destination_ports: Vec<u16>,
    pub service_accounts: Vec<ServiceAccountMatch>,
    pub not_service_accounts: Vec<ServiceAccountMatch>,
    /// What only a request can answer. Boxed, since most policies have none.
    pub http: Option<Box<HttpMatch>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StringMatch {
    Exact(String),
    Prefix(String),
    Suffix(String),
    /// Any value, but there must be one.
    Presence,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccountMatch {
    pub namespace: String,
    pub service_account: String,
}

impl Action {
    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
        }
    }
}

impl Scope {
    /// Whom it is about, in one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Namespace => "namespace",
            Self::WorkloadSelector => "workload",
        }
    }
}

impl Policy {
    /// Whether it takes part in the decision.
    pub fn is_enforced(&self) -> bool {
        !self.dry_run && self.action != Action::Audit
    }

    /// Its action for lists: `DENY`, or `DENY (dry run)`.
    pub fn listed_action(&self) -> String {
        format!("{}{}", self.action.name(), if self.dry_run { " (dry run)" } else { "" })
    }

    /// The first rule that matches, from 0.
    pub fn matching_rule(&self, connection: &Connection, passing: &Passing<'_>) -> Option<usize> {
        self.rules.iter().position(|rule| rule.matches(self.action, connection, passing))
    }

    /// It has conditions beyond those of L4.
    pub fn asks(&self) -> bool {
        self.rules.iter().any(Rule::asks)
    }

    /// Some of its conditions only a request can answer.
    pub fn asks_requests(&self) -> bool {
        let matches = self.rules.iter().flat_map(|rule| &rule.clauses).flat_map(|clause| &clause.matches);
        matches.filter_map(|m| m.http.as_deref()).any(HttpMatch::asks_requests)
    }

    /// Some of its conditions are about the server name in TLS of the application's own.
    pub fn asks_server_name(&self) -> bool {
        let matches = self.rules.iter().flat_map(|rule| &rule.clauses).flat_map(|clause| &clause.matches);
        matches.filter_map(|m| m.http.as_deref()).any(HttpMatch::asks_server_name)
    }
}

impl StringMatch {
    /// `None` stands for a connection without the attribute: nothing matches it.
    pub fn matches(&self, value: Option<&str>) -> bool {
        match (self, value) {
            (_, None | Some("")) => false,
            (Self::Exact(want), Some(value)) => want == value,
            (Self::Prefix(want), Some(value)) => value.starts_with(want.as_str()),
            (Self::Suffix(want), Some(value)) => value.ends_with(want.as_str()),
            (Self::Presence, Some(_)) => true,
        }
    }
}

impl Rule {
    /// It has conditions beyond those of L4.
    pub fn asks(&self) -> bool {
        self.clauses.iter().flat_map(|clause| &clause.matches).any(|m| m.http.is_some())
    }

    /// A rule without clauses matches every connection. `action` is the policy's: it says what an open question counts
    /// as.
    pub fn matches(&self, action: Action, connection: &Connection, passing: &Passing<'_>) -> bool {
        self.clauses.iter().all(|clause| clause.matches(action, connection, passing))
    }
}

impl Clause {
    /// A clause without matches matches every connection.
    pub fn matches(&self, action: Action, connection: &Connection, passing: &Passing<'_>) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|m| m.matches(action, connection, passing))
    }
}

impl Match {
    /// Matches no connection, also for readers that know nothing of it: it stands for conditions that only an HTTP
    /// request could meet.
    pub fn nobody() -> Self {
        Self { not_destination_ips: anywhere(), ..Self::default() }
    }

    /// Matches every connection, also for readers that skip a match without conditions.
    pub fn everybody() -> Self {
        Self { source_ips: anywhere(), ..Self::default() }
    }

    pub fn matches(&self, action: Action, connection: &Connection, passing: &Passing<'_>) -> bool {
        let identity = connection.source_identity.as_ref();
        // A text of its own is made only for who asks for it.
        let asks_principal = !self.principals.is_empty() || !self.not_principals.is_empty();
        let principal = identity.filter(|_| asks_principal).map(super::Identity::principal);
        let namespace = identity.map(super::Identity::namespace);
        let strings = |set: &[StringMatch], value: Option<&str>| set.iter().any(|m| m.matches(value));
        let nets = |set: &[IpNet], ip: IpAddr| set.iter().any(|net| covers(net, ip));
        let account = |set: &[ServiceAccountMatch]| {
            set.iter().any(|want| {
                identity.is_some_and(|i| i.namespace() == want.namespace && i.service_account() == want.service_account)
            })
        };
        let port = connection.destination.port();
        let (source, destination) = (connection.source_ip.to_canonical(), connection.destination.ip().to_canonical());

        (self.namespaces.is_empty() || strings(&self.namespaces, namespace))
            && !strings(&self.not_namespaces, namespace)
            && (self.principals.is_empty() || strings(&self.principals, principal.as_deref()))
            && !strings(&self.not_principals, principal.as_deref())
            && (self.source_ips.is_empty() || nets(&self.source_ips, source))
            && !nets(&self.not_source_ips, source)
            && (self.destination_ips.is_empty() || nets(&self.destination_ips, destination))
            && !nets(&self.not_destination_ips, destination)
            && (self.destination_ports.is_empty() || self.destination_ports.contains(&port))
            && !self.not_destination_ports.contains(&port)
            && (self.service_accounts.is_empty() || account(&self.service_accounts))
            && !account(&self.not_service_accounts)
            && self.http.as_deref().is_none_or(|http| http.matches(action, connection, passing))
    }
}

fn anywhere() -> Vec<IpNet> {
    vec![Ipv4Net::default().into(), Ipv6Net::default().into()]
}

/// `ip` is canonical. A network of IPv4-mapped addresses is the IPv4 network that it stands for; no other IPv6 network
/// holds an IPv4 address.
pub(crate) fn covers(net: &IpNet, ip: IpAddr) -> bool {
    match (net, ip) {
        (IpNet::V6(mapped), IpAddr::V4(v4)) => mapped.prefix_len() >= 96 && mapped.contains(&v4.to_ipv6_mapped()),
        _ => net.contains(&ip),
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// As users write it.
impl fmt::Display for StringMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Presence => f.write_str("*"),
        }
    }
}

impl fmt::Display for ServiceAccountMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.service_account)
    }
}

impl FromStr for PolicyName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, name) = split_name(text)?;
        Ok(Self { namespace, name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(action: Action, dry_run: bool, matches: Vec<Match>) -> Policy {
        Policy {
            name: PolicyName { namespace: "shop".into(), name: "web".into() },
            scope: Scope::Namespace,
            action,
            rules: vec![Rule { clauses: vec![Clause { matches }] }],
            dry_run,
        }
    }

    #[test]
    fn actions_scopes_and_names_are_written_as_users_do() {
        let listed = |action, dry_run| policy(action, dry_run, Vec::new()).listed_action();
        assert_eq!(listed(Action::Allow, false), "ALLOW");
        assert_eq!(listed(Action::Deny, true), "DENY (dry run)");
        assert_eq!(listed(Action::Audit, false), "AUDIT");
        let scopes = [Scope::Global, Scope::Namespace, Scope::WorkloadSelector].map(Scope::name);
        assert_eq!(scopes, ["global", "namespace", "workload"]);
        assert_eq!(policy(Action::Allow, false, Vec::new()).name.to_string(), "shop/web");
        let texts = [
            (StringMatch::Exact("a".into()), "a"),
            (StringMatch::Prefix("a".into()), "a*"),
            (StringMatch::Suffix("a".into()), "*a"),
            (StringMatch::Presence, "*"),
        ];
        for (pattern, text) in texts {
            assert_eq!(pattern.to_string(), text);
            assert_eq!(PathPattern::Text(pattern).to_string(), text);
        }
        assert_eq!(PathPattern::Template("/a/{*}".into()).to_string(), "/a/{*}");
    }

    #[test]
    fn who_is_enforced_takes_part() {
        let enforced = |action, dry_run| policy(action, dry_run, Vec::new()).is_enforced();
        assert!(enforced(Action::Allow, false) && enforced(Action::Deny, false));
        assert!(!enforced(Action::Allow, true) && !enforced(Action::Deny, true));
        assert!(!enforced(Action::Audit, false) && !enforced(Action::Audit, true));
    }

    /// Readers that know nothing of a match without conditions skip it, and one that nobody meets must be met by
    /// nobody.
    #[test]
    fn everybody_and_nobody_are_said_with_conditions() {
        let everywhere = ["0.0.0.0/0", "::/0"].map(|net| net.parse::<IpNet>().expect("a network"));
        assert_eq!(Match::everybody(), Match { source_ips: everywhere.to_vec(), ..Match::default() });
        assert_eq!(Match::nobody(), Match { not_destination_ips: everywhere.to_vec(), ..Match::default() });
        for (source, destination) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2"), ("::ffff:10.0.0.1", "10.0.0.2")]
        {
            let connection = Connection {
                source_identity: None,
                source_ip: source.parse().expect("an address"),
                destination: (destination.parse::<IpAddr>().expect("an address"), 80).into(),
            };
            for action in [Action::Allow, Action::Deny, Action::Audit] {
                assert!(Match::everybody().matches(action, &connection, &Passing::BYTES), "{source}");
                assert!(!Match::nobody().matches(action, &connection, &Passing::BYTES), "{source}");
            }
        }
    }

    #[test]
    fn each_condition_says_what_it_asks_for() {
        type Change = fn(&mut HttpMatch);
        fn any() -> Vec<StringMatch> {
            vec![StringMatch::Presence]
        }
        let about_requests: [Change; 16] = [
            |http| http.hosts = any(),
            |http| http.not_hosts = any(),
            |http| http.methods = any(),
            |http| http.not_methods = any(),
            |http| http.paths = vec![PathPattern::Text(StringMatch::Presence)],
            |http| http.not_paths = vec![PathPattern::Text(StringMatch::Presence)],
            |http| http.request_principals = any(),
            |http| http.not_request_principals = any(),
            |http| http.remote_ips = anywhere(),
            |http| http.not_remote_ips = anywhere(),
            |http| http.audiences = any(),
            |http| http.not_audiences = any(),
            |http| http.presenters = any(),
            |http| http.not_presenters = any(),
            |http| {
                http.headers = vec![HeaderCondition { name: "x".into(), values: any(), not_values: Vec::new() }];
            },
            |http| http.claims = vec![ClaimCondition { path: vec!["a".into()], values: any(), not_values: Vec::new() }],
        ];
        let about_names: [Change; 2] = [|http| http.server_names = any(), |http| http.not_server_names = any()];
        let asks = |change: Change| {
            let mut http = HttpMatch::default();
            change(&mut http);
            let policy = policy(Action::Allow, false, vec![Match { http: Some(Box::new(http)), ..Match::default() }]);
            (policy.asks(), policy.asks_requests(), policy.asks_server_name())
        };
        for change in about_requests {
            assert_eq!(asks(change), (true, true, false));
        }
        for change in about_names {
            assert_eq!(asks(change), (true, false, true));
        }
        let plain = policy(Action::Allow, false, vec![Match::everybody()]);
        assert!(!plain.asks() && !plain.asks_requests() && !plain.asks_server_name());
    }
}

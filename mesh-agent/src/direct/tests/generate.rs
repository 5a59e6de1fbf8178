//! Random configurations of small alphabets, so that values meet. The same seed, the same configuration.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::IpNet;
use mesh_common::model::{
    Accounts, Action, Clause, Identity, LocalPod, Locality, Match, Mode, Policy, PolicyName, Rule, SameNode, Scope,
    ServiceAccountMatch, StringMatch, Tunnel, Workload, WorkloadKind,
};

use super::dice::Dice;
use crate::state::{Reach, Unreadable};

pub const NAMESPACES: [&str; 3] = ["a", "ab", "b"];
const ACCOUNTS: [&str; 2] = ["x", "yx"];
pub const PORTS: [u16; 4] = [80, 443, 8080, 15008];
pub const WORKLOADS: u64 = 6;
const PRINCIPALS: [&str; 7] =
    ["cluster.local/ns/a/sa/x", "cluster.local/ns/a/", "cluster.local", "td/ns/", "/sa/x", "x", "td/ns/b/sa/yx"];
const NETWORKS: [&str; 11] = [
    "0.0.0.0/0",
    "::/0",
    "10.0.0.0/24",
    "10.0.0.1/32",
    "10.0.0.2/31",
    "10.0.0.7/30",
    "fd00::/64",
    "fd00::1/128",
    "::ffff:0:0/96",
    "::ffff:10.0.0.0/126",
    "::ffff:0:0/95",
];

impl Dice {
    fn name(&mut self) -> PolicyName {
        let name = *self.pick(&["p", "q", "r", "s", Policy::STRICT_STATIC, "converted_peer_authentication_db"]);
        PolicyName { namespace: (*self.pick(&NAMESPACES)).into(), name: name.into() }
    }

    /// Mostly none.
    fn some<T>(&mut self, value: impl Fn(&mut Self) -> T) -> Vec<T> {
        let count = if self.chance(12) { 1 + self.roll(2) } else { 0 };
        (0..count).map(|_| value(self)).collect()
    }

    fn string(&mut self, from: &[&str]) -> StringMatch {
        let text = (*self.pick(from)).to_owned();
        match self.roll(9) {
            0..=3 => StringMatch::Exact(text),
            4 | 5 => StringMatch::Prefix(text),
            6 | 7 => StringMatch::Suffix(text),
            _ => StringMatch::Presence,
        }
    }

    fn one_match(&mut self) -> Match {
        let namespace = |dice: &mut Self| dice.string(&NAMESPACES);
        let principal = |dice: &mut Self| dice.string(&PRINCIPALS);
        let net = |dice: &mut Self| (*dice.pick(&NETWORKS)).parse::<IpNet>().expect("a network");
        let port = |dice: &mut Self| *dice.pick(&PORTS);
        let account = |dice: &mut Self| ServiceAccountMatch {
            namespace: (*dice.pick(&NAMESPACES)).into(),
            service_account: (*dice.pick(&ACCOUNTS)).into(),
        };
        Match {
            namespaces: self.some(namespace),
            not_namespaces: self.some(namespace),
            principals: self.some(principal),
            not_principals: self.some(principal),
            source_ips: self.some(net),
            not_source_ips: self.some(net),
            destination_ips: self.some(net),
            not_destination_ips: self.some(net),
            destination_ports: self.some(port),
            not_destination_ports: self.some(port),
            service_accounts: self.some(account),
            not_service_accounts: self.some(account),
            http: None,
        }
    }

    fn clause(&mut self) -> Clause {
        Clause { matches: (0..self.roll(3)).map(|_| self.one_match()).collect() }
    }

    fn rule(&mut self) -> Rule {
        Rule { clauses: (0..self.roll(4)).map(|_| self.clause()).collect() }
    }

    pub fn policy(&mut self) -> Policy {
        let scope = *self.pick(&[Scope::Global, Scope::Namespace, Scope::WorkloadSelector]);
        let rules = (0..self.roll(3)).map(|_| self.rule()).collect();
        let (name, dry) = (self.name(), self.chance(15));
        let action =
            *self.pick(&[Action::Allow, Action::Allow, Action::Allow, Action::Deny, Action::Deny, Action::Audit]);
        let policy = Policy { name, scope, action, rules, dry_run: dry && action != Action::Audit };
        // What makes STRICT is always enforced.
        if policy.is_strict_mtls() { Policy { action: Action::Deny, dry_run: false, ..policy } } else { policy }
    }

    pub fn unreadable(&mut self) -> Unreadable {
        let reach = match self.roll(3) {
            0 => Reach::Everybody,
            1 => Reach::Namespace((*self.pick(&NAMESPACES)).into()),
            _ => Reach::Named,
        };
        Unreadable { name: self.name(), reach }
    }

    pub fn workload(&mut self, number: u64) -> Workload {
        let (domain, namespace) = (*self.pick(&["cluster.local", "cluster.local", "td"]), *self.pick(&NAMESPACES));
        let account = *self.pick(&ACCOUNTS);
        // Now and then the address that another one has, too.
        let last = 1 + if self.chance(4) { self.roll(WORKLOADS) } else { number };
        let named = if self.chance(50) { self.roll(3) } else { 0 };
        Workload {
            uid: format!("w{number}"),
            name: format!("w{number}"),
            namespace: namespace.into(),
            addresses: addresses(last),
            network: String::new(),
            tunnel: if self.chance(90) { Tunnel::Hbone } else { Tunnel::None },
            identity: Identity::new(domain, namespace, account).expect("an identity"),
            node: "n".into(),
            canonical_name: String::new(),
            canonical_revision: String::new(),
            kind: WorkloadKind::Pod,
            workload_name: String::new(),
            policies: (0..named).map(|_| self.name()).collect(),
            healthy: true,
            cluster: String::new(),
            host_network: self.chance(2),
            locality: Locality::default(),
            services: BTreeMap::new(),
            labels: BTreeMap::new(),
        }
    }

    pub fn pod(&mut self, workload: &Workload) -> LocalPod {
        LocalPod {
            uid: workload.uid.clone(),
            pod_uid: String::new(),
            namespace: workload.namespace.clone(),
            name: workload.name.clone(),
            service_account: workload.identity.service_account().to_owned(),
            addresses: workload.addresses.clone(),
            mode: Mode::Mesh,
            strict_by: self.chance(20).then(|| self.name()),
            probe_ports: Vec::new(),
            same_node: if self.chance(5) { SameNode::Tls } else { SameNode::Direct },
            inbound: Default::default(),
            telemetry: Default::default(),
        }
    }

    pub fn accounts(&mut self, namespace: &str) -> Accounts {
        let names = ACCOUNTS.iter().filter(|_| self.chance(85)).map(|name| (*name).to_owned()).collect();
        Accounts { namespace: namespace.into(), names, mode: Mode::Mesh }
    }
}

/// One of each family.
pub fn addresses(last: u64) -> Vec<IpAddr> {
    [format!("10.0.0.{last}"), format!("fd00::{last}")].iter().map(|text| text.parse().expect("an address")).collect()
}

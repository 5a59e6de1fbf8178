//! Small alphabets, so that values meet.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use mesh_common::model::{
    Action, Affinity, Clause, Connection, Identity, Level, LoadBalancing, LoadBalancingMode, Locality, Match, Policy,
    PolicyName, Rule, Scope, Service, ServiceAccountMatch, ServiceName, ServicePort, StringMatch, Tunnel, Workload,
    WorkloadKind,
};
use proptest::{collection, option, prelude::*, sample::select};

use crate::requests::http_match;

const NAMESPACES: [&str; 3] = ["a", "ab", "b"];
const ACCOUNTS: [&str; 2] = ["x", "yx"];

fn identity() -> impl Strategy<Value = Identity> {
    (select(&["cluster.local", "td"][..]), select(&NAMESPACES[..]), select(&ACCOUNTS[..]))
        .prop_map(|(domain, namespace, account)| Identity::new(domain, namespace, account).expect("DNS names"))
}

fn ip() -> impl Strategy<Value = IpAddr> {
    let texts = ["10.0.0.1", "10.0.0.2", "10.0.1.1", "::ffff:10.0.0.1", "::ffff:10.0.1.1", "fd00::1", "fd00::2", "::1"];
    select(texts.map(|text| text.parse::<IpAddr>().expect("an address")).to_vec())
}

pub fn net() -> impl Strategy<Value = IpNet> {
    let texts = [
        "0.0.0.0/0",
        "::/0",
        "10.0.0.0/24",
        "10.0.0.1/32",
        "10.0.0.2/31",
        "10.0.1.7/24",
        "fd00::/64",
        "fd00::1/128",
        "::ffff:0:0/96",
        "::ffff:10.0.0.0/120",
        "::ffff:0:0/95",
    ];
    select(texts.map(|text| text.parse::<IpNet>().expect("a network")).to_vec())
}

fn port() -> impl Strategy<Value = u16> {
    select(vec![80, 443, 8080])
}

pub fn connection() -> impl Strategy<Value = Connection> {
    (option::weighted(0.75, identity()), ip(), ip(), port()).prop_map(|(source_identity, source_ip, ip, port)| {
        Connection { source_identity, source_ip, destination: SocketAddr::new(ip, port) }
    })
}

pub fn string(values: &'static [&'static str]) -> impl Strategy<Value = StringMatch> {
    let text = || select(values).prop_map(str::to_owned);
    prop_oneof![
        4 => text().prop_map(StringMatch::Exact),
        2 => text().prop_map(StringMatch::Prefix),
        2 => text().prop_map(StringMatch::Suffix),
        1 => Just(StringMatch::Presence),
    ]
}

fn namespace() -> impl Strategy<Value = StringMatch> {
    string(&NAMESPACES)
}

fn principal() -> impl Strategy<Value = StringMatch> {
    string(&[
        "cluster.local/ns/a/sa/x",
        "cluster.local/ns/a/",
        "cluster.local",
        "td/ns/",
        "/sa/x",
        "x",
        "td/ns/b/sa/yx",
    ])
}

fn account() -> impl Strategy<Value = ServiceAccountMatch> {
    (select(&NAMESPACES[..]), select(&ACCOUNTS[..])).prop_map(|(namespace, account)| ServiceAccountMatch {
        namespace: namespace.into(),
        service_account: account.into(),
    })
}

/// Mostly empty, so that a match has one or two conditions.
pub fn some<T: std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    let few = collection::vec(value, 1..3);
    option::weighted(0.12, few).prop_map(Option::unwrap_or_default)
}

/// Never empty: that does not travel.
fn one_match() -> impl Strategy<Value = Match> {
    let strings = (some(namespace()), some(namespace()), some(principal()), some(principal()));
    let nets = (some(net()), some(net()), some(net()), some(net()));
    let rest = (some(port()), some(port()), some(account()), some(account()));
    let http = option::weighted(0.5, http_match().prop_map(Box::new));
    (strings, nets, rest, port(), http).prop_map(|(strings, nets, rest, fallback, http)| {
        let mut m = Match {
            namespaces: strings.0,
            not_namespaces: strings.1,
            principals: strings.2,
            not_principals: strings.3,
            source_ips: nets.0,
            not_source_ips: nets.1,
            destination_ips: nets.2,
            not_destination_ips: nets.3,
            destination_ports: rest.0,
            not_destination_ports: rest.1,
            service_accounts: rest.2,
            not_service_accounts: rest.3,
            http,
        };
        if m == Match::default() {
            m.destination_ports = vec![fallback];
        }
        m
    })
}

fn policy() -> impl Strategy<Value = Policy> {
    let clause = collection::vec(one_match(), 0..3).prop_map(|matches| Clause { matches });
    let rule = collection::vec(clause, 0..4).prop_map(|clauses| Rule { clauses });
    let name = prop_oneof![
        8 => select(vec!["p", "q", "r"]),
        1 => Just(Policy::STRICT_STATIC),
        1 => Just("converted_peer_authentication_db"),
    ];
    let scope = select(vec![Scope::Global, Scope::Namespace, Scope::WorkloadSelector]);
    let action = select(vec![Action::Allow, Action::Allow, Action::Allow, Action::Deny, Action::Deny, Action::Audit]);
    (select(&NAMESPACES[..]), name, scope, action, collection::vec(rule, 0..3), prop::bool::weighted(0.2)).prop_map(
        |(namespace, name, scope, action, rules, dry_run)| {
            let name = PolicyName { namespace: namespace.into(), name: name.into() };
            let policy = Policy { name, scope, action, rules, dry_run: dry_run && action != Action::Audit };
            // What makes STRICT is always enforced.
            if policy.is_strict_mtls() { Policy { action: Action::Deny, dry_run: false, ..policy } } else { policy }
        },
    )
}

pub fn policies() -> impl Strategy<Value = Vec<Policy>> {
    collection::vec(policy(), 0..4)
}

/// Enough of them for an index of several levels.
pub fn many_policies() -> impl Strategy<Value = Vec<Policy>> {
    let rules = collection::vec(narrow_rule(), 4..16);
    let more = (policy(), rules).prop_map(|(policy, rules)| Policy { rules, ..policy });
    prop_oneof![1 => collection::vec(policy(), 0..10), 2 => collection::vec(more, 0..4)]
}

/// One or two clauses of one match, so that few rules hold, and those by one key.
fn narrow_rule() -> impl Strategy<Value = Rule> {
    let clause = one_match().prop_map(|m| Clause { matches: vec![m] });
    collection::vec(clause, 1..3).prop_map(|clauses| Rule { clauses })
}

fn service_port() -> impl Strategy<Value = ServicePort> {
    (port(), prop_oneof![Just(0), port()]).prop_map(|(port, target)| ServicePort { port, target })
}

fn service_name() -> impl Strategy<Value = ServiceName> {
    (select(&NAMESPACES[..]), select(vec!["h", "h.a.svc"]))
        .prop_map(|(namespace, hostname)| ServiceName { namespace: namespace.into(), hostname: hostname.into() })
}

fn load_balancing() -> impl Strategy<Value = LoadBalancing> {
    let levels = [Level::Network, Level::Cluster, Level::Region, Level::Zone, Level::Subzone, Level::Node];
    let mode = select(vec![LoadBalancingMode::Failover, LoadBalancingMode::Strict]);
    (collection::vec(select(levels.to_vec()), 1..4), mode)
        .prop_map(|(preference, mode)| LoadBalancing { preference, mode })
}

pub fn service() -> impl Strategy<Value = Service> {
    let (addresses, ports) = (collection::vec(ip(), 0..3), collection::vec(service_port(), 0..3));
    let affinity = (1..=86_400_i64).prop_map(|seconds| Affinity::try_from(seconds).expect("in bounds"));
    (service_name(), "[a-z]{0,3}", addresses, ports, option::of(load_balancing()), option::of(affinity)).prop_map(
        |(ServiceName { namespace, hostname }, name, addresses, ports, load_balancing, affinity)| Service {
            name,
            namespace,
            hostname,
            addresses,
            ports,
            load_balancing,
            affinity,
        },
    )
}

pub fn workload() -> impl Strategy<Value = Workload> {
    let kinds = vec![WorkloadKind::Deployment, WorkloadKind::CronJob, WorkloadKind::Pod, WorkloadKind::Job];
    let texts = prop::array::uniform7("[a-z/.]{0,4}");
    let policies = collection::vec((select(&NAMESPACES[..]), "[a-z_]{1,4}"), 0..3);
    let services = collection::btree_map(service_name(), collection::vec(service_port(), 0..3), 0..3);
    let facts = (any::<bool>(), any::<bool>(), any::<bool>(), select(kinds));
    let locality = ("[a-z]{0,2}", "[a-z]{0,2}", "[a-z]{0,2}").prop_map(|(region, zone, subzone)| Locality {
        region,
        zone,
        subzone,
    });
    ("[a-zA-Z/]{1,8}", texts, identity(), collection::vec(ip(), 0..3), policies, services, facts, locality).prop_map(
        |(uid, texts, identity, addresses, policies, services, (hbone, healthy, host_network, kind), locality)| {
            let [name, network, node, canonical_name, canonical_revision, workload_name, cluster] = texts;
            Workload {
                uid,
                name,
                // On the wire a workload and its identity share one namespace.
                namespace: identity.namespace().to_owned(),
                addresses,
                network,
                tunnel: if hbone { Tunnel::Hbone } else { Tunnel::None },
                identity,
                node,
                canonical_name,
                canonical_revision,
                kind,
                workload_name,
                policies: policies
                    .into_iter()
                    .map(|(namespace, name)| PolicyName { namespace: namespace.into(), name })
                    .collect(),
                healthy,
                cluster,
                host_network,
                locality,
                services,
                labels: Default::default(),
            }
        },
    )
}

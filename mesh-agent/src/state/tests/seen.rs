//! What is read for the sake of being seen: nothing depends on it, and nothing ends when somebody begins to look.

use mesh_common::model::{
    telemetry::{Requests, Telemetry},
    traffic::{
        Clients, ConnectionPool, DestinationPolicy, For, Inbound, Millis, Protocol, RateLimit, TokenBucket, Traffic,
        TrafficPolicy,
    },
};

use super::*;
use crate::state::Rules;

fn seen(inbound: Inbound) -> Object {
    let telemetry = Telemetry { requests: Requests::Seen, ..Telemetry::default() };
    Object::LocalPod(LocalPod { inbound, telemetry, ..pod("a", Mode::Mesh) })
}

#[test]
fn a_pod_that_is_seen_is_read_where_it_may_speak_http() {
    let store = Store::default();
    let web = workload("a", "10.0.0.1");
    let before = put(&store, [Object::Workload(web.clone()), Object::LocalPod(pod("a", Mode::Mesh))]);
    assert!(!before.reads(&web, 80));
    let protocols = [(1, Protocol::Http), (2, Protocol::Http2), (3, Protocol::Tcp), (4, Protocol::Tls)].into();
    let now = put(&store, [seen(Inbound { protocols, ..Inbound::default() })]);
    let own = now.workload(&web.uid).expect("it is there");
    assert_eq!([80, 1, 2, 3, 4].map(|port| now.reads(own, port)), [true, true, true, false, false]);
    for port in [80, 1, 2, 3, 4] {
        assert!(!now.must_read(own, port) && !now.decides_requests(own, port), "{port}");
        assert_eq!(now.passed_at_first(own, port), Passed::BYTES, "{port}");
    }
    assert!(!now.has_inbound_of(&before, &web.uid), "the kernel may not do without the agent any more");
}

#[test]
fn a_limit_is_needed_however_it_is_seen() {
    let store = Store::default();
    let bucket = TokenBucket { requests: 1, interval: Millis(1), burst: 1 };
    let (origin, ports, matches, overrides) = Default::default();
    let limit = RateLimit { origin, ports, matches, total: Some(bucket), identity: None, overrides };
    let now = put(
        &store,
        [Object::Workload(workload("a", "10.0.0.1")), seen(Inbound { limits: vec![limit], ..Inbound::default() })],
    );
    assert!(now.must_read(now.workload("Kubernetes//Pod/shop/a").expect("it is there"), 80));
}

#[test]
fn a_service_that_is_seen_has_rules_that_end_nothing() {
    let store = Store::default();
    put(&store, [Object::Service(service("10.96.0.1"))]);
    let rules = |seen, policies| {
        let protocols = BTreeMap::from([(80, Protocol::Http)]);
        let traffic = Traffic { service: cart(), protocols, routes: Vec::new(), policies, seen };
        Object::Traffic(Arc::new(Rules::new(traffic).expect("rules")))
    };
    for is_seen in [false, true] {
        let now = put(&store, [rules(is_seen, Vec::new())]);
        assert_eq!(now.ruled(&cart()).is_some(), is_seen, "the agent gets what is dialled to it");
        assert!(!now.looks_into(&cart(), "shop", 80), "connections that are bytes may stay so");
    }
    let all = TrafficPolicy::default();
    let bounded = TrafficPolicy { pool: ConnectionPool { max_connections: Some(1), ..all.pool.clone() }, ..all };
    let value = DestinationPolicy { all: bounded, ..DestinationPolicy::default() };
    let now = put(&store, [rules(true, vec![For { clients: Clients::Everybody, value }])]);
    assert!(now.looks_into(&cart(), "shop", 80), "rules are rules");
}

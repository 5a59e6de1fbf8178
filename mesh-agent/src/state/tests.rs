//! The store and what its snapshots find.

mod seen;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use mesh_common::model::{
    Accounts, Action, Clause, Connection, Identity, LocalPod, Locality, Match, Mode, Passed, Policy, PolicyName,
    Reason, Rule, SameNode, Scope, Service, ServiceName, ServicePort, StringMatch, Tunnel, Workload, WorkloadKind,
};

use super::{Delta, Kind, Object, Reach, Snapshot, Store, Unreadable, store::StoreError};

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn cart() -> ServiceName {
    "shop/cart.shop.svc.cluster.local".parse().expect("a service name")
}

pub fn workload(name: &str, address: &str) -> Workload {
    Workload {
        uid: format!("Kubernetes//Pod/shop/{name}"),
        name: name.into(),
        namespace: "shop".into(),
        addresses: vec![ip(address)],
        network: String::new(),
        tunnel: Tunnel::Hbone,
        identity: Identity::new("cluster.local", "shop", "default").expect("an identity"),
        node: "n1".into(),
        canonical_name: name.into(),
        canonical_revision: "latest".into(),
        kind: WorkloadKind::Pod,
        workload_name: name.into(),
        policies: vec![],
        healthy: true,
        cluster: "Kubernetes".into(),
        host_network: false,
        locality: Locality::default(),
        services: BTreeMap::from([(cart(), vec![ServicePort { port: 80, target: 8080 }])]),
        labels: BTreeMap::new(),
    }
}

pub fn service(address: &str) -> Service {
    Service {
        name: "cart".into(),
        namespace: "shop".into(),
        hostname: cart().hostname,
        addresses: vec![ip(address)],
        ports: vec![ServicePort { port: 80, target: 8080 }],
        load_balancing: None,
        affinity: None,
    }
}

fn policy(namespace: &str, name: &str, scope: Scope, action: Action) -> Policy {
    Policy {
        name: PolicyName { namespace: namespace.into(), name: name.into() },
        scope,
        action,
        rules: vec![],
        dry_run: false,
    }
}

pub fn pod(name: &str, mode: Mode) -> LocalPod {
    LocalPod {
        uid: format!("Kubernetes//Pod/shop/{name}"),
        pod_uid: format!("uid-{name}"),
        namespace: "shop".into(),
        name: name.into(),
        service_account: "default".into(),
        addresses: vec![ip("10.0.0.1")],
        strict_by: None,
        probe_ports: Vec::new(),
        mode,
        same_node: SameNode::Direct,
        inbound: Default::default(),
        telemetry: Default::default(),
    }
}

pub fn put(store: &Store, objects: impl IntoIterator<Item = Object>) -> Arc<Snapshot> {
    let upserts = objects.into_iter().map(|object| (object.resource_name(), object)).collect();
    store.apply(Delta { upserts, policies_answered: true, ..Delta::default() }).expect("accepted")
}

fn remove(store: &Store, kind: Kind, name: &str) -> Arc<Snapshot> {
    store.apply(Delta { removals: vec![(kind, name.into())], ..Delta::default() }).expect("accepted")
}

fn uids(workloads: &[Arc<Workload>]) -> Vec<&str> {
    workloads.iter().map(|w| w.name.as_str()).collect()
}

fn names(snapshot: &Snapshot, workload: &Workload) -> Vec<String> {
    snapshot.policies_of(workload).policies.iter().map(|p| p.name.to_string()).collect()
}

#[test]
fn finds_what_was_put_by_every_key_and_nothing_after_removal() {
    let store = Store::default();
    let snapshot = put(
        &store,
        [
            Object::Workload(workload("b", "10.0.0.2")),
            Object::Workload(workload("a", "10.0.0.1")),
            Object::Service(service("10.96.0.1")),
            Object::LocalPod(pod("a", Mode::Mesh)),
        ],
    );
    assert_eq!(snapshot.generation(), 1);
    assert_eq!(snapshot.workload("Kubernetes//Pod/shop/a").expect("by uid").name, "a");
    assert_eq!(snapshot.workload_by_address(ip("10.0.0.2")).expect("by address").name, "b");
    assert_eq!(snapshot.workload_by_address(ip("::ffff:10.0.0.2")).expect("by mapped address").name, "b");
    assert_eq!(snapshot.workload_by_name("shop", "a").expect("by name").name, "a");
    assert_eq!(snapshot.service(&cart()).expect("by name").name, "cart");
    assert_eq!(snapshot.service_by_address(ip("::ffff:10.96.0.1")).expect("by address").name, "cart");
    assert_eq!(uids(snapshot.endpoints(&cart())), ["a", "b"]);
    assert_eq!(snapshot.local_pod("shop", "a").expect("local").mode, Mode::Mesh);
    assert_eq!(snapshot.local_pods().len(), 1);

    let service_name = cart().to_string();
    for (kind, name) in [
        (Kind::Address, "Kubernetes//Pod/shop/a"),
        (Kind::Address, "Kubernetes//Pod/shop/b"),
        (Kind::Address, service_name.as_str()),
        (Kind::LocalPod, "Kubernetes//Pod/shop/a"),
    ] {
        remove(&store, kind, name);
    }
    let after = store.snapshot();
    assert_eq!(after.generation(), 5);
    assert_eq!(after.workloads().len() + after.services().len() + after.local_pods().len(), 0);
    assert!(after.workload_by_address(ip("10.0.0.1")).is_none() && after.workload_by_name("shop", "a").is_none());
    assert!(after.service_by_address(ip("10.96.0.1")).is_none() && after.endpoints(&cart()).is_empty());
    assert_eq!(uids(snapshot.endpoints(&cart())), ["a", "b"], "a snapshot never changes");
}

#[test]
fn an_update_moves_addresses_and_services() {
    let store = Store::default();
    put(&store, [Object::Workload(workload("a", "10.0.0.1"))]);
    let mut moved = workload("a", "10.0.0.9");
    moved.services.clear();
    let snapshot = put(&store, [Object::Workload(moved)]);
    assert!(snapshot.workload_by_address(ip("10.0.0.1")).is_none());
    assert_eq!(snapshot.workload_by_address(ip("10.0.0.9")).expect("moved").name, "a");
    assert!(snapshot.endpoints(&cart()).is_empty());
    assert_eq!(snapshot.workloads().len(), 1);
}

#[test]
fn host_network_workloads_own_no_address() {
    let store = Store::default();
    let on_host = |name| Workload { host_network: true, ..workload(name, "192.168.0.1") };
    let snapshot = put(&store, [Object::Workload(on_host("a")), Object::Workload(on_host("b"))]);
    assert!(snapshot.workload_by_address(ip("192.168.0.1")).is_none());
    assert_eq!(uids(snapshot.endpoints(&cart())), ["a", "b"]);
}

#[test]
fn of_two_claimants_of_an_address_the_authenticated_one_wins() {
    let store = Store::default();
    let plain = Workload { tunnel: Tunnel::None, ..workload("a", "10.0.0.1") };
    let snapshot = put(&store, [Object::Workload(plain), Object::Workload(workload("b", "10.0.0.1"))]);
    assert_eq!(snapshot.workload_by_address(ip("10.0.0.1")).expect("claimed").name, "b");
    let snapshot = remove(&store, Kind::Address, "Kubernetes//Pod/shop/b");
    assert_eq!(snapshot.workload_by_address(ip("10.0.0.1")).expect("the other still").name, "a");
}

#[test]
fn generation_rises_only_with_change() {
    let store = Store::default();
    let mut watch = store.subscribe();
    assert_eq!(put(&store, [Object::Workload(workload("a", "10.0.0.1"))]).generation(), 1);
    assert!(watch.has_changed().expect("open"));
    watch.mark_unchanged();
    assert_eq!(put(&store, [Object::Workload(workload("a", "10.0.0.1"))]).generation(), 1);
    assert_eq!(remove(&store, Kind::Address, "Kubernetes//Pod/shop/other").generation(), 1);
    assert_eq!(remove(&store, Kind::Policy, "Kubernetes//Pod/shop/a").generation(), 1);
    assert!(!watch.has_changed().expect("open"));
    let both = [Object::LocalPod(pod("a", Mode::None)), Object::Service(service("10.96.0.1"))];
    assert_eq!(put(&store, both).generation(), 2);
}

#[test]
fn a_wrong_name_refuses_the_whole_batch() {
    let store = Store::default();
    let good = Object::Workload(workload("a", "10.0.0.1"));
    let upserts = vec![(good.resource_name(), good), ("shop/other".into(), Object::Service(service("10.96.0.1")))];
    let error = store.apply(Delta { upserts, policies_answered: true, ..Delta::default() }).expect_err("refused");
    assert_eq!(error, StoreError::NameMismatch { resource: "shop/other".into(), content: cart().to_string() });
    assert_eq!(store.snapshot().generation(), 0);
    assert!(store.snapshot().workload("Kubernetes//Pod/shop/a").is_none());
}

#[test]
fn an_address_name_is_one_object() {
    let store = Store::default();
    put(&store, [Object::Service(service("10.96.0.1"))]);
    let taken = Workload { uid: cart().to_string(), ..workload("a", "10.0.0.1") };
    let snapshot = put(&store, [Object::Workload(taken)]);
    assert!(snapshot.service(&cart()).is_none() && snapshot.service_by_address(ip("10.96.0.1")).is_none());
    let snapshot = put(&store, [Object::Service(service("10.96.0.1"))]);
    assert_eq!((snapshot.workloads().len(), snapshot.services().len()), (0, 1));
}

#[test]
fn policies_stand_in_order_of_scope_and_none_twice() {
    let store = Store::default();
    let named = |text: &str| text.parse::<PolicyName>().expect("a policy name");
    put(
        &store,
        [
            policy("shop", "by-label", Scope::WorkloadSelector, Action::Allow),
            policy("shop", "all", Scope::Namespace, Action::Allow),
            policy("istio-system", "z", Scope::Global, Action::Deny),
            policy("istio-system", "a", Scope::Global, Action::Deny),
            policy("other", "all", Scope::Namespace, Action::Deny),
            policy("shop", "unnamed", Scope::WorkloadSelector, Action::Deny),
        ]
        .map(Object::Policy),
    );
    let mut target = workload("a", "10.0.0.1");
    target.policies = vec![named("shop/by-label"), named("istio-system/a"), named("shop/by-label")];
    let snapshot = store.snapshot();
    assert_eq!(names(&snapshot, &target), ["istio-system/a", "istio-system/z", "shop/all", "shop/by-label"]);
    assert_eq!(snapshot.policies_of(&target).unknown, None);

    // A change of scope moves it.
    let snapshot = put(&store, [Object::Policy(policy("istio-system", "z", Scope::Namespace, Action::Deny))]);
    assert_eq!(names(&snapshot, &target), ["istio-system/a", "shop/all", "shop/by-label"]);
    let snapshot = remove(&store, Kind::Policy, "shop/by-label");
    assert_eq!(snapshot.policies_of(&target).unknown, Some(named("shop/by-label")));
    assert!(snapshot.policy(&named("shop/by-label")).is_none());
    assert_eq!(snapshot.policies().len(), 5);
}

#[test]
fn what_applies_to_own_pods_is_gathered_once() {
    let store = Store::default();
    let own = |name: &str| format!("Kubernetes//Pod/shop/{name}");
    let of = |snapshot: &Snapshot, name: &str| snapshot.policies_of(snapshot.workload(&own(name)).expect("known"));
    let all = policy("shop", "all", Scope::Namespace, Action::Deny);
    let first = put(
        &store,
        [
            Object::Workload(workload("a", "10.0.0.1")),
            Object::Workload(workload("b", "10.0.0.2")),
            Object::Workload(workload("elsewhere", "10.0.0.3")),
            Object::LocalPod(pod("a", Mode::Mesh)),
            Object::LocalPod(pod("b", Mode::Mesh)),
            Object::Policy(all.clone()),
        ],
    );
    assert!(Arc::ptr_eq(&of(&first, "a"), &of(&first, "b")), "one for both");
    assert!(!Arc::ptr_eq(&of(&first, "elsewhere"), &of(&first, "elsewhere")), "it is not this node's");
    assert_eq!(of(&first, "elsewhere").policies.len(), 1);

    // Neither a workload elsewhere nor a policy of others changes it.
    put(&store, [Object::Workload(workload("another", "10.0.0.4"))]);
    let second = put(&store, [Object::Policy(policy("other", "all", Scope::Namespace, Action::Deny))]);
    assert!(Arc::ptr_eq(&of(&first, "a"), &of(&second, "a")));
    assert!(second.decides_like(&first, &own("a"), None));

    // One that names another policy has its own, and what it names may come later.
    let mut b = workload("b", "10.0.0.2");
    b.policies = vec![PolicyName { namespace: "shop".into(), name: "by-label".into() }];
    let third = put(&store, [Object::Workload(b)]);
    assert!(Arc::ptr_eq(&of(&first, "a"), &of(&third, "a")));
    assert!(of(&third, "b").unknown.is_some());
    let fourth = put(&store, [Object::Policy(policy("shop", "by-label", Scope::WorkloadSelector, Action::Allow))]);
    assert!(of(&fourth, "b").unknown.is_none() && of(&fourth, "b").policies.len() == 2);
    assert!(!fourth.decides_like(&third, &own("b"), None) && fourth.decides_like(&third, &own("a"), None));

    let fifth = put(&store, [Object::Policy(Policy { action: Action::Allow, ..all })]);
    assert_eq!(of(&fifth, "a").policies[0].action, Action::Allow);
    assert!(!fifth.decides_like(&fourth, &own("a"), None));
    let sixth = remove(&store, Kind::Policy, "shop/all");
    assert!(of(&sixth, "a").policies.is_empty() && of(&fifth, "a").policies.len() == 1);
    remove(&store, Kind::LocalPod, &own("a"));
    let last = put(&store, [Object::Policy(policy("shop", "late", Scope::Namespace, Action::Deny))]);
    assert_eq!(of(&last, "a").policies.len(), 1, "another node's from now on");
}

#[test]
fn decides_by_the_policies_of_the_destination() {
    let store = Store::default();
    let mut strict = policy("istio-system", Policy::STRICT_STATIC, Scope::WorkloadSelector, Action::Deny);
    let no_identity = Match { not_principals: vec![StringMatch::Presence], ..Match::default() };
    strict.rules = vec![Rule { clauses: vec![Clause { matches: vec![no_identity] }] }];
    let mut target = workload("a", "10.0.0.1");
    target.policies = vec![strict.name.clone()];
    let plaintext = Connection {
        source_identity: None,
        source_ip: ip("10.0.0.2"),
        destination: SocketAddr::new(ip("10.0.0.1"), 8080),
    };
    let snapshot = store.snapshot();
    assert_eq!(snapshot.authorize(&target, &plaintext).expect_err("not known yet").reason, Reason::PolicyUnknown);
    let snapshot = put(&store, [Object::Policy(strict)]);
    assert_eq!(snapshot.authorize(&target, &plaintext).expect_err("STRICT").reason, Reason::PlaintextStrict);
    let mesh = Connection { source_identity: Some(target.identity.clone()), ..plaintext };
    assert_eq!(snapshot.authorize(&target, &mesh).expect("permitted").policy(), None);
}

#[test]
fn a_change_elsewhere_leaves_decisions_as_they_are() {
    let store = Store::default();
    let mut target = workload("a", "10.0.0.1");
    target.policies = vec!["shop/by-label".parse().expect("a policy name")];
    let uid = target.uid.clone();
    let strict: PolicyName = "shop/strict".parse().expect("a policy name");
    let before = put(
        &store,
        [
            Object::Workload(target.clone()),
            Object::Policy(policy("shop", "all", Scope::Namespace, Action::Allow)),
            Object::Policy(policy("shop", "by-label", Scope::WorkloadSelector, Action::Deny)),
            Object::Policy(policy("other", "all", Scope::Namespace, Action::Deny)),
        ],
    );
    assert!(before.decides_like(&before, &uid, None));
    for elsewhere in [
        Object::Workload(workload("b", "10.0.0.2")),
        Object::Service(service("10.96.0.1")),
        Object::Policy(policy("other", "all", Scope::Namespace, Action::Allow)),
        Object::Policy(policy("shop", "not-named", Scope::WorkloadSelector, Action::Deny)),
        Object::LocalPod(LocalPod { strict_by: Some(strict.clone()), ..pod("b", Mode::Mesh) }),
        Object::LocalPod(pod("a", Mode::Mesh)),
    ] {
        let after = put(&store, [elsewhere.clone()]);
        assert!(after.generation() > before.generation() && after.decides_like(&before, &uid, None), "{elsewhere:?}");
    }
    let matching = |name, scope| Policy { rules: vec![Rule::default()], ..policy("shop", name, scope, Action::Deny) };
    for here in [
        Object::Policy(matching("all", Scope::Namespace)),
        Object::Policy(matching("by-label", Scope::WorkloadSelector)),
        Object::Policy(policy("istio-system", "new", Scope::Global, Action::Audit)),
        Object::Workload(Workload { policies: vec![], ..target.clone() }),
        // The policy is the same; what users call it is not.
        Object::LocalPod(LocalPod { strict_by: Some(strict.clone()), ..pod("a", Mode::Mesh) }),
    ] {
        let earlier = store.snapshot();
        let after = put(&store, [here.clone()]);
        assert!(!after.decides_like(&earlier, &uid, None), "{here:?}");
    }
    let earlier = store.snapshot();
    let unreadable = Unreadable { name: "shop/x".parse().expect("a name"), reach: Reach::Everybody };
    let after = store.apply(Delta { unreadable: vec![unreadable], ..Delta::default() }).expect("accepted");
    assert!(!after.decides_like(&earlier, &uid, None), "a policy that cannot be read denies");
    let after = remove(&store, Kind::Address, &uid);
    assert!(!after.decides_like(&earlier, &uid, None), "gone");
}

fn accounts(namespace: &str, names: &[&str]) -> Object {
    let names = names.iter().map(ToString::to_string).collect();
    Object::Accounts(Accounts { namespace: namespace.into(), names, mode: Mode::Mesh })
}

fn from(identity: &str) -> Connection {
    Connection {
        source_identity: Some(identity.parse().expect("an identity")),
        source_ip: ip("10.0.0.2"),
        destination: SocketAddr::new(ip("10.0.0.1"), 8080),
    }
}

#[test]
fn an_identity_ends_with_its_account() {
    let store = Store::default();
    let target = workload("a", "10.0.0.1");
    let of = |text: &str| format!("spiffe://cluster.local/ns/{text}");
    let refused = |snapshot: &Snapshot, identity: &str| {
        let decision = snapshot.decide(&target, &from(identity), Passed::BYTES);
        decision.outcome.err().map(|denied| (denied.reason, denied.to_string()))
    };
    // Nobody says which exist.
    let snapshot = put(&store, [Object::Policy(policy("other", "p", Scope::Namespace, Action::Deny))]);
    assert_eq!(refused(&snapshot, &of("shop/sa/cart")), None);

    let snapshot = put(&store, [accounts("shop", &["cart", "web"]), accounts("empty", &[])]);
    assert_eq!(refused(&snapshot, &of("shop/sa/cart")), None);
    let (reason, why) = refused(&snapshot, &of("shop/sa/client")).expect("refused");
    assert_eq!(reason, Reason::IdentityRevoked);
    assert!(why.contains("ServiceAccount shop/client does not exist"), "{why}");
    // No account left, and a namespace that is gone.
    for identity in ["empty/sa/cart", "gone/sa/cart"] {
        assert_eq!(refused(&snapshot, &of(identity)).expect("refused").0, Reason::IdentityRevoked, "{identity}");
    }
    assert_eq!(refused(&snapshot, "spiffe://elsewhere/ns/gone/sa/cart"), None, "accounts are of this trust domain");
    let plaintext = Connection { source_identity: None, ..from(&of("shop/sa/client")) };
    assert!(snapshot.authorize(&target, &plaintext).is_ok(), "who claims nothing loses nothing");

    let snapshot = put(&store, [accounts("shop", &["client"])]);
    assert_eq!(refused(&snapshot, &of("shop/sa/client")), None);
    let snapshot = remove(&store, Kind::Accounts, "shop");
    assert_eq!(refused(&snapshot, &of("shop/sa/client")).expect("refused").0, Reason::IdentityRevoked);
    let snapshot = remove(&store, Kind::Accounts, "empty");
    assert_eq!(refused(&snapshot, &of("shop/sa/client")), None, "nobody says any more");
}

#[test]
fn a_live_connection_is_decided_again_when_accounts_of_its_namespace_change() {
    let store = Store::default();
    let target = workload("a", "10.0.0.1");
    let (uid, source) = (target.uid.clone(), target.identity.clone());
    let mut earlier = put(&store, [Object::Workload(target), accounts("other", &["x"])]);
    let mut after = |objects: Vec<Object>| {
        let after = put(&store, objects);
        let like = after.decides_like(&earlier, &uid, Some(&source));
        assert!(after.decides_like(&earlier, &uid, None), "accounts are nothing to a client without identity");
        earlier = after;
        like
    };
    assert!(!after(vec![accounts("shop", &["default"])]), "new");
    assert!(after(vec![accounts("other", &["x", "y"])]), "elsewhere");
    assert!(after(vec![accounts("shop", &["default"])]), "the same");
    assert!(!after(vec![accounts("shop", &["default", "web"])]), "another");

    // The first list of all concerns everybody.
    let (store, target) = (Store::default(), workload("a", "10.0.0.1"));
    let before = put(&store, [Object::Workload(target)]);
    let after = put(&store, [accounts("other", &["x"])]);
    assert!(!after.decides_like(&before, &uid, Some(&source)));
}

#[test]
fn the_service_of_a_port_is_named_if_it_is_one_alone() {
    let mut web = workload("web", "10.0.0.1");
    assert_eq!(web.service_to(8080), Some(&cart()));
    assert_eq!(web.service_to(80), None, "where clients dial the service is no port of the pod");
    let canary: ServiceName = "shop/canary.shop.svc.cluster.local".parse().expect("a service name");
    web.services
        .insert(canary.clone(), vec![ServicePort { port: 90, target: 9090 }, ServicePort { port: 80, target: 8080 }]);
    assert_eq!(web.service_to(9090), Some(&canary));
    assert_eq!(web.service_to(8080), None);
    assert_eq!(web.services_to(8080).collect::<Vec<_>>(), [&canary, &cart()]);
}

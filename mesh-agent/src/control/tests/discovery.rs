//! Discovery against a played controller: what is held, what is refused, what a new stream says.

use std::collections::BTreeMap;

use mesh_common::{
    model::{Identity, LocalPod, Mode, SameNode, Service, ServiceName},
    proto::{
        Address,
        discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource},
        nodemesh, refused, security, type_url, workload,
    },
};
use prost::Message;
use tokio::sync::watch;

use super::{
    soon,
    world::{Discovery, Mute, World},
};
use crate::control::ControlStatus;

pub fn resource(type_url: &str, name: &str, version: &str, message: &impl Message) -> Resource {
    Resource {
        name: name.into(),
        version: version.into(),
        resource: Some(prost_types::Any { type_url: type_url.into(), value: message.encode_to_vec() }),
        aliases: vec![],
    }
}

pub fn uid(pod: &str) -> String {
    format!("Kubernetes//Pod/shop/{pod}")
}

pub fn pod(name: &str, last_octet: u8) -> workload::Workload {
    workload::Workload {
        uid: uid(name),
        name: name.into(),
        namespace: "shop".into(),
        addresses: vec![vec![10, 0, 0, last_octet]],
        tunnel_protocol: 1,
        ..Default::default()
    }
}

pub fn pod_resource(version: &str, workload: workload::Workload) -> Resource {
    let name = workload.uid.clone();
    let address = workload::Address { r#type: Some(workload::address::Type::Workload(workload)) };
    resource(type_url::ADDRESS, &name, version, &address)
}

fn accounts_resource(version: &str, namespace: &str, names: &[&str]) -> Resource {
    let names = names.iter().map(ToString::to_string).collect();
    let message = nodemesh::Accounts { namespace: namespace.into(), names, mode: 0 };
    resource(type_url::ACCOUNTS, namespace, version, &message)
}

pub fn service_resource() -> Resource {
    let service = Service {
        name: "cart".into(),
        namespace: "shop".into(),
        hostname: "cart.shop.svc.cluster.local".into(),
        addresses: vec!["10.96.0.1".parse().expect("an address")],
        ports: vec![],
        load_balancing: None,
        affinity: None,
    };
    let name = service.service_name().to_string();
    resource(type_url::ADDRESS, &name, "1", &workload::Address::from(&Address::Service(service)))
}

pub fn response(type_url: &str, nonce: &str, resources: Vec<Resource>, removed: Vec<String>) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: type_url.into(),
        nonce: nonce.into(),
        resources,
        removed_resources: removed,
        ..Default::default()
    }
}

/// The first requests, by type.
pub async fn subscriptions(stream: &mut Discovery) -> BTreeMap<String, DeltaDiscoveryRequest> {
    let mut requests = BTreeMap::new();
    for _ in 0..7 {
        let request = stream.next().await;
        assert!(request.response_nonce.is_empty() && request.resource_names_subscribe.is_empty(), "a wildcard");
        requests.insert(request.type_url.clone(), request);
    }
    requests
}

/// Sends a response and returns why it was refused, if it was.
pub async fn exchange(stream: &mut Discovery, message: DeltaDiscoveryResponse) -> Option<String> {
    let (nonce, type_url) = (message.nonce.clone(), message.type_url.clone());
    stream.send(message).await;
    let answer = stream.next().await;
    assert_eq!((answer.response_nonce, answer.type_url), (nonce, type_url));
    answer.error_detail.map(|error| error.message)
}

async fn status(receiver: &mut watch::Receiver<ControlStatus>, what: &str, is: impl FnMut(&ControlStatus) -> bool) {
    soon(what, receiver.wait_for(is)).await.expect("control runs");
}

#[tokio::test]
async fn subscribes_to_all_types_as_its_node_and_syncs() {
    let mut world = World::new().await;
    let mut control = world.start(Mute);
    let mut stream = world.discovery().await;
    assert_eq!(stream.metadata.get("authorization").expect("a token"), "Bearer nm1.n1.secret");

    let first = stream.next().await;
    let node = first.node.expect("the first request says who asks");
    assert_eq!(node.id, "ztunnel~192.168.0.1~mesh-agent-x.nodemesh-system~nodemesh-system.svc.cluster.local");
    let fields = node.metadata.expect("facts").fields;
    for (key, want) in [
        ("NAME", "mesh-agent-x"),
        ("NAMESPACE", "nodemesh-system"),
        ("INSTANCE_IPS", "192.168.0.1"),
        ("NODE_NAME", "n1"),
        ("CLUSTER_ID", "Kubernetes"),
    ] {
        let want = prost_types::value::Kind::StringValue(want.into());
        assert_eq!(fields[key].kind, Some(want), "{key}");
    }
    let mut types = vec![first.type_url];
    for _ in 1..7 {
        types.push(stream.next().await.type_url);
    }
    // A deleted account must be known before the policies permit anything.
    let wanted = [
        type_url::TRUST_BUNDLE,
        type_url::ACCOUNTS,
        type_url::AUTHORIZATION,
        type_url::ON_DEMAND,
        type_url::ADDRESS,
        type_url::TRAFFIC,
        type_url::LOCAL_POD,
    ];
    assert_eq!(types, wanted);
    status(&mut control.status, "connected", |s| s.connected && !s.synced).await;

    let addresses = vec![pod_resource("1", pod("a", 1)), service_resource()];
    assert_eq!(exchange(&mut stream, response(type_url::ADDRESS, "1", addresses, vec![])).await, None);
    assert_eq!(world.store.snapshot().generation(), 1, "one response is one change");
    let policy = security::Authorization { name: "p".into(), namespace: "shop".into(), ..Default::default() };
    let policies = vec![resource(type_url::AUTHORIZATION, "shop/p", "1", &policy)];
    assert_eq!(exchange(&mut stream, response(type_url::AUTHORIZATION, "2", policies, vec![])).await, None);
    assert_eq!(exchange(&mut stream, response(type_url::ON_DEMAND, "2", vec![], vec![])).await, None);
    assert!(!control.status.borrow().synced, "three of seven types");
    let local = LocalPod {
        uid: uid("a"),
        pod_uid: "u".into(),
        namespace: "shop".into(),
        name: "a".into(),
        service_account: "default".into(),
        addresses: vec![],
        mode: Mode::Mesh,
        strict_by: None,
        probe_ports: Vec::new(),
        same_node: SameNode::Tls,
        inbound: Default::default(),
        telemetry: Default::default(),
    };
    assert_eq!(exchange(&mut stream, response(type_url::TRAFFIC, "2", vec![], vec![])).await, None);
    let pods = vec![resource(type_url::LOCAL_POD, &uid("a"), "1", &nodemesh::LocalPod::from(&local))];
    assert_eq!(exchange(&mut stream, response(type_url::LOCAL_POD, "3", pods, vec![])).await, None);
    assert!(!control.status.borrow().synced, "five of seven types");
    let accounts = vec![accounts_resource("1", "shop", &["default"])];
    assert_eq!(exchange(&mut stream, response(type_url::ACCOUNTS, "4", accounts, vec![])).await, None);
    let bundle = |root: Vec<u8>| {
        let message = nodemesh::TrustBundle { trust_domain: "cluster.local".into(), roots: vec![root] };
        vec![resource(type_url::TRUST_BUNDLE, "cluster.local", "1", &message)]
    };
    let no_root = response(type_url::TRUST_BUNDLE, "5", bundle(b"no certificate".to_vec()), vec![]);
    let why = exchange(&mut stream, no_root).await.expect("a NACK");
    assert!(why.starts_with("resource `cluster.local`: roots: "), "{why}");
    assert!(!control.status.borrow().synced && world.store.snapshot().trust_bundles().is_empty());
    let root = crate::identity::pki::Authority::new("root").root_der();
    assert_eq!(exchange(&mut stream, response(type_url::TRUST_BUNDLE, "6", bundle(root), vec![])).await, None);
    status(&mut control.status, "synced", |s| s.synced && s.last_nack.is_none()).await;

    let snapshot = world.store.snapshot();
    let identity = Identity::new("cluster.local", "shop", "default").expect("an identity");
    assert_eq!(snapshot.workload(&uid("a")).expect("held").identity, identity);
    assert_eq!(snapshot.services().len(), 1);
    assert!(snapshot.policy(&"shop/p".parse().expect("a name")).is_some());
    assert_eq!(**snapshot.local_pod("shop", "a").expect("held"), local);
    let other = Identity::new("cluster.local", "shop", "other").expect("an identity");
    assert!(snapshot.account_exists(&identity) && !snapshot.account_exists(&other));

    world.shutdown.send_replace(true);
    soon("shutdown", control.stopped()).await;
}

#[tokio::test]
async fn updates_and_removes() {
    let mut world = World::new().await;
    let _control = world.start(Mute);
    let mut stream = world.discovery().await;
    subscriptions(&mut stream).await;
    let first = vec![pod_resource("1", pod("a", 1)), pod_resource("1", pod("b", 2))];
    assert_eq!(exchange(&mut stream, response(type_url::ADDRESS, "1", first, vec![])).await, None);
    let second = vec![pod_resource("2", pod("a", 7))];
    assert_eq!(exchange(&mut stream, response(type_url::ADDRESS, "2", second, vec![uid("b")])).await, None);

    let snapshot = world.store.snapshot();
    assert_eq!(snapshot.generation(), 2);
    assert!(snapshot.workload_by_address([10, 0, 0, 7].into()).is_some());
    assert!(snapshot.workload_by_address([10, 0, 0, 1].into()).is_none());
    assert!(snapshot.workload(&uid("b")).is_none());
}

#[tokio::test]
async fn a_bad_resource_is_refused_by_name_and_field_and_its_last_good_version_stays() {
    let mut world = World::new().await;
    let mut control = world.start(Mute);
    let mut stream = world.discovery().await;
    subscriptions(&mut stream).await;
    let good = vec![pod_resource("1", pod("a", 1)), pod_resource("1", pod("b", 2))];
    assert_eq!(exchange(&mut stream, response(type_url::ADDRESS, "1", good, vec![])).await, None);

    let short = workload::Workload { addresses: vec![vec![10, 0, 0]], ..pod("a", 1) };
    let mixed = vec![pod_resource("2", short), pod_resource("1", pod("c", 3))];
    stream.send(response(type_url::ADDRESS, "2", mixed, vec![uid("b")])).await;
    let error = stream.next().await.error_detail.expect("a NACK");
    assert_eq!(refused::names(&error), [uid("a")], "the others are taken");
    let why = error.message;
    assert!(why.contains(&uid("a")) && why.contains("workload.addresses"), "{why}");
    let snapshot = world.store.snapshot();
    assert!(snapshot.workload_by_address([10, 0, 0, 1].into()).is_some(), "the last good version of a stays");
    // What could be read of the response counts: the server will not send it again.
    assert!(snapshot.workload_by_address([10, 0, 0, 3].into()).is_some() && snapshot.workload(&uid("b")).is_none());
    let generation = snapshot.generation();
    status(&mut control.status, "the refusal", |s| s.last_nack.as_deref() == Some(why.as_str())).await;

    // Bytes that are no message, a name that is not the content's, a type that is not the response's.
    let mut broken = pod_resource("1", pod("e", 5));
    broken.resource.as_mut().expect("set").value = vec![0x0a, 0x02, 0x0a];
    let mut misnamed = pod_resource("1", pod("e", 5));
    misnamed.name = uid("d");
    let policy = security::Authorization { name: "p".into(), namespace: "shop".into(), ..Default::default() };
    let mistyped = resource(type_url::AUTHORIZATION, &uid("c"), "1", &policy);
    for (resource, field) in [(broken, "resource"), (misnamed, "name"), (mistyped, "resource.type_url")] {
        let name = resource.name.clone();
        let message = response(type_url::ADDRESS, "3", vec![resource], vec![]);
        let why = exchange(&mut stream, message).await.expect("a NACK");
        assert!(why.starts_with(&format!("resource `{name}`: {field}: ")), "{why}");
    }
    let unknown = exchange(&mut stream, response("type.googleapis.com/other", "4", vec![], vec![])).await;
    assert!(unknown.expect("a NACK").contains("type.googleapis.com/other"));
    assert_eq!(world.store.snapshot().generation(), generation);

    // The refusal is over when everything that was refused has come right.
    let a = vec![pod_resource("3", pod("a", 7)), pod_resource("2", pod("c", 3))];
    assert_eq!(exchange(&mut stream, response(type_url::ADDRESS, "5", a, vec![])).await, None);
    assert!(control.status.borrow().last_nack.is_some(), "d and e are still not as the controller said");
    let removed = vec![uid("d"), uid("e")];
    assert_eq!(exchange(&mut stream, response(type_url::ADDRESS, "6", vec![], removed)).await, None);
    status(&mut control.status, "no refusal", |s| s.last_nack.is_none()).await;
}

#[tokio::test]
async fn nothing_is_permitted_before_the_policies_are_known_nor_past_one_that_cannot_be_read() {
    let mut world = World::new().await;
    let _control = world.start(Mute);
    let mut stream = world.discovery().await;
    subscriptions(&mut stream).await;
    let pods = vec![pod_resource("1", pod("a", 1))];
    assert_eq!(exchange(&mut stream, response(type_url::ADDRESS, "1", pods, vec![])).await, None);
    let permitted = || {
        let snapshot = world.store.snapshot();
        let connection = mesh_common::model::Connection {
            source_identity: None,
            source_ip: [10, 0, 0, 9].into(),
            destination: ([10, 0, 0, 1], 80).into(),
        };
        snapshot.authorize(snapshot.workload(&uid("a")).expect("known"), &connection).is_ok()
    };
    assert!(!permitted(), "no policy was said yet");

    let address = security::Address { address: vec![1, 2, 3], length: 8 };
    let matched = security::Match { source_ips: vec![address], ..Default::default() };
    let clauses = vec![security::Clause { matches: vec![matched] }];
    let bad = security::Authorization {
        name: "p".into(),
        namespace: "shop".into(),
        scope: security::Scope::Namespace.into(),
        rules: vec![security::Rule { clauses }],
        ..Default::default()
    };
    let policy = |policy| vec![resource(type_url::AUTHORIZATION, "shop/p", "1", &policy)];
    let why = exchange(&mut stream, response(type_url::AUTHORIZATION, "2", policy(bad.clone()), vec![])).await;
    assert!(why.expect("a NACK").contains("source_ips"), "names the field");
    assert!(!permitted(), "a policy of its namespace cannot be read");

    let elsewhere = security::Authorization { namespace: "other".into(), ..bad };
    let other = vec![resource(type_url::AUTHORIZATION, "other/p", "1", &elsewhere)];
    let gone = vec!["shop/p".to_owned()];
    exchange(&mut stream, response(type_url::AUTHORIZATION, "3", other, gone)).await.expect("a NACK");
    assert!(permitted(), "the unreadable one of another namespace is nothing to it");
}

#[tokio::test]
async fn a_new_stream_says_what_is_held_and_the_state_stays_meanwhile() {
    let mut world = World::new().await;
    let mut control = world.start(Mute);
    let mut stream = world.discovery().await;
    subscriptions(&mut stream).await;
    let held = vec![pod_resource("v1", pod("a", 1)), pod_resource("v2", pod("b", 2)), pod_resource("v3", pod("c", 3))];
    assert_eq!(exchange(&mut stream, response(type_url::ADDRESS, "1", held, vec![])).await, None);
    assert_eq!(exchange(&mut stream, response(type_url::ADDRESS, "2", vec![], vec![uid("c")])).await, None);
    let bad = workload::Workload { tunnel_protocol: 9, ..pod("b", 2) };
    let refused = exchange(&mut stream, response(type_url::ADDRESS, "3", vec![pod_resource("v4", bad)], vec![])).await;
    assert!(refused.expect("a NACK").contains("workload.tunnel_protocol"));
    status(&mut control.status, "connected", |s| s.connected).await;
    std::fs::write(world.token_file(), "nm1.n1.rotated").expect("written");
    drop(stream);

    status(&mut control.status, "disconnected", |s| !s.connected).await;
    assert_eq!(world.store.snapshot().workloads().len(), 2);
    let mut stream = world.discovery().await;
    assert_eq!(stream.metadata.get("authorization").expect("a token"), "Bearer nm1.n1.rotated");
    let requests = subscriptions(&mut stream).await;
    let versions = BTreeMap::from([(uid("a"), "v1".to_owned()), (uid("b"), "v2".to_owned())]);
    assert_eq!(requests[type_url::ADDRESS].initial_resource_versions, versions);
    assert!(requests[type_url::LOCAL_POD].initial_resource_versions.is_empty());

    assert_eq!(exchange(&mut stream, response(type_url::ADDRESS, "1", vec![], vec![uid("a")])).await, None);
    assert!(world.store.snapshot().workload(&uid("a")).is_none());
    assert!(world.store.snapshot().workload(&uid("b")).is_some());
}

#[tokio::test]
async fn a_controller_of_another_name_is_not_spoken_to() {
    let mut world = World::new().await;
    world.settings.controller_name = "somebody-else.svc".into();
    let control = world.start(Mute);
    let spoken = tokio::time::timeout(std::time::Duration::from_millis(500), world.discoveries.recv()).await;
    assert!(spoken.is_err() && !control.status.borrow().connected);
}

#[tokio::test]
async fn the_last_good_configuration_outlives_the_agent() {
    let mut world = World::new().await;
    let control = world.start(Mute);
    let mut stream = world.discovery().await;
    subscriptions(&mut stream).await;
    let (cart, gone) = (pod_resource("7", pod("cart", 1)), pod_resource("1", pod("gone", 2)));
    assert_eq!(exchange(&mut stream, response(type_url::ADDRESS, "1", vec![cart, gone], vec![])).await, None);
    assert_eq!(exchange(&mut stream, response(type_url::ADDRESS, "2", vec![], vec![uid("gone")])).await, None);
    // A policy that cannot be read must not be forgotten: it may be a DENY.
    let policy = security::Authorization {
        name: "odd".into(),
        namespace: "shop".into(),
        scope: security::Scope::Namespace.into(),
        action: 77,
        ..Default::default()
    };
    let odd = resource(type_url::AUTHORIZATION, "shop/odd", "1", &policy);
    assert!(exchange(&mut stream, response(type_url::AUTHORIZATION, "3", vec![odd], vec![])).await.is_some());
    world.shutdown.send_replace(true);
    soon("control ends", control.stopped()).await;

    let before = world.store.snapshot();
    world.store = Default::default();
    world.shutdown.send_replace(false);
    let mut control = world.start(Mute);
    let after = world.store.snapshot();
    assert_eq!(after.workloads().len(), 1);
    let cart = after.workload(&uid("cart")).expect("held");
    assert_eq!(before.policies_of(cart).unknown, after.policies_of(cart).unknown);
    assert!(after.policies_of(cart).unknown.is_some(), "unreadable as before");
    status(&mut control.status, "from the disk", |status| status.from_disk && !status.synced).await;

    let mut stream = world.discovery().await;
    let requests = subscriptions(&mut stream).await;
    assert_eq!(requests[type_url::ADDRESS].initial_resource_versions, BTreeMap::from([(uid("cart"), "7".into())]));
    assert!(requests[type_url::AUTHORIZATION].initial_resource_versions.is_empty(), "it is to be sent again");
    for kind in requests.keys() {
        exchange(&mut stream, response(kind, "n", vec![], vec![])).await;
    }
    status(&mut control.status, "confirmed", |status| !status.from_disk && status.synced).await;
}

#[tokio::test]
async fn a_configuration_that_is_not_whole_is_not_used() {
    let mut world = World::new().await;
    let control = world.start(Mute);
    let mut stream = world.discovery().await;
    subscriptions(&mut stream).await;
    exchange(&mut stream, response(type_url::ADDRESS, "1", vec![pod_resource("7", pod("cart", 1))], vec![])).await;
    world.shutdown.send_replace(true);
    soon("control ends", control.stopped()).await;
    let good = std::fs::read(world.memory_file()).expect("written at the end");

    let cut = good[..good.len() - 1].to_vec();
    let mut flipped = good.clone();
    // Still a message that decodes.
    let at = flipped.windows(4).position(|part| part == b"cart").expect("it names the pod");
    flipped[at] = b'C';
    let other = [b"nodemesh configuration 2\n".as_slice(), &good[25..]].concat();
    for bad in [cut, flipped, other, Vec::new()] {
        world.store = Default::default();
        std::fs::write(world.memory_file(), &bad).expect("written");
        assert!(!world.memory().recalled());
        assert_eq!(world.store.snapshot().generation(), 0);
        assert_eq!(std::fs::read(world.memory_file().with_extension("unreadable")).expect("kept"), bad);
    }
    std::fs::write(world.memory_file(), &good).expect("written");
    assert!(world.memory().recalled());
    assert_eq!(world.store.snapshot().workloads().len(), 1);
}

#[tokio::test]
async fn accounts_that_cannot_be_read_are_none_now_and_after_a_restart() {
    let mut world = World::new().await;
    let control = world.start(Mute);
    let mut stream = world.discovery().await;
    subscriptions(&mut stream).await;
    let exists = |world: &World, account: &str| {
        let identity = Identity::new("cluster.local", "shop", account).expect("an identity");
        world.store.snapshot().account_exists(&identity)
    };
    // Of the only list there is, no version could ever be read: that must not count for "nobody says".
    let bad = vec![accounts_resource("1", "shop", &["cart", "Web"])];
    let why = exchange(&mut stream, response(type_url::ACCOUNTS, "1", bad, vec![])).await.expect("a NACK");
    assert!(why.starts_with("resource `shop`: names[1]: "), "{why}");
    assert!(!exists(&world, "cart"));
    world.shutdown.send_replace(true);
    soon("control ends", control.stopped()).await;
    world.store = Default::default();
    world.shutdown.send_replace(false);
    let _control = world.start(Mute);
    assert!(!exists(&world, "cart"), "from the disk");

    let mut stream = world.discovery().await;
    subscriptions(&mut stream).await;
    let good = vec![accounts_resource("2", "shop", &["cart"])];
    assert_eq!(exchange(&mut stream, response(type_url::ACCOUNTS, "1", good, vec![])).await, None);
    assert!(exists(&world, "cart") && !exists(&world, "web"));
    // The last good list stays for one that cannot be read.
    let bad = vec![accounts_resource("3", "shop", &["web", ""])];
    assert!(exchange(&mut stream, response(type_url::ACCOUNTS, "2", bad, vec![])).await.is_some());
    assert!(exists(&world, "cart") && !exists(&world, "web"));
    // A controller that does not know the type, or a source that says nothing.
    assert_eq!(exchange(&mut stream, response(type_url::ACCOUNTS, "3", vec![], vec!["shop".into()])).await, None);
    assert!(exists(&world, "web"));
}

#[tokio::test]
async fn a_service_whose_rules_cannot_be_read_is_closed_until_they_can() {
    let mut world = World::new().await;
    let control = world.start(Mute);
    let mut stream = world.discovery().await;
    subscriptions(&mut stream).await;
    let rules = |version: &str, service: &ServiceName, rest: &str| {
        let rules = format!(r#"{{"service":{}{rest}}}"#, serde_json::to_string(service).expect("plain data"));
        let message = nodemesh::Traffic { rules: rules.into_bytes() };
        resource(type_url::TRAFFIC, &service.to_string(), version, &message)
    };
    let cart: ServiceName = "shop/cart.shop.svc.cluster.local".parse().expect("a service");
    let web: ServiceName = "shop/web.shop.svc.cluster.local".parse().expect("a service");
    let why = |world: &World, service: &ServiceName| {
        let snapshot = world.store.snapshot();
        snapshot.ruled(service).and_then(|rules| rules.why_unreadable().map(ToOwned::to_owned))
    };
    // Of a newer controller; one of the two was readable before.
    let good = vec![rules("1", &web, "")];
    assert_eq!(exchange(&mut stream, response(type_url::TRAFFIC, "1", good, vec![])).await, None);
    let newer = vec![rules("1", &cart, r#","quota":3"#), rules("2", &web, r#","quota":3"#)];
    let told = exchange(&mut stream, response(type_url::TRAFFIC, "2", newer, vec![])).await.expect("a NACK");
    assert!(told.contains("quota"), "{told}");
    assert!(why(&world, &cart).expect("nothing passes").contains("quota"));
    assert!(world.store.snapshot().rules(&web).expect("its last good version").why_unreadable().is_none());

    world.shutdown.send_replace(true);
    soon("control ends", control.stopped()).await;
    world.store = Default::default();
    world.shutdown.send_replace(false);
    let _control = world.start(Mute);
    assert!(why(&world, &cart).is_some(), "from the disk");
    assert!(world.store.snapshot().rules(&web).expect("held").why_unreadable().is_none());

    let mut stream = world.discovery().await;
    subscriptions(&mut stream).await;
    let good = vec![rules("3", &cart, "")];
    assert_eq!(exchange(&mut stream, response(type_url::TRAFFIC, "1", good, vec![])).await, None);
    assert!(world.store.snapshot().rules(&cart).expect("readable").why_unreadable().is_none());
    // A version that goes in the same breath stands for nothing.
    let newer = response(type_url::TRAFFIC, "2", vec![rules("4", &cart, r#","quota":3"#)], vec![cart.to_string()]);
    exchange(&mut stream, newer).await.expect("a NACK");
    assert!(why(&world, &cart).is_some());
    let gone = vec![cart.to_string(), web.to_string()];
    assert_eq!(exchange(&mut stream, response(type_url::TRAFFIC, "3", vec![], gone)).await, None);
    assert!(world.store.snapshot().rules(&cart).is_none());
}

//! Sessions against catalogs, as agents would lead them.

mod on_demand;
mod order;

use std::sync::Arc;

use mesh_common::{
    model::{
        LocalPod,
        traffic::{DestinationPolicy, For, Subset, Traffic},
    },
    proto::{
        discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
        refused, rpc, type_url,
    },
};

use super::{
    answer::{Answer, Pieces},
    catalog::Catalog,
    session::{self, Acknowledged},
};
use prost::Message;

use crate::index::{
    Redirection, World,
    tests::{CART, SHOP, enabled, objects, settings, world},
};

/// One whose answers have gone over the wire.
struct Session(session::Session);

impl Session {
    fn new(node: &str) -> Self {
        Self(session::Session::new(node))
    }

    fn request(&mut self, catalog: &Arc<Catalog>, request: DeltaDiscoveryRequest) -> Option<DeltaDiscoveryResponse> {
        self.0.request(catalog, request).map(received)
    }

    fn refresh(&mut self, catalog: &Arc<Catalog>) -> Option<DeltaDiscoveryResponse> {
        self.0.refresh(catalog).map(received)
    }

    fn acknowledged(&self) -> &Acknowledged {
        self.0.acknowledged()
    }
}

fn received(answer: Answer) -> DeltaDiscoveryResponse {
    let bytes = Pieces::try_from(answer).expect("an answer that can be sent").flatten().collect::<Vec<u8>>();
    let (head, message) = bytes.split_at(5);
    assert_eq!(head, [&[0], &u32::try_from(message.len()).expect("a length").to_be_bytes()[..]].concat());
    DeltaDiscoveryResponse::decode(message).expect("a response")
}

fn catalog(world: &World) -> Arc<Catalog> {
    Arc::new(Catalog::default().next(world, &world.since(&World::default())))
}

fn subscribe(names: &[&str]) -> DeltaDiscoveryRequest {
    request(type_url::ADDRESS, names, &[])
}

fn request(type_url: &str, subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.into(),
        resource_names_subscribe: subscribe.iter().map(ToString::to_string).collect(),
        resource_names_unsubscribe: unsubscribe.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest { response_nonce: response.nonce.clone(), ..request(&response.type_url, &[], &[]) }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|r| r.name.as_str()).collect()
}

const CLIENT: &str = "Kubernetes//Pod/shop/client";
const SERVICE: &str = "shop/cart.shop.svc.cluster.local";

#[test]
fn wildcard_then_only_what_changed() {
    let before = world(SHOP);
    let first = catalog(&before);
    let mut session = Session::new("a");
    let response = session.request(&first, subscribe(&[])).expect("an answer");
    assert_eq!(names(&response), [CART, CLIENT, SERVICE]);
    assert_eq!(response.resources[0].aliases, ["/10.0.0.1", "/fd00::1"]);

    let after = World::new(&settings(), &objects(SHOP), &enabled("a"));
    let second = Arc::new(first.next(&after, &after.since(&before)));
    // Not taken yet: changes wait.
    assert!(session.refresh(&second).is_none());
    let response = session.request(&second, ack(&response)).expect("the change");
    assert_eq!(names(&response), [CART]);
    assert!(session.request(&second, ack(&response)).is_none());
    assert!(session.refresh(&second).is_none());

    let third = Arc::new(second.next(&World::default(), &World::default().since(&after)));
    let response = session.refresh(&third).expect("the removals");
    assert_eq!(response.removed_resources, [CART, CLIENT, SERVICE]);
}

#[test]
fn a_refused_response_is_not_repeated_until_something_changes() {
    let before = world(SHOP);
    let first = catalog(&before);
    let mut session = Session::new("a");
    let response = session.request(&first, subscribe(&[])).expect("an answer");
    let mut nack = ack(&response);
    nack.error_detail = Some(rpc::Status { message: "no".into(), ..Default::default() });
    assert!(session.request(&first, nack).is_none());
    let after = World::new(&settings(), &objects(SHOP), &enabled("a"));
    let response = session.refresh(&Arc::new(first.next(&after, &after.since(&before)))).expect("the change");
    assert_eq!(names(&response), [CART]);
}

#[test]
fn reconnecting_with_versions_sends_the_difference() {
    let first = catalog(&world(SHOP));
    let full = Session::new("a").request(&first, subscribe(&[])).expect("an answer");
    let mut again = subscribe(&[]);
    again.initial_resource_versions = full
        .resources
        .iter()
        .map(|r| (r.name.clone(), r.version.clone()))
        .chain([("gone".into(), "1".into())])
        .collect();
    again.initial_resource_versions.insert(CLIENT.into(), "old".into());
    let response = Session::new("a").request(&first, again).expect("an answer");
    assert_eq!(names(&response), [CLIENT]);
    assert_eq!(response.removed_resources, ["gone"]);
}

#[test]
fn on_demand_by_address() {
    let first = catalog(&world(SHOP));
    let mut session = Session::new("a");
    let response = session.request(&first, request(type_url::ADDRESS, &["*"], &["*"])).expect("an answer");
    assert!(response.resources.is_empty());
    let response = session.request(&first, subscribe(&["/10.0.0.1", "/10.9.9.9"])).expect("an answer");
    // The workload, and the service that it serves.
    assert_eq!(names(&response), [CART, SERVICE]);
    assert_eq!(response.removed_resources, ["/10.9.9.9"]);
    // A service brings its workloads.
    let response = Session::new("a").request(&first, subscribe(&["/10.96.0.1"])).expect("an answer");
    assert_eq!(names(&response), [CART, SERVICE]);
    // Unsubscribed.
    let response = session.request(&first, request(type_url::ADDRESS, &[], &["/10.0.0.1"])).expect("an answer");
    assert_eq!(response.removed_resources, [CART, SERVICE]);
    // Asked again, told again.
    session.request(&first, subscribe(&["/10.0.1.1"])).expect("an answer");
    let response = session.request(&first, subscribe(&["/10.0.1.1"])).expect("an answer");
    assert_eq!(names(&response), [CLIENT]);
}

#[test]
fn an_agent_sees_the_pods_of_its_own_node() {
    let first = catalog(&world(SHOP));
    for (node, pods) in [("a", vec![CART]), ("b", vec![CLIENT]), ("c", vec![])] {
        let response = Session::new(node).request(&first, request(type_url::LOCAL_POD, &[], &[])).expect("an answer");
        assert_eq!(names(&response), pods);
    }
    let response = Session::new("a").request(&first, request(type_url::LOCAL_POD, &[CLIENT], &[])).expect("an answer");
    assert_eq!(response.removed_resources, [CLIENT]);
}

#[test]
fn addresses_change_hands_and_types_may_be_unknown() {
    let before = world(SHOP);
    let swapped = SHOP.replace("10.0.1.1", "10.0.0.7").replace("10.0.0.1", "10.0.1.1").replace("10.0.0.7", "10.0.0.1");
    let after = World::new(&settings(), &objects(&swapped), &Redirection::default());
    let next = Arc::new(catalog(&before).next(&after, &after.since(&before)));
    let response = Session::new("a").request(&next, subscribe(&["/10.0.0.1"])).expect("an answer");
    assert_eq!(names(&response), [CLIENT]);
    let response = Session::new("a").request(&next, request("type.googleapis.com/x", &["y"], &[])).expect("an answer");
    assert_eq!(response.removed_resources, ["y"]);
}

#[test]
fn what_an_agent_has_taken_is_known_when_it_was_told_all() {
    let with = |spec: &str| {
        let policy =
            "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p, namespace: shop}";
        world(&format!("{SHOP}---\n{policy}, spec: {spec}}}\n"))
    };
    let before = with("{}");
    let first = catalog(&before);
    let mut session = Session::new("a");
    let types = [type_url::ACCOUNTS, type_url::AUTHORIZATION, type_url::ADDRESS, type_url::LOCAL_POD];
    let mut answers: Vec<_> = types.iter().filter_map(|of| session.request(&first, request(of, &[], &[]))).collect();
    assert_eq!(session.acknowledged().policies.as_ref(), "");
    while let Some(answer) = answers.pop() {
        answers.extend(session.request(&first, ack(&answer)));
    }
    assert_eq!(session.acknowledged().policies.as_ref(), "", "it has not asked for rules of traffic");
    let answer = session.request(&first, request(type_url::TRAFFIC, &[], &[])).expect("an answer");
    assert_eq!(session.acknowledged().policies.as_ref(), "", "they are on their way");
    assert!(session.request(&first, ack(&answer)).is_none());
    assert_eq!(session.acknowledged().policies, *first.digest());
    assert_ne!(first.digest(), Catalog::default().digest());

    // One that is refused is named until it is taken.
    let after = with("{action: DENY}");
    let second = Arc::new(first.next(&after, &after.since(&before)));
    let change = session.refresh(&second).expect("a change");
    let error_detail = Some(rpc::Status { message: "no".into(), ..Default::default() });
    assert!(session.request(&second, DeltaDiscoveryRequest { error_detail, ..ack(&change) }).is_none());
    assert_eq!(session.acknowledged().refused, ["shop/p".to_owned()].into());
    let third = Arc::new(second.next(&before, &before.since(&after)));
    let change = session.refresh(&third).expect("a change");
    assert!(session.request(&third, ack(&change)).is_none());
    assert!(session.acknowledged().refused.is_empty());
}

#[test]
fn rules_of_traffic_that_are_refused_are_named() {
    let rules = |name: &str| {
        let spec = format!("{{hosts: [cart], http: [{{name: {name}, route: [{{destination: {{host: cart}}}}]}}]}}");
        let metadata = "{name: v, namespace: shop}";
        world(&format!(
            "{SHOP}---\n{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {metadata}, spec: {spec}}}\n"
        ))
    };
    let before = rules("a");
    let first = catalog(&before);
    let mut session = Session::new("a");
    let answer = session.request(&first, request(type_url::TRAFFIC, &[], &[])).expect("an answer");
    assert_eq!(names(&answer), [SERVICE]);
    let error_detail = Some(rpc::Status { message: "no".into(), ..Default::default() });
    assert!(session.request(&first, DeltaDiscoveryRequest { error_detail, ..ack(&answer) }).is_none());
    assert_eq!(session.acknowledged().refused, [format!("traffic/{SERVICE}")].into());
    let after = rules("b");
    let second = Arc::new(first.next(&after, &after.since(&before)));
    let answer = session.refresh(&second).expect("the change");
    assert!(session.request(&second, ack(&answer)).is_none());
    assert!(session.acknowledged().refused.is_empty());
}

/// Rules of these services, each of so many bytes.
fn large(services: &[&str], bytes: usize) -> World {
    let rules = |name: &str| {
        let service = mesh_common::model::ServiceName { namespace: "shop".into(), hostname: format!("{name}.x") };
        let subset = Subset { labels: Default::default(), all: Default::default(), ports: Default::default() };
        let subsets = [("s".repeat(bytes), subset)].into();
        let policies = vec![For::everybody(DestinationPolicy { subsets, ..DestinationPolicy::default() })];
        let (protocols, routes) = Default::default();
        (service.clone(), Arc::new(Traffic { service, protocols, routes, policies, seen: false }))
    };
    World { traffic: services.iter().map(|name| rules(name)).collect(), ..world(SHOP) }
}

#[test]
fn rules_of_traffic_are_told_in_answers_that_an_agent_can_take() {
    let first = catalog(&large(&["a", "b", "c", "d"], 6 << 20));
    let mut session = Session::new("a");
    let mut answer = session.request(&first, request(type_url::TRAFFIC, &[], &[])).expect("an answer");
    // Pods are told when all rules are.
    assert!(session.request(&first, request(type_url::LOCAL_POD, &[], &[])).is_none());
    let mut told = Vec::new();
    while answer.type_url == type_url::TRAFFIC {
        assert!(answer.encoded_len() <= 17 << 20, "{} bytes at once", answer.encoded_len());
        told.push(names(&answer).into_iter().map(ToOwned::to_owned).collect::<Vec<_>>());
        answer = session.request(&first, ack(&answer)).expect("more");
    }
    assert_eq!(told, [["shop/a.x", "shop/b.x"], ["shop/c.x", "shop/d.x"]]);
    assert_eq!(answer.type_url, type_url::LOCAL_POD);
    // One that is larger than an answer shall be comes alone.
    let first = catalog(&large(&["a", "b"], 17 << 20));
    let mut session = Session::new("a");
    let answer = session.request(&first, request(type_url::TRAFFIC, &[], &[])).expect("an answer");
    assert_eq!(names(&answer), ["shop/a.x"]);
}

#[test]
fn pods_are_told_in_answers_that_an_agent_can_take() {
    let mut world = world(SHOP);
    let pods = world.local_pods.get_mut("a").expect("a node");
    let cart = pods.pop_first().expect("the cart").1;
    for name in ["p", "q", "r"] {
        let keys = "k".repeat(12 << 20);
        let rule = format!(r#"{{"origin":{{"object":"","field":""}},"issuer":"i","keys":"{keys}"}}"#);
        let mut pod = LocalPod { uid: name.into(), ..LocalPod::clone(&cart) };
        pod.inbound.tokens = vec![serde_json::from_str(&rule).expect("a rule")];
        pods.insert(name.into(), Arc::new(pod));
    }
    let first = catalog(&world);
    let mut session = Session::new("a");
    let answer = session.request(&first, request(type_url::LOCAL_POD, &[], &[])).expect("an answer");
    assert_eq!(names(&answer), ["p", "q"]);
    let answer = session.request(&first, ack(&answer)).expect("the rest");
    assert_eq!(names(&answer), ["r"]);
    assert!(session.request(&first, ack(&answer)).is_none());
}

#[test]
fn of_an_answer_those_count_as_refused_that_the_agent_names() {
    let before = large(&["a", "b", "c"], 1);
    let first = catalog(&before);
    let mut session = Session::new("a");
    let nack = |answer: &DeltaDiscoveryResponse, refused: &[&str]| {
        let details = refused::details(refused.iter().copied());
        let error_detail = Some(rpc::Status { message: "no".into(), details, ..Default::default() });
        DeltaDiscoveryRequest { error_detail, ..ack(answer) }
    };
    let answer = session.request(&first, request(type_url::TRAFFIC, &[], &[])).expect("an answer");
    // Names that it was not told of are nobody's.
    assert!(session.request(&first, nack(&answer, &["shop/b.x", "shop/z.x"])).is_none());
    assert_eq!(session.acknowledged().refused, ["traffic/shop/b.x".to_owned()].into());
    // The next time it is another one.
    let after = large(&["a", "b", "c"], 2);
    let second = Arc::new(first.next(&after, &after.since(&before)));
    let answer = session.refresh(&second).expect("the change");
    assert!(session.request(&second, nack(&answer, &["shop/c.x"])).is_none());
    assert_eq!(session.acknowledged().refused, ["traffic/shop/c.x".to_owned()].into());
    // One that names none, or none of these, has taken none.
    let last = large(&["a", "b", "c"], 3);
    let third = Arc::new(second.next(&last, &last.since(&after)));
    let answer = session.refresh(&third).expect("the change");
    assert!(session.request(&third, nack(&answer, &["shop/z.x"])).is_none());
    assert_eq!(session.acknowledged().refused.len(), 3);
}

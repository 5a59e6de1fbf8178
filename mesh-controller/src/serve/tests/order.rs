//! In which order a state is told.

use super::*;

const ALL: [&str; 4] = [type_url::ACCOUNTS, type_url::AUTHORIZATION, type_url::ADDRESS, type_url::LOCAL_POD];

/// What the shop becomes, step by step.
struct Mesh {
    world: World,
    catalog: Arc<Catalog>,
}

impl Mesh {
    fn new(text: &str) -> Self {
        let world = world(text);
        Self { catalog: catalog(&world), world }
    }

    fn becomes(&mut self, text: &str) {
        let after = world(text);
        self.catalog = Arc::new(self.catalog.next(&after, &after.since(&self.world)));
        self.world = after;
    }
}

/// The shop with a policy of this name for the cart.
fn guarded(policy: &str) -> String {
    format!(
        "{SHOP}\n---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {policy}, \
         namespace: shop}}, spec: {{selector: {{matchLabels: {{app: cart}}}}}}}}\n"
    )
}

/// An agent that has subscribed to everything and has taken it.
fn synced(mesh: &Mesh) -> Session {
    let mut session = Session::new("a");
    let mut open: Vec<_> =
        ALL.iter().filter_map(|type_url| session.request(&mesh.catalog, request(type_url, &[], &[]))).collect();
    let mut told = Vec::new();
    while let Some(response) = open.pop() {
        told.push(response.type_url.clone());
        open.extend(session.request(&mesh.catalog, ack(&response)));
        assert!(open.len() < 2, "one at a time");
    }
    assert_eq!(told, ALL);
    session
}

/// The kind of a response, what it brings and what it takes away.
fn said(response: &DeltaDiscoveryResponse) -> (&str, Vec<&str>, Vec<&str>) {
    let removed = response.removed_resources.iter().map(String::as_str).collect();
    (response.type_url.as_str(), names(response), removed)
}

#[test]
fn a_policy_comes_before_its_workload_and_goes_after() {
    let mut mesh = Mesh::new(&guarded("old"));
    let mut session = synced(&mesh);
    mesh.becomes(&guarded("new").replace("nodemesh.io/mode: mesh", "nodemesh.io/mode: none"));
    let first = session.refresh(&mesh.catalog).expect("policies");
    assert_eq!(said(&first), (type_url::AUTHORIZATION, vec!["shop/new"], vec![]));
    assert!(session.refresh(&mesh.catalog).is_none());
    // A refusal is an answer too.
    let mut nack = ack(&first);
    nack.error_detail = Some(rpc::Status { message: "no".into(), ..Default::default() });
    let second = session.request(&mesh.catalog, nack).expect("workloads");
    assert_eq!(said(&second), (type_url::ADDRESS, vec![CART], vec![]));
    assert!(session.refresh(&mesh.catalog).is_none());
    let third = session.request(&mesh.catalog, ack(&second)).expect("policies that are gone");
    assert_eq!(said(&third), (type_url::AUTHORIZATION, vec![], vec!["shop/old"]));
    assert!(session.refresh(&mesh.catalog).is_none());
    let fourth = session.request(&mesh.catalog, ack(&third)).expect("pods");
    assert_eq!(said(&fourth), (type_url::LOCAL_POD, vec![CART], vec![]));
    assert!(session.request(&mesh.catalog, ack(&fourth)).is_none());
}

#[test]
fn a_newer_state_waits_for_its_own_round() {
    let mut mesh = Mesh::new(&guarded("old"));
    let mut session = synced(&mesh);
    mesh.becomes(&SHOP.replace("nodemesh.io/mode: mesh", "nodemesh.io/mode: none"));
    let mut response = session.refresh(&mesh.catalog).expect("workloads");
    let mut told = Vec::new();
    // A new state with every answer: the pods have their turn nevertheless.
    for policy in ["a", "b", "c"] {
        mesh.becomes(&guarded(policy).replace("nodemesh.io/mode: mesh", "nodemesh.io/mode: none"));
        let next = session.request(&mesh.catalog, ack(&response)).expect("more");
        told.push(std::mem::replace(&mut response, next));
    }
    assert_eq!(said(&told[0]), (type_url::ADDRESS, vec![CART], vec![]));
    assert_eq!(said(&told[1]), (type_url::AUTHORIZATION, vec![], vec!["shop/old"]));
    assert_eq!(said(&told[2]), (type_url::LOCAL_POD, vec![CART], vec![]));
    assert_eq!(said(&response), (type_url::AUTHORIZATION, vec!["shop/c"], vec![]));
}

#[test]
fn questions_keep_the_order() {
    let mesh = Mesh::new(&guarded("p"));
    let mut session = Session::new("a");
    let policies = session.request(&mesh.catalog, request(type_url::AUTHORIZATION, &[], &[])).expect("policies");
    // Pods and workloads are asked for while the policies are still on their way.
    assert!(session.request(&mesh.catalog, request(type_url::LOCAL_POD, &[], &[])).is_none());
    assert!(session.request(&mesh.catalog, subscribe(&["/10.0.0.1"])).is_none());
    let workloads = session.request(&mesh.catalog, ack(&policies)).expect("workloads");
    assert_eq!(said(&workloads), (type_url::ADDRESS, vec![CART, SERVICE], vec![]));
    let pods = session.request(&mesh.catalog, ack(&workloads)).expect("pods");
    assert_eq!(said(&pods), (type_url::LOCAL_POD, vec![CART], vec![]));
    // A question about workloads does not wait for pods.
    let more = session.request(&mesh.catalog, subscribe(&["/10.0.1.1"])).expect("an answer");
    assert_eq!(said(&more), (type_url::ADDRESS, vec![CLIENT], vec![]));
}

#[test]
fn reconnecting_removes_old_policies_last() {
    let mesh = Mesh::new(&guarded("new"));
    let mut session = Session::new("a");
    let with_versions = |type_url: &str, name: &str| DeltaDiscoveryRequest {
        initial_resource_versions: [(name.to_owned(), "old".to_owned())].into(),
        ..request(type_url, &[], &[])
    };
    let asked = with_versions(type_url::AUTHORIZATION, "shop/old");
    let policies = session.request(&mesh.catalog, asked).expect("policies");
    assert!(names(&policies).contains(&"shop/new") && policies.removed_resources.is_empty());
    assert!(session.request(&mesh.catalog, with_versions(type_url::ADDRESS, CART)).is_none());
    let workloads = session.request(&mesh.catalog, ack(&policies)).expect("workloads");
    assert_eq!(said(&workloads), (type_url::ADDRESS, vec![CART, CLIENT, SERVICE], vec![]));
    let removals = session.request(&mesh.catalog, ack(&workloads)).expect("removals");
    assert_eq!(said(&removals), (type_url::AUTHORIZATION, vec![], vec!["shop/old"]));
}

#[test]
fn accounts_come_before_everything_and_those_of_a_namespace_go_after_its_workloads() {
    let with = |account: &str, pod: &str| {
        let account =
            format!("{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {account}, namespace: shop}}}}");
        format!("{}\n---\n{account}\n", SHOP.replace("serviceAccountName: cart", &format!("serviceAccountName: {pod}")))
    };
    let mut mesh = Mesh::new(&with("cart", "cart"));
    let mut session = synced(&mesh);
    mesh.becomes(&with("web", "web"));
    let first = session.refresh(&mesh.catalog).expect("accounts");
    assert_eq!(said(&first), (type_url::ACCOUNTS, vec!["shop"], vec![]));
    let second = session.request(&mesh.catalog, ack(&first)).expect("workloads");
    assert_eq!(said(&second), (type_url::ADDRESS, vec![CART], vec![]));
    let third = session.request(&mesh.catalog, ack(&second)).expect("pods");
    assert_eq!(said(&third), (type_url::LOCAL_POD, vec![CART], vec![]));
    assert!(session.request(&mesh.catalog, ack(&third)).is_none());

    mesh.becomes("");
    let first = session.refresh(&mesh.catalog).expect("workloads");
    assert_eq!(said(&first), (type_url::ADDRESS, vec![], vec![CART, CLIENT, SERVICE]));
    let second = session.request(&mesh.catalog, ack(&first)).expect("accounts that are gone");
    assert_eq!(said(&second), (type_url::ACCOUNTS, vec![], vec!["shop"]));
}

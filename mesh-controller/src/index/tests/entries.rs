//! ServiceEntries, from manifests to what agents are told.

use super::*;

const DB: &str = "
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: db, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'}
spec:
  hosts: [db.example.com]
  addresses: [240.0.0.1]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.1, labels: {version: v1, app: db}}, {address: 192.0.2.2, labels: {version: v2}}]
";
const RULES: &str = "
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: v, namespace: shop},
 spec: {hosts: [db.example.com], http: [{route: [{destination: {host: db.example.com, subset: v1}}]}]}}
---
{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: d, namespace: shop},
 spec: {host: db.example.com, subsets: [{name: v1, labels: {version: v1}}]}}
";
const ROUTE: &str = "
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r, namespace: shop},
 spec: {parentRefs: [{group: networking.istio.io, kind: ServiceEntry, name: db}], rules: [{}]}}
";
const UID: &str = "Kubernetes/networking.istio.io/ServiceEntry/shop/db/192.0.2.1";

#[test]
fn an_entry_is_a_service_with_workloads() {
    let world = world(&format!("{SHOP}{DB}"));
    assert_eq!(said(&world), [] as [String; 0]);
    let name: ServiceName = "shop/db.example.com".parse().expect("a name");
    assert_eq!(world.services[&name].addresses, ["240.0.0.1".parse::<IpAddr>().expect("address")]);
    let serving = world.workloads.iter().filter(|(_, workload)| workload.services.contains_key(&name));
    let serving: Vec<_> = serving.map(|(uid, workload)| (uid.rsplit('/').next(), workload.tunnel)).collect();
    assert_eq!(serving, [(Some("192.0.2.1"), Tunnel::None), (Some("192.0.2.2"), Tunnel::None)]);
    // Nobody asks for its labels; it is no pod of any node.
    assert!(world.workloads[UID].labels.is_empty());
    assert!(world.local_pods.values().flatten().all(|(uid, _)| uid != UID));
    assert!(world.written.keys().any(|key| key.to_string() == "ServiceEntry shop/db"));
}

#[test]
fn rules_and_routes_may_be_about_an_entry() {
    let ruled = world(&format!("{SHOP}{DB}{RULES}"));
    assert_eq!(said(&ruled), [] as [String; 0]);
    let name: ServiceName = "shop/db.example.com".parse().expect("a name");
    assert_eq!(ruled.traffic[&name].routes[0].value.http[0].name, "shop/v/0");
    // Those that a subset asks for, and no others.
    assert_eq!(ruled.workloads[UID].labels, [("version".to_owned(), "v1".to_owned())].into());

    let routed = world(&format!("{SHOP}{DB}{ROUTE}"));
    assert_eq!(said(&routed), [] as [String; 0]);
    assert_eq!(routed.traffic[&name].routes[0].value.http[0].name, "shop/r/0");
    let (_, parents) = routed.route_parents.first_key_value().expect("a status");
    assert!(parents[0].conditions.iter().all(|condition| condition.status), "{parents:?}");
}

#[test]
fn an_entry_takes_nothing_of_kubernetes() {
    // Older than everything.
    let evil = DB.replace(
        "name: db, namespace: shop, creationTimestamp: '2026",
        "name: db, namespace: evil, creationTimestamp: '1999",
    );
    let evil = evil.replace("240.0.0.1", "10.96.0.1").replace("192.0.2.1,", "10.0.0.1,");
    let (world, before) = (world(&format!("{SHOP}{evil}")), world(SHOP));
    let name: ServiceName = "evil/db.example.com".parse().expect("a name");
    assert_eq!(world.services[&name].addresses, [] as [IpAddr; 0]);
    assert_eq!(world.workloads[CART], before.workloads[CART]);
    assert_eq!(world.workloads.len(), before.workloads.len() + 1);
    assert_eq!(
        said(&world),
        [
            "all.yaml: ServiceEntry evil/db: spec.addresses[0]: 10.96.0.1 belongs to Service shop/cart; it is left out",
            "all.yaml: ServiceEntry evil/db: spec.endpoints[0].address: 10.0.0.1 belongs to Pod shop/cart-6f5d8-x1; it is \
             left out",
        ]
    );
}

#[test]
fn an_entry_takes_no_address_of_a_node_or_from_outside() {
    let more = "
---
{apiVersion: v1, kind: Node, metadata: {name: n}, status: {addresses: [{type: InternalIP, address: 192.168.0.1},
 {type: ExternalIP, address: 203.0.113.9}, {type: Hostname, address: n}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: front, namespace: shop}, spec: {clusterIP: 10.96.0.9,
 externalIPs: [203.0.113.2], ports: [{port: 80}]}, status: {loadBalancer: {ingress: [{ip: 203.0.113.1}, {hostname: h}]}}}
";
    let evil = DB.replace("name: db, namespace: shop", "name: db, namespace: evil");
    let evil = evil.replace("[240.0.0.1]", "[203.0.113.1, 203.0.113.2, 192.168.0.1, 240.0.0.1]");
    let world = world(&format!("{SHOP}{more}{}", evil.replace("192.0.2.1,", "203.0.113.9,")));
    let name: ServiceName = "evil/db.example.com".parse().expect("a name");
    assert_eq!(world.services[&name].addresses, ["240.0.0.1".parse::<IpAddr>().expect("address")]);
    assert!(
        world.workloads.values().all(|workload| workload.addresses != ["203.0.113.9".parse::<IpAddr>().expect("one")])
    );
    let left = |field: &str, ip: &str, owner: &str| {
        format!("all.yaml: ServiceEntry evil/db: {field}: {ip} belongs to {owner}; it is left out")
    };
    assert_eq!(
        said(&world),
        [
            left("spec.addresses[0]", "203.0.113.1", "Service shop/front"),
            left("spec.addresses[1]", "203.0.113.2", "Service shop/front"),
            left("spec.addresses[2]", "192.168.0.1", "Node n"),
            left("spec.endpoints[0].address", "203.0.113.9", "Node n"),
        ]
    );
}

#[test]
fn the_order_of_objects_does_not_matter() {
    let younger =
        DB.replace("name: db", "name: other").replace("db.example", "other.example").replace("2026-01", "2026-02");
    let mut update = objects(&format!("{SHOP}{DB}{younger}{RULES}"));
    let world = World::new(&settings(), &update, &Redirection::default());
    let why = "spec.addresses[0]: 240.0.0.1 belongs to ServiceEntry shop/db; it is left out";
    assert_eq!(said(&world), [format!("all.yaml: ServiceEntry shop/other: {why}")]);
    assert_eq!(world.workloads[UID].services.len(), 2, "one workload serves both");
    Arc::make_mut(&mut update.objects).reverse();
    assert_eq!(World::new(&settings(), &update, &Redirection::default()), world);
}

#[test]
fn an_entry_with_the_name_of_a_hidden_pod_does_not_make_it_forgotten() {
    let name = PodName { namespace: "shop".into(), name: "db".into() };
    let remembered = Redirection { remembered: [(name.clone(), "u".to_owned())].into(), ..Redirection::default() };
    let mut update = objects(&format!("{SHOP}{DB}"));
    update.hidden.any = true;
    let world = World::new(&settings(), &update, &remembered);
    assert_eq!(world.redirected.get(&name).map(String::as_str), Some("u"));
}

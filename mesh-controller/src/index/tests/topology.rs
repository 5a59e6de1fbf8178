//! Where pods run, and whom a service prefers.

use super::*;

const NODE: &str = "
---
apiVersion: v1
kind: Node
metadata:
  name: a
  labels: {topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z, topology.istio.io/subzone: s}
";

#[test]
fn a_workload_is_where_its_node_is() {
    let place = Locality { region: "r".into(), zone: "z".into(), subzone: "s".into() };
    let world_of_node = world(&format!("{SHOP}{NODE}"));
    assert_eq!(world_of_node.workloads[CART].locality, place);
    assert_eq!(world_of_node.workloads[CLIENT].locality, Locality::default(), "nobody says where node b is");
    let host = SHOP.replacen("nodeName: a", "nodeName: a\n  hostNetwork: true", 1);
    assert_eq!(world(&format!("{host}{NODE}")).workloads[CART].locality, place);
    // A label that changes is a change of its pods.
    let moved = world(&format!("{SHOP}{}", NODE.replace("zone: z,", "zone: y,")));
    assert_eq!(moved.since(&world_of_node).workloads.changed, [CART]);
}

#[test]
fn a_service_has_its_preference() {
    let with = |field: &str| {
        let world = world(&SHOP.replace("  clusterIPs: [10.96.0.1]", &format!("  clusterIPs: [10.96.0.1]\n  {field}")));
        let service = world.services.values().next().expect("a service");
        (service.load_balancing.as_ref().map(ToString::to_string).unwrap_or_default(), said(&world))
    };
    assert_eq!(with("internalTrafficPolicy: Local"), ("strict: node".into(), vec![]));
    let (zone, _) = with("trafficDistribution: PreferSameZone");
    assert_eq!(zone, "failover: network, region, zone");
    let (none, problems) = with("trafficDistribution: PreferFar");
    assert_eq!(none, "");
    assert!(
        problems[0].starts_with("all.yaml: Service shop/cart: spec.trafficDistribution: `PreferFar`"),
        "{problems:?}"
    );
}

//! Rules of traffic, from manifests to what agents are told.

use mesh_common::model::traffic::Protocol;

use super::*;

fn rules(name: &str, spec: &str) -> String {
    format!(
        "\n---\n{{apiVersion: networking.istio.io/v1alpha3, kind: VirtualService, \
         metadata: {{name: {name}, namespace: shop}}, spec: {spec}}}\n"
    )
}

#[test]
fn what_virtual_services_say_is_told_by_service() {
    assert!(world(SHOP).traffic.is_empty());
    let spec =
        "{hosts: [cart], http: [{match: [{sourceLabels: {version: v2}}], route: [{destination: {host: cart}}]}]}";
    let world_ruled = world(&format!("{SHOP}{}", rules("v", spec)));
    assert_eq!(said(&world_ruled), [] as [String; 0]);
    let [(name, traffic)] = &world_ruled.traffic.iter().collect::<Vec<_>>()[..] else { panic!("one service") };
    assert_eq!((name.to_string().as_str(), traffic.protocol(80)), ("shop/cart.shop.svc.cluster.local", Protocol::Http));
    assert_eq!(traffic.routes[0].value.http[0].name, "shop/v/0");
    // Agents are told of the labels that rules ask for, and of no others.
    assert_eq!(world_ruled.workloads[CART].labels, [("version".to_owned(), "v2".to_owned())].into());
    assert!(world(SHOP).workloads[CART].labels.is_empty());
    assert!(world_ruled.written.keys().any(|key| key.to_string() == "VirtualService shop/v"));
}

#[test]
fn problems_of_rules_name_their_object_and_field() {
    let spec = "{hosts: [cart, nobody], http: [{route: [{destination: {host: cart, subset: v1}}], retriez: 1}]}";
    let other = "{hosts: [cart], http: [{route: [{destination: {host: cart, subset: v1}}]}]}";
    let world = world(&format!("{SHOP}{}{}", rules("v", spec), rules("w", other)));
    let said: Vec<_> = said(&world);
    for start in [
        "all.yaml: VirtualService shop/v: spec.hosts[1]: no service has this host name",
        "all.yaml: VirtualService shop/v: spec.http[0].retriez: is not a field that is known; the rule answers 500",
        "all.yaml: VirtualService shop/w: spec.http[0]: VirtualService shop/v comes first",
        "all.yaml: VirtualService shop/w: spec.http[0].route[0].destination.subset: subset `v1` of host `cart.shop.svc",
    ] {
        assert_eq!(said.iter().filter(|problem| problem.starts_with(start)).count(), 1, "{start}: {said:#?}");
    }
    assert_eq!(said.len(), 4, "{said:#?}");
}

#[test]
fn a_version_that_is_not_read_answers_500() {
    let spec = "{hosts: [cart], http: [{route: [{destination: {host: cart}}]}]}";
    let world = world(&format!("{SHOP}{}", rules("v", spec).replace("v1alpha3", "v9")));
    assert!(said(&world)[0].starts_with("all.yaml: VirtualService shop/v: apiVersion: "), "{:?}", said(&world));
    let traffic = world.traffic.values().next().expect("one service");
    let told = serde_json::to_value(&traffic.routes).expect("JSON");
    assert_eq!(told[0]["value"]["http"][0]["action"]["forward"][0]["target"]["invalid"]["status"], 500);
}

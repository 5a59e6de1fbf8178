//! Agents that know of it are told of addresses on demand once the mesh is large, and of all of them once it is small.

use super::*;

const SHOP_ADDRESSES: usize = 3;

/// The shop in a mesh that tells on demand above so many addresses.
fn limited(world: &World, above: usize) -> Arc<Catalog> {
    Arc::new(catalog(world).on_demand_above(above, world))
}

fn said(response: &DeltaDiscoveryResponse) -> (&str, Vec<&str>, Vec<&str>) {
    let removed = response.removed_resources.iter().map(String::as_str).collect();
    (response.type_url.as_str(), names(response), removed)
}

#[test]
fn an_agent_is_told_of_its_own_pods_and_of_what_it_asks_for() {
    let large = limited(&world(SHOP), SHOP_ADDRESSES - 1);
    let mut session = Session::new("a");
    let first = session.request(&large, request(type_url::ON_DEMAND, &[], &[])).expect("an answer");
    assert_eq!(said(&first), (type_url::ON_DEMAND, vec!["addresses"], vec![]));
    session.request(&large, ack(&first));
    let own = session.request(&large, subscribe(&[])).expect("an answer");
    // Not the service that it serves: who knows of a service knows all of its workloads.
    assert_eq!(said(&own), (type_url::ADDRESS, vec![CART], vec![]));
    session.request(&large, ack(&own));
    let service = session.request(&large, subscribe(&["/10.96.0.1", "/10.0.1.1", "/10.9.9.9"])).expect("an answer");
    // Whose address was asked for is told, known or not.
    assert_eq!(said(&service), (type_url::ADDRESS, vec![CART, CLIENT, SERVICE], vec!["/10.9.9.9"]));
    session.request(&large, ack(&service));
    let less = session.request(&large, request(type_url::ADDRESS, &[], &["/10.96.0.1", "/10.0.1.1"])).expect("less");
    assert_eq!(said(&less), (type_url::ADDRESS, vec![], vec![CLIENT, SERVICE]));
}

#[test]
fn who_does_not_know_of_it_is_told_of_the_whole_mesh() {
    let large = limited(&world(SHOP), SHOP_ADDRESSES - 1);
    let response = Session::new("a").request(&large, subscribe(&[])).expect("an answer");
    assert_eq!(names(&response), [CART, CLIENT, SERVICE]);
}

#[test]
fn a_mesh_that_grows_says_so_first_and_one_that_shrinks_last() {
    let small = limited(&world(SHOP), SHOP_ADDRESSES);
    let mut session = Session::new("a");
    for type_url in [type_url::ON_DEMAND, type_url::ADDRESS] {
        let response = session.request(&small, request(type_url, &[], &[])).expect("an answer");
        assert!(session.request(&small, ack(&response)).is_none());
    }
    let large = limited(&world(SHOP), SHOP_ADDRESSES - 1);
    let first = session.refresh(&large).expect("that it is so");
    assert_eq!(said(&first), (type_url::ON_DEMAND, vec!["addresses"], vec![]));
    let then = session.request(&large, ack(&first)).expect("what goes");
    assert_eq!(said(&then), (type_url::ADDRESS, vec![], vec![CLIENT, SERVICE]));
    assert!(session.request(&large, ack(&then)).is_none());

    let first = session.refresh(&small).expect("what comes");
    assert_eq!(said(&first), (type_url::ADDRESS, vec![CLIENT, SERVICE], vec![]));
    let then = session.request(&small, ack(&first)).expect("that it is so no more");
    assert_eq!(said(&then), (type_url::ON_DEMAND, vec![], vec!["addresses"]));
    assert!(session.request(&small, ack(&then)).is_none());
}

#[test]
fn the_size_at_which_it_begins_is_not_that_at_which_it_ends() {
    let (full, empty) = (world(SHOP), World::default());
    let large = limited(&full, SHOP_ADDRESSES - 1);
    let mut less = full.clone();
    less.workloads.remove(CLIENT);
    assert_eq!(less.workloads.len() + less.services.len(), SHOP_ADDRESSES - 1);
    let still = large.next(&less, &less.since(&full));
    assert!(large.is_on_demand() && still.is_on_demand());
    assert!(!still.next(&empty, &empty.since(&less)).is_on_demand());
    assert!(!limited(&less, SHOP_ADDRESSES - 1).is_on_demand());
}

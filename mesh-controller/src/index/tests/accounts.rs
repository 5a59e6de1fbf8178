//! Which identities there are.

use super::*;

fn account(namespace: &str, name: &str) -> String {
    format!("\n---\n{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {name}, namespace: {namespace}}}}}\n")
}

/// What agents are told: `namespace: names`.
fn told(world: &World) -> Vec<String> {
    let names = |accounts: &Accounts| accounts.names.iter().cloned().collect::<Vec<_>>().join(" ");
    world.accounts.iter().map(|(namespace, accounts)| format!("{namespace}: {}", names(accounts))).collect()
}

fn exists(world: &World, text: &str) -> bool {
    world.account_exists(&format!("spiffe://cluster.local/ns/{text}").parse().expect("identity"))
}

#[test]
fn a_source_without_accounts_says_nothing_of_them() {
    let world = world(SHOP);
    assert!(told(&world).is_empty());
    assert!(exists(&world, "shop/sa/cart") && exists(&world, "nowhere/sa/anybody"));
}

#[test]
fn one_account_anywhere_makes_every_other_identity_one_that_must_be_listed() {
    // The cart has its account; the client's is the one that Kubernetes makes.
    let good = world(&format!("{SHOP}{}", account("shop", "cart")));
    assert_eq!(told(&good), ["shop: cart default"]);
    assert_eq!(said(&good), [] as [String; 0]);
    for gone in ["shop/sa/web", "nowhere/sa/default"] {
        assert!(!exists(&good, gone), "{gone}");
    }

    let elsewhere = world(&format!("{SHOP}{}", account("other", "x")));
    assert_eq!(told(&elsewhere), ["other: x", "shop: default"]);
    assert!(exists(&elsewhere, "shop/sa/default") && !exists(&elsewhere, "shop/sa/cart"));
    let why = "ServiceAccount shop/cart does not exist; what the pod opens to others in the mesh is refused";
    assert_eq!(said(&elsewhere), [format!("all.yaml: Pod shop/cart-6f5d8-x1: spec.serviceAccountName: {why}")]);
}

#[test]
fn a_namespace_with_pods_has_a_list_if_only_an_empty_one() {
    let bare = SHOP.replace("kind: Namespace", "kind: Node");
    let update = Update { has_accounts: true, ..objects(&bare) };
    let world = World::new(&settings(), &update, &Redirection::default());
    assert_eq!(told(&world), ["shop: "]);
    assert!(!exists(&world, "shop/sa/default"), "nothing says that the namespace exists");
}

#[test]
fn deltas_name_the_namespaces() {
    let with = |names: &[&str]| world(&names.iter().fold(SHOP.to_owned(), |text, name| text + &account("shop", name)));
    let (before, after) = (with(&["cart", "web"]), with(&["cart"]));
    let delta = after.since(&before);
    assert_eq!((delta.accounts.changed, delta.accounts.removed), (vec!["shop".to_owned()], vec![]));
    assert!(delta.workloads.is_empty());
    assert!(!World::default().since(&after).is_empty());
}

//! Where rules lead, and what is told at all.

use super::*;

fn targets(assembled: &Assembled) -> Vec<Target> {
    let routes = &cart(assembled).routes[0].value;
    let backends = routes.http.iter().flat_map(|route| match &route.action {
        Action::Forward(backends) => backends.clone(),
        _ => Vec::new(),
    });
    backends.map(|backend| backend.target).collect()
}

fn to(host: &str) -> Ruled {
    ruled("shop", "v", 1, &format!("{{hosts: [cart], http: [{{route: [{{destination: {host}}}]}}]}}"))
}

#[test]
fn destinations_are_found_by_every_name() {
    let found = |host: &str| {
        let assembled = assembled(&[to(host)]);
        assert_eq!(said(&assembled), [], "{host}");
        targets(&assembled).remove(0)
    };
    let backend = |service, port| Target::Backend(Backend { service, port, subset: None });
    let shop = |name: &str| service(&settings(), "shop", name);
    // Of several ports that is meant which was dialled; a single one is that one.
    assert_eq!(found("{host: cart}"), backend(shop("cart"), None));
    assert_eq!(found("{host: cart, port: {number: 81}}"), backend(shop("cart"), Some(81)));
    assert_eq!(found("{host: stock}"), backend(shop("stock"), Some(8080)));
    assert_eq!(found("{host: cart.other}"), backend(service(&settings(), "other", "cart"), None));
    let outside = ServiceName { namespace: "other".into(), hostname: "api.example.com".into() };
    assert_eq!(found("{host: api.example.com}"), backend(outside, Some(443)));
}

#[test]
fn what_no_service_has_is_answered_503() {
    for (host, field, why) in [
        ("{host: nobody}", "host", "no service has the host name `nobody.shop.svc.cluster.local`"),
        ("{host: cart, port: {number: 82}}", "port.number", "`cart.shop.svc.cluster.local` has no port 82"),
        // It is there, but not for this namespace.
        ("{host: own.example.com}", "host", "no service has the host name `own.example.com`"),
    ] {
        let assembled = assembled(&[to(host)]);
        assert_eq!(targets(&assembled), [Target::Invalid { status: 503, why: why.to_owned() }]);
        let expected = format!(
            "VirtualService shop/v: spec.http[0].route[0].destination.{field}: {why}; what is sent there is answered 503"
        );
        assert_eq!(said(&assembled), [(expected, Extent::Part)]);
    }
    let rule = ruled("shop", "v", 1, &format!("{{hosts: [cart], http: [{{mirror: {{host: nobody}}, {TO_CART}}}]}}"));
    let assembled = assembled(&[rule]);
    assert!(cart(&assembled).routes[0].value.http[0].mirrors.is_empty());
    assert!(said(&assembled)[0].0.contains(": spec.http[0].mirror.host: no service has"), "{:?}", said(&assembled));
}

#[test]
fn subsets_must_be_defined_for_the_clients() {
    let rule = |fields: &str| {
        let spec = format!(
            "{{hosts: [cart], {fields} http: [{{route: [{{destination: {{host: cart, subset: v1}}}}], \
             mirror: {{host: cart, subset: v2}}}}]}}"
        );
        ruled("shop", "v", 1, &spec)
    };
    let missing = |rule: &Ruled, policies: Vec<For<DestinationPolicy>>| {
        let name = service(&settings(), "shop", "cart");
        let assembled = assemble(&settings(), &services(), &GatewayRoutes::new(), &[rule], [(name, policies)].into());
        // The agent answers 503: the route stays as it is.
        assert!(matches!(&targets(&assembled)[0], Target::Backend(Backend { subset: Some(_), .. })));
        said(&assembled).into_iter().map(|(text, _)| text).collect::<Vec<_>>()
    };
    let all = rule("");
    assert_eq!(missing(&all, vec![subsets(Clients::Everybody, &["v1", "v2"])]), [] as [String; 0]);
    let why = "of host `cart.shop.svc.cluster.local` is not defined by any DestinationRule";
    let nothing = missing(&all, vec![]);
    assert_eq!(
        nothing,
        [
            format!(
                "VirtualService shop/v: spec.http[0].mirror.subset: subset `v2` {why}; what is sent there is answered 503"
            ),
            format!(
                "VirtualService shop/v: spec.http[0].route[0].destination.subset: subset `v1` {why}; what is sent there is \
                 answered 503"
            ),
        ]
    );
    assert_eq!(missing(&all, vec![subsets(Clients::Everybody, &["v1"])]), nothing[..1]);
    let elsewhere = missing(&all, vec![subsets(only(&["a"]), &["v1", "v2"])]);
    assert!(elsewhere[0].contains("any DestinationRule that holds for all of these clients"), "{elsewhere:?}");
    let own = rule("exportTo: [a],");
    assert_eq!(missing(&own, vec![subsets(only(&["a"]), &["v1", "v2"])]), [] as [String; 0]);
    // Some clients have a rule of their own, which does not define it.
    let hidden = vec![subsets(only(&["a"]), &[]), subsets(Clients::Everybody, &["v1", "v2"])];
    assert_eq!(missing(&all, hidden).len(), 2);
}

#[test]
fn services_of_which_nothing_is_said_are_not_told() {
    let name = |name| service(&settings(), "shop", name);
    let names = |assembled: &Assembled| assembled.traffic.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&assembled(&[])), []);
    // A backend is told if one must know how to speak to it.
    let ledger = to("{host: ledger}");
    let assembled = assembled(&[ledger.clone(), to("{host: stock}")]);
    assert_eq!(names(&assembled), [name("cart"), name("ledger")]);
    let told = &assembled.traffic[&name("ledger")];
    assert_eq!((told.protocol(8080), told.routes.len()), (Protocol::Http2, 0));
    assert_eq!(cart(&assembled).protocols, [(80, Protocol::Http)].into());
    // Subsets are told once somebody goes there.
    let policies = || -> Policies { [(name("ledger"), vec![subsets(Clients::Everybody, &["v1"])])].into() };
    let of = |ruled: &[&Ruled]| names(&assemble(&settings(), &services(), &GatewayRoutes::new(), ruled, policies()));
    assert_eq!(of(&[]), []);
    assert_eq!(of(&[&ledger]), [name("cart"), name("ledger")]);
}

#[test]
fn hosts_with_wildcards_are_all_that_end_so() {
    let rule = |host: &str| ruled("shop", "v", 1, &format!("{{hosts: ['{host}'], http: [{{{TO_CART}}}]}}"));
    let about = |host: &str| -> Vec<String> {
        assembled(&[rule(host)]).traffic.keys().map(|name| format!("{}/{}", name.namespace, name.hostname)).collect()
    };
    let shop = ["cart", "ledger", "order-service", "stock"].map(|name| format!("shop/{name}.shop.svc.cluster.local"));
    assert_eq!(about("*.shop.svc"), shop);
    assert_eq!(about("*.shop.svc.cluster.local"), shop);
    assert_eq!(about("*.example.com"), ["other/api.example.com"]);
    assert_eq!(about("*").len(), 6);
    let nobody = assembled(&[rule("*.example.org")]);
    assert!(nobody.traffic.is_empty());
    assert_eq!(said(&nobody)[0].0, "VirtualService shop/v: spec.hosts[0]: no service has such a host name");
    let nobody = assembled(&[rule("nobody")]);
    assert_eq!(said(&nobody)[0].0, "VirtualService shop/v: spec.hosts[0]: no service has this host name");
}

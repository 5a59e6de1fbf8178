//! Pods of this node of which the newest version cannot be read.

use mesh_common::{
    model::traffic::{Inbound, Protocol},
    proto::{discovery::Resource, nodemesh, type_url},
};

use super::{
    discovery::{exchange, resource, response, subscriptions, uid},
    soon,
    world::{Mute, World},
};

const RULE: &str = r#"{"origin":{"object":"","field":""},"issuer":"i"}"#;
const LIMIT: &str = r#"{"origin":{"object":"","field":""},"total":{"requests":5,"interval":1000,"burst":5}}"#;

fn told(version: &str, name: &str, inbound: &str, more: impl FnOnce(&mut nodemesh::LocalPod)) -> Resource {
    let mut message = nodemesh::LocalPod {
        uid: uid(name),
        namespace: "shop".into(),
        name: name.into(),
        pod_uid: "u".into(),
        mode: nodemesh::Mode::Mesh.into(),
        inbound: inbound.as_bytes().to_vec(),
        ..Default::default()
    };
    more(&mut message);
    resource(type_url::LOCAL_POD, &uid(name), version, &message)
}

fn inbound(world: &World, name: &str) -> Inbound {
    world.store.snapshot().inbound(&uid(name)).clone()
}

#[tokio::test]
async fn a_pod_whose_rules_for_tokens_cannot_be_read_takes_no_request() {
    let mut world = World::new().await;
    let control = world.start(Mute);
    let mut stream = world.discovery().await;
    subscriptions(&mut stream).await;
    let good = format!(r#"{{"protocols":{{"80":"tcp"}},"limits":[{LIMIT}]}}"#);
    let names = ["a", "b", "c", "d"];
    let first = names.map(|name| told("1", name, &good, |_| {})).to_vec();
    assert_eq!(exchange(&mut stream, response(type_url::LOCAL_POD, "1", first, vec![])).await, None);
    assert!(names.iter().all(|name| !inbound(&world, name).judges_tokens()));

    let newer = RULE.replace("}", r#","quantum":true}"#);
    let ports = r#""protocols":{"81":"http"}"#;
    let second = vec![
        // A newer controller's rules.
        told("2", "a", &format!(r#"{{{ports},"tokens":[{newer}]}}"#), |_| {}),
        // Rules that can be read, of a pod that cannot: also whether it is in the mesh is as it was.
        told("2", "b", &format!(r#"{{{ports},"tokens":[{RULE}]}}"#), |pod| (pod.mode, pod.pod_uid) = (77, "v".into())),
        // A limit that cannot be read beside rules that can.
        told("2", "c", &format!(r#"{{"limits":[{{"x":1}}],"tokens":[{RULE}]}}"#), |_| {}),
        // Something that is not known.
        told("2", "d", r#"{"colours":[]}"#, |_| {}),
        // One that nobody knew before, and one of which nobody can say what it is.
        told("1", "e", &format!(r#"{{"tokens":[{newer}]}}"#), |_| {}),
        told("1", "f", "", |pod| pod.mode = 77),
    ];
    let why = exchange(&mut stream, response(type_url::LOCAL_POD, "2", second, vec![])).await.expect("a NACK");
    assert!(why.contains("quantum") && why.contains("and 5 more"), "{why}");

    let check = |world: &World| {
        let of = |name| {
            let inbound = inbound(world, name);
            let ports: Vec<_> = inbound.protocols.into_iter().collect();
            (ports, inbound.limits.len(), inbound.tokens.len(), inbound.unreadable)
        };
        let after = vec![(81, Protocol::Http)];
        assert_eq!(of("a"), (after.clone(), 0, 0, true));
        assert_eq!(of("b"), (after, 0, 1, false));
        assert_eq!(of("c"), (Vec::new(), 1, 1, false));
        assert_eq!(of("d"), (Vec::new(), 0, 0, true));
        assert_eq!(of("e"), (Vec::new(), 0, 0, true));
        assert_eq!(of("f"), (Vec::new(), 0, 0, false));
        let snapshot = world.store.snapshot();
        let uids = |name| snapshot.local_pod("shop", name).map(|pod| pod.pod_uid.clone());
        assert_eq!((uids("a").as_deref(), uids("b").as_deref(), uids("f")), (Some("u"), Some("u"), None));
    };
    check(&world);

    world.shutdown.send_replace(true);
    soon("control ends", control.stopped()).await;
    world.store = Default::default();
    world.shutdown.send_replace(false);
    let _control = world.start(Mute);
    check(&world);

    // A version that can be read, and a pod that goes.
    let mut stream = world.discovery().await;
    subscriptions(&mut stream).await;
    let third = vec![told("3", "a", &good, |_| {})];
    assert_eq!(exchange(&mut stream, response(type_url::LOCAL_POD, "3", third, vec![uid("e")])).await, None);
    assert!(!inbound(&world, "a").judges_tokens() && world.store.snapshot().local_pod("shop", "e").is_none());
    // In the same breath it goes and comes: nothing of before stands.
    let again = response(type_url::LOCAL_POD, "4", vec![told("4", "a", "?", |_| {})], vec![uid("a")]);
    exchange(&mut stream, again).await.expect("a NACK");
    let now = inbound(&world, "a");
    assert!(now.unreadable && now.limits.is_empty() && now.protocols.is_empty(), "{now:?}");
}

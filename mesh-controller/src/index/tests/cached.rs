//! What is kept from one state to the next changes nothing of what is told.

use super::*;

/// These objects; those that are as before are the same in memory.
fn following(before: &Update, text: &str) -> Update {
    let mut update = objects(text);
    for object in Arc::make_mut(&mut update.objects) {
        if let Some(same) = before.objects.iter().find(|known| *known == object) {
            *object = same.clone();
        }
    }
    update
}

/// The shop with rules of traffic to it, and to a service outside with this address.
fn rules(version: &str, address: &str) -> String {
    format!(
        "{SHOP}
---
{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: v, namespace: shop}},
 spec: {{hosts: [cart, nobody], http: [{{match: [{{sourceLabels: {{version: {version}}}}}], route: [{{destination: {{host: cart}}}}]}}]}}}}
---
{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: w, namespace: shop}},
 spec: {{hosts: [db.example.com], http: [{{route: [{{destination: {{host: db.example.com}}}}]}}]}}}}
---
{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: r, namespace: shop}},
 spec: {{parentRefs: [{{group: networking.istio.io, kind: ServiceEntry, name: db}}], rules: [{{}}]}}}}
---
{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: db, namespace: shop}},
 spec: {{hosts: [db.example.com], addresses: [{address}], resolution: STATIC, ports: [{{number: 80, name: http}}],
 endpoints: [{{address: 192.0.2.1, labels: {{version: v1}}}}]}}}}
"
    )
}

/// The shop, and with one thing different at a time that a pod is told by.
fn shops() -> Vec<String> {
    let policy = |kind: &str, spec: &str| {
        format!(
            "{SHOP}\n---\n{{apiVersion: security.istio.io/v1, kind: {kind}, metadata: {{name: p, namespace: shop}}, \
             spec: {{selector: {{matchLabels: {{app: cart}}}}{spec}}}}}\n"
        )
    };
    vec![
        SHOP.to_owned(),
        SHOP.replace("nodemesh.io/mode: mesh", "nodemesh.io/mode: none"),
        SHOP.replace("nodemesh.io/mode: mesh", "nodemesh.io/mode: mesh, nodemesh.io/same-node: tls"),
        SHOP.replace("kind: EndpointSlice", "kind: Other"),
        SHOP.replace("port: 8080", "port: 8081"),
        SHOP.replace("kind: Service\n", "kind: Other\n"),
        format!(
            "{SHOP}\n---\n{{apiVersion: v1, kind: Node, metadata: {{name: a, labels: {{topology.kubernetes.io/zone: z}}}}}}\n"
        ),
        policy("AuthorizationPolicy", ""),
        policy("AuthorizationPolicy", ", rules: [{to: [{operation: {methods: [GET]}}]}]"),
        policy("AuthorizationPolicy", ", rules: [{to: [{operation: {methods: [GET]}}]}]")
            .replace("selector: {matchLabels: {app: cart}}", "targetRefs: [{kind: Service, name: cart}]"),
        policy("PeerAuthentication", ", mtls: {mode: STRICT}"),
        // An older pod owns its address.
        format!(
            "{SHOP}\n---\n{{apiVersion: v1, kind: Pod, metadata: {{name: old, namespace: shop, creationTimestamp: \
             '2001-01-01T00:00:00Z'}}, spec: {{nodeName: b}}, status: {{phase: Running, podIP: 10.0.0.1}}}}\n"
        ),
        rules("v1", "10.9.9.9"),
        rules("v2", "10.9.9.9"),
        // Its address is the pod's.
        rules("v1", "10.0.0.1"),
        SHOP.replace("nodemesh.io/mode: mesh", "nodemesh.io/mode: mesh, nodemesh.io/l7: auto"),
        rules("v1", "10.9.9.9").replace("nodemesh.io/mode: mesh", "nodemesh.io/mode: mesh, nodemesh.io/l7: auto"),
        format!(
            "{SHOP}\n---\n{{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {{name: t, namespace: shop}}, \
             spec: {{selector: {{matchLabels: {{app: cart}}}}, tracing: [{{randomSamplingPercentage: 5}}]}}}}\n"
        ),
    ]
}

#[test]
fn a_state_is_the_same_whatever_was_before() {
    let (shops, mut different) = (shops(), 0);
    for (reported, before) in shops.iter().enumerate() {
        for after in &shops {
            let mut cache = Cache::default();
            let none = Redirection::default();
            let redirection = [&none, &enabled("a")][reported % 2].clone();
            let first = objects(before);
            let first_world = World::with(&settings(), &first, &redirection, &mut cache);
            let second = following(&first, after);
            let world = World::with(&settings(), &second, &redirection, &mut cache);
            assert_eq!(world, World::new(&settings(), &second, &redirection));
            // What is as before is the same in memory.
            for (uid, workload) in &world.workloads {
                let known = first_world.workloads.get(uid);
                assert!(known.is_none_or(|known| known != workload || Arc::ptr_eq(known, workload)), "{uid}");
                different += usize::from(known != Some(workload));
            }
            for (uid, local) in world.local_pods.values().flatten() {
                let known = first_world.local_pods.values().find_map(|pods| pods.get(uid));
                assert!(known.is_none_or(|known| known != local || Arc::ptr_eq(known, local)), "{uid}");
            }
            for (name, traffic) in &world.traffic {
                let known = first_world.traffic.get(name);
                assert!(known.is_none_or(|known| known != traffic || Arc::ptr_eq(known, traffic)), "{name}");
            }
            let world = World::with(&settings(), &second, &none, &mut cache);
            assert_eq!(world, World::new(&settings(), &second, &none));
        }
    }
    assert!(different > 40, "{different} workloads differ");
}

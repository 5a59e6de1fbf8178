//! What a change costs in a large mesh. `cargo test --release -p mesh-controller cost -- --ignored --nocapture`

use std::{fs, time::Duration};

use k8s_openapi::api::{core::v1::Pod, discovery::v1::EndpointSlice};

use super::*;
use crate::serve::Catalog;

const PODS: usize = 2000;
const SERVICES: usize = 1000;

/// Two pods a service, ten nodes, twenty namespaces.
fn mesh() -> Update {
    let mut text = String::new();
    for namespace in 0..20 {
        text += &format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: n{namespace}, labels: {{nodemesh.io/mode: mesh}}}}}}\n---\n"
        );
        for policy in 0..5 {
            text += &format!(
                "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p{policy}, namespace: n{namespace}}}, \
                 spec: {{selector: {{matchLabels: {{app: s{policy}}}}}, rules: [{{from: [{{source: {{namespaces: [n1, n2]}}}}]}}]}}}}\n---\n"
            );
        }
    }
    for service in 0..SERVICES {
        let namespace = format!("n{}", service % 20);
        text += &format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: s{service}, namespace: {namespace}}}, \
             spec: {{clusterIP: 10.96.{}.{}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}}}\n---\n",
            service / 250,
            service % 250 + 1
        );
        let mut endpoints = Vec::new();
        for pod in [service * 2, service * 2 + 1] {
            let ip = format!("10.{}.{}.{}", 1 + pod % 10, pod / 250, pod % 250 + 1);
            text += &format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: p{pod}, namespace: {namespace}, uid: u{pod}, \
                 creationTimestamp: '2026-01-01T00:00:00Z', labels: {{app: s{service}}}, \
                 ownerReferences: [{{apiVersion: apps/v1, kind: ReplicaSet, name: s{service}-1, uid: r, controller: true}}]}}, \
                 spec: {{nodeName: node-{}, serviceAccountName: default, containers: [{{name: c, ports: [{{containerPort: 8080}}]}}]}}, \
                 status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}], conditions: [{{type: Ready, status: 'True'}}]}}}}\n---\n",
                pod % 10
            );
            endpoints
                .push(format!("{{addresses: [{ip}], targetRef: {{kind: Pod, name: p{pod}, namespace: {namespace}}}}}"));
        }
        text += &format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: s{service}-x, namespace: {namespace}, \
             labels: {{kubernetes.io/service-name: s{service}}}}}, addressType: IPv4, ports: [{{name: http, port: 8080}}], \
             endpoints: [{}]}}\n---\n",
            endpoints.join(", ")
        );
    }
    objects(&text)
}

/// The mesh with another readiness of one pod, and of its endpoint.
fn change(update: &Update, number: usize) -> Update {
    let name = format!("p{}", number * 7 % PODS);
    let mut changed = update.clone();
    for object in Arc::make_mut(&mut changed.objects) {
        let new: Option<Kind> = match &object.kind {
            Kind::Pod(pod) if pod.metadata.name.as_deref() == Some(&name) => {
                let mut pod: Pod = (**pod).clone();
                let conditions = pod.status.as_mut().and_then(|status| status.conditions.as_mut());
                for condition in conditions.into_iter().flatten() {
                    condition.status = if condition.status == "True" { "False" } else { "True" }.to_owned();
                }
                Some(Kind::Pod(Box::new(pod)))
            }
            Kind::EndpointSlice(slice) if slice.metadata.name == Some(format!("s{}-x", number * 7 % PODS / 2)) => {
                let mut slice: EndpointSlice = (**slice).clone();
                for endpoint in slice.endpoints.iter_mut().flatten() {
                    let ready = endpoint.conditions.get_or_insert_default();
                    ready.ready = Some(!ready.ready.unwrap_or(true));
                }
                Some(Kind::EndpointSlice(Box::new(slice)))
            }
            _ => None,
        };
        if let Some(kind) = new {
            *object = Arc::new(Object { file: object.file.clone(), kind, origin: object.origin.clone() });
        }
    }
    changed
}

/// The CPU time of this thread: others may use the machine too.
fn cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("schedstat");
    Duration::from_nanos(text.split(' ').next().and_then(|first| first.parse().ok()).expect("nanoseconds"))
}

/// The VirtualService of a service, as it is in this round.
fn rule(service: usize, round: usize) -> String {
    let (namespace, timeout) = (format!("n{}", service % 20), round % 100 + 1);
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: v{service}, namespace: {namespace}}}, \
         spec: {{hosts: [s{service}], http: [{{match: [{{uri: {{prefix: /a}}}}, {{headers: {{x: {{exact: y}}}}}}], \
         timeout: {timeout}s, retries: {{attempts: 2}}, route: [{{destination: {{host: s{service}}}, weight: 90}}, \
         {{destination: {{host: s{}}}, weight: 10}}]}}, {{route: [{{destination: {{host: s{service}}}}}]}}]}}}}\n---\n",
        (service + 20) % SERVICES
    )
}

/// The same objects, with these in place of those of their names that were there.
fn with(update: &Update, new: &Update) -> Update {
    let mut all = update.clone();
    for object in new.objects.iter() {
        match all.objects.iter().position(|known| known.key() == object.key()) {
            Some(place) if all.objects[place] == *object => {}
            Some(place) => Arc::make_mut(&mut all.objects)[place] = object.clone(),
            None => Arc::make_mut(&mut all.objects).push(object.clone()),
        }
    }
    all
}

#[test]
#[ignore = "a measurement, of an optimised build"]
fn cost_of_rules_of_traffic() {
    let rules: String = (0..SERVICES).map(|service| rule(service, 0)).collect();
    let mut update = with(&mesh(), &objects(&rules));
    let mut cache = Cache::default();
    let mut world = World::with(&settings(), &update, &Redirection::default(), &mut cache);
    assert_eq!((world.traffic.len(), world.problems.len()), (SERVICES, 0), "{:?}", world.problems.first());
    let mut catalog = Catalog::default().next(&world, &world.since(&World::default()));
    for (what, is_rule) in [("a pod", false), ("a rule", true)] {
        let [mut translated, mut compared, mut encoded] = [Duration::ZERO; 3];
        let rounds = 20;
        for round in 0..rounds {
            update = if is_rule { with(&update, &objects(&rule(7, round + 1))) } else { change(&update, round) };
            let start = cpu();
            let next = World::with(&settings(), &update, &Redirection::default(), &mut cache);
            translated += cpu() - start;
            let start = cpu();
            let delta = next.since(&world);
            compared += cpu() - start;
            assert_eq!(delta.traffic.changed.len(), usize::from(is_rule));
            let start = cpu();
            catalog = catalog.next(&next, &delta);
            world = next;
            encoded += cpu() - start;
        }
        let rounds = rounds as u32;
        println!(
            "{PODS} pods, {SERVICES} services with a VirtualService each, {what} changes: translated {:?}, compared {:?}, \
             encoded {:?}",
            translated / rounds,
            compared / rounds,
            encoded / rounds
        );
    }
}

/// The policy of a service, with conditions on requests, in one of the ways to say whom it is about.
fn policy(service: usize) -> String {
    let (namespace, workloads) = (
        format!("n{}", service % 20),
        match service % 3 {
            0 => format!("selector: {{matchLabels: {{app: s{service}}}}}"),
            1 => format!("targetRefs: [{{kind: Service, name: s{service}}}]"),
            _ => "selector: {matchLabels: {nobody: has}}".to_owned(),
        },
    );
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: http{service}, namespace: {namespace}}}, \
         spec: {{{workloads}, rules: [{{to: [{{operation: {{methods: [GET], paths: ['/api/{{*}}']}}}}]}}]}}}}\n---\n"
    )
}

#[test]
#[ignore = "a measurement, of an optimised build"]
fn cost_of_policies() {
    let policies: String = (0..SERVICES).map(policy).collect();
    let mut objects_of_all = objects(&policies);
    let mut update = mesh();
    Arc::make_mut(&mut update.objects).append(Arc::make_mut(&mut objects_of_all.objects));
    let mut cache = Cache::default();
    let mut world = World::with(&settings(), &update, &Redirection::default(), &mut cache);
    let asked = world.local_pods.values().flatten().filter(|(_, local)| !local.inbound.protocols.is_empty()).count();
    // And the one of the mesh itself.
    assert_eq!((world.policies.len(), world.problems.len(), asked), (SERVICES + 101, 0, PODS));
    let [mut translated, mut compared] = [Duration::ZERO; 2];
    let rounds = 50;
    for round in 0..rounds {
        update = change(&update, round);
        let start = cpu();
        let next = World::with(&settings(), &update, &Redirection::default(), &mut cache);
        translated += cpu() - start;
        let start = cpu();
        assert!(!next.since(&world).is_empty());
        compared += cpu() - start;
        world = next;
    }
    let rounds = rounds as u32;
    println!(
        "{PODS} pods, {SERVICES} policies with conditions on requests: translated {:?}, compared {:?} a change",
        translated / rounds,
        compared / rounds
    );
}

#[test]
#[ignore = "a measurement, of an optimised build"]
fn cost_of_a_change() {
    cost_of_pods(mesh());
}

#[test]
#[ignore = "a measurement, of an optimised build"]
fn cost_of_a_change_where_everything_is_seen() {
    let telemetry = "{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {name: t, namespace: istio-system}, \
                     spec: {tracing: [{randomSamplingPercentage: 5}], accessLogging: [{}]}}";
    let update = with(&mesh(), &objects(telemetry));
    let world = World::new(&settings(), &update, &Redirection::default());
    assert_eq!(world.traffic.values().filter(|traffic| traffic.seen).count(), SERVICES);
    cost_of_pods(update);
}

fn cost_of_pods(mut update: Update) {
    let mut cache = Cache::default();
    let mut world = World::new(&settings(), &update, &Redirection::default());
    assert_eq!((world.workloads.len(), world.services.len(), world.problems.len()), (PODS, SERVICES, 0));
    let mut catalog = Catalog::default().next(&world, &world.since(&World::default()));
    let [mut translated, mut compared, mut encoded] = [Duration::ZERO; 3];
    let rounds = 100;
    for round in 0..rounds {
        update = change(&update, round);
        let start = cpu();
        let next = World::with(&settings(), &update, &Redirection::default(), &mut cache);
        translated += cpu() - start;
        let start = cpu();
        let delta = next.since(&world);
        compared += cpu() - start;
        assert!(!delta.is_empty());
        let start = cpu();
        catalog = catalog.next(&next, &delta);
        world = next;
        encoded += cpu() - start;
    }
    println!(
        "{PODS} pods, {SERVICES} services: translated {:?}, compared {:?}, encoded {:?} a change",
        translated / rounds as u32,
        compared / rounds as u32,
        encoded / rounds as u32
    );
}

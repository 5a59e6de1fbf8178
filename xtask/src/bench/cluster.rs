//! `bench cluster`: what the controller costs on a cluster of some size, and how soon agents hear of a change. The API
//! is a real one, the objects of services and pods are; nothing runs in them, and the agents only listen.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_tests::{A, Change, World, simulated::Simulated};
use serde_json::{Value, json};

use super::{
    figures::{Sample, Samples, Side},
    table::{Better::Less, Row},
};

pub const NAMES: [&str; 5] = ["controller-alone", "controller-idle", "controller-busy", "few-agents", "many-agents"];

const NAMESPACES: usize = 20;
const SERVICES: usize = 1000;
const PODS: usize = 2000;
/// Changes of pods a second.
const RATE: u32 = 30;
const FEW: usize = 10;
const MANY: usize = 1000;
/// Changes whose arrival is measured.
const CHANGES: usize = 20;
const LIMIT: Duration = Duration::from_secs(120);

pub fn measure(samples: &mut Samples, seconds: f64, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let mut world = World::on_kubernetes("bench cluster")?;
    world.quiet();
    let api = world.api()?;
    eprintln!("bench: {SERVICES} services and {PODS} pods in {NAMESPACES} namespaces");
    api.apply_all(&(0..NAMESPACES).map(namespace).collect::<Vec<_>>())?;
    api.apply_all(&(0..SERVICES).flat_map(service).collect::<Vec<_>>())?;
    api.apply_all(&(0..PODS).map(|number| pod(number, true)).collect::<Vec<_>>())?;
    world.start_controller()?;
    let mut add = |item, figures: Value| {
        eprintln!("bench: {item:<27}{figures}");
        samples.add(Sample { item, side: Side::Mesh, round: 0, figures });
    };

    let length = Duration::from_secs_f64(seconds.max(10.0));
    let busy = || {
        let over = AtomicBool::new(false);
        let made = thread::scope(|scope| {
            let making = scope.spawn(|| api.change(RATE, &over, change));
            thread::sleep(length);
            over.store(true, Ordering::Relaxed);
            making.join().unwrap_or_else(|_| Err(anyhow!("the thread of the changes panicked")))
        })?;
        let rate = made as f64 / length.as_secs_f64();
        ensure!(rate > f64::from(RATE) * 0.9, "{rate:.1} changes a second instead of {RATE}: too slow a machine");
        Ok(())
    };
    if wanted("controller-alone") {
        add("controller-alone", used(&world, busy)?);
    }

    let nodes: Vec<String> = (0..MANY).map(|number| format!("n{number}")).collect();
    let tokens = world.agent_tokens(&nodes[..FEW])?;
    let ca = world.controller()?.ca_file();
    let few = Simulated::connect(&world.node(A).host, &ca, tokens)?;
    few.wait_until_synced(LIMIT)?;
    thread::sleep(Duration::from_secs(3));
    if wanted("controller-idle") {
        let rest = || {
            thread::sleep(length);
            Ok(())
        };
        add("controller-idle", used(&world, rest)?);
    }
    if wanted("controller-busy") {
        add("controller-busy", used(&world, busy)?);
    }
    if wanted("few-agents") {
        add("few-agents", arrivals(&world, &few, "few")?);
    }
    if wanted("many-agents") {
        drop(few);
        let tokens = world.agent_tokens(&nodes)?;
        let start = Instant::now();
        let many = Simulated::connect(&world.node(A).host, &ca, tokens)?;
        many.wait_until_synced(LIMIT)?;
        let synced = start.elapsed().as_secs_f64();
        let mut figures = arrivals(&world, &many, "many")?;
        figures["synced"] = json!(synced);
        figures["rss"] = json!(memory(&world)?);
        add("many-agents", figures);
    }
    Ok(())
}

pub fn rows(samples: &Samples) -> Vec<Row> {
    let row = |what, item: &str, key: &str, unit, scale: f64, must, goal| {
        let mesh = samples.median(item, Side::Mesh, |figures| Some(figures[key].as_f64()? * scale));
        Row { what, plain: None, mesh, judged: mesh, unit, must, goal, better: Less, errors: 0 }
    };
    let mega = 1.0 / f64::from(1 << 20);
    vec![
        row(
            "controller: RSS, 1,000 services, 2,000 pods",
            "controller-idle",
            "rss",
            "MB",
            mega,
            Some(150.0),
            Some(80.0),
        ),
        row("controller: CPU, nothing changes", "controller-idle", "cpu", "cores", 1.0, None, None),
        row("controller: CPU, 30 pod changes a second, no agents", "controller-alone", "cpu", "cores", 1.0, None, None),
        row("controller: CPU, 30 pod changes a second", "controller-busy", "cpu", "cores", 1.0, Some(0.1), Some(0.05)),
        row("controller: RSS meanwhile", "controller-busy", "rss", "MB", mega, Some(150.0), Some(80.0)),
        row("policy written -> at 10 agents, p50", "few-agents", "p50", "ms", 1e3, None, None),
        row("policy written -> at 10 agents, p99", "few-agents", "p99", "ms", 1e3, Some(250.0), Some(80.0)),
        row("policy written -> at 1,000 agents, p50", "many-agents", "p50", "ms", 1e3, None, None),
        row("policy written -> at 1,000 agents, p99", "many-agents", "p99", "ms", 1e3, Some(2000.0), Some(500.0)),
        row("1,000 agents at once have everything", "many-agents", "synced", "s", 1.0, None, None),
        row("controller: RSS with 1,000 agents", "many-agents", "rss", "MB", mega, None, None),
    ]
}

/// Cores and memory that the controller uses during `work`.
fn used(world: &World, work: impl FnOnce() -> Result<()>) -> Result<Value> {
    let (start, before) = (Instant::now(), cpu(world)?);
    work()?;
    let cores = (cpu(world)? - before) / start.elapsed().as_secs_f64();
    Ok(json!({ "cpu": cores, "rss": memory(world)? }))
}

/// When policies that are written one after another are there.
fn arrivals(world: &World, agents: &Simulated, prefix: &str) -> Result<Value> {
    let mut all = Vec::new();
    for number in 0..CHANGES {
        let name = format!("{prefix}-{number}");
        let start = Instant::now();
        world.api()?.apply(&policy(&name))?;
        all.extend(agents.arrivals(&format!("load-0/{name}"), start, LIMIT)?);
        thread::sleep(Duration::from_millis(300));
    }
    all.sort();
    let at = |part: f64| all[((all.len() - 1) as f64 * part) as usize].as_secs_f64();
    Ok(json!({ "p50": at(0.5), "p99": at(0.99), "most": at(1.0), "count": all.len() }))
}

/// Seconds of CPU so far.
fn cpu(world: &World) -> Result<f64> {
    super::meter::cpu_of(&world.controller_cgroup())
}

/// Bytes of resident memory.
fn memory(world: &World) -> Result<f64> {
    let pid = world.controller()?.process.pid();
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("read the controller's status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a status without VmRSS")?;
    let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse().context("VmRSS is no number")?;
    Ok(kilobytes * 1024.0)
}

fn namespace(number: usize) -> Value {
    let metadata = json!({ "name": format!("load-{number}"), "labels": { "nodemesh.io/mode": "mesh" } });
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata })
}

/// A service and its two endpoints.
fn service(number: usize) -> [Value; 2] {
    let (namespace, name) = (format!("load-{}", number % NAMESPACES), format!("service-{number}"));
    let metadata = json!({ "name": name, "namespace": namespace });
    let ip = format!("10.96.{}.{}", 1 + number / 250, 1 + number % 250);
    let port = json!({ "name": "http", "protocol": "TCP", "port": 80 });
    let endpoint = |pod: usize| {
        json!({
            "addresses": [address(pod)],
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "nodeName": node(pod),
            "targetRef": { "kind": "Pod", "namespace": namespace, "name": pod_name(pod) },
        })
    };
    let labels = json!({ "kubernetes.io/service-name": name });
    [
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata,
            "spec": { "clusterIP": ip, "clusterIPs": [ip], "ports": [port], "selector": { "app": name } },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": { "name": format!("{name}-1"), "namespace": namespace, "labels": labels },
            "addressType": "IPv4",
            "ports": [{ "name": "http", "protocol": "TCP", "port": 8080 }],
            // Of the same namespace.
            "endpoints": [endpoint(number), endpoint(number + SERVICES)],
        }),
    ]
}

/// As large as pods are: with variables, volumes and conditions that nobody reads here.
fn pod(number: usize, ready: bool) -> Value {
    let (namespace, name, ip) = (format!("load-{}", number % NAMESPACES), pod_name(number), address(number));
    let app = format!("service-{}", number % SERVICES);
    let variables: Vec<Value> =
        (0..30).map(|n| json!({ "name": format!("SETTING_{n}"), "value": format!("value of setting {n}") })).collect();
    let mount = json!({ "name": "token", "mountPath": "/var/run/secrets/token", "readOnly": true });
    let container = json!({
        "name": "app", "image": "example.com/app:1.2.3", "env": variables, "volumeMounts": [mount],
        "ports": [{ "name": "http", "containerPort": 8080, "protocol": "TCP" }],
        "resources": { "requests": { "cpu": "100m", "memory": "128Mi" } },
    });
    let condition = |kind: &str, status: bool| json!({ "type": kind, "status": if status { "True" } else { "False" } });
    let conditions = [("Initialized", true), ("PodScheduled", true), ("ContainersReady", ready), ("Ready", ready)]
        .map(|(kind, is)| condition(kind, is));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "labels": { "app": app, "version": "v1" } },
        "spec": { "nodeName": node(number), "serviceAccountName": "default", "containers": [container] },
        "status": { "phase": "Running", "podIP": ip, "podIPs": [{ "ip": ip }], "conditions": conditions },
    })
}

/// A pod goes, comes back, becomes ready.
fn change(made: usize) -> Change {
    let number = (made / 3 * 7) % PODS;
    match made % 3 {
        0 => Change::Delete(pod(number, true)),
        1 => Change::Apply(pod(number, false)),
        _ => Change::Apply(pod(number, true)),
    }
}

fn policy(name: &str) -> Value {
    json!({
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": { "name": name, "namespace": "load-0" },
        "spec": { "action": "DENY", "rules": [{ "to": [{ "operation": { "ports": ["9"] } }] }] },
    })
}

fn pod_name(number: usize) -> String {
    format!("pod-{number}")
}

fn node(number: usize) -> String {
    format!("n{}", number % 100)
}

fn address(number: usize) -> String {
    format!("10.{}.{}.{}", 128 + number / 60_000, number / 250 % 240, 1 + number % 250)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn pods_have_addresses_of_their_own_and_services_pods_of_their_namespace() {
        assert_eq!((0..PODS).map(address).collect::<BTreeSet<_>>().len(), PODS);
        for number in [0, 7, SERVICES - 1] {
            let [service, slice] = service(number);
            for endpoint in slice["endpoints"].as_array().unwrap() {
                assert_eq!(endpoint["targetRef"]["namespace"], service["metadata"]["namespace"]);
            }
            assert_eq!(pod(number + SERVICES, true)["metadata"]["namespace"], service["metadata"]["namespace"]);
        }
    }
}

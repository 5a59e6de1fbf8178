//! Services of every kind: what cluster DNS answers for them is mutual TLS, whoever ends is drained, and the address of
//! a pod that completed is the next one's.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    slice::from_ref,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{A, B, End, Families, NodeId, Pod, World};
use serde_json::{Value, json};

use crate::cast::Cast;

const PORT: u16 = 7001;
const ANY: IpAddr = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);
/// Where an ExternalName leads.
const OUTSIDE: &str = "outside.example.com";

/// Conditions of an endpoint: ready, serving, terminating.
type Conditions = (bool, bool, bool);
const READY: Conditions = (true, true, false);
const UNREADY: Conditions = (false, false, false);
const DRAINING: Conditions = (false, true, true);
const ENDED: Conditions = (false, false, true);

/// The Service and its EndpointSlices, one for each family, as Kubernetes makes them.
fn service(name: &str, spec: Value, endpoints: &[(&Pod, Conditions)], ports: &[(u16, u16)]) -> Vec<Value> {
    let mut spec = spec;
    let names = ports.iter().map(|(port, _)| format!("p{port}"));
    let wanted = names
        .clone()
        .zip(ports)
        .map(|(name, (port, target))| json!({ "name": name, "port": port, "targetPort": target }));
    spec["ports"] = wanted.collect();
    let metadata = json!({ "name": name, "namespace": "shop" });
    let mut objects = vec![json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec })];
    for (family, is_v6) in [("IPv4", false), ("IPv6", true)] {
        let of_family = |pod: &Pod| pod.addresses().into_iter().find(|ip| ip.is_ipv6() == is_v6);
        let endpoint = |(pod, (ready, serving, terminating)): &(&Pod, Conditions)| {
            Some(json!({
                "addresses": [of_family(pod)?],
                // A StatefulSet's pod has its name as its hostname.
                "hostname": pod.name,
                "conditions": { "ready": ready, "serving": serving, "terminating": terminating },
                "nodeName": pod.node.name(),
                "targetRef": { "kind": "Pod", "namespace": "shop", "name": pod.name, "uid": pod.uid },
            }))
        };
        let endpoints: Vec<Value> = endpoints.iter().filter_map(endpoint).collect();
        let answers = names.clone().zip(ports).map(|(name, (_, target))| json!({ "name": name, "port": target }));
        objects.push(json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{name}-{}", family.to_lowercase()), "namespace": "shop",
                "labels": { "kubernetes.io/service-name": name },
            },
            "addressType": family,
            "ports": answers.collect::<Vec<_>>(),
            "endpoints": endpoints,
        }));
    }
    objects
}

fn write(world: &World, name: &str, objects: &[Value]) -> Result<()> {
    // JSON is YAML.
    let documents: Vec<String> = objects.iter().map(ToString::to_string).collect();
    world.manifests.write(name, &documents.join("\n---\n"))
}

/// What cluster DNS answers for `name.shop.svc`, or for `host.name.shop.svc`, from these objects: DNS-Based Service
/// Discovery of Kubernetes, sections 2.3 (a cluster IP), 2.4 (headless) and 2.5 (ExternalName).
fn resolve(objects: &[Value], host: Option<&str>, name: &str) -> Result<Vec<IpAddr>> {
    let kind = |kind: &'static str| objects.iter().filter(move |object| object["kind"] == kind);
    let service = kind("Service").find(|object| object["metadata"]["name"] == name).context("NXDOMAIN")?;
    let spec = &service["spec"];
    let read = |ip: &Value| ip.as_str().context("not an address")?.parse::<IpAddr>().context("not an address");
    if spec["type"] == "ExternalName" {
        ensure!(spec["externalName"] == OUTSIDE, "{spec}");
        return Ok(vec![]);
    }
    if spec["clusterIP"] != "None" {
        return spec["clusterIPs"].as_array().into_iter().flatten().map(read).collect();
    }
    let of_service = |object: &&Value| object["metadata"]["labels"]["kubernetes.io/service-name"] == name;
    let endpoints = kind("EndpointSlice").filter(of_service).flat_map(|slice| slice["endpoints"].as_array());
    let ready = endpoints.flatten().filter(|endpoint| endpoint["conditions"]["ready"] == true);
    let named = ready.filter(|endpoint| host.is_none_or(|host| endpoint["hostname"] == host));
    named.flat_map(|endpoint| endpoint["addresses"].as_array()).flatten().map(read).collect()
}

/// The flow of what `client` dialled, at its own agent: path, security and the server's identity.
fn dialled(world: &World, client: &Pod, to: SocketAddr) -> Result<(String, String, String)> {
    let report = client.say(to, "")?;
    report.seen().with_context(|| format!("dialled {to}: {report:?}"))?;
    let local = report.local.context("no local address")?.to_string();
    let flow = world.flow(client.node, &format!("to {to}"), |flow| flow.source.address == local)?;
    Ok((flow.path, flow.security, flow.destination.identity))
}

/// A pod that runs and of which its kubelet says that it is not ready.
fn unready(pod: &Pod) -> Value {
    running(&pod.name, pod.node, &pod.uid, &pod.addresses())
}

fn running(name: &str, node: NodeId, uid: &str, addresses: &[IpAddr]) -> Value {
    let ips: Vec<Value> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "uid": uid },
        "spec": { "nodeName": node.name(), "serviceAccountName": name, "containers": [] },
        "status": {
            "phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips,
            "conditions": [{ "type": "Ready", "status": "False" }],
        },
    })
}

#[test]
fn what_cluster_dns_answers_is_mutual_tls() -> Result<()> {
    let mut world = World::new("cluster dns")?;
    let mut pod = |name, node| world.pod_with("shop", name, name, node, Families::Dual);
    let (client, web0, web1) = (pod("client", A)?, pod("web-0", B)?, pod("web-1", B)?);
    for server in [&web0, &web1] {
        server.serve_at("peer", ANY, PORT)?;
    }
    let (outside, address) = world.outside(PORT)?;
    outside.serve("peer", PORT)?;
    world.start()?;
    world.mesh("shop")?;

    let ips = |last: u16| json!([format!("10.96.1.{last}"), format!("fd00:10:96::1:{last}")]);
    let cluster =
        |last: u16| json!({ "clusterIP": ips(last)[0], "clusterIPs": ips(last), "ipFamilies": ["IPv4", "IPv6"] });
    let publish = |mut spec: Value| {
        spec["publishNotReadyAddresses"] = json!(true);
        spec
    };
    let headless = || json!({ "clusterIP": "None", "clusterIPs": ["None"] });
    let alias = json!({ "type": "ExternalName", "externalName": OUTSIDE });
    // web-1 is not ready. Kubernetes writes it as ready where its service publishes what is not.
    let (both, published) = ([(&*web0, READY), (&*web1, UNREADY)], [(&*web0, READY), (&*web1, READY)]);
    let objects = [
        service("web", cluster(1), &both, &[(PORT, PORT)]),
        service("published", publish(cluster(2)), &published[1..], &[(PORT, PORT)]),
        service("unready", cluster(3), &both[1..], &[(PORT, PORT)]),
        service("headless", headless(), &both, &[(PORT, PORT)]),
        service("stateful", publish(headless()), &published, &[(PORT, PORT)]),
        service("alias", alias, &[], &[(PORT, PORT)]),
    ]
    .concat();
    write(&world, "services", &objects)?;
    write(&world, "pod-shop-web-1", &[unready(&web1)])?;
    world.settle()?;

    for (host, name, answers) in [
        (None, "web", 2),
        (None, "published", 2),
        (None, "headless", 2),
        (None, "stateful", 4),
        (Some("web-0"), "stateful", 2),
        (Some("web-1"), "stateful", 2),
    ] {
        let found = resolve(&objects, host, name)?;
        assert_eq!(found.len(), answers, "{host:?} {name}: {found:?}");
        for ip in found {
            let (path, security, identity) = dialled(&world, &client, SocketAddr::new(ip, PORT))?;
            assert_eq!((path.as_str(), security.as_str()), ("tunnel", "mutual_tls"), "{host:?} {name} at {ip}");
            let expected = match (host, name) {
                (Some("web-0"), _) | (None, "web" | "headless") => Some(&web0),
                (Some(_), _) | (None, "published") => Some(&web1),
                _ => [&web0, &web1].into_iter().find(|pod| pod.addresses().contains(&ip)),
            };
            assert_eq!(Some(identity), expected.map(|pod| pod.identity()), "{host:?} {name} at {ip}");
        }
    }
    for ip in resolve(&objects, None, "unready")? {
        let refused = client.say(SocketAddr::new(ip, PORT), "")?;
        assert_eq!((refused.connected, refused.end), (false, End::Refused), "{refused:?}");
    }
    // An alias leads wherever it leads: nothing of it is the mesh's.
    assert!(resolve(&objects, None, "alias")?.is_empty());
    let (path, security, identity) = dialled(&world, &client, address)?;
    assert_eq!((path.as_str(), security.as_str(), identity.as_str()), ("passthrough", "none", ""));
    let services = world.ask_agent(A, &["config", "services"])?;
    assert!(services.iter().all(|service| !service["hostname"].as_str().unwrap_or_default().starts_with("alias.")));
    Ok(())
}

#[test]
fn who_ends_is_drained() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("drained")?;
    for server in [&near, &far] {
        server.serve("peer", PORT)?;
        server.serve("echo", 7000)?;
    }
    let at = |port: u16| SocketAddr::from(([10, 96, 1, 1], port));
    let write = |world: &mut World, near_is: Conditions, far_is: Conditions| -> Result<()> {
        let spec = json!({ "clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1"] });
        let endpoints = [(&*near, near_is), (&*far, far_is)];
        let objects = service("drained", spec, &endpoints, &[(80, PORT), (81, 7000)]);
        self::write(world, "services", &objects)?;
        world.settle()
    };
    let served = |by: &[&Arc<Pod>]| -> Result<()> {
        let reports = client.dial(at(80), &["--count", "20"])?;
        let seen = reports.iter().map(|report| Ok(report.seen()?.getsockname)).collect::<Result<BTreeSet<_>>>()?;
        assert_eq!(seen, by.iter().map(|pod| pod.at(PORT)).collect());
        Ok(())
    };
    write(&mut world, READY, ENDED)?;
    served(&[&near])?;
    let held_near = client.hold(at(81))?;
    write(&mut world, ENDED, READY)?;
    served(&[&far])?;
    let held = [held_near, client.hold(at(81))?];
    let all_live = || held.iter().map(mesh_tests::Held::is_open).collect::<Result<Vec<_>>>();
    // What is open lives, what is new goes elsewhere; the last that answer are used.
    for (near_is, far_is, by) in [
        (READY, DRAINING, vec![&near]),
        (DRAINING, DRAINING, vec![&near, &far]),
        (ENDED, DRAINING, vec![&far]),
        (READY, ENDED, vec![&near]),
    ] {
        write(&mut world, near_is, far_is)?;
        served(&by)?;
        assert_eq!(all_live()?, [true; 2], "{near_is:?} {far_is:?}");
    }
    write(&mut world, ENDED, ENDED)?;
    let refused = client.say(at(80), "")?;
    assert_eq!((refused.connected, refused.end), (false, End::Refused), "{refused:?}");
    world.flow(A, "refused", |flow| flow.reason == "NO_HEALTHY_ENDPOINT")?;
    assert_eq!(all_live()?, [true; 2]);
    for held in held {
        assert_eq!(held.finish()?.end, End::Eof);
    }
    Ok(())
}

#[test]
fn who_completed_or_is_in_the_nodes_network_owns_no_address() -> Result<()> {
    let Cast { mut world, client, far, .. } = Cast::meshed("no address of its own")?;
    // It is said to be none of the mesh, and its address is the node's.
    let mut on_the_node = running("on-the-node", A, "u-on-the-node", &[A.address().into()]);
    on_the_node["spec"]["hostNetwork"] = json!(true);
    write(&world, "on-the-node", &[on_the_node])?;
    world.settle()?;
    let status = world.status(A)?;
    let told = status["pods"].as_array().into_iter().flatten().find(|pod| pod["pod"] == "on-the-node");
    let told = told.with_context(|| format!("not in the status: {status}"))?;
    assert!(told.to_string().contains("hostNetwork"), "{told}");
    world.node(A).host.serve("peer", PORT)?;
    let at_the_node = SocketAddr::from((A.address(), PORT));
    let (path, security, identity) = dialled(&world, &client, at_the_node)?;
    assert_eq!((path.as_str(), security.as_str(), identity.as_str()), ("passthrough", "none", ""));

    let job = world.pod("shop", "job", A)?;
    world.wait_for(from_ref(&job), true)?;
    world.delete_pod(&job)?;
    // Kubernetes keeps it, with its address, until somebody deletes it.
    let mut completed = unready(&job);
    completed["metadata"]["creationTimestamp"] = json!("2020-01-01T00:00:00Z");
    completed["status"]["phase"] = json!("Succeeded");
    write(&world, "completed", &[completed])?;
    let heir = world.pod("shop", "heir", A)?;
    assert_eq!(heir.ip, job.ip);
    world.wait_for(from_ref(&heir), true)?;
    heir.serve("peer", PORT)?;
    far.serve("peer", PORT)?;
    let (_, security, identity) = dialled(&world, &far, heir.at(PORT))?;
    assert_eq!((security.as_str(), identity), ("mutual_tls", heir.identity()));
    dialled(&world, &heir, far.at(PORT))?;
    let flow = world.flow(B, "of the heir", |flow| flow.source.address.starts_with(&format!("{}:", heir.ip)))?;
    assert_eq!((flow.source.pod, flow.source.identity), (heir.full_name(), heir.identity()));
    Ok(())
}

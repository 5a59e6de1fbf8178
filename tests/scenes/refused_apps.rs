//! What an application of an enrolled pod, root in its own namespaces, or a pod that was never enrolled, may try: the
//! agent's own ports, ways around the agent, and other pods' addresses.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    process::Output,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    A, B, End, Flow, NodeId, Patience, Place, Pod, World, eventually, inside, installed, programs_dir, refused,
};

use crate::{
    cast::{Cast, policy},
    rogue::{Stage, counted, metrics, outcomes, shown},
};

const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                      metadata: { name: default, namespace: shop }\nspec: { mtls: { mode: STRICT } }\n";

/// One connection that must be refused at once, recorded at `node` under `code`, and counted.
fn refused_at(
    world: &World,
    id: &str,
    what: &str,
    who: &Place,
    to: SocketAddr,
    node: NodeId,
    code: &str,
) -> Result<Flow> {
    let before = world.flows(node)?.iter().filter(|flow| flow.reason == code).count();
    let report = who.say(to, "canary-refused")?;
    // An alert of TLS at the most.
    ensure!(report.received < 16 && report.end != End::Timeout, "{what}: {report:?}");
    let flow = eventually(format_args!("{what}: a flow with {code}"), Patience::SHORT, || {
        let all = world.flows(node)?;
        let of_code: Vec<_> = all.iter().filter(|flow| flow.reason == code).cloned().collect();
        let last = all.iter().rev().take(3).map(|flow| format!("{} {}", flow.reason, flow.error)).collect::<Vec<_>>();
        let newer = of_code.into_iter().nth(before);
        newer.with_context(|| format!("the last ones: {last:?}; {report:?}")).map(Some)
    })?;
    ensure!(counted(&metrics(&world.node(node).host)?, code), "{what}: no metric of {code}");
    let seen = report.error.unwrap_or_else(|| format!("{:?}", report.end));
    refused::row(id, what, &seen, code, &format!("flow of node {}, mesh_policy_verdicts_total", node.name()));
    Ok(flow)
}

/// One connection to a port where nobody listens: the kernel answers, as it would without a mesh, and counts it.
fn closed_at(world: &World, id: &str, what: &str, who: &Place, to: SocketAddr, node: NodeId) -> Result<()> {
    let before = verdicts(world, node, "STEERED_CLOSED")?;
    let report = who.say(to, "hello")?;
    ensure!(report.end == End::Refused, "{what}: {report:?}");
    eventually(format_args!("{what}: STEERED_CLOSED"), Patience::SHORT, || {
        Ok((verdicts(world, node, "STEERED_CLOSED")? > before).then_some(()))
    })?;
    refused::row(id, what, "ECONNREFUSED, as from any closed port", "STEERED_CLOSED", "mesh_bpf_verdicts_total");
    Ok(())
}

/// What the node's eBPF programs counted.
fn verdicts(world: &World, node: NodeId, counter: &str) -> Result<u64> {
    let text = metrics(&world.node(node).host)?;
    let line = text.lines().find(|line| line.contains(&format!("\"{counter}\"")));
    let value = line.and_then(|line| line.rsplit(' ').next()).with_context(|| format!("no {counter}"))?;
    Ok(value.parse()?)
}

fn run(place: &Place, program: &str, arguments: &[&str]) -> Result<Output> {
    let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
    let program = if program.contains('/') { program.into() } else { installed(program)? };
    place.output(&program, &arguments, Duration::from_secs(10))
}

fn succeed(place: &Place, program: &str, arguments: &[&str]) -> Result<String> {
    let output = run(place, program, arguments)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {arguments:?}: {}", errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The name of a pod's network namespace.
fn netns(pod: &Pod) -> Result<&str> {
    pod.netns.file_name().and_then(|name| name.to_str()).context("a namespace has a name")
}

#[test]
fn the_agents_ports_are_closed_to_applications() -> Result<()> {
    let stage = Stage::new("agent's ports")?;
    let Cast { world, client, near, far } = &stage.cast;
    let v4 = |ip: Ipv4Addr, port: u16| SocketAddr::from((ip, port));
    // The agent's one listener in the pod, on a loopback address and a port of the kernel's choice.
    let sockets = succeed(client, "ss", &["-Htln"])?;
    let ports = sockets
        .lines()
        .filter_map(|line| line.split_whitespace().nth(3)?.strip_prefix("[::ffff:127.0.0.1]:")?.parse().ok());
    let listener: u16 = ports.into_iter().next().with_context(|| format!("no listener in {sockets}"))?;

    let at = |what: &str, to: SocketAddr, code: &str| {
        refused_at(world, "X1", &format!("an app dials {what}"), client, to, A, code).map(drop)
    };
    at("HBONE on its own IP", client.at(15008), "HBONE_PORT")?;
    at("HBONE on 127.0.0.1", v4(Ipv4Addr::LOCALHOST, 15008), "HBONE_PORT")?;
    at("HBONE on 127.64.1.2", v4(Ipv4Addr::new(127, 64, 1, 2), 15008), "HBONE_PORT")?;
    at("HBONE on 127.128.1.2", v4(Ipv4Addr::new(127, 128, 1, 2), 15008), "HBONE_PORT")?;
    at("HBONE on 0.0.0.0", v4(Ipv4Addr::UNSPECIFIED, 15008), "HBONE_PORT")?;
    at("HBONE on ::1", SocketAddr::from((Ipv6Addr::LOCALHOST, 15008)), "HBONE_PORT")?;
    at("HBONE on ::ffff:127.0.0.1", SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 15008)), "HBONE_PORT")?;
    at("HBONE of a pod of its node", near.at(15008), "HBONE_PORT")?;
    at("HBONE of a pod of another node", far.at(15008), "HBONE_PORT")?;
    at("HBONE on its node's IP", v4(A.address(), 15008), "CONNECT")?;
    at("HBONE on another node's IP", v4(B.address(), 15008), "CONNECT")?;
    at("the outbound port on 127.64.1.2", v4(Ipv4Addr::new(127, 64, 1, 2), 15001), "ORIGINAL_DESTINATION_UNKNOWN")?;
    at("the outbound port on 127.127.9.9", v4(Ipv4Addr::new(127, 127, 9, 9), 15001), "ORIGINAL_DESTINATION_UNKNOWN")?;
    at("the agent's listener on 127.0.0.1", v4(Ipv4Addr::LOCALHOST, listener), "ORIGINAL_DESTINATION_UNKNOWN")?;
    at("the outbound port of a pod of its node", near.at(15001), "CONNECT")?;
    at("the outbound port of a pod of another node", far.at(15001), "CONNECT")?;
    at("the listener's port on its node's IP", v4(A.address(), listener), "CONNECT")?;
    at("the metrics' port of a pod of another node", far.at(15020), "CONNECT")?;
    // Where nobody listens, the kernel says so, as it would without a mesh: the agent is not there.
    for (what, to) in [
        ("the outbound port on its own IP", client.at(15001)),
        ("the outbound port on 127.0.0.1", v4(Ipv4Addr::LOCALHOST, 15001)),
        ("the outbound port on ::1", SocketAddr::from((Ipv6Addr::LOCALHOST, 15001))),
        ("the agent's listener on its own IP", client.at(listener)),
        ("the agent's listener on ::1", SocketAddr::from((Ipv6Addr::LOCALHOST, listener))),
        ("the metrics' port on 127.0.0.1", v4(Ipv4Addr::LOCALHOST, 15020)),
    ] {
        let report = client.say(to, "hello")?;
        assert_eq!(report.end, End::Refused, "{what}: {report:?}");
        refused::row(
            "X1",
            &format!("an app dials {what}"),
            "ECONNREFUSED: the agent is not there",
            "-",
            "the kernel's own",
        );
    }
    // From outside the mesh, and from the node.
    for (what, who) in [("a pod outside the mesh", &**stage.rogue), ("a process of the node", &world.node(A).host)] {
        let tunnel = format!("{what} dials port 15008 of a meshed pod");
        refused_at(world, "X1", &tunnel, who, near.at(15008), A, "TLS_FAILURE")?;
        for (name, port) in [("port 15001", 15001), ("the agent's listener's port", listener)] {
            closed_at(world, "X1", &format!("{what} dials {name} of a meshed pod"), who, near.at(port), A)?;
        }
    }
    // The sockets of the agent are files for root alone, whoever can see them.
    let own = programs_dir()?.join("meshctl").display().to_string();
    for socket in [world.node(A).agent_socket(), world.node(A).cni_socket(), world.controller()?.admin_socket()] {
        let path = socket.display().to_string();
        let option = if path.ends_with("admin.sock") { "--controller" } else { "--agent" };
        let user = ["--reuid=65534", "--regid=65534", "--clear-groups", &own, option, &path, "status"];
        let output = run(client, "setpriv", &user)?;
        ensure!(!output.status.success(), "{path} answered nobody");
        let name = socket.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        refused::row("X1", &format!("a process that is not root opens {name}"), "EACCES", "-", "mode 0600");
    }
    ensure!(counted(&metrics(&world.node(A).host)?, "HBONE_PORT"));
    assert!(client.say(far.at(7000), "as before")?.echoed());
    Ok(())
}

#[test]
fn plaintext_stays_out_of_strict_and_udp_is_seen() -> Result<()> {
    let mut stage = Stage::new("plaintext")?;
    let outside_of = stage.cast.world.pod("legacy", "elsewhere", B)?;
    let far = stage.cast.far.clone();
    let service = stage.cast.world.service("shop", "web", 80, 7000, &[&far])?;
    stage.cast.world.apply("strict", STRICT)?;
    // What kube-proxy does for pods outside the mesh.
    let rule = format!(
        "add table ip proxy; add chain ip proxy out {{ type nat hook output priority -100; }}; \
         add rule ip proxy out ip daddr {} tcp dport 80 dnat to {}",
        service.ip,
        far.at(7000)
    );
    succeed(&stage.rogue, "nft", &[&rule])?;
    let Cast { world, client, near, far } = &stage.cast;
    let (outside, _) = world.outside(80)?;
    let mapped = SocketAddr::from((far.ip.to_ipv6_mapped(), 7000));
    for (what, who, to, node) in [
        ("a pod of another node, by pod IP", &**stage.rogue, far.at(7000), B),
        ("a pod of the same node, by pod IP", &**outside_of, far.at(7000), B),
        ("a pod of another node, by the Service", &**stage.rogue, service.addr(), B),
        ("an IPv6 socket, by mapped pod IP", &**stage.rogue, mapped, B),
        ("the node of the pod", &world.node(B).host, far.at(7000), B),
        ("another node", &world.node(A).host, far.at(7000), B),
        ("a host outside the cluster", &outside, near.at(7000), A),
    ] {
        let what = format!("plaintext to a STRICT port from {what}");
        let flow = refused_at(world, "X7", &what, who, to, node, "PLAINTEXT_STRICT")?;
        assert_eq!(flow.source.identity, "", "{flow:?}");
    }
    ensure!(counted(&metrics(&world.node(B).host)?, "PLAINTEXT_STRICT"));
    closed_at(world, "X7", "plaintext to a STRICT pod, where nobody listens", &stage.rogue, far.at(7999), B)?;
    assert!(client.say(far.at(7000), "as before")?.echoed());

    // UDP is neither redirected nor encrypted, and STRICT says nothing of it: it passes, is readable, and is counted.
    let capture = world.capture()?;
    let socket = inside(netns(far)?, || UdpSocket::bind((IpAddr::from(far.ip), 7053)))??;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    let line = format!("echo canary-in-a-datagram > /dev/udp/{}/7053", far.ip);
    succeed(client, "bash", &["-c", &line])?;
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer)?;
    assert_eq!((&buffer[..length], from.ip()), (&b"canary-in-a-datagram\n"[..], IpAddr::from(client.ip)));
    assert!(capture.contains(b"canary-in-a-datagram")?, "UDP is not encrypted");
    for (node, counter, side) in [(A, "CONNECT_NOT_TCP", "sends"), (B, "STEERED_NOT_TCP", "receives")] {
        eventually(format_args!("{counter} is counted"), Patience::LONG, || {
            let text = metrics(&world.node(node).host)?;
            let line = text.lines().find(|line| line.contains(&format!("\"{counter}\""))).map(str::to_owned);
            Ok(line.filter(|line| !line.ends_with(" 0")))
        })?;
        let what = format!("a meshed pod {side} UDP under STRICT");
        refused::row(
            "X7",
            &what,
            "not refused: passes in plaintext, as documented",
            "-",
            &format!("{counter} in mesh_bpf_verdicts_total"),
        );
    }
    Ok(())
}

/// What curl sees that binds to an address or device first; the connection itself matters, not the answer.
fn curl_from(place: &Place, interface: &str, to: SocketAddr) -> Result<String> {
    let url = format!("http://{to}/");
    let output = run(place, "curl", &["-sS", "--http0.9", "--max-time", "2", "--interface", interface, &url])?;
    Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn another_pods_address_brings_nothing() -> Result<()> {
    let mut stage = Stage::new("forged addresses")?;
    let world = &mut stage.cast.world;
    // near may, client and everybody else may not; and an address alone is no identity.
    let rule = "[{ from: [{ source: { serviceAccounts: [shop/near] } }] }]";
    world.apply("only-near", &policy("only-near", "far", "ALLOW", rule))?;
    world.apply("near-by-near", &policy("near-by-near", "near", "ALLOW", rule))?;
    let Cast { world, near, far, client } = &stage.cast;
    assert!(near.say(far.at(7000), "the real one")?.echoed());
    let code = "POLICY_NO_ALLOW";
    let of = |node: NodeId, who: &str, peer: &Pod, text: &str| -> Result<Flow> {
        world.flow(node, &format!("{who}: {text}"), |flow| {
            flow.reason == code && flow.destination.pod == peer.full_name() && flow.source.identity == who
        })
    };

    // A meshed pod adds its neighbour's address and speaks from it.
    for device in ["lo", "eth0"] {
        run(client, "ip", &["addr", "del", &format!("{}/32", near.ip), "dev", "lo"])?;
        succeed(client, "ip", &["addr", "add", &format!("{}/32", near.ip), "dev", device])?;
        let text = curl_from(client, &near.ip.to_string(), far.at(7000))?;
        ensure!(!text.contains("GET /"), "{device}: served: {text}");
        let flow = of(B, &client.identity(), far, &text)?;
        ensure!(flow.source.address.starts_with(&client.ip.to_string()), "{flow:?}");
        let what = format!("a meshed pod with its neighbour's IP on {device} binds to it");
        refused::row("X10", &what, text.trim(), code, "flow of node b, with the pod's own identity and IP");
    }
    succeed(client, "ip", &["addr", "del", &format!("{}/32", near.ip), "dev", "eth0"])?;
    // Out of the mesh: the client's address, which the neighbour believes, since nobody proves an address.
    let rogue = &stage.rogue;
    succeed(rogue, "ip", &["addr", "add", &format!("{}/24", client.ip), "dev", "eth0"])?;
    let text = curl_from(rogue, &client.ip.to_string(), near.at(7000))?;
    ensure!(!text.contains("GET /"), "served: {text}");
    let flow = of(A, "", near, &text)?;
    ensure!(flow.source.address.starts_with(&client.ip.to_string()), "{flow:?}");
    let what = "an unmeshed pod takes a meshed pod's IP";
    refused::row("X10", what, text.trim(), code, "flow of node a, without identity");

    // A pod of the host's network has the node's address, and no identity: not by plaintext, not by a tunnel.
    let host = &world.node(B).host;
    let report = host.say(far.at(7000), "hello")?;
    ensure!(report.turned_away(), "{report:?}");
    of(B, "", far, "of the host")?;
    refused::row("X10", "a hostNetwork pod in plaintext", &format!("{:?}", report.end), code, "flow of node b");
    let mut attempt = stage.attempt(&mesh_tests::forge::Forged::default());
    attempt.headers = vec![("baggage".to_owned(), "k8s.pod.name=near".to_owned())];
    let outcome = outcomes(world, host, &[attempt])?.remove(0);
    ensure!(outcome.status == 0, "{outcome:?}");
    world.flow(B, "of the host's tunnel", |flow| flow.reason == "NO_CLIENT_CERTIFICATE")?;
    let what = "a hostNetwork pod speaks HBONE and claims a pod's name";
    refused::row("X10", what, &shown(&outcome), "NO_CLIENT_CERTIFICATE", "flow of node b");
    // Nor can the node's own namespace join in the place of a pod.
    let agent = programs_dir()?.join("mesh-agent").display().to_string();
    let (socket, netns) = (world.node(B).cni_socket().display().to_string(), world.node(B).netns.as_str());
    let (netns, cgroup) = (format!("/run/netns/{netns}"), far.cgroup.display().to_string());
    let join = [
        &["pod", "add", "--socket", &socket, "--namespace", "shop", "--name", "far", "--pod-uid", &far.uid][..],
        &["--netns", &netns, "--cgroup", &cgroup],
    ]
    .concat();
    let output = run(host, &agent, &join)?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && errors.contains("the node's own network namespace"), "{errors}");
    let what = "the node's own network namespace joins as a pod";
    refused::row("X10", what, "mesh-agent pod add fails: it is the node's own network namespace", "-", "its answer");
    assert!(near.say(far.at(7000), "as before")?.echoed());
    Ok(())
}

#[test]
fn root_in_a_pod_gains_nothing() -> Result<()> {
    let Cast { world, client, far, .. } = Cast::meshed("root in a pod")?;
    far.serve("peer", 7001)?;
    let app = programs_dir()?.join("mesh-test-app").display().to_string();
    let to = far.at(7001).to_string();
    let capture = world.capture()?;
    let tunnelled_as = |what: &str, how: &str, options: &str| -> Result<()> {
        let count = |flows: &[Flow]| {
            flows
                .iter()
                .filter(|flow| flow.security == "mutual_tls" && flow.source.identity == client.identity())
                .count()
        };
        let before = count(&world.flows(A)?);
        let line = format!("{how}; {app} send --to {to} --text canary-of-root {options}");
        let text = succeed(&client, "bash", &["-c", &line])?;
        ensure!(text.contains(&client.ip.to_string()), "{what}: {text}");
        eventually(format_args!("{what}: a tunnel"), Patience::SHORT, || {
            Ok((count(&world.flows(A)?) > before).then_some(()))
        })?;
        refused::row("X11", what, "gains nothing: still mutual TLS under its own identity", "-", "flow of node a");
        Ok(())
    };
    let tunnelled = |what: &str, how: &str| tunnelled_as(what, how, "");
    // What other meshes take for their own agent's, and no mark at all.
    for mark in ["0x539", "0xfff", "1"] {
        let option = format!("--mark {}", u32::from_str_radix(mark.trim_start_matches("0x"), 16)?);
        tunnelled_as(&format!("root in a pod marks its socket {mark}"), "true", &option)?;
    }
    let nft = |rule: &str| {
        format!("nft 'add table ip own; add chain ip own out {{ type filter hook output priority -300; }}; {rule}'")
    };
    tunnelled("root in a pod marks its packets with nft", &nft("add rule ip own out meta mark set 0x539"))?;
    let own = client.cgroup.join("own");
    fs::create_dir_all(&own)?;
    tunnelled("root in a pod enters its own cgroup", &format!("echo 0 > {}/cgroup.procs", own.display()))?;
    let sibling = world.node(A).host.cgroup.display().to_string();
    tunnelled("a process of a pod enters another cgroup of its node", &format!("echo 0 > {sibling}/cgroup.procs"))?;
    let route = format!("ip route replace {}/32 via 10.244.1.1 src {}", far.ip, client.ip);
    tunnelled("root in a pod sets routes", &route)?;
    let redirect = "add chain ip own nat { type nat hook output priority -100; }; \
                    add rule ip own nat ip daddr 10.244.2.0/24 tcp dport 7001 dnat to 10.244.1.1:9";
    tunnelled("root in a pod rewrites its packets' destination with nft", &nft(redirect))?;

    // Refused in the kernel.
    for (what, line, code) in [
        (
            "a process of a pod makes a namespace of its own",
            format!("unshare -n {app} send --to {to} --text x"),
            "UNKNOWN_NAMESPACE",
        ),
        (
            "an app binds to a device",
            format!("curl -sS --max-time 2 --interface if!eth0 http://{to}/ || true"),
            "BOUND_DEVICE",
        ),
        ("an app dials IPv6", format!("{app} send --to [fd00::1]:7001 --text x"), "CONNECT_IPV6"),
    ] {
        let output = run(&client, "bash", &["-c", &line])?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(!text.contains("\"connected\":true") && !text.contains("accepted"), "{what}: {text}");
        let flow = world.flow(A, what, |flow| flow.reason == code)?;
        assert_eq!(flow.verdict, "dropped", "{flow:?}");
        refused::row("X11", what, "EPERM from connect(2)", code, "flow of node a");
    }
    assert!(!capture.contains(b"canary-of-root")?);
    Ok(())
}

//! UDP passes as without a mesh, and is counted by the names of both ends, as exactly as its clients count.

use std::{net::SocketAddr, sync::Arc, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{A, B, Exchanged, Families, NodeId, Patience, Pod, World, eventually, installed};
use serde_json::Value;

const PORT: u16 = 5353;

/// In namespace shop a client and a server on node a, a server on node b; outside the mesh one on each node. The
/// servers echo datagrams.
struct Stage {
    world: World,
    client: Arc<Pod>,
    near: Arc<Pod>,
    far: Arc<Pod>,
    /// On node a and on node b.
    outside: [Arc<Pod>; 2],
}

impl Stage {
    fn new(title: &str, options: &[&str]) -> Result<Self> {
        let mut world = World::new(title)?;
        world.metrics();
        world.agent_options.extend(["--udp-idle=2"].iter().chain(options).map(|option| (*option).to_owned()));
        let mut pod = |namespace, name, node| world.pod_with(namespace, name, name, node, Families::Dual);
        let (client, near, far) = (pod("shop", "client", A)?, pod("shop", "near", A)?, pod("shop", "far", B)?);
        let outside = [pod("legacy", "batch", A)?, pod("legacy", "api", B)?];
        for server in [&near, &far, &outside[1]] {
            server.udp_echo(PORT)?;
        }
        world.start()?;
        world.mesh("shop")?;
        Ok(Self { world, client, near, far, outside })
    }

    /// What `who` says of this edge: datagrams, bytes there, bytes back. `None`: nothing.
    fn edge(&self, who: Option<NodeId>, source: &str, destination: &str) -> Result<Option<(u64, u64, u64)>> {
        edge(&self.world, who, source, destination)
    }

    /// Every sum of metrics of the node that has these labels.
    fn metric(&self, node: NodeId, name: &str, labels: &[&str]) -> Result<u64> {
        self.world.metrics_sum(node, name, labels)
    }
}

fn edge(world: &World, who: Option<NodeId>, source: &str, destination: &str) -> Result<Option<(u64, u64, u64)>> {
    let question = ["stat", "edges", "--window", "10m"];
    let rows = match who {
        Some(node) => world.ask_agent(node, &question)?,
        None => world.ask_controller(&question)?,
    };
    let is = |row: &&Value| row["source"] == source && row["destination"] == destination;
    let figure = |row: &Value, name: &str| row[name].as_u64().with_context(|| format!("{name} of {row}"));
    let row = rows.iter().find(is).filter(|row| row["datagrams"] != 0);
    row.map(|row| Ok((figure(row, "datagrams")?, figure(row, "bytes_sent")?, figure(row, "bytes_received")?)))
        .transpose()
}

fn as_told(of: &Exchanged) -> Option<(u64, u64, u64)> {
    Some((of.sent + of.received, of.sent_bytes, of.received_bytes))
}

#[test]
fn datagrams_are_counted_by_name_at_both_ends_and_once_in_a_sum() -> Result<()> {
    let stage = Stage::new("udp", &[])?;
    let Stage { world, client, near, far, outside: [batch, api] } = &stage;
    let mapped = SocketAddr::from((far.ip.to_ipv6_mapped(), PORT));
    let (mut to_far, mut to_near) = (Exchanged::default(), Exchanged::default());
    for (to, options) in [
        (far.at(PORT), &["--sockets", "20", "--count", "2"][..]),
        (far.at6(PORT), &["--count", "15", "--bytes", "500"]),
        (mapped, &["--count", "7", "--unconnected"]),
        // In parts on the wire, and empty
        (far.at(PORT), &["--bytes", "9000"]),
        (far.at6(PORT), &["--bytes", "9000", "--unconnected"]),
        (far.at(PORT), &["--bytes", "0"]),
    ] {
        to_far += client.datagrams(to, options).with_context(|| format!("{to} {options:?}"))?;
    }
    for to in [near.at(PORT), near.at6(PORT)] {
        to_near += client.datagrams(to, &["--sockets", "2", "--count", "10", "--bytes", "100"])?;
    }
    assert_eq!((to_far.sent, to_far.received, to_near.sent, to_near.received), (65, 65, 40, 40));
    let from_outside = batch.datagrams(far.at(PORT), &["--count", "6"])?;
    let to_outside = client.datagrams(api.at(PORT), &["--count", "4", "--sockets", "2"])?;
    batch.datagrams(api.at(PORT), &["--count", "9"])?;

    // Each reporter, and the sum of both.
    for who in [Some(A), Some(B), None] {
        eventually(format_args!("{who:?} tells what passed between the nodes"), Patience::SHORT, || {
            Ok((stage.edge(who, "shop/client", "shop/far")? == as_told(&to_far)).then_some(()))
        })
        .with_context(|| format!("{:?} instead of {:?}", stage.edge(who, "shop/client", "shop/far"), to_far))?;
    }
    for (who, told) in [(Some(A), as_told(&to_near)), (None, as_told(&to_near)), (Some(B), None)] {
        assert_eq!(stage.edge(who, "shop/client", "shop/near")?, told, "{who:?}");
    }
    for (who, told) in [(Some(A), None), (Some(B), as_told(&from_outside)), (None, as_told(&from_outside))] {
        assert_eq!(stage.edge(who, "legacy/batch", "shop/far")?, told, "{who:?}");
    }
    for (who, told) in [(Some(A), as_told(&to_outside)), (Some(B), None), (None, as_told(&to_outside))] {
        assert_eq!(stage.edge(who, "shop/client", "legacy/api")?, told, "{who:?}");
    }
    for who in [Some(A), Some(B), None] {
        assert_eq!(stage.edge(who, "legacy/batch", "legacy/api")?, None, "neither is in the mesh");
    }
    let far_workload = world.ask_controller(&["stat", "workloads", "-n", "shop", "--window", "10m"])?;
    let far_workload = far_workload.into_iter().find(|row| row["workload"] == "shop/far").context("no row")?;
    assert_eq!(far_workload["datagrams"], 2 * (65 + 6), "{far_workload}");

    let (between, there) = (["source_workload=\"client\"", "destination_workload=\"far\""], "\"to_destination\"");
    for node in [A, B] {
        let sum = |name, more: &str| stage.metric(node, name, &[between[0], between[1], more]);
        assert_eq!(sum("mesh_udp_datagrams_total{", there)?, to_far.sent);
        assert_eq!(sum("mesh_udp_datagrams_total{", "\"to_source\"")?, to_far.received);
        assert_eq!(sum("mesh_udp_bytes_total{", there)?, to_far.sent_bytes);
        assert_eq!(sum("mesh_udp_bytes_total{", "connection_security_policy=\"none\"")?, 2 * to_far.sent_bytes);
        assert_eq!(stage.metric(node, "istio_tcp_", &between)?, 0, "they are no connections");
        assert_eq!(stage.metric(node, "mesh_udp_overflow_total", &[])?, 0);
        assert_eq!(world.counter(node, "UDP_UNNAMED")? + world.counter(node, "UDP_UNREAD")?, 0);
    }

    // After a pause each exchange is a record of each end, and an edge.
    let udp = |more: &[&str]| world.ask_controller(&[&["flows", "--protocol", "udp"], more].concat());
    let of_far = ["--from", "shop/client", "--to", "shop/far"];
    let sum = |flows: &[Value], name: &str| flows.iter().filter_map(|flow| flow[name].as_u64()).sum::<u64>();
    let flows = eventually("every exchange is over", Patience::LONG, || {
        let flows = udp(&of_far)?;
        Ok((sum(&flows, "datagrams_sent") == 2 * to_far.sent).then_some(flows))
    })?;
    assert_eq!((sum(&flows, "datagrams_received"), sum(&flows, "bytes_sent")), (130, 2 * to_far.sent_bytes));
    for flow in &flows {
        let facts = [&flow["protocol"], &flow["path"], &flow["security"], &flow["verdict"]];
        assert_eq!(facts, ["udp", "passthrough", "none", "FORWARDED"], "{flow}");
        let (peer, own) = match flow["direction"].as_str() {
            Some("outbound") => ("destination", "source"),
            _ => ("source", "destination"),
        };
        assert_eq!(flow[peer]["identity"], "", "an address proves nothing: {flow}");
        ensure!(flow[own]["identity"].as_str().is_some_and(|own| own.starts_with("spiffe://")), "{flow}");
    }
    let near_flows = udp(&["--to", "shop/near"])?;
    assert_eq!(sum(&near_flows, "datagrams_sent"), to_near.sent, "{near_flows:?}");
    assert!(near_flows.iter().all(|flow| flow["path"] == "direct" && flow["node"] == "a"), "{near_flows:?}");
    assert!(udp(&["--from", "legacy/batch", "--to", "legacy/api"])?.is_empty());
    let tcp = world.ask_controller(&["flows", "--protocol", "tcp", "--port", &PORT.to_string()])?;
    assert!(tcp.is_empty(), "{tcp:?}");
    let edges = world.ask_agent(A, &["edges", "-n", "shop"])?;
    let datagrams: u64 = edges
        .iter()
        .filter(|edge| edge["destination"]["pod"] == "far")
        .map(|e| sum(std::slice::from_ref(e), "datagrams"))
        .sum();
    assert_eq!(datagrams, to_far.sent + to_far.received, "{edges:?}");
    // It is no plaintext that STRICT would refuse.
    let report = world.ask_controller(&["report", "mtls", "-n", "shop"]);
    assert!(!format!("{report:?}").contains(&PORT.to_string()), "{report:?}");
    Ok(())
}

#[test]
fn a_full_table_stops_nobody_and_says_what_it_did_not_name() -> Result<()> {
    let stage = Stage::new("udp full", &["--max-datagrams=1"])?;
    let Stage { world, client, far, outside: [_, api], .. } = &stage;
    let mut all = Exchanged::default();
    // Of those that speak within a round one has a name.
    for _ in 0..10 {
        for to in [far.at(PORT), far.at6(PORT), api.at(PORT)] {
            all += client.datagrams(to, &["--count", "5", "--bytes", "50"])?;
        }
    }
    assert_eq!((all.sent, all.received), (150, 150), "all of them pass");
    for (unit, counter, sum) in [
        ("mesh_udp_datagrams_total{", "UDP_UNNAMED", all.sent + all.received),
        ("mesh_udp_bytes_total{", "UDP_UNNAMED_BYTES", all.sent_bytes + all.received_bytes),
    ] {
        let unnamed = world.counter(A, counter)?;
        ensure!(unnamed > 0 && unnamed < sum, "{counter}: {unnamed} of {sum}");
        let named = || stage.metric(A, unit, &["source_workload=\"client\""]);
        eventually(format_args!("{unit} and {counter} are {sum}"), Patience::SHORT, || {
            Ok((named()? + unnamed == sum).then_some(()))
        })
        .with_context(|| format!("{:?} and {unnamed}", named()))?;
    }
    Ok(())
}

#[test]
fn what_a_pod_left_behind_is_told_by_its_name() -> Result<()> {
    let mut stage = Stage::new("udp left behind", &[])?;
    let short = stage.world.pod("shop", "short", A)?;
    stage.world.wait_for(std::slice::from_ref(&short), true)?;
    let of_short = short.datagrams(stage.far.at(PORT), &["--count", "5"])?;
    stage.world.delete_pod(&short)?;
    eventually("it is told", Patience::SHORT, || {
        Ok((stage.edge(Some(A), "shop/short", "shop/far")? == as_told(&of_short)).then_some(()))
    })
}

#[test]
fn what_passed_without_an_agent_is_told_once() -> Result<()> {
    let mut stage = Stage::new("udp restart", &[])?;
    let Stage { client, far, .. } = &stage;
    let (client, far) = (Arc::clone(client), Arc::clone(far));
    let before = client.datagrams(far.at(PORT), &["--count", "3"])?;
    eventually("it is told", Patience::SHORT, || {
        Ok((stage.edge(Some(A), "shop/client", "shop/far")? == as_told(&before)).then_some(()))
    })?;
    stage.world.kill_agent(A)?;
    let meanwhile = client.datagrams(far.at(PORT), &["--count", "11", "--bytes", "77"])?;
    stage.world.restart_agent(A)?;
    eventually("the next agent tells what passed meanwhile", Patience::LONG, || {
        Ok((stage.edge(Some(A), "shop/client", "shop/far")? == as_told(&meanwhile)).then_some(()))
    })
    .with_context(|| format!("{:?}", stage.edge(Some(A), "shop/client", "shop/far")))?;
    // Nothing of it comes again.
    thread::sleep(Duration::from_millis(2500));
    assert_eq!(stage.edge(Some(A), "shop/client", "shop/far")?, as_told(&meanwhile));
    Ok(())
}

#[test]
fn over_a_replacement_nothing_is_lost_or_told_by_both() -> Result<()> {
    let mut stage = Stage::new("udp replaced", &[])?;
    let Stage { client, far, .. } = &stage;
    let (client, far) = (Arc::clone(client), Arc::clone(far));
    let before = client.datagrams(far.at(PORT), &["--count", "3"])?;
    eventually("the old agent tells it", Patience::SHORT, || {
        Ok((stage.edge(Some(A), "shop/client", "shop/far")? == as_told(&before)).then_some(()))
    })?;
    let old = stage.world.replace_agent(A)?;
    let after = client.datagrams(far.at(PORT), &["--count", "4", "--bytes", "77"])?;
    eventually("the new agent tells what came since, and that alone", Patience::LONG, || {
        Ok((stage.edge(Some(A), "shop/client", "shop/far")? == as_told(&after)).then_some(()))
    })
    .with_context(|| format!("{:?}", stage.edge(Some(A), "shop/client", "shop/far")))?;
    drop(old);
    eventually("node b has seen all of it", Patience::LONG, || {
        let told = stage.edge(Some(B), "shop/client", "shop/far")?;
        Ok(told.is_some_and(|(datagrams, ..)| datagrams == 2 * (before.sent + after.sent)).then_some(()))
    })
}

/// One call that makes many datagrams (UDP_SEGMENT, linux/udp.h).
const SEGMENTS: &str = "
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(2)
s.setsockopt(17, 103, 1000)
s.sendto(b'x' * 12000, (sys.argv[1], int(sys.argv[2])))
got = 0
while got < 12000:
    got += len(s.recv(65535))
print(got)
";
/// A server that receives many at once (UDP_GRO), and answers as much in one.
const TOGETHER: &str = "
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(17, 104, 1)
s.bind(('0.0.0.0', 5454))
print('open', flush=True)
while True:
    data, client = s.recvfrom(65535)
    s.sendto(data, client)
";

#[test]
fn segments_count_as_datagrams() -> Result<()> {
    let stage = Stage::new("udp segments", &[])?;
    let Stage { client, near, far, .. } = &stage;
    let python = installed("python3")?;
    let together = far.start("together", &python, &["-c", TOGETHER].map(str::to_owned))?;
    together.says("open", Patience::SHORT)?;
    for to in [near.at(PORT), far.at(PORT), far.at(5454)] {
        let words = ["-c", SEGMENTS, &to.ip().to_string(), &to.port().to_string()].map(str::to_owned);
        let output = client.output(&python, &words, Duration::from_secs(5))?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(said.trim(), "12000", "{to}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let near_sum = Some((24, 12_000, 12_000));
    eventually("segments within the node are counted", Patience::SHORT, || {
        Ok((stage.edge(Some(A), "shop/client", "shop/near")? == near_sum).then_some(()))
    })
    .with_context(|| format!("{:?}", stage.edge(Some(A), "shop/client", "shop/near")))?;
    let far_label = ["source_workload=\"client\"", "destination_workload=\"far\"", "to_destination"];
    for node in [A, B] {
        eventually(format_args!("segments between nodes are counted at {}", node.name()), Patience::SHORT, || {
            Ok((stage.metric(node, "mesh_udp_datagrams_total{", &far_label)? == 24).then_some(()))
        })
        .with_context(|| format!("{:?}", stage.metric(node, "mesh_udp_datagrams_total{", &far_label)))?;
    }
    let (a, b) = (stage.edge(Some(A), "shop/client", "shop/far")?, stage.edge(Some(B), "shop/client", "shop/far")?);
    assert_eq!(a, b, "what was answered at once is one at both ends");
    assert_eq!(a.map(|(_, there, back)| (there, back)), Some((24_000, 24_000)));
    Ok(())
}

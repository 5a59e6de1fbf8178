//! What is gone is gone: a pod's address, port and name give its heir nothing, and a pod that the configuration no
//! longer names can neither open nor keep a connection.

use std::{
    fs,
    net::SocketAddr,
    slice::from_ref,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, anyhow, ensure};
use mesh_tests::{
    A, B, Dialled, Flow, Patience, Pod, World, eventually, inside, refused,
    rogue::{Attempt, millis},
};
use serde_json::{Value, json};

use crate::{
    cast::{Cast, policy},
    rogue::{Stage, counted, metrics, shown},
};

/// A change of the configuration reaches everybody within this.
const BOUND: Duration = Duration::from_secs(2);

/// From now on everything in the pod's namespace gets one of these source ports.
fn few_ports(pod: &Pod) -> Result<()> {
    let name = pod.netns.file_name().and_then(|name| name.to_str()).context("a namespace has a name")?;
    inside(name, || fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40009"))?.context("set the ports")
}

fn port(report: &Dialled) -> u16 {
    report.local.map(|local| local.port()).unwrap_or_default()
}

fn refused(world: &World, what: &str, heir: &Pod, to: &Pod, code: &str) -> Result<Flow> {
    let report = heir.say(to.at(7000), "hello")?;
    ensure!(report.turned_away(), "{what}: {report:?}");
    let node = if heir.namespace == "shop" { A } else { to.node };
    let flow = world.flow(node, what, |flow| {
        flow.reason == code && flow.destination.pod == to.full_name() && flow.source.pod == heir.full_name()
    })?;
    refused::row(
        "X9",
        what,
        &format!("{:?} from port {}", report.end, port(&report)),
        code,
        &format!("flow of node {}", node.name()),
    );
    Ok(flow)
}

#[test]
fn an_heir_of_address_and_port_inherits_nothing() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("heirs")?;
    let rule = "[{ from: [{ source: { serviceAccounts: [shop/client] } }] }]";
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
        world.apply(&server.name, &policy(&server.name, &server.name, "ALLOW", rule))?;
    }
    few_ports(&client)?;
    let (to_far, to_near) = (client.hold(far.at(7000))?, client.hold(near.at(7000))?);
    let said = client.say(near.at(7000), "hello")?;
    assert!(said.echoed() && (40000..40010).contains(&port(&said)), "{said:?}");

    let gone = Instant::now();
    world.delete_pod(&client)?;
    let heir = world.pod("shop", "heir", A)?;
    assert_eq!(heir.ip, client.ip);
    few_ports(&heir)?;
    // At once, while the kernel and both agents may still remember.
    let early = heir.say(far.at(7000), "hello")?;
    ensure!(!early.echoed() || early.text != "hello", "before it is in the mesh: {early:?}");
    world.wait_for(from_ref(&heir), true)?;
    let flow =
        refused(&world, "the same IP and ports at once, through the old tunnel", &heir, &far, "POLICY_NO_ALLOW")?;
    assert_eq!(flow.source.identity, heir.identity(), "{flow:?}");
    let flow =
        refused(&world, "the same IP and ports at once, attested on the same node", &heir, &near, "POLICY_NO_ALLOW")?;
    assert_eq!(flow.source.identity, heir.identity(), "{flow:?}");
    // Their processes died with the pod, so that the other end is what counts.
    for (held, what) in [(to_far, "through a tunnel"), (to_near, "attested")] {
        ensure!(!held.is_open()?, "the client of a deleted pod lives, {what}");
    }
    for server in [&near, &far] {
        let left = server.clients_of(7000)?;
        ensure!(left.is_empty(), "{:?} later, connections of the old pod at {}: {left:?}", gone.elapsed(), server.name);
        let what = format!("a live connection of a deleted pod to {}", server.name);
        refused::row("X9", &what, "ended with the pod", "-", "no socket is left at the server");
    }
    let of_client = |flow: &&Flow| flow.source.identity == client.identity() && flow.verdict == "forwarded";
    let count = world.flows(B)?.iter().filter(of_client).count();
    assert_eq!(heir.say(far.at(7000), "again")?.received, 0);
    assert_eq!(world.flows(B)?.iter().filter(of_client).count(), count, "nobody is client any more");

    // The next one is not even in the mesh.
    world.delete_pod(&heir)?;
    let stranger = world.pod("legacy", "stranger", A)?;
    assert_eq!(stranger.ip, client.ip);
    few_ports(&stranger)?;
    world.settle()?;
    for server in [&near, &far] {
        let what = format!(
            "the same IP in an unmeshed pod, to a pod of {}",
            if server.node == A { "its node" } else { "another node" }
        );
        let flow = refused(&world, &what, &stranger, server, "POLICY_NO_ALLOW")?;
        assert_eq!(flow.source.identity, "", "{flow:?}");
    }
    Ok(())
}

#[test]
fn an_identity_that_is_deleted_is_over() -> Result<()> {
    let Cast { world, client, near, far } = Cast::meshed("deleted identity")?;
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
    }
    let (outside, address) = world.outside(7000)?;
    outside.serve("echo", 7000)?;
    let ways: [(&str, SocketAddr); 3] =
        [("through a tunnel", far.at(7000)), ("on the same node", near.at(7000)), ("out of the cluster", address)];
    let held = ways.iter().map(|(_, to)| client.hold(*to)).collect::<Result<Vec<_>>>()?;
    let bystander = near.hold(far.at(7000))?;

    // The pod is deleted in the configuration; its processes and its namespace still live.
    let start = Instant::now();
    world.manifests.remove(&format!("pod-{}-{}", client.namespace, client.name))?;
    for ((what, _), held) in ways.iter().zip(&held) {
        let ended = held.ended(Patience::SHORT.within(BOUND))?;
        let took = start.elapsed().as_millis();
        let evidence = format!("flow of node a, {took} ms after the change");
        let what = format!("a live connection of a deleted pod, {what}");
        refused::row("X14", &what, &format!("{:?}", ended.end), "POLICY_UNKNOWN", &evidence);
    }
    world.flow(A, "that ended", |flow| flow.reason == "POLICY_UNKNOWN" && flow.source.pod == client.full_name())?;
    for (what, to) in ways {
        let report = client.say(to, "hello")?;
        ensure!(report.turned_away(), "{what}: {report:?}");
        let address = to.to_string();
        let of_it = |flow: &Flow| flow.reason == "WORKLOAD_UNKNOWN" && flow.destination.address == address;
        world.flow(A, what, of_it)?;
        let what = format!("a new connection of a deleted pod, {what}");
        refused::row("X14", &what, &format!("{:?}", report.end), "WORKLOAD_UNKNOWN", "flow of node a");
    }
    let report = near.say(client.at(7000), "hello")?;
    ensure!(report.turned_away(), "{report:?}");
    ensure!(bystander.is_open()?, "a connection of others ended");
    Ok(())
}

/// A ServiceAccount is deleted while its certificates are still valid: its identity is over, for whoever has a key of
/// it.
#[test]
fn an_account_that_is_deleted_takes_its_identity_along() -> Result<()> {
    let stage = Stage::new("deleted account")?;
    let Cast { world, client, near, far } = &stage.cast;
    let (stolen, others) = (stage.stolen(client)?, stage.stolen(near)?);
    let admitted = |with| Ok::<_, anyhow::Error>(stage.outcomes(&[stage.attempt(with)])?[0].status == 200);
    ensure!(admitted(&stolen)? && admitted(&others)?, "the certificates are good");
    let ways = [("through a tunnel", far), ("on the same node", near)];
    let held = ways.iter().map(|(_, to)| client.hold(to.at(7000))).collect::<Result<Vec<_>>>()?;
    let bystander = near.hold(far.at(7000))?;
    let live = Attempt { wait_ms: 4000, ..stage.attempt(&stolen) };
    let (tunnel, deleted) = thread::scope(|scope| -> Result<_> {
        let tunnel = scope.spawn(|| stage.outcomes(from_ref(&live)));
        eventually("the stolen certificate has a live tunnel", Patience::SHORT, || {
            let open = world.ask_agent(B, &["config", "connections"])?;
            let from = format!("{}:", stage.rogue.ip);
            let of_it = |c: &Value| c["source"]["address"].as_str().is_some_and(|a| a.starts_with(&from));
            Ok(open.iter().any(of_it).then_some(()))
        })?;
        let deleted = SystemTime::now();
        world.manifests.remove(&format!("serviceaccount-shop-{}", client.service_account))?;
        let tunnel = tunnel.join().map_err(|_| anyhow!("the thread panicked"))??;
        Ok((tunnel, deleted))
    })?;

    // What was live.
    let took = tunnel[0].over_ms.saturating_sub(millis(deleted));
    ensure!(tunnel[0].status == 200 && tunnel[0].text.is_empty(), "it was open, and nothing was said: {tunnel:?}");
    ensure!((1..1000).contains(&took), "the stolen certificate's tunnel lived on for {took} ms: {tunnel:?}");
    let (code, id) = ("IDENTITY_REVOKED", client.identity());
    let ended = world.flow(B, "of the stolen certificate", |flow| {
        flow.reason == code && flow.source.address.starts_with(&format!("{}:", stage.rogue.ip))
    })?;
    assert_eq!((&ended.source.identity, ended.verdict.as_str()), (&id, "dropped"), "{ended:?}");
    ensure!(ended.error.contains("ServiceAccount shop/client does not exist"), "{ended:?}");
    let what = "a live tunnel with a stolen certificate of a deleted account";
    refused::row("X14", what, &tunnel[0].detail, code, &format!("flow of node b, {took} ms after the change"));
    for ((what, to), held) in ways.iter().zip(&held) {
        let ended = held.ended(Patience::SHORT.within(BOUND))?;
        world.flow(to.node, what, |flow| flow.reason == code && flow.destination.pod == to.full_name())?;
        let what = format!("a live connection of a deleted account's own pod, {what}");
        refused::row("X14", &what, &format!("{:?}", ended.end), code, &format!("flow of node {}", to.node.name()));
    }

    // What is new.
    let new = stage.outcomes(&[stage.attempt(&stolen)])?.remove(0);
    ensure!(new.status != 200 && new.reason == code, "{new:?}");
    let from = new.local.map(|local| local.to_string()).unwrap_or_default();
    world.flow(B, "of the new attempt", |flow| flow.reason == code && flow.source.address == from)?;
    ensure!(counted(&metrics(&world.node(B).host)?, code), "no metric of {code}");
    let what = "a new tunnel with a stolen certificate of a deleted account";
    refused::row("X14", what, &shown(&new), code, "flow of node b, mesh_policy_verdicts_total");
    for (what, to) in ways {
        let report = client.say(to.at(7000), "hello")?;
        ensure!(report.turned_away(), "{what}: {report:?}");
        let flow = world.flow(to.node, what, |flow| {
            flow.reason == code && flow.destination.pod == to.full_name() && flow.source.pod == client.full_name()
        })?;
        let summary = world.ask_agent(to.node, &["explain", &flow.id.to_string()])?[0]["summary"].to_string();
        ensure!(summary.contains("ServiceAccount shop/client does not exist"), "{summary}");
        assert_eq!(world.authz(&client.full_name(), to, 7000)?.reason, code);
        let what = format!("a new connection of a deleted account's own pod, {what}");
        refused::row("X14", &what, &format!("{:?}", report.end), code, &format!("flow of node {}", to.node.name()));
    }
    let problems = world.ask_controller(&["status"])?;
    let told = problems.iter().any(|one| one.to_string().contains("ServiceAccount shop/client does not exist"));
    ensure!(told, "the controller says nothing of it: {problems:?}");

    let names = |list: Vec<Value>| Some(list.iter().find(|one| one["namespace"] == "shop")?["accounts"].clone());
    let asked = ["config", "accounts", "-n", "shop"];
    for list in [world.ask_agent(B, &asked)?, world.ask_controller(&asked)?] {
        assert_eq!(names(list), Some(json!(["default", "far", "near"])));
    }

    // Others go on, and the account comes back.
    ensure!(bystander.is_open()? && admitted(&others)?, "another account is refused too");
    let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: { name: client, namespace: shop }\n";
    world.manifests.write("serviceaccount-shop-client", account)?;
    world.within_a_second("the account is back", || Ok(client.say(far.at(7000), "again")?.echoed()))?;
    ensure!(admitted(&stolen)? && client.say(near.at(7000), "again")?.echoed(), "the account is back");
    Ok(())
}

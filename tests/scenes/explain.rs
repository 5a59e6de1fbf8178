//! What meshctl says of connections: why one was refused, also after the policy is gone; what is open; who speaks to
//! whom, and as whom.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use mesh_tests::{A, B, NodeId, World, eventually, programs_dir};
use serde_json::Value;

use crate::cast::{Cast, policy};

const BY_CLIENT: &str = "[{ from: [{ source: { principals: [cluster.local/ns/shop/sa/client] } }], \
                         to: [{ operation: { ports: ['7000'] } }] }]";

fn explained(world: &World, node: NodeId, id: u64) -> Result<Value> {
    world.ask_agent(node, &["explain", &id.to_string()])?.into_iter().next().context("no explanation")
}

fn summary(explanation: &Value) -> &str {
    explanation["summary"].as_str().unwrap_or_default()
}

#[test]
fn a_refusal_is_explained_as_it_was_decided() -> Result<()> {
    let Cast { mut world, client: _, near, far } = Cast::meshed("explain")?;
    let other = world.pod("shop", "other", A)?;
    world.wait_for(&[std::sync::Arc::clone(&other)], true)?;
    let all = ["near", "far"].map(|app| policy(&format!("only-client-{app}"), app, "ALLOW", BY_CLIENT));
    world.apply("only-client", &all.join("---\n"))?;
    let mut ids = Vec::new();
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
        assert!(other.say(server.at(7000), "hello")?.turned_away());
        let flow = world.flow(server.node, "that was refused", |flow| {
            flow.reason == "POLICY_NO_ALLOW" && flow.destination.pod == server.full_name()
        })?;
        let explanation = explained(&world, server.node, flow.id)?;
        let policy = format!("shop/only-client-{}", server.name);
        let considered = &explanation["policies"][0];
        assert_eq!((&considered["policy"], &considered["action"]), (&policy.clone().into(), &"ALLOW".into()));
        assert_eq!((&considered["decided"], &considered["scope"]), (&true.into(), &"workload".into()));
        let rule = &considered["rules"][0];
        assert_eq!((&rule["rule"], &rule["matched"]), (&0.into(), &false.into()));
        let condition = |clause: usize| &rule["clauses"][clause]["matches"][0]["conditions"][0];
        assert_eq!(condition(0)["field"], "principals", "{rule}");
        assert_eq!(condition(0)["values"][0], "cluster.local/ns/shop/sa/client");
        assert_eq!(condition(0)["actual"], "cluster.local/ns/shop/sa/other");
        assert_eq!(condition(0)["holds"], false);
        assert_eq!((&condition(1)["field"], &condition(1)["holds"]), (&"ports".into(), &true.into()), "{rule}");
        assert_eq!(explanation["flow"]["source"]["identity"], other.identity());
        assert_eq!(explanation["flow"]["generation"], flow.generation);
        assert!(flow.generation > 0 && summary(&explanation).contains("Add a rule for this client"), "{explanation}");
        assert!(!summary(&explanation).contains("Since then"), "{explanation}");
        let check =
            world.ask_agent(server.node, &["authz", "check", "shop/other", &server.full_name(), "--port", "7000"])?;
        assert_eq!(check[0]["policies"], explanation["policies"], "a check is explained alike");
        ids.push((server, flow, explanation));
    }

    // Another policy of that name, then none: what decided then is what is shown.
    world.apply("only-client", &policy("only-client-near", "near", "ALLOW", "[{}]"))?;
    for ((server, flow, before), now) in ids.iter().zip(["is different", "is gone"]) {
        let explanation = explained(&world, server.node, flow.id)?;
        assert_eq!(explanation["policies"], before["policies"]);
        let said = format!("shop/only-client-{} {now}", server.name);
        assert!(summary(&explanation).contains(&said), "{explanation}");
    }

    // The client's node knows that it was refused over there, and says where to look.
    let outbound = world.flow(A, "of the client's side", |flow| {
        flow.direction == "outbound" && flow.path == "tunnel" && flow.verdict == "dropped"
    })?;
    let explanation = explained(&world, A, outbound.id)?;
    assert!(summary(&explanation).contains("The record of node b has the detail"), "{explanation}");
    assert_eq!(explanation["policies"].as_array().map(Vec::len), Some(0));

    // Through the controller a node must be named where several know the id.
    let id = ids[1].1.id.to_string();
    assert!(world.flows(A)?.iter().any(|flow| flow.id.to_string() == id), "node a has a flow of that id too");
    let error = world.ask_controller(&["explain", &id]).expect_err("two nodes know it").to_string();
    assert!(error.contains("name one by --node"), "{error}");
    let told = world.ask_controller(&["explain", &id, "--node", "b"])?;
    assert_eq!(told[0]["policies"], ids[1].2["policies"]);
    let error = world.ask_controller(&["explain", "4711000"]).expect_err("nobody knows it").to_string();
    assert!(error.contains("no node has a record of flow 4711000"), "{error}");
    let only = world.flows(A)?.iter().map(|flow| flow.id).max().unwrap_or_default();
    if world.flows(B)?.iter().all(|flow| flow.id != only) {
        assert_eq!(world.ask_controller(&["explain", &only.to_string()])?[0]["node"], "a");
    }
    Ok(())
}

#[test]
fn refusals_that_no_rule_of_a_policy_made_say_what_to_do() -> Result<()> {
    let Cast { mut world, client, far, .. } = Cast::meshed("explain the rest")?;
    let plain = world.pod("legacy", "plain", A)?;
    let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                  metadata: { name: ask, namespace: shop }\nspec: { mtls: { mode: STRICT } }\n";
    world.apply("strict", strict)?;
    far.serve("echo", 7000)?;
    let refused = |node: NodeId, reason: &str| -> Result<Value> {
        let flow = world.flow(node, reason, |flow| flow.verdict != "forwarded" && flow.reason == reason)?;
        explained(&world, node, flow.id)
    };
    assert!(plain.say(far.at(7000), "hello")?.turned_away());
    let explanation = refused(B, "PLAINTEXT_STRICT")?;
    assert!(summary(&explanation).contains("Put the client into the mesh"), "{explanation}");
    let considered = &explanation["policies"][0];
    assert_eq!((&considered["action"], &considered["decided"]), (&"STRICT".into(), &true.into()), "{considered}");
    assert_eq!(considered["policy"], explanation["flow"]["policy"]);
    let condition = &considered["rules"][0]["clauses"][0]["matches"][0]["conditions"][0];
    assert_eq!((&condition["field"], &condition["actual"]), (&"notPrincipals".into(), &"".into()), "{condition}");

    assert!(client.say(far.at(15008), "hello")?.turned_away());
    let explanation = refused(A, "HBONE_PORT")?;
    assert!(summary(&explanation).contains("Use another port"), "{explanation}");
    assert_eq!(explanation["policies"], Value::Array(Vec::new()));

    // Nobody listens there: the destination's agent tried, and tells the client's.
    assert!(client.say(far.at(7999), "hello")?.turned_away());
    for node in [A, B] {
        assert!(summary(&refused(node, "CONNECT")?).contains("Does its program listen on the port"), "{node:?}");
    }
    Ok(())
}

#[test]
fn open_connections_edges_and_identities() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("connections")?;
    world.apply("allow", &policy("allow", "far", "ALLOW", BY_CLIENT))?;
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
        assert!(client.say(server.at(7000), "hello")?.echoed());
    }
    let held = client.hold(far.at(7000))?;
    let of_held = |node: NodeId| -> Result<Option<Value>> {
        let all = world.ask_agent(node, &["config", "connections", "-n", "shop"])?;
        ensure!(all.len() <= 1, "one connection is open: {all:?}");
        Ok(all.into_iter().next())
    };
    for (node, direction, policy) in [(A, "outbound", ""), (B, "inbound", "shop/allow")] {
        // Bytes that pass are seen while they pass.
        let first = eventually("the held connection is listed", mesh_tests::Patience::SHORT, || of_held(node))?;
        assert_eq!((&first["direction"], &first["policy"]), (&direction.into(), &policy.into()), "{first}");
        assert_eq!(first["source"]["identity"], client.identity());
        let outer = first["tunnel"].as_str().unwrap_or_default();
        let wanted = if node == A { far.at(15008).to_string() } else { client.ip.to_string() };
        assert!(outer.starts_with(&wanted), "{first}");
        let bytes = |value: &Value| value["bytes_received"].as_u64().unwrap_or_default();
        eventually("its bytes grow", mesh_tests::Patience::SHORT, || {
            let now = of_held(node)?.context("it is open")?;
            Ok((bytes(&now) > bytes(&first)).then_some(()))
        })?;
        // An open connection can be explained, too.
        let id = first["id"].as_u64().context("an id")?;
        let explanation = explained(&world, node, id)?;
        let said = if node == A { "the destination's agent decided" } else { "Permitted by rule 0 of shop/allow" };
        assert!(summary(&explanation).contains(said), "{explanation}");
    }

    let edge = |world: &World, node: NodeId, server: &str| -> Result<Value> {
        let all = world.ask_agent(node, &["edges"])?;
        let mut edges = all.iter().filter(|edge| edge["destination"]["pod"] == server);
        let edge = edges.next().with_context(|| format!("no edge to {server} in {all:?}"))?;
        ensure!(edges.next().is_none(), "{all:?}");
        Ok(edge.clone())
    };
    let numbers = |edge: &Value| ["connections", "open", "refused", "failed"].map(|key| edge[key].as_u64());
    assert_eq!(numbers(&edge(&world, A, "near")?), [Some(1), Some(0), Some(0), Some(0)]);
    assert_eq!(numbers(&edge(&world, A, "far")?), [Some(2), Some(1), Some(0), Some(0)]);
    let inbound = edge(&world, B, "far")?;
    assert_eq!(numbers(&inbound), [Some(2), Some(1), Some(0), Some(0)]);
    assert_eq!((&inbound["source"]["pod"], &inbound["security"]), (&"client".into(), &"mutual_tls".into()));
    world.apply("allow", &policy("allow", "far", "ALLOW", "[]"))?;
    held.ended(mesh_tests::Patience::SHORT)?;
    // It is explained by what ended it, not by what had permitted it.
    let ended = world.flow(B, "that was ended", |flow| flow.verdict == "dropped" && flow.bytes_sent > 0)?;
    let explanation = explained(&world, B, ended.id)?;
    let policy = &explanation["policies"][0];
    assert_eq!(
        (&policy["decided"], policy["rules"].as_array().map(Vec::len)),
        (&true.into(), Some(0)),
        "{explanation}"
    );
    assert!(!summary(&explanation).contains("Since then"), "{explanation}");
    assert!(client.say(far.at(7000), "hello")?.turned_away());
    eventually("the edge counts both refusals", mesh_tests::Patience::SHORT, || {
        Ok((numbers(&edge(&world, B, "far")?) == [Some(3), Some(0), Some(2), Some(0)]).then_some(()))
    })?;

    for pod in [&client, &near, &far] {
        let told = world.ask_agent(pod.node, &["identity", &pod.full_name()])?;
        let [identity] = told.as_slice() else { panic!("one identity: {told:?}") };
        assert_eq!(identity["identity"], pod.identity());
        assert_eq!((&identity["state"], &identity["redirection"]), (&"valid".into(), &"enabled".into()));
        let certificates = world.ask_agent(pod.node, &["config", "certs"])?;
        let held = certificates.iter().find(|held| held["identity"] == pod.identity()).context("a certificate")?;
        assert!(!held["serial"].as_str().unwrap_or_default().is_empty());
        assert_eq!(identity["serial"], held["serial"]);
    }
    assert_eq!(world.ask_controller(&["identity", "-n", "shop"])?.len(), 3);

    // YAML is what JSON is; completions are printed without anybody to ask.
    let json = world.ask_agent(A, &["config", "workloads"])?;
    let yaml =
        meshctl(&["--agent", &world.node(A).agent_socket().to_string_lossy(), "config", "workloads", "-o", "yaml"])?;
    let documents: Vec<Value> = yaml
        .split("---\n")
        .filter(|text| !text.is_empty())
        .map(serde_yaml_ng::from_str)
        .collect::<Result<_, _>>()
        .context("not YAML")?;
    assert_eq!(documents, json);
    for shell in ["bash", "zsh", "fish"] {
        assert!(meshctl(&["completion", shell])?.contains("explain"), "{shell}");
    }
    Ok(())
}

fn meshctl(arguments: &[&str]) -> Result<String> {
    let output = Command::new(programs_dir()?.join("meshctl")).args(arguments).output().context("run meshctl")?;
    ensure!(output.status.success(), "meshctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

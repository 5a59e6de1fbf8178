//! `meshctl verify mtls`: what it says is on the wire is what a capture of the wire shows, and who lies is caught.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use mesh_install::CAPABILITIES;
use mesh_tests::{A, B, NodeId, Patience, Pod, World, eventually};
use serde_json::Value;

use crate::{
    cast::{Cast, policy},
    report_mtls::meshctl,
};

const PORT: &str = "7000";

/// Asks the agent of the client's node.
fn verify(world: &World, from: &Pod, to: &Pod) -> Result<(i32, Value)> {
    at(world, from.node, from, to)
}

fn at(world: &World, node: NodeId, from: &Pod, to: &Pod) -> Result<(i32, Value)> {
    of(meshctl("--agent", &world.node(node).agent_socket(), &arguments(&from.full_name(), &to.full_name()))?)
}

fn arguments<'a>(from: &'a str, to: &'a str) -> [&'a str; 6] {
    ["verify", "mtls", from, to, "--port", PORT]
}

fn of((code, mut answers): (i32, Vec<Value>)) -> Result<(i32, Value)> {
    Ok((code, answers.pop().with_context(|| format!("no answer, exit code {code}"))?))
}

/// The source and destination as they stand in each of its packets: addresses, then ports (IPv4 without options).
fn ends(answer: &Value) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let ends = ["client", "server"].map(|end| answer[end].as_str().unwrap_or_default().parse::<SocketAddr>());
    let [client, server] = ends.map(|end| end.context("an address in the answer"));
    let ends = [client?, server?];
    for end in ends {
        match end.ip() {
            std::net::IpAddr::V4(ip) => bytes.extend(ip.octets()),
            std::net::IpAddr::V6(_) => anyhow::bail!("an IPv4 address"),
        }
    }
    for end in ends {
        bytes.extend(end.port().to_be_bytes());
    }
    Ok(bytes)
}

#[test]
fn between_nodes_the_wire_shows_tls_and_within_one_nothing() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("verify mtls")?;
    let capture = world.capture()?;
    // Nobody listens there: were the application dialled, that failed.
    let (code, answer) = verify(&world, &client, &far)?;
    assert_eq!((code, &answer["outcome"]), (0, &"encrypted".into()), "{answer}");
    assert_eq!(answer["tls_version"], "TLSv1_3", "{answer}");
    assert!(answer["tls_cipher"].as_str().is_some_and(|cipher| cipher.starts_with("TLS13_")), "{answer}");
    let identities = [&answer["source_identity"], &answer["destination_identity"]];
    assert_eq!(identities, [client.identity().as_str(), far.identity().as_str()]);
    assert!(answer["source_not_after"].is_string() && answer["destination_not_after"].is_string(), "{answer}");
    assert_eq!((&answer["marker_arrived"], &answer["marker_in_clear"]), (&true.into(), &false.into()));
    let links = answer["links"].as_array().context("no links")?;
    let link = links.iter().find(|link| link["towards_peer"] == true).with_context(|| format!("{answer}"))?;
    assert!(link["packets"].as_u64() > Some(8) && link["bytes"].as_u64() > Some(2000), "{link}");
    assert!(capture.contains(&ends(&answer)?)?, "its packets crossed the link between the nodes");
    // Another one is another connection, by the controller too.
    let socket = world.controller()?.admin_socket();
    let (code, again) = of(meshctl("--controller", &socket, &arguments(&client.full_name(), &far.full_name()))?)?;
    assert_eq!((code, &again["outcome"], &again["node"]), (0, &"encrypted".into(), &"a".into()), "{again}");
    assert_ne!(again["client"], answer["client"]);
    assert!(capture.contains(&ends(&again)?)?);
    // The other node's agent has nothing to say.
    assert_eq!(
        meshctl("--agent", &world.node(B).agent_socket(), &arguments(&client.full_name(), &far.full_name()))?.0,
        3
    );
    // Neither is a record of a connection to the pod.
    assert!(world.flows(B)?.iter().all(|flow| flow.destination.pod != far.full_name()), "{:?}", world.flows(B)?);

    let (code, answer) = verify(&world, &client, &near)?;
    assert_eq!((code, &answer["outcome"]), (0, &"kernel_attested".into()), "{answer}");
    assert_eq!((&answer["tls_version"], answer["links"].as_array().map(Vec::len)), (&"".into(), Some(0)));

    // Policies of the port decide.
    world.apply("deny", &policy("deny", "far", "DENY", "[{ to: [{ operation: { ports: ['7000'] } }] }]"))?;
    let (code, answer) = eventually("it is denied", Patience::LONG, || {
        let (code, answer) = verify(&world, &client, &far)?;
        Ok((answer["outcome"] == "denied").then_some((code, answer)))
    })?;
    assert_eq!((code, &answer["reason"], &answer["tls_version"]), (1, &"POLICY_DENY".into(), &"TLSv1_3".into()));
    assert_eq!(answer["marker_arrived"], false);
    world.flow(B, "of the denial", |flow| flow.verdict == "dropped" && flow.source.pod == client.full_name())?;
    Ok(())
}

#[test]
fn what_is_no_mutual_tls_is_not_called_so() -> Result<()> {
    let Cast { mut world, client, near: _, far } = Cast::meshed("verify rogues")?;
    let stranger = world.pod("legacy", "stranger", B)?;
    let other = world.pod("shop", "other", B)?;
    world.wait_for(std::slice::from_ref(&other), true)?;
    for (from, to) in [(&client, &stranger), (&stranger, &client)] {
        let (code, answer) = verify(&world, from, to)?;
        assert_eq!((code, &answer["outcome"]), (1, &"plaintext".into()), "{answer}");
    }

    // On the way to node b somebody else takes the tunnel.
    let host = world.node(B).host.clone();
    let taken_by = |rogue: SocketAddr| {
        host.nft(&format!(
            "table ip rogue {{}}; delete table ip rogue; add table ip rogue; \
             add chain ip rogue in {{ type nat hook prerouting priority -100; }}; \
             add rule ip rogue in ip daddr {} tcp dport 15008 dnat to {rogue}",
            far.ip
        ))
    };
    // With a certificate of this mesh, and another one's.
    taken_by(other.at(15008))?;
    let (code, answer) = verify(&world, &client, &far)?;
    assert_eq!((code, &answer["outcome"], &answer["reason"]), (1, &"broken".into(), &"IDENTITY_ERROR".into()));
    assert_eq!((&answer["destination_identity"], &answer["marker_arrived"]), (&"".into(), &false.into()), "{answer}");
    // In plaintext.
    stranger.serve("peer", 9000)?;
    taken_by(stranger.at(9000))?;
    let (code, answer) = verify(&world, &client, &far)?;
    assert_eq!((code, &answer["outcome"], &answer["tls_version"]), (1, &"broken".into(), &"".into()), "{answer}");
    assert!(answer["message"].as_str().is_some_and(|why| why.contains("on the wire")), "{answer}");
    host.nft("delete table ip rogue")?;
    let (code, answer) = verify(&world, &client, &far)?;
    assert_eq!((code, &answer["outcome"]), (0, &"encrypted".into()), "{answer}");

    // Nobody answers.
    world.kill_agent(B)?;
    let (code, answer) = verify(&world, &client, &far)?;
    assert_eq!((code, &answer["outcome"], &answer["reason"]), (1, &"broken".into(), &"CONNECT".into()), "{answer}");
    Ok(())
}

#[test]
fn without_the_capability_it_says_so() -> Result<()> {
    let mut world = World::new("verify without NET_RAW")?;
    let names = CAPABILITIES.iter().filter(|(name, _)| *name != "NET_RAW");
    let names = names.map(|(name, _)| format!(",+{}", name.to_lowercase())).collect::<String>();
    world.agent_options.push(format!("{}-all{names}", mesh_tests::CAPABILITIES));
    let Cast { world, client, near: _, far } = Cast::in_world(world)?;
    let mut world = world;
    world.mesh("shop")?;
    let socket = world.node(A).agent_socket();
    let (code, answers) = meshctl("--agent", &socket, &arguments(&client.full_name(), &far.full_name()))?;
    assert_eq!((code, answers.len()), (3, 0));
    Ok(())
}

//! `meshctl verify mtls`: what crosses the links when one pod speaks to another, shown by packets.

use std::io::Write;

use mesh_common::proto::nodemesh::{
    CapturedLink, ConfigKind, ConfigQuery, Verification, VerifyQuery, item, query, verification::Outcome as Said,
};
use serde_json::{Value, json};

use crate::{
    Outcome,
    client::{Failure, Servers},
    output::{Mood, Screen},
    words,
};

#[derive(Debug, clap::Subcommand)]
pub enum Subject {
    /// Open a marked connection between two pods, and show from its packets that it is TLS
    Mtls(Mtls),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The agent of A's node opens a connection of its own, as A, to the agent of B's node, and captures it (AF_PACKET) on the
links of its node. B's policies decide as they would about any connection; B's application hears nothing of it.
TLS version and cipher are read from the packets. TLS 1.3 encrypts certificates: the identities are those that this very
session proved. Other connections between the two are not looked at.

Exit codes:
  0  TLS 1.3 on the wire; or both on one node, where nothing is on a wire
  1  plaintext, denied, or not what it should be
  3  no answer, or nothing could be captured

Examples:
  meshctl verify mtls shop/cart shop/web
  meshctl verify mtls shop/cart shop/web --port 8080 -o json")]
pub struct Mtls {
    /// The client: NAMESPACE/POD
    #[arg(value_name = "A", value_parser = pod)]
    source: String,
    /// The server: NAMESPACE/POD
    #[arg(value_name = "B", value_parser = pod)]
    destination: String,
    /// A port of the server, whose policies are asked [default: the lowest that a service leads to]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
}

fn pod(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((namespace, pod)) if !namespace.is_empty() && !pod.is_empty() && !pod.contains('/') => Ok(text.into()),
        _ => Err("a pod is NAMESPACE/POD".into()),
    }
}

pub async fn run<W: Write>(servers: &Servers, subject: &Subject, screen: &mut Screen<W>) -> Result<Outcome, Failure> {
    let Subject::Mtls(Mtls { source, destination, port }) = subject;
    let asked = VerifyQuery {
        source: source.clone(),
        destination: destination.clone(),
        port: port.map(u32::from).unwrap_or_default(),
    };
    let (items, complete) = servers.ask(query::Kind::Verify(asked)).all().await;
    let found = items.into_iter().find_map(|(node, kind)| match kind {
        item::Kind::Verification(found) => Some((node, found)),
        _ => None,
    });
    let Some((node, found)) = found else {
        complete?;
        return Err(nobody(servers, source).await);
    };
    // The source's own agent has answered; what others say does not matter.
    show(&node, (source, destination), &found, screen)?;
    Ok(match found.outcome() {
        Said::Encrypted | Said::Attested => Outcome::Fine,
        Said::InPlaintext | Said::Denied | Said::Broken => Outcome::Found,
        Said::Unproven | Said::Unspecified => Outcome::Unsure,
    })
}

/// Of those who were asked, none has the source.
async fn nobody(servers: &Servers, source: &str) -> Failure {
    let (namespace, name) = source.split_once('/').unwrap_or_default();
    let asked = ConfigQuery { kind: ConfigKind::Workloads.into(), namespace: namespace.into() };
    let (items, _) = servers.ask(query::Kind::Config(asked)).all().await;
    let node = items.into_iter().find_map(|(_, kind)| match kind {
        item::Kind::Workload(info) if info.namespace == namespace && info.name == name => Some(info.node),
        _ => None,
    });
    match node {
        Some(node) => Failure::Unreachable(format!(
            "{source} runs on node {node}, whose agent was not asked or does not know the question"
        )),
        None => Failure::Unreachable(format!("no node knows {source}; see `meshctl config workloads`")),
    }
}

fn show<W: Write>(
    node: &str,
    (source, destination): (&str, &str),
    found: &Verification,
    screen: &mut Screen<W>,
) -> Result<(), Failure> {
    if !screen.format.is_text() {
        return Ok(screen.object(&record(node, (source, destination), found))?);
    }
    let mood = match found.outcome() {
        Said::Encrypted | Said::Attested => Mood::Good,
        Said::Unproven | Said::Unspecified => Mood::Plain,
        Said::InPlaintext | Said::Denied | Said::Broken => Mood::Bad,
    };
    let reason = if found.reason.is_empty() { String::new() } else { format!(" ({})", found.reason) };
    let line = format!("{source} -> {destination} port {}: {}{reason}", found.port, outcome(found.outcome()));
    screen.line(&line, mood)?;
    screen.line(&format!("  {}", found.message), Mood::Plain)?;
    let mut say = |name: &str, text: String| {
        if text.is_empty() { Ok(()) } else { screen.line(&format!("  {name:<12} {text}"), Mood::Plain) }
    };
    if !found.client.is_empty() {
        say("connection", format!("{} -> {}, seen by node {node}", found.client, found.server))?;
    }
    for CapturedLink { name, packets, bytes, towards_peer } in &found.links {
        let where_to = if *towards_peer { "towards the peer" } else { "within the node" };
        say("link", format!("{name}: {packets} packets, {bytes} bytes, {where_to}"))?;
    }
    if !found.tls_version.is_empty() {
        let offered = found.offered_versions.join(", ");
        let text = format!("{} {}, offered {offered}", found.tls_version, found.tls_cipher);
        say("on the wire", text)?;
        say("", format!("{} encrypted records after the hellos", found.encrypted_records))?;
    }
    let until = |time: Option<String>| time.map(|time| format!(", certificate until {time}")).unwrap_or_default();
    let (source_until, destination_until) = ends(found);
    if !found.source_identity.is_empty() {
        say("source", format!("{}{}", found.source_identity, until(source_until)))?;
    }
    if !found.destination_identity.is_empty() {
        let proven = if destination_until.is_some() { ", as this session proved" } else { "" };
        say("destination", format!("{}{}{proven}", found.destination_identity, until(destination_until)))?;
    }
    if !found.client.is_empty() {
        let yes = |yes: bool| if yes { "yes" } else { "no" };
        let text = format!("arrived: {}, in the clear: {}", yes(found.marker_arrived), yes(found.marker_in_clear));
        say("marker", text)?;
    }
    Ok(())
}

/// The stable words.
fn outcome(outcome: Said) -> &'static str {
    match outcome {
        Said::Unspecified => "unknown",
        Said::Encrypted => "encrypted",
        Said::Attested => "kernel_attested",
        Said::InPlaintext => "plaintext",
        Said::Denied => "denied",
        Said::Broken => "broken",
        Said::Unproven => "unproven",
    }
}

/// Of the certificates of source and destination.
fn ends(found: &Verification) -> (Option<String>, Option<String>) {
    let Verification { source_not_after, destination_not_after, .. } = found;
    (
        words::time(source_not_after.map(|time| (time.seconds, time.nanos))),
        words::time(destination_not_after.map(|time| (time.seconds, time.nanos))),
    )
}

fn record(node: &str, (source, destination): (&str, &str), found: &Verification) -> Value {
    let (source_until, destination_until) = ends(found);
    let links = found.links.iter().map(|CapturedLink { name, packets, bytes, towards_peer }| {
        json!({ "name": name, "packets": packets, "bytes": bytes, "towards_peer": towards_peer })
    });
    json!({
        "node": node,
        "source": source,
        "destination": destination,
        "port": found.port,
        "outcome": outcome(found.outcome()),
        "reason": found.reason,
        "message": found.message,
        "client": found.client,
        "server": found.server,
        "links": links.collect::<Vec<_>>(),
        "tls_version": found.tls_version,
        "tls_cipher": found.tls_cipher,
        "tls_offered": found.offered_versions,
        "encrypted_records": found.encrypted_records,
        "source_identity": found.source_identity,
        "source_not_after": source_until,
        "destination_identity": found.destination_identity,
        "destination_not_after": destination_until,
        "marker_arrived": found.marker_arrived,
        "marker_in_clear": found.marker_in_clear,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::{Served, asked};

    fn found(outcome: Said) -> Verification {
        Verification {
            outcome: outcome.into(),
            message: "so it is".into(),
            port: 80,
            client: "10.1.0.7:40000".into(),
            server: "10.2.0.9:15008".into(),
            links: vec![CapturedLink { name: "eth0".into(), packets: 21, bytes: 7000, towards_peer: true }],
            tls_version: "TLSv1_3".into(),
            tls_cipher: "TLS13_AES_256_GCM_SHA384".into(),
            destination_identity: "spiffe://cluster.local/ns/shop/sa/web".into(),
            destination_not_after: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            marker_arrived: true,
            ..Default::default()
        }
    }

    async fn told(line: &str, answer: Option<Verification>) -> (Result<Outcome, Failure>, String) {
        let served = Served::new(move |kind| match kind {
            query::Kind::Verify(_) => Ok(answer.clone().map(item::Kind::Verification).into_iter().collect()),
            _ => Ok(Vec::new()),
        });
        asked(line, &[&served.socket()]).await
    }

    #[tokio::test]
    async fn exit_codes_say_what_was_found() {
        for (said, outcome) in [
            (Said::Encrypted, Outcome::Fine),
            (Said::Attested, Outcome::Fine),
            (Said::InPlaintext, Outcome::Found),
            (Said::Denied, Outcome::Found),
            (Said::Broken, Outcome::Found),
            (Said::Unproven, Outcome::Unsure),
            (Said::Unspecified, Outcome::Unsure),
        ] {
            let (said_so, _) = told("meshctl verify mtls shop/cart shop/web", Some(found(said))).await;
            assert_eq!(said_so.expect("an answer"), outcome, "{said:?}");
        }
        let (failed, _) = told("meshctl verify mtls shop/cart shop/web", None).await;
        let failure = failed.expect_err("nobody answered");
        assert_eq!((failure.exit_code(), failure.to_string().contains("no node knows shop/cart")), (3, true));
    }

    #[tokio::test]
    async fn everything_that_was_seen_is_shown() {
        let of = || Some(found(Said::Encrypted));
        let (_, text) = told("meshctl verify mtls shop/cart shop/web --port 80", of()).await;
        for part in [
            "shop/cart -> shop/web port 80: encrypted",
            "10.1.0.7:40000 -> 10.2.0.9:15008, seen by node node-a",
            "eth0: 21 packets, 7000 bytes, towards the peer",
            "TLSv1_3 TLS13_AES_256_GCM_SHA384",
            "sa/web, certificate until 2023-11-14T22:13:20.000Z, as this session proved",
            "arrived: yes, in the clear: no",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let (_, text) = told("meshctl verify mtls shop/cart shop/web -o json", of()).await;
        let json: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&json["outcome"], &json["links"][0]["packets"]), (&"encrypted".into(), &21.into()));
    }
}

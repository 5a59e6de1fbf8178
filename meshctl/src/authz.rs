//! `meshctl authz check`: would the policies permit it? The exit code answers scripts.

mod request;

use std::io::Write;

use mesh_common::{
    model::{Identity, advice},
    proto::nodemesh::{AuthzAnswer, AuthzQuery, ConfigKind, ConfigQuery, Verdict, item, query},
};
use serde_json::json;

use crate::{
    Outcome,
    client::{Failure, Servers},
    explain,
    output::{Mood, Screen},
    words,
};
use request::Request;

#[derive(Debug, clap::Subcommand)]
pub enum Question {
    /// May A reach a port of B, or ask it for something? Exit code 0: permitted, 1: denied, 3: permitted, but not by
    /// B's own node, or only some requests are
    Check(Check),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl authz check shop/cart shop/web --port 80
  meshctl authz check - shop/web --port 80 --verbose      # a client without identity, rule by rule
  meshctl authz check spiffe://cluster.local/ns/shop/sa/cart shop/web --port 80 -o json
  meshctl authz check shop/cart shop/web --port 80 --method POST --path /api/orders --header 'x-team: blue' -v
  meshctl authz check shop/cart shop/web --port 80 --path /admin --jwt @token.txt

A request is read, and its token verified, as one that arrives at B: path and query are written as the client writes
them. B's own node alone knows which tokens count there.")]
pub struct Check {
    /// The client: NAMESPACE/POD, spiffe://… for an identity, or - for one without identity
    #[arg(value_name = "A", value_parser = source)]
    source: String,
    /// The server: NAMESPACE/POD
    #[arg(value_name = "B", value_parser = pod_of_namespace)]
    destination: String,
    /// The port that the server's program listens on
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Every policy that was asked, with each rule and condition
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    request: Request,
}

fn source(text: &str) -> Result<String, String> {
    if text == "-" {
        Ok(String::new())
    } else if text.starts_with("spiffe://") {
        text.parse::<Identity>().map(|identity| identity.to_string()).map_err(|error| error.to_string())
    } else {
        pod_of_namespace(text).map_err(|why| format!("{why}, or spiffe://…, or -"))
    }
}

fn pod_of_namespace(text: &str) -> Result<String, String> {
    match text.split_once('/') {
        Some((namespace, pod)) if !namespace.is_empty() && !pod.is_empty() && !pod.contains('/') => Ok(text.into()),
        _ => Err("a pod is NAMESPACE/POD".into()),
    }
}

/// Prints the answer of the destination's own node if it is among the answers. Found: denied. Unsure: permitted by what
/// another node knows, which does not decide.
pub async fn run<W: Write>(servers: &Servers, question: &Question, screen: &mut Screen<W>) -> Result<Outcome, Failure> {
    let Question::Check(Check { source, destination, port, verbose, request }) = question;
    let mut asked = AuthzQuery {
        source: source.clone(),
        destination: destination.clone(),
        port: (*port).into(),
        ..AuthzQuery::default()
    };
    request.ask(&mut asked)?;
    let (items, complete) = servers.ask(query::Kind::Authz(asked.clone())).all().await;
    let answers = items.into_iter().filter_map(|(node, kind)| match kind {
        item::Kind::Authz(answer) => Some((node, answer)),
        _ => None,
    });
    // Without the destination's node, the strictest opinion counts.
    let best = answers.max_by_key(|(_, answer)| (answer.authoritative, !is_permitted(answer)));
    let Some((node, answer)) = best else {
        complete?;
        return Err(Failure::Unreachable(format!("no node knows {destination}; see `meshctl config workloads`")));
    };
    let deciding = if answer.authoritative {
        Some(node.clone())
    } else {
        // Another server may have been the one to know better.
        if let Err(failure) = complete {
            eprintln!("meshctl: {}", crate::output::plain(&failure.to_string()));
        }
        node_of(servers, destination).await
    };
    show(&node, deciding.as_deref(), &answer, &asked, screen)?;
    if *verbose && screen.format.is_text() {
        if let Some(nearest) = answer.nearest.as_ref().and_then(explain::nearest_text) {
            screen.line(&nearest, Mood::Plain)?;
        }
        let who = if request.is_meant() { "request" } else { "connection" };
        explain::policies_text(&answer.policies, who, screen)?;
    }
    Ok(match (is_permitted(&answer), answer.authoritative && !answer.depends_on_request) {
        (true, true) => Outcome::Fine,
        (true, false) => Outcome::Unsure,
        (false, _) => Outcome::Found,
    })
}

/// The node that this pod runs on, as far as anybody knows.
async fn node_of(servers: &Servers, pod: &str) -> Option<String> {
    let (namespace, name) = pod.split_once('/')?;
    let asked = ConfigQuery { kind: ConfigKind::Workloads.into(), namespace: namespace.into() };
    let (items, _) = servers.ask(query::Kind::Config(asked)).all().await;
    items.into_iter().find_map(|(_, kind)| match kind {
        item::Kind::Workload(info) if info.namespace == namespace && info.name == name => {
            Some(info.node).filter(|node| !node.is_empty())
        }
        _ => None,
    })
}

fn is_permitted(answer: &AuthzAnswer) -> bool {
    matches!(answer.verdict(), Verdict::Forwarded | Verdict::Audit)
}

/// `deciding`: the destination's node, if it is known.
fn show<W: Write>(
    node: &str,
    deciding: Option<&str>,
    answer: &AuthzAnswer,
    asked: &AuthzQuery,
    screen: &mut Screen<W>,
) -> Result<(), Failure> {
    let AuthzQuery { source, destination, port, .. } = asked;
    let rule = (!answer.policy.is_empty() && answer.rule >= 0).then_some(answer.rule);
    if !screen.format.is_text() {
        screen.object(&json!({
            "permitted": is_permitted(answer),
            "verdict": words::verdict(answer.verdict()),
            "reason": answer.reason,
            "policy": answer.policy,
            "rule": rule,
            "message": answer.message,
            "source": source,
            "source_identity": answer.source_identity,
            "destination": destination,
            "destination_identity": answer.destination_identity,
            "port": port,
            "request": request::record(asked),
            "depends_on_request": answer.depends_on_request,
            "advice": advice(&answer.reason).unwrap_or_default(),
            "nearest": explain::nearest_record(answer.nearest.as_ref()),
            "node": node,
            "authoritative": answer.authoritative,
            "deciding_node": deciding,
            "generation": answer.generation,
            "policies": explain::policies_record(&answer.policies),
        }))?;
        return Ok(());
    }
    let (word, mood) = match is_permitted(answer) {
        true if answer.depends_on_request => ("permitted to connect", Mood::Plain),
        true => ("permitted", Mood::Good),
        false => ("denied", Mood::Bad),
    };
    let client = if source.is_empty() { "a client without identity" } else { source.as_str() };
    let asked = format!("{client} -> {destination} port {port}{}", request::text(asked));
    if answer.authoritative {
        screen.line(&format!("{word}: {asked}"), mood)?;
    } else {
        let whose = deciding.map_or_else(|| format!("the node of {destination}"), |node| format!("node {node}"));
        screen.line(
            &format!("{word} by what {node} knows; {whose}, which decides, does not answer: {asked}"),
            Mood::Bad,
        )?;
    }
    let policy = match rule {
        Some(rule) => format!("{}#{rule}", answer.policy),
        None => answer.policy.clone(),
    };
    let facts = [
        ("source", answer.source_identity.as_str()),
        ("destination", &answer.destination_identity),
        ("reason", &answer.reason),
        ("policy", &policy),
        ("because", &answer.message),
        ("what to do", advice(&answer.reason).unwrap_or_default()),
    ];
    for (name, value) in facts.into_iter().filter(|(_, value)| !value.is_empty()) {
        screen.line(&format!("  {name:<12} {value}"), Mood::Plain)?;
    }
    let who = if answer.authoritative { "decided by" } else { "known by" };
    screen.line(&format!("  {who:<12} {node}, configuration {}", answer.generation), Mood::Plain)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_a_pod_an_identity_or_nobody() {
        assert_eq!(source("shop/web").unwrap(), "shop/web");
        assert_eq!(source("-").unwrap(), "");
        assert_eq!(source("spiffe://cluster.local/ns/shop/sa/web").unwrap(), "spiffe://cluster.local/ns/shop/sa/web");
        for wrong in ["web", "", "/web", "shop/", "a/b/c", "spiffe://cluster.local/web", "spiffe://c/ns/UPPER/sa/x"] {
            assert!(source(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_server_is_a_pod() {
        assert!(pod_of_namespace("shop/redis").is_ok());
        assert!(pod_of_namespace("redis").is_err());
    }
}

//! `meshctl tap`: requests as they pass. What is secret in them stays with the agents, unless it is asked for on an
//! agent's own socket.

use std::io::Write;

use mesh_common::proto::nodemesh::{Flow, FlowsQuery, Header, TapQuery, Tapped, flows_query::Only, item, query};
use serde_json::{Value, json};

use crate::{
    Outcome,
    client::{Failure, Servers},
    flows::{self, Filters},
    output::{self, Cell, Mood, Screen},
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Only requests that an agent reads: where a rule, a policy or Telemetry asks for it. One between two
nodes is seen by both agents; --direction inbound leaves the servers' view. Values of headers that may be secret are
\"[redacted]\" by the agent, and a query is never shown; --secrets needs the socket of the agent (root, on the node).

Examples:
  meshctl tap -n shop
  meshctl tap --to shop/web --http-status 5xx --headers
  meshctl tap --method POST --path /orders --count 10 -o json
  sudo meshctl tap --agent /run/nodemesh/agent.sock --headers --secrets --count 1"
)]
pub struct Arguments {
    #[command(flatten)]
    filters: Filters,
    /// Only those of gRPC
    #[arg(long)]
    grpc: bool,
    /// With their headers and those of the answers
    #[arg(long)]
    headers: bool,
    /// Also the values that may be secret
    #[arg(long, requires = "headers")]
    secrets: bool,
    /// End after this many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
}

pub async fn run<W: Write>(
    servers: &Servers,
    arguments: &Arguments,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let question = question(arguments);
    let mut answers = servers.ask(query::Kind::Tap(question));
    let (mut left, mut failures) = (arguments.count, Vec::new());
    let mut living = answers.asked();
    while left != Some(0)
        && let Some(answer) = answers.next().await
    {
        match answer {
            Ok((node, item::Kind::Tapped(tapped))) => {
                show(&node, *tapped, screen)?;
                left = left.map(|left| left - 1);
            }
            Ok(_) => {}
            Err(failure) => {
                living = living.saturating_sub(1);
                if living > 0 {
                    // The others go on.
                    eprintln!("meshctl: {}", output::plain(&failure.to_string()));
                }
                failures.push(failure);
            }
        }
    }
    match left {
        Some(0) => Ok(Outcome::Fine),
        _ if failures.is_empty() => {
            Err(Failure::Unreachable("the servers ended their streams; were they stopped?".into()))
        }
        _ => crate::client::first(failures).map(|()| Outcome::Fine),
    }
}

fn question(arguments: &Arguments) -> TapQuery {
    let Arguments { filters, grpc, headers, secrets, count } = arguments;
    let only = if *grpc { Only::Grpc } else { Only::Http };
    let flows = FlowsQuery { only: only.into(), ..filters.question() };
    TapQuery { flows: Some(flows), headers: *headers, secrets: *secrets, count: count.unwrap_or(0) }
}

fn show<W: Write>(node: &str, tapped: Tapped, screen: &mut Screen<W>) -> Result<(), Failure> {
    let Tapped { flow, request_headers, response_headers } = tapped;
    let mut flow = flow.unwrap_or_default();
    if flow.node.is_empty() {
        node.clone_into(&mut flow.node);
    }
    if !screen.format.is_text() {
        return Ok(screen.object(&record(&flow, &request_headers, &response_headers))?);
    }
    screen.spans(&flows::line(&flow))?;
    for (sign, headers) in [(">", &request_headers), ("<", &response_headers)] {
        for Header { name, value } in headers {
            screen.spans(&[Cell::new(format!("    {sign} {name}:"), Mood::Dim), Cell::new(value, Mood::Plain)])?;
        }
    }
    Ok(())
}

/// That of a flow, and its headers.
fn record(flow: &Flow, request: &[Header], response: &[Header]) -> Value {
    let mut record = flows::record(flow);
    let all = |headers: &[Header]| -> Value {
        headers.iter().map(|Header { name, value }| json!({ "name": name, "value": value })).collect()
    };
    if let Value::Object(fields) = &mut record {
        fields.insert("request_headers".into(), all(request));
        fields.insert("response_headers".into(), all(response));
    }
    record
}

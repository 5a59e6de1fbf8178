//! `meshctl edges`: who speaks to whom, summed over all connections since the agents started; and `meshctl config
//! connections`: those that are open now.

use std::io::Write;

use mesh_common::proto::nodemesh::{ConnectionInfo, EdgeInfo, EdgesQuery, item, query};
use serde_json::{Value, json};

use crate::{
    Outcome,
    client::{Failure, Servers},
    flows,
    output::{Cell, Format, Mood, Namespaces, Screen, Table},
    words,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Each node tells what it saw: an edge between two nodes is told by both.

Examples:
  meshctl edges -n shop
  meshctl edges --node node-a -o json")]
pub struct Arguments {
    #[command(flatten)]
    namespaces: Namespaces,
}

pub async fn run<W: Write>(
    servers: &Servers,
    arguments: &Arguments,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let question = EdgesQuery { namespace: arguments.namespaces.wanted() };
    let (items, complete) = servers.ask(query::Kind::Edges(question)).all().await;
    let mut edges: Vec<(String, EdgeInfo)> = items
        .into_iter()
        .filter_map(|(node, kind)| match kind {
            item::Kind::Edge(edge) => Some((node, edge)),
            _ => None,
        })
        .collect();
    // Each node sorted its own.
    edges.sort_by(|a, b| a.0.cmp(&b.0));
    if screen.format == Format::Table {
        edges_text(&edges, screen)?;
    } else {
        edges.iter().try_for_each(|(node, edge)| screen.object(&record(node, edge)))?;
    }
    complete.map(|()| Outcome::Fine)
}

fn edges_text<W: Write>(edges: &[(String, EdgeInfo)], screen: &mut Screen<W>) -> Result<(), Failure> {
    let mut table = Table::new([
        "NODE",
        "DIR",
        "SOURCE",
        "DESTINATION",
        "ADDRESS",
        "SERVICE",
        "PATH",
        "SECURITY",
        "OPEN",
        "ALL",
        "REFUSED",
        "FAILED",
        "BYTES",
        "LAST",
    ]);
    for (node, edge) in edges {
        let count = |count: u64| Cell::new(count.to_string(), if count > 0 { Mood::Bad } else { Mood::Plain });
        table.push([
            node.into(),
            words::direction(edge.direction()).into(),
            flows::end_text(edge.source.as_ref()).into(),
            flows::end_text(edge.destination.as_ref()).into(),
            edge.destination.as_ref().map(|end| end.address.clone()).unwrap_or_default().into(),
            words::short_service(&edge.service).into(),
            words::path(edge.path()).into(),
            words::security(edge.security()).into(),
            edge.open.to_string().into(),
            edge.connections.to_string().into(),
            count(edge.refused),
            count(edge.failed),
            format!("{}/{}", edge.bytes_sent, edge.bytes_received).into(),
            words::time(edge.last.map(|time| (time.seconds, time.nanos))).unwrap_or_default().into(),
        ]);
    }
    Ok(screen.table(&mut table)?)
}

fn record(node: &str, edge: &EdgeInfo) -> Value {
    json!({
        "node": node,
        "direction": words::direction(edge.direction()),
        "source": flows::end_record(edge.source.as_ref()),
        "destination": flows::end_record(edge.destination.as_ref()),
        "service": edge.service,
        "path": words::path(edge.path()),
        "security": words::security(edge.security()),
        "connections": edge.connections,
        "open": edge.open,
        "refused": edge.refused,
        "failed": edge.failed,
        "bytes_sent": edge.bytes_sent,
        "bytes_received": edge.bytes_received,
        "last": words::time(edge.last.map(|time| (time.seconds, time.nanos))),
    })
}

pub fn connections_text<W: Write>(items: &[(String, item::Kind)], screen: &mut Screen<W>) -> Result<(), Failure> {
    let mut table = Table::new([
        "NODE",
        "ID",
        "DIR",
        "SOURCE",
        "DESTINATION",
        "ADDRESS",
        "SERVICE",
        "PATH",
        "SECURITY",
        "POLICY#RULE",
        "BYTES",
        "AGE",
        "TUNNEL",
    ]);
    for (node, kind) in items {
        let item::Kind::Connection(ConnectionInfo { flow: Some(flow), tunnel }) = kind else { continue };
        table.push([
            node.into(),
            flow.id.to_string().into(),
            words::direction(flow.direction()).into(),
            flows::end_text(flow.source.as_ref()).into(),
            flows::end_text(flow.destination.as_ref()).into(),
            flow.destination.as_ref().map(|end| end.address.clone()).unwrap_or_default().into(),
            words::short_service(&flow.service).into(),
            words::path(flow.path()).into(),
            words::security(flow.security()).into(),
            flows::deciding(flow).into(),
            format!("{}/{}", flow.bytes_sent, flow.bytes_received).into(),
            flows::milliseconds(flow).map(words::span).unwrap_or_default().into(),
            tunnel.into(),
        ]);
    }
    Ok(screen.table(&mut table)?)
}

/// The record of an open connection: that of a flow, until now, and the tunnel's outer end.
pub fn connection_record(seen_by: &str, connection: &ConnectionInfo) -> Value {
    let mut record = flows::record(&connection.flow.clone().unwrap_or_default());
    if let Value::Object(fields) = &mut record {
        fields.insert("seen_by".into(), seen_by.into());
        fields.insert("tunnel".into(), connection.tunnel.as_str().into());
    }
    record
}

//! `meshctl edges`: who speaks to whom, summed over all connections since the agents started, with the requests of
//! late; and `meshctl config connections`: those that are open now.

mod dot;

use std::{collections::BTreeMap, io::Write, time::Duration};

use mesh_common::{
    model::Sums as _,
    proto::nodemesh::{ConnectionInfo, EdgeInfo, EdgesQuery, item, query},
};
use serde_json::{Value, json};

use crate::{
    Outcome,
    client::{Failure, Servers},
    flows,
    output::{self, Cell, Mood, Namespaces, Screen, Table},
    stat::{
        self, By, shown,
        sum::{self, Sum, Summed},
    },
    words,
};

/// Of the figures about requests.
const WINDOW: Duration = Duration::from_secs(60);

/// By node, reporter, and the names of both workloads.
type Requests = BTreeMap<(String, i32, String, String), Sum>;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each node tells what it saw: an edge between two nodes is told by both. REQ/S, BAD (the share that was
refused or failed) and P95 are of all requests between the two workloads that this node read in the last minute.
With UDP datagrams, which no policy is asked about, ALL counts exchanges that ended with a pause.

Examples:
  meshctl edges -n shop
  meshctl edges --dot | dot -Tsvg > mesh.svg       # red: refusals or failures; dashed: plaintext
  meshctl edges --node node-a -o json"
)]
pub struct Arguments {
    #[command(flatten)]
    namespaces: Namespaces,
    /// The workloads as a graph, for Graphviz
    #[arg(long)]
    dot: bool,
}

pub async fn run<W: Write>(
    servers: &Servers,
    arguments: &Arguments,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let Arguments { namespaces, dot } = arguments;
    let question = EdgesQuery { namespace: namespaces.wanted(), udp: true };
    let ((items, complete), (rows, known)) = tokio::join!(
        servers.ask(query::Kind::Edges(question)).all(),
        // Of all namespaces: the question has only the source's, and an edge may be asked for by its destination's.
        stat::rows(servers, By::Edges, String::new(), WINDOW)
    );
    if let (Err(failure), Ok(())) = (&known, &complete) {
        eprintln!("meshctl: without requests: {}", output::plain(&failure.to_string()));
    }
    let mut edges: Vec<(String, EdgeInfo)> = items
        .into_iter()
        .filter_map(|(node, kind)| match kind {
            item::Kind::Edge(edge) => Some((node, edge)),
            _ => None,
        })
        .collect();
    // Each node sorted its own.
    edges.sort_by(|a, b| a.0.cmp(&b.0));
    if *dot {
        let mut summed = Summed::new(By::Edges);
        rows.iter().for_each(|(node, row)| summed.add(node, row));
        screen.verbatim(&dot::graph(&edges, &summed.rows()))?;
        return complete.map(|()| Outcome::Fine);
    }
    let mut requests = Requests::new();
    for (node, row) in &rows {
        let ends = [&row.source, &row.destination].map(|end| end.as_ref().map(sum::name).unwrap_or_default());
        let [source, destination] = ends;
        requests.entry((node.clone(), row.reporter, source, destination)).or_default().add(&Sum::of(node, row));
    }
    if screen.format.is_text() {
        edges_text(&edges, &requests, screen)?;
    } else {
        edges.iter().try_for_each(|(node, edge)| screen.object(&record(node, edge, of(&requests, node, edge))))?;
    }
    complete.map(|()| Outcome::Fine)
}

/// What this node read between the two.
fn of<'a>(requests: &'a Requests, node: &str, edge: &EdgeInfo) -> Option<&'a Sum> {
    let [source, destination] =
        [&edge.source, &edge.destination].map(|end| end.as_ref().map(sum::name).unwrap_or_default());
    requests.get(&(node.to_owned(), edge.direction, source, destination)).filter(|sum| sum.requests > 0)
}

fn edges_text<W: Write>(
    edges: &[(String, EdgeInfo)],
    requests: &Requests,
    screen: &mut Screen<W>,
) -> Result<(), Failure> {
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
        "UDP",
        "LAST",
        "REQ/S",
        "BAD",
        "P95",
    ]);
    for (node, edge) in edges {
        let count = |count: u64| Cell::new(count.to_string(), if count > 0 { Mood::Bad } else { Mood::Plain });
        let sum = of(requests, node, edge).filter(|_| edge.datagrams == 0);
        let bad = sum.and_then(Sum::success).map(|good| 1.0 - good);
        let bad_mood = if bad.is_some_and(|bad| bad > 1.0 - shown::GOOD) { Mood::Bad } else { Mood::Plain };
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
            if edge.datagrams > 0 { edge.datagrams.to_string() } else { String::new() }.into(),
            words::time(edge.last.map(|time| (time.seconds, time.nanos))).unwrap_or_default().into(),
            sum.map(|sum| shown::rate(sum.requests_per_second())).unwrap_or_default().into(),
            Cell::new(bad.map(shown::percent).unwrap_or_default(), bad_mood),
            sum.and_then(|sum| sum.quantile(0.95)).map(shown::latency).unwrap_or_default().into(),
        ]);
    }
    Ok(screen.table(&mut table)?)
}

fn record(node: &str, edge: &EdgeInfo, requests: Option<&Sum>) -> Value {
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
        "datagrams": (edge.datagrams > 0).then_some(edge.datagrams),
        "last": words::time(edge.last.map(|time| (time.seconds, time.nanos))),
        "requests": requests.map(|sum| json!({
            "seconds": sum.seconds,
            "requests": sum.requests,
            "requests_per_second": sum.requests_per_second(),
            "failed": sum.failed_requests,
            "refused": sum.refused_requests,
            "p95_ms": sum.quantile(0.95).map(|p95| p95.as_secs_f64() * 1e3),
        })),
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

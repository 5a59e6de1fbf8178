//! `meshctl cost`: what each pod lets its node's agent do.

use std::io::Write;

use clap::ValueEnum;
use mesh_common::proto::nodemesh::{CostQuery, PodCost, item, query};
use serde_json::{Value, json};

use crate::{
    Outcome,
    client::{Failure, Servers},
    output::{Cell, Mood, Namespaces, Screen, Table},
    stat::shown,
    words,
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Since the pod was enrolled with the agent that runs now. CPU and MEMORY are what was measured of the agent's
process, shared out by what each pod let it do; what it did for itself has a line of its own. SHARE is the
part of all CPU that is listed. The last line is the sum.

Examples:
  meshctl cost
  meshctl cost -n shop --sort memory
  meshctl cost --node node-a -o json"
)]
pub struct Arguments {
    #[command(flatten)]
    namespaces: Namespaces,
    /// The most first
    #[arg(long, value_enum, default_value_t, ignore_case = true)]
    sort: Sort,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Sort {
    #[default]
    Cpu,
    Memory,
    Bytes,
    Requests,
    Connections,
}

impl Sort {
    fn key(self, cost: &PodCost) -> u64 {
        match self {
            Self::Cpu => cost.cpu_us,
            Self::Memory => cost.memory,
            Self::Bytes => cost.bytes,
            Self::Requests => cost.requests,
            Self::Connections => cost.connections,
        }
    }
}

pub async fn run<W: Write>(
    servers: &Servers,
    arguments: &Arguments,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let Arguments { namespaces, sort } = arguments;
    let question = CostQuery { namespace: namespaces.wanted() };
    let (items, complete) = servers.ask(query::Kind::Cost(question)).all().await;
    let costs = items.into_iter().filter_map(|(node, kind)| match kind {
        item::Kind::Cost(cost) => Some((node, cost)),
        _ => None,
    });
    let mut costs = costs.collect::<Vec<_>>();
    costs.sort_by(|(a_node, a), (b_node, b)| {
        let by_name = || (&a.namespace, &a.pod, a_node).cmp(&(&b.namespace, &b.pod, b_node));
        sort.key(b).cmp(&sort.key(a)).then_with(by_name)
    });
    let sum = summed(costs.iter().map(|(_, cost)| cost));
    if screen.format.is_text() {
        text(&costs, &sum, screen)?;
    } else {
        costs.iter().try_for_each(|(node, cost)| screen.object(&record(node, cost, sum.cpu_us)))?;
    }
    complete.map(|()| Outcome::Fine)
}

fn summed<'a>(costs: impl Iterator<Item = &'a PodCost>) -> PodCost {
    costs.fold(PodCost::default(), |sum, cost| {
        let PodCost { namespace: _, pod: _, connections, open, requests, bytes, cpu_us, memory } = cost;
        PodCost {
            connections: sum.connections.saturating_add(*connections),
            open: sum.open.saturating_add(*open),
            requests: sum.requests.saturating_add(*requests),
            bytes: sum.bytes.saturating_add(*bytes),
            cpu_us: sum.cpu_us.saturating_add(*cpu_us),
            memory: sum.memory.saturating_add(*memory),
            ..sum
        }
    })
}

fn share(cpu_us: u64, all: u64) -> Option<f64> {
    (all > 0).then(|| cpu_us as f64 / all as f64)
}

fn text<W: Write>(costs: &[(String, PodCost)], sum: &PodCost, screen: &mut Screen<W>) -> Result<(), Failure> {
    let mut table = Table::new(["NODE", "POD", "CONNECTIONS", "OPEN", "REQUESTS", "BYTES", "CPU", "SHARE", "MEMORY"]);
    let row = |node: &str, pod: &str, cost: &PodCost, mood: Mood| {
        let cell = |text: String| Cell::new(text, mood);
        [
            cell(node.to_owned()),
            cell(pod.to_owned()),
            cell(cost.connections.to_string()),
            cell(cost.open.to_string()),
            cell(cost.requests.to_string()),
            cell(shown::bytes(cost.bytes as f64)),
            cell(words::span(cost.cpu_us as f64 / 1e3)),
            cell(share(cost.cpu_us, sum.cpu_us).map(shown::percent).unwrap_or_default()),
            cell(shown::bytes(cost.memory as f64)),
        ]
    };
    for (node, cost) in costs {
        // Without a name: what the agent does for itself.
        let own = cost.pod.is_empty();
        let pod = if own { "(the agent)".to_owned() } else { format!("{}/{}", cost.namespace, cost.pod) };
        table.push(row(node, &pod, cost, if own { Mood::Dim } else { Mood::Plain }));
    }
    let nodes = costs.iter().map(|(node, _)| node).collect::<std::collections::BTreeSet<_>>().len();
    let of = if nodes == 1 { "1 node".to_owned() } else { format!("{nodes} nodes") };
    let pods = costs.iter().filter(|(_, cost)| !cost.pod.is_empty()).count();
    table.push(row(&of, &format!("{pods} pods"), sum, Mood::Dim));
    Ok(screen.table(&mut table)?)
}

fn record(node: &str, cost: &PodCost, all: u64) -> Value {
    let PodCost { namespace, pod, connections, open, requests, bytes, cpu_us, memory } = cost;
    json!({
        "node": node,
        "namespace": namespace,
        "pod": pod,
        "connections": connections,
        "open": open,
        "requests": requests,
        "bytes": bytes,
        "cpu_ms": *cpu_us as f64 / 1e3,
        "cpu_share": share(*cpu_us, all),
        "memory_bytes": memory,
    })
}

//! The workloads and who of them speaks to whom, for Graphviz (<https://graphviz.org/doc/info/lang.html>).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use mesh_common::proto::nodemesh::{EdgeInfo, Security};

use crate::{
    output,
    stat::{
        shown,
        sum::{self, Key, Sum},
    },
    words,
};

/// What all connections from one to the other have.
#[derive(Default)]
struct Between {
    security: BTreeSet<&'static str>,
    plaintext: bool,
    open: [u64; 2],
    refused: bool,
}

/// One edge for each pair of workloads, also those that were silent in the window that `sums` is about.
pub fn graph(edges: &[(String, EdgeInfo)], sums: &[(Key, Sum)]) -> String {
    let mut all: BTreeMap<(String, String), Between> = BTreeMap::new();
    for (_, edge) in edges {
        let name = |end: &Option<_>| end.as_ref().map(sum::name).unwrap_or_default();
        let between = all.entry((name(&edge.source), name(&edge.destination))).or_default();
        between.security.insert(if edge.datagrams > 0 { "udp" } else { words::security(edge.security()) });
        between.plaintext |= edge.security() == Security::Plaintext;
        // Both ends tell of a connection between two nodes.
        let reporter = usize::from(edge.direction() == mesh_common::proto::nodemesh::Direction::Inbound);
        between.open[reporter] += edge.open;
        between.refused |= edge.refused + edge.failed > 0;
    }
    let sums: BTreeMap<_, _> = sums.iter().map(|(key, sum)| ((&*key.source, &*key.destination), sum)).collect();
    let mut graph = "digraph mesh {\n  rankdir=LR;\n  node [shape=box, fontname=\"monospace\"];\n  edge [fontname=\
                     \"monospace\", fontsize=10];\n"
        .to_owned();
    for ((source, destination), between) in &all {
        let sum = sums.get(&(source.as_str(), destination.as_str())).copied();
        let mut label = between.security.iter().copied().collect::<Vec<_>>().join(", ");
        if let Some(sum) = sum.filter(|sum| sum.requests > 0) {
            let _ = write!(label, "\n{} req/s", shown::rate(sum.requests_per_second()));
            if let Some(p95) = sum.quantile(0.95) {
                let _ = write!(label, ", p95 {}", shown::latency(p95));
            }
            if let Some(bad) = sum.success().map(|good| 1.0 - good).filter(|bad| *bad > 0.0) {
                let _ = write!(label, ", {} bad", shown::percent(bad));
            }
        }
        let open = between.open[0].max(between.open[1]);
        if open > 0 {
            let _ = write!(label, "\n{open} open");
        }
        let is_bad = between.refused || sum.is_some_and(|sum| sum.refused() + sum.failed() > 0);
        let colour = if is_bad { "red" } else { "black" };
        let style = if between.plaintext { "dashed" } else { "solid" };
        let (source, destination, label) = (quoted(source), quoted(destination), quoted(&label));
        let _ = writeln!(graph, "  {source} -> {destination} [label={label}, color={colour}, style={style}];");
    }
    graph + "}\n"
}

/// A string of that language, in which a backslash begins an escape.
fn quoted(text: &str) -> String {
    format!("\"{}\"", output::plain(text).replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

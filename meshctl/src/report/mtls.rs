//! `meshctl report mtls`: every plaintext pair that the agents saw since they started, and who would be refused if
//! PeerAuthentication were STRICT.

use std::io::Write;

use mesh_common::proto::nodemesh::{EdgesQuery, Origin, StatusQuery, item, query};
use serde_json::{Value, json};

use super::judge::{self, Effect, Namespace, Pair, Report, Time, Verdict, Window, Workload};
use crate::{
    Outcome,
    client::{Failure, Servers},
    output::{Cell, Mood, Namespaces, Screen, Table},
    words,
};

const ATTESTED: &str = "attested: the kernel proves who dials; on the pods' own links within the node it is plaintext, unless \
                        nodemesh.io/same-node: tls";
/// Clients that one line names.
const NAMED: usize = 5;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is known is what the agents saw since they started; each line of `window` says when. Not among it, since no agent
carries them: the kubelet's probes of ports that the pod declares, and a pod that calls itself. Both pass under STRICT.
Connections within a node that the kernel attests have an identity, as those in mutual TLS.

Exit codes:
  0  every namespace is ready, or STRICT already
  1  somebody would be refused
  3  an agent did not answer, or nothing was seen: nobody can tell

Examples:
  meshctl report mtls
  meshctl report mtls -n shop -o json")]
pub struct Arguments {
    #[command(flatten)]
    namespaces: Namespaces,
}

pub async fn run<W: Write>(
    servers: &Servers,
    arguments: &Arguments,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let namespace = arguments.namespaces.wanted();
    let question = EdgesQuery { namespace: namespace.clone(), udp: false };
    // The edges first: a pod that joins in between is listed without what it did, and not the other way round.
    let (items, edges_complete) = servers.ask(query::Kind::Edges(question)).all().await;
    let edges = items.into_iter().filter_map(|(node, kind)| match kind {
        item::Kind::Edge(edge) => Some((node, edge)),
        _ => None,
    });
    let edges: Vec<_> = edges.collect();
    let (items, complete) = servers.ask(query::Kind::Status(StatusQuery {})).all().await;
    let (mut nodes, mut controllers) = (Vec::new(), Vec::new());
    for (node, kind) in items {
        match kind {
            item::Kind::Status(status) => nodes.push((node, status)),
            item::Kind::Controller(controller) => controllers.push(controller),
            _ => {}
        }
    }
    nodes.sort_by(|a, b| a.0.cmp(&b.0));
    let report = judge::report(&namespace, &nodes, &controllers, &edges);
    if screen.format.is_text() {
        text(&report, &namespace, screen)?;
    } else {
        records(&report).iter().try_for_each(|record| screen.object(record))?;
    }
    edges_complete.and(complete)?;
    Ok(outcome(&report))
}

/// Whoever would be refused counts more than what is not known.
fn outcome(report: &Report) -> Outcome {
    let any = |verdict| report.namespaces.iter().any(|namespace| namespace.verdict == verdict);
    let forgotten = !report.missing.is_empty() || report.windows.iter().any(|window| window.dropped > 0);
    match () {
        () if any(Verdict::NotReady) => Outcome::Found,
        () if any(Verdict::Unknown) || report.namespaces.is_empty() || forgotten => Outcome::Unsure,
        () => Outcome::Fine,
    }
}

fn text<W: Write>(report: &Report, wanted: &str, screen: &mut Screen<W>) -> Result<(), Failure> {
    for Window { node, since, dropped } in &report.windows {
        screen.line(&format!("window: node {node} remembers since {}", time(*since)), Mood::Dim)?;
        if *dropped > 0 {
            let line =
                format!("window: node {node} saw {dropped} pairs that it does not remember: what follows is not all");
            screen.line(&line, Mood::Bad)?;
        }
    }
    for node in &report.missing {
        let line = format!("window: node {node} does not answer: what follows is without what its agent saw");
        screen.line(&line, Mood::Bad)?;
    }
    if !report.pairs.is_empty() {
        screen.line("", Mood::Plain)?;
        pairs_text(&report.pairs, screen)?;
    }
    if !report.workloads.is_empty() {
        screen.line("", Mood::Plain)?;
        workloads_text(&report.workloads, screen)?;
        if report.workloads.iter().any(|workload| workload.attested > 0) {
            screen.line(ATTESTED, Mood::Dim)?;
        }
    }
    screen.line("", Mood::Plain)?;
    if report.namespaces.is_empty() {
        let whose = if wanted.is_empty() { String::new() } else { format!(" of namespace {wanted}") };
        screen.line(&format!("no pod{whose} is in the mesh: STRICT would judge nobody"), Mood::Bad)?;
    }
    for namespace in &report.namespaces {
        let line = format!("namespace {}: {}", namespace.name, namespace_verdict(namespace));
        screen.line(&line, mood(namespace.verdict))?;
    }
    Ok(())
}

fn pairs_text<W: Write>(pairs: &[Pair], screen: &mut Screen<W>) -> Result<(), Failure> {
    let mut table = Table::new([
        "PLAINTEXT FROM",
        "WHO",
        "TO",
        "PORT",
        "SERVED",
        "OPEN",
        "REFUSED",
        "FAILED",
        "BYTES",
        "LAST",
        "UNDER STRICT",
    ]);
    for Pair { key, counts, last, nodes: _, effect } in pairs {
        let bad = if *effect == Effect::Refused { Mood::Bad } else { Mood::Plain };
        table.push([
            key.source.text().into(),
            origin(key.origin, key.inbound).into(),
            key.destination.text().into(),
            key.port.to_string().into(),
            counts.served().to_string().into(),
            counts.open.to_string().into(),
            counts.refused.to_string().into(),
            counts.failed.to_string().into(),
            format!("{}/{}", counts.sent, counts.received).into(),
            time(*last).into(),
            Cell::new(effect_text(*effect), bad),
        ]);
    }
    Ok(screen.table(&mut table)?)
}

fn workloads_text<W: Write>(workloads: &[Workload], screen: &mut Screen<W>) -> Result<(), Failure> {
    let mut table =
        Table::new(["WORKLOAD", "PODS", "MODE NOW", "BY", "MTLS", "ATTESTED", "PLAINTEXT", "OLDER", "VERDICT"]);
    for workload in workloads {
        table.push([
            format!("{}/{}", workload.namespace, workload.name).into(),
            workload.pods.to_string().into(),
            (&workload.mode).into(),
            workload.strict_by.iter().cloned().collect::<Vec<_>>().join(",").into(),
            workload.mutual_tls.to_string().into(),
            workload.attested.to_string().into(),
            workload.plaintext.to_string().into(),
            workload.older.to_string().into(),
            Cell::new(workload_verdict(workload), mood(workload.verdict)),
        ]);
    }
    Ok(screen.table(&mut table)?)
}

fn workload_verdict(workload: &Workload) -> String {
    let since = time(workload.since);
    match workload.verdict {
        Verdict::AlreadyStrict => "already STRICT".into(),
        Verdict::Ready => "ready for STRICT".into(),
        Verdict::NotReady => {
            let named = workload.clients.iter().take(NAMED).map(|client| client.text()).collect::<Vec<_>>().join(", ");
            let more = workload.clients.len().saturating_sub(NAMED);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("not ready: {} would be refused: {named}{more}", clients(workload.clients.len()))
        }
        Verdict::Unknown if workload.unseen > 0 => {
            format!("{} of {} pods are not redirected: nobody can tell", workload.unseen, workload.pods)
        }
        Verdict::Unknown => format!("nothing seen since {since}: nobody can tell"),
    }
}

fn namespace_verdict(namespace: &Namespace) -> String {
    let since = time(namespace.since);
    let but = if namespace.silent.is_empty() {
        String::new()
    } else {
        format!("; of {} nobody can tell", namespace.silent.join(", "))
    };
    match namespace.verdict {
        Verdict::AlreadyStrict => "already STRICT".into(),
        Verdict::Ready => format!("ready for STRICT, by what was seen since {since}{but}"),
        Verdict::NotReady => format!("not ready: {} would be refused{but}", clients(namespace.clients)),
        Verdict::Unknown => format!("nothing seen since {since}: nobody can tell"),
    }
}

fn clients(count: usize) -> String {
    if count == 1 { "1 client".into() } else { format!("{count} clients") }
}

fn time(time: Option<Time>) -> String {
    words::time(time).unwrap_or_else(|| "an unknown time".into())
}

fn mood(verdict: Verdict) -> Mood {
    match verdict {
        Verdict::AlreadyStrict | Verdict::Ready => Mood::Good,
        Verdict::NotReady => Mood::Bad,
        Verdict::Unknown => Mood::Plain,
    }
}

/// Whose the source is. What a source's own agent tells is about a pod of the mesh.
fn origin(origin: Origin, inbound: bool) -> &'static str {
    match origin {
        Origin::MeshedPod if inbound => "pod of the mesh, past its agent",
        Origin::MeshedPod => "pod of the mesh",
        Origin::UnmeshedPod => "pod outside of the mesh",
        Origin::OwnNode => "the node: kubelet, hostNetwork or NodePort",
        Origin::Elsewhere => "outside, or another node",
        Origin::Unspecified => "unknown",
    }
}

fn effect_text(effect: Effect) -> &'static str {
    match effect {
        Effect::Refused => "refused",
        Effect::RefusedNow => "refused already",
        Effect::EndsOnce => "ends once; its client has an identity now",
        Effect::NeverPassed => "no change: it never came about",
        Effect::Unaffected => "no change: the destination is outside of the mesh",
    }
}

/// In the order of the tables. Names and words do not change.
fn records(report: &Report) -> Vec<Value> {
    let Report { windows, missing, pairs, workloads, namespaces } = report;
    let windows = windows.iter().map(|Window { node, since, dropped }| {
        json!({ "kind": "window", "node": node, "since": words::time(*since), "pairs_forgotten": dropped })
    });
    let missing = missing.iter().map(|node| json!({ "kind": "missing", "node": node }));
    let pairs = pairs.iter().map(|Pair { key, counts, last, nodes, effect }| {
        let end =
            |end: &judge::End| json!({ "namespace": end.namespace, "workload": end.workload, "address": end.address });
        json!({
            "kind": "plaintext",
            "source": end(&key.source),
            "origin": match key.origin {
                Origin::MeshedPod => "meshed_pod",
                Origin::UnmeshedPod => "unmeshed_pod",
                Origin::OwnNode => "node",
                Origin::Elsewhere => "elsewhere",
                Origin::Unspecified => "unknown",
            },
            "destination": end(&key.destination),
            "port": key.port,
            "direction": if key.inbound { "inbound" } else { "outbound" },
            "older": key.older,
            "connections": counts.connections,
            "served": counts.served(),
            "open": counts.open,
            "refused": counts.refused,
            "failed": counts.failed,
            "bytes_sent": counts.sent,
            "bytes_received": counts.received,
            "last": words::time(*last),
            "nodes": nodes,
            "under_strict": match effect {
                Effect::Refused => "refused",
                Effect::RefusedNow => "refused_already",
                Effect::EndsOnce => "ends_once",
                Effect::NeverPassed => "never_passed",
                Effect::Unaffected => "unaffected",
            },
        })
    });
    let workloads = workloads.iter().map(|workload| {
        json!({
            "kind": "workload",
            "namespace": workload.namespace,
            "workload": workload.name,
            "pods": workload.pods,
            "pods_not_redirected": workload.unseen,
            "mode": workload.mode,
            "strict_by": workload.strict_by,
            "mutual_tls": workload.mutual_tls,
            "kernel_attested": workload.attested,
            "plaintext": workload.plaintext,
            "older": workload.older,
            "would_be_refused": workload.clients.iter().map(judge::End::text).collect::<Vec<_>>(),
            "since": words::time(workload.since),
            "verdict": verdict(workload.verdict),
            "message": workload_verdict(workload),
        })
    });
    let namespaces = namespaces.iter().map(|namespace| {
        json!({
            "kind": "namespace",
            "namespace": namespace.name,
            "workloads": namespace.workloads,
            "clients_refused": namespace.clients,
            "nobody_can_tell": namespace.silent,
            "since": words::time(namespace.since),
            "verdict": verdict(namespace.verdict),
            "message": namespace_verdict(namespace),
        })
    });
    windows.chain(missing).chain(pairs).chain(workloads).chain(namespaces).collect()
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::AlreadyStrict => "already_strict",
        Verdict::Ready => "ready",
        Verdict::NotReady => "not_ready",
        Verdict::Unknown => "unknown",
    }
}

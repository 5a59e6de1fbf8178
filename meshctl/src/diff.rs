//! `meshctl diff`: which services' rules, which workloads (their policies, and what is told of them) and which live
//! connections a change would touch. What runs and what would run are compiled here, by the controller's own
//! translation and index, and the results compared: another way to write the same is no change.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
};

use mesh_common::proto::nodemesh::{ConfigKind, ConfigQuery, Direction, Flow, item, query};
use mesh_controller::analyze::{Change, Difference, Effect, Finding, PodDifference, ServiceDifference, difference};
use serde_json::{Value, json};

use crate::{
    Outcome, analyze,
    client::{Cluster, Failure, Servers},
    flows::end_text,
    foretold,
    output::{Cell, Mood, Screen, Table},
    words,
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Of live connections those are listed that the policies would end, and those to services whose rules change:
what is dialled or asked from then on takes the new ones. Whether a connection that carries requests is
ended may depend on these; then it is said what it depends on. Of a Telemetry it says which workloads'
requests are read, traced, logged and counted otherwise; \"the agent's\" is what its options say, which
are not asked.

Examples:
  meshctl diff -f canary.yaml
  meshctl diff -f telemetry.yaml
  meshctl diff -f new.yaml --delete AuthorizationPolicy/shop/cart -o json
  meshctl diff -f new.yaml --current manifests/ --controller /var/lib/nodemesh/admin.sock

Exit codes:
  0  nothing changes
  1  something changes
  2  the question was wrong
  3  what runs now cannot be known"
)]
pub struct Arguments {
    #[command(flatten)]
    change: analyze::change::Changing,
}

/// What becomes of a live connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    Cut,
    /// It depends on what is not known of it.
    MayBeCut,
    Rerouted,
}

impl Fate {
    fn word(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::MayBeCut => "may_be_cut",
            Self::Rerouted => "rerouted",
        }
    }
}

/// Compares, and asks every agent for its connections.
///
/// # Errors
/// The change cannot be read; what runs now cannot be known.
pub async fn run<W: Write>(
    arguments: &Arguments,
    servers: Result<Servers, Failure>,
    cluster: &Cluster,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let change = arguments.change.compile(false, cluster).await?;
    let found = difference(&change.before, &change.after);
    let changes = !found.services.is_empty() || !found.pods.is_empty();
    let (mut touched, mut missing) = (Vec::new(), Vec::new());
    match servers {
        _ if !changes => {}
        Ok(servers) => {
            let live =
                query::Kind::Config(ConfigQuery { kind: ConfigKind::Connections.into(), namespace: String::new() });
            let mut answers = servers.ask(live);
            while let Some(answer) = answers.next().await {
                match answer {
                    Ok((node, item::Kind::Connection(info))) => {
                        let mut flow = info.flow.unwrap_or_default();
                        flow.node = node;
                        touched.extend(fate(&change, &found, &flow).map(|(fate, why)| (fate, flow, why)));
                    }
                    Ok(_) => {}
                    Err(failure) => missing.push(failure.to_string()),
                }
            }
        }
        Err(failure) => missing.push(format!("live connections are not known: {failure}")),
    }
    touched.sort_by_key(|(fate, flow, _)| (*fate, flow.node.clone(), flow.id));
    show(&change, &found, (&touched, &missing), screen)?;
    Ok(if changes { Outcome::Found } else { Outcome::Fine })
}

/// What becomes of it, and why; `None`: nothing.
fn fate(change: &Change, found: &Difference, flow: &Flow) -> Option<(Fate, String)> {
    if let Some((effect, why)) = foretold::of_connection(change, flow) {
        return match effect {
            Effect::NewlyDenied => Some((Fate::Cut, why)),
            Effect::Unknown => Some((Fate::MayBeCut, format!("depends on: {why}"))),
            Effect::Unchanged | Effect::NewlyAllowed => None,
        };
    }
    if flow.direction() != Direction::Outbound || flow.service.is_empty() {
        return None;
    }
    let service = found.services.iter().find(|service| service.service.to_string() == flow.service)?;
    let why = || service.what.join("; ");
    match service {
        ServiceDifference { gets_routes: true, .. } => {
            Some((Fate::MayBeCut, "its service gets rules for requests, which it would go past".to_owned()))
        }
        ServiceDifference { reroutes: true, .. } => Some((Fate::Rerouted, why())),
        _ => None,
    }
}

type Touched = (Fate, Flow, String);

fn show<W: Write>(
    change: &Change,
    found: &Difference,
    (touched, missing): (&[Touched], &[String]),
    screen: &mut Screen<W>,
) -> Result<(), Failure> {
    if !screen.format.is_text() {
        return Ok(records(change, found, (touched, missing)).iter().try_for_each(|record| screen.object(record))?);
    }
    for finding in &change.findings {
        screen.line(&finding.to_string(), Mood::Bad)?;
    }
    let mut services = Table::new(["SERVICE", "CHANGE"]);
    for ServiceDifference { service, what, .. } in &found.services {
        let name = words::short_service(&service.to_string());
        what.iter().for_each(|what| services.push([name.as_str().into(), what.into()]));
    }
    let mut workloads = Table::new(["WORKLOAD", "PODS", "CHANGE"]);
    for ((namespace, workload, what), pods) in by_workload(&found.pods) {
        let name = format!("{namespace}/{workload}");
        what.iter().for_each(|what| workloads.push([name.as_str().into(), pods.len().to_string().into(), what.into()]));
    }
    let mut connections = Table::new(["CONNECTION", "NODE", "ID", "DIR", "SOURCE", "DESTINATION", "WHY"]);
    for (fate, flow, why) in touched {
        let mood = if *fate == Fate::Cut { Mood::Bad } else { Mood::Plain };
        connections.push([
            Cell::new(fate.word().replace('_', " "), mood),
            (&flow.node).into(),
            flow.id.to_string().into(),
            words::direction(flow.direction()).into(),
            end_text(flow.source.as_ref()).into(),
            end_text(flow.destination.as_ref()).into(),
            why.into(),
        ]);
    }
    if !services.is_empty() {
        screen.table(&mut services)?;
        screen.line("", Mood::Plain)?;
    }
    if !workloads.is_empty() {
        screen.table(&mut workloads)?;
        screen.line("", Mood::Plain)?;
    }
    if !connections.is_empty() {
        screen.table(&mut connections)?;
        screen.line("", Mood::Plain)?;
    }
    let count = |of: Fate| touched.iter().filter(|(fate, ..)| *fate == of).count();
    let line = match (found.services.len(), found.pods.len()) {
        (0, 0) => "nothing changes: what the objects come to is what runs now".to_owned(),
        (services, pods) => format!(
            "{services} services and {pods} pods change; of live connections {} would be cut, {} may be, {} are to \
             services with other rules",
            count(Fate::Cut),
            count(Fate::MayBeCut),
            count(Fate::Rerouted)
        ),
    };
    screen.line(&line, Mood::Plain)?;
    Ok(missing.iter().try_for_each(|line| screen.line(line, Mood::Bad))?)
}

/// Pods of one workload with the same changes.
fn by_workload(pods: &[PodDifference]) -> BTreeMap<(&str, &str, &[String]), BTreeSet<&str>> {
    let mut all: BTreeMap<_, BTreeSet<&str>> = BTreeMap::new();
    for PodDifference { namespace, name, workload, node: _, what } in pods {
        all.entry((namespace.as_str(), workload.as_str(), what.as_slice())).or_default().insert(name);
    }
    all
}

/// Names and words of it do not change.
fn records(change: &Change, found: &Difference, (touched, missing): (&[Touched], &[String])) -> Vec<Value> {
    let findings = change.findings.iter().map(|finding| {
        let Finding { file, object, field, why, severity } = finding;
        json!({
            "kind": "finding", "severity": severity.word(), "file": file, "object": object, "field": field, "why": why,
        })
    });
    let services = found.services.iter().map(|ServiceDifference { service, what, gets_routes: _, reroutes: _ }| {
        json!({ "kind": "service", "service": service.to_string(), "changes": what })
    });
    let workloads = by_workload(&found.pods).into_iter().map(|((namespace, workload, what), pods)| {
        json!({ "kind": "workload", "namespace": namespace, "workload": workload, "pods": pods, "changes": what })
    });
    let connections = touched.iter().map(|(fate, flow, why)| {
        let flow = crate::flows::record(flow);
        json!({ "kind": "connection", "change": fate.word(), "why": why, "flow": flow })
    });
    let count = |of: Fate| touched.iter().filter(|(fate, ..)| *fate == of).count();
    let summary = json!({
        "kind": "summary",
        "objects": change.changed,
        "services": found.services.len(),
        "pods": found.pods.len(),
        "cut": count(Fate::Cut),
        "may_be_cut": count(Fate::MayBeCut),
        "rerouted": count(Fate::Rerouted),
        "missing": missing,
    });
    findings.chain(services).chain(workloads).chain(connections).chain([summary]).collect()
}

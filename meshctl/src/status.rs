//! `meshctl status`: what runs, what is connected, which pods are redirected, what could not be honoured.

pub mod controller;

use std::{io::Write, time::SystemTime};

use mesh_common::proto::nodemesh::{NodeStatus, PodState, Redirection, StatusQuery, item, query};
use serde_json::{Value, json};

use crate::{
    Outcome,
    client::{Failure, Servers},
    output::{Cell, Format, Mood, Screen, Table},
    words,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl status
  meshctl status --verbose --node node-a      # with the kernel's counters
  meshctl status -o json                      # exit code 1: something is wrong")]
pub struct Arguments {
    /// The verdict counters of the kernel programs too
    #[arg(short, long)]
    verbose: bool,
}

/// Prints agents, pods and controller. Found: a node without its controller or its agent, or that is not ready, a
/// refused configuration, a pod that shall be redirected and is not or whose hooks an audit found wrong, or a problem
/// in the manifests.
pub async fn run<W: Write>(
    servers: &Servers,
    arguments: &Arguments,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let (items, complete) = servers.ask(query::Kind::Status(StatusQuery {})).all().await;
    let (mut nodes, mut controllers) = (Vec::new(), Vec::new());
    for (node, kind) in items {
        match kind {
            item::Kind::Status(status) => nodes.push((node, status)),
            item::Kind::Controller(status) => controllers.push(status),
            _ => {}
        }
    }
    nodes.sort_by(|a, b| a.0.cmp(&b.0));
    let controller = controller::merged(controllers);
    match screen.format {
        Format::Json | Format::Yaml => {
            for (node, status) in &nodes {
                screen.object(&node_json(node, status))?;
            }
            if let Some(status) = &controller {
                screen.object(&controller::record(status))?;
            }
        }
        Format::Table | Format::Compact => {
            if let Some(status) = &controller {
                controller::text(status, screen)?;
            }
            // Where no server answered, the failure says so.
            if !nodes.is_empty() || controller.is_some() || complete.is_ok() {
                agents(&nodes, screen)?;
            }
            pods(&nodes, screen)?;
            if arguments.verbose {
                counters(&nodes, screen)?;
            }
        }
    }
    complete?;
    let found = nodes.iter().any(|(_, status)| is_wrong(status))
        || controller.is_some_and(|status| controller::is_wrong(&status));
    Ok(if found { Outcome::Found } else { Outcome::Fine })
}

fn is_wrong(status: &NodeStatus) -> bool {
    !status.controller_connected
        || !status.last_nack.is_empty()
        || !status.not_ready.is_empty()
        || status
            .pods
            .iter()
            .any(|pod| matches!(pod.redirection(), Redirection::Pending | Redirection::Failed) || !pod.fault.is_empty())
}

fn agents<W: Write>(nodes: &[(String, NodeStatus)], screen: &mut Screen<W>) -> Result<(), Failure> {
    let mut table = Table::new([
        "NODE",
        "CONTROLLER",
        "GENERATION",
        "WORKLOADS",
        "SERVICES",
        "POLICIES",
        "CONNECTIONS",
        "TUNNELS",
        "UP",
        "VERSION",
    ]);
    for (node, status) in nodes {
        let connected = match status.controller_connected {
            true => Cell::new("connected", Mood::Good),
            false => Cell::new("disconnected", Mood::Bad),
        };
        table.push([
            node.into(),
            connected,
            status.generation.to_string().into(),
            status.workloads.to_string().into(),
            status.services.to_string().into(),
            status.policies.to_string().into(),
            status.open_connections.to_string().into(),
            status.tunnels.to_string().into(),
            ago(status.started.map(|started| (started.seconds, started.nanos))).into(),
            (&status.version).into(),
        ]);
    }
    if table.is_empty() {
        screen.line("no agent answered: none is connected", Mood::Bad)?;
        return Ok(());
    }
    screen.table(&mut table)?;
    for (node, status) in nodes {
        if !status.not_ready.is_empty() {
            screen.line(&format!("{node} is not ready: {}", status.not_ready), Mood::Bad)?;
        }
        if !status.last_nack.is_empty() {
            screen.line(&format!("{node} refused a configuration: {}", status.last_nack), Mood::Bad)?;
        }
        if status.configuration_from_disk {
            let why = "has the rules of its disk: no controller has answered since it began";
            screen.line(&format!("{node} {why}"), Mood::Plain)?;
        }
        if let Some(asked) = status.addresses_asked {
            let why = format!("{node} is told of its own pods and of what these dial: {asked} addresses asked for");
            screen.line(&why, Mood::Plain)?;
        }
        if status.telemetry_off {
            let why = "keeps no record of connections and requests: it was started with --telemetry off";
            screen.line(&format!("{node} {why}"), Mood::Plain)?;
        }
        if status.draining {
            screen.line(&format!("{node} drains: live connections go on, new ones are a successor's"), Mood::Plain)?;
        }
    }
    Ok(())
}

fn pods<W: Write>(nodes: &[(String, NodeStatus)], screen: &mut Screen<W>) -> Result<(), Failure> {
    let mut table = Table::new(["NODE", "POD", "MODE", "REDIRECTION", "PROVEN", "WHY"]);
    for (node, status) in nodes {
        for pod in &status.pods {
            let mood = match pod.redirection() {
                Redirection::Enabled => Mood::Good,
                Redirection::Failed => Mood::Bad,
                Redirection::Disabled | Redirection::Pending => Mood::Plain,
            };
            // When an audit last found all of its hooks as they should be.
            let proven = match ago(pod.proven.map(|time| (time.seconds, time.nanos))) {
                none if none.is_empty() => none,
                span => format!("{span} ago"),
            };
            let said = [&pod.message, &pod.fault];
            let why = said.into_iter().filter(|text| !text.is_empty()).cloned().collect::<Vec<_>>().join("; ");
            table.push([
                node.into(),
                format!("{}/{}", pod.namespace, pod.name).into(),
                pod_mode(pod).unwrap_or_default().into(),
                Cell::new(words::redirection(pod.redirection()), mood),
                proven.into(),
                Cell::new(&why, if pod.fault.is_empty() { Mood::Plain } else { Mood::Bad }),
            ]);
        }
    }
    if !table.is_empty() {
        screen.line("", Mood::Plain)?;
        screen.table(&mut table)?;
    }
    Ok(())
}

/// Nothing if the configuration does not name the pod.
fn pod_mode(pod: &PodState) -> Option<&'static str> {
    pod.mode.is_some().then(|| words::mode(pod.mode()))
}

fn counters<W: Write>(nodes: &[(String, NodeStatus)], screen: &mut Screen<W>) -> Result<(), Failure> {
    let mut table = Table::new(["NODE", "COUNTER", "VALUE"]);
    for (node, status) in nodes {
        for counter in &status.counters {
            table.push([node.into(), (&counter.name).into(), counter.value.to_string().into()]);
        }
    }
    if !table.is_empty() {
        screen.line("", Mood::Plain)?;
        screen.table(&mut table)?;
    }
    Ok(())
}

/// How long ago that was by this machine's clock; nothing for a time that is absent.
fn ago(seconds_and_nanos: Option<(i64, i32)>) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |now| now.as_secs_f64());
    seconds_and_nanos.map_or_else(String::new, |(seconds, nanos)| {
        words::span((now - seconds as f64 - f64::from(nanos) / 1e9).max(0.0) * 1000.0)
    })
}

fn node_json(node: &str, status: &NodeStatus) -> Value {
    let pods = status.pods.iter().map(|pod| {
        json!({
            "namespace": pod.namespace,
            "pod": pod.name,
            "pod_uid": pod.pod_uid,
            "mode": pod_mode(pod),
            "redirection": words::redirection(pod.redirection()),
            "message": pod.message,
            "fault": pod.fault,
            "proven": words::time(pod.proven.map(|time| (time.seconds, time.nanos))),
        })
    });
    let counters = status.counters.iter().map(|counter| (counter.name.clone(), counter.value.into()));
    json!({
        "kind": "agent",
        "node": node,
        "version": status.version,
        "started": words::time(status.started.map(|time| (time.seconds, time.nanos))),
        "controller_connected": status.controller_connected,
        "generation": status.generation,
        "workloads": status.workloads,
        "services": status.services,
        "policies": status.policies,
        "open_connections": status.open_connections,
        "tunnels": status.tunnels,
        // Null: it is told of the whole mesh.
        "addresses_asked": status.addresses_asked,
        "last_nack": status.last_nack,
        "not_ready": status.not_ready,
        "configuration_from_disk": status.configuration_from_disk,
        "draining": status.draining,
        "telemetry_off": status.telemetry_off,
        "pods": pods.collect::<Vec<_>>(),
        "counters": counters.collect::<serde_json::Map<_, _>>(),
    })
}

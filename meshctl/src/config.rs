//! `meshctl config`: the configuration as a node (or the controller) holds it.

mod routes;

use std::io::Write;

use mesh_common::{
    model::Validity,
    proto::nodemesh::{
        Accounts, CertificateInfo, ConfigKind, ConfigQuery, PolicyInfo, ServiceInfo, TrafficInfo, WorkloadInfo, item,
        query,
    },
};
use serde_json::{Value, json};

use crate::{
    Outcome,
    client::{Failure, Servers},
    edges,
    output::{Cell, Mood, Namespaces, Screen, Table},
    words,
};

#[derive(Debug, clap::Subcommand)]
pub enum Kind {
    /// Pods with their identities, and how to reach them
    Workloads(Filter),
    /// Services with their ports and endpoints
    Services(Filter),
    /// Policies, and the workloads that they apply to
    Policies(Filter),
    /// Rules of traffic to services: routes, subsets, limits
    Routes(Filter),
    /// ServiceAccounts that exist; none if the source does not say which do
    Accounts(Filter),
    /// Certificates that the node holds in memory
    Certs(Filter),
    /// Connections that are open now, with their bytes until now
    Connections(Filter),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl config workloads -n shop
  meshctl config routes -n shop --node node-a      # as the agent of this node holds them
  meshctl config certs --node node-a -o json
  meshctl config connections -o yaml")]
pub struct Filter {
    #[command(flatten)]
    namespaces: Namespaces,
}

/// Found: a certificate that is not there, or that cannot be renewed.
pub async fn run<W: Write>(servers: &Servers, kind: &Kind, screen: &mut Screen<W>) -> Result<Outcome, Failure> {
    let (asked, filter) = match kind {
        Kind::Workloads(filter) => (ConfigKind::Workloads, filter),
        Kind::Services(filter) => (ConfigKind::Services, filter),
        Kind::Policies(filter) => (ConfigKind::Policies, filter),
        Kind::Routes(filter) => (ConfigKind::Routes, filter),
        Kind::Accounts(filter) => (ConfigKind::Accounts, filter),
        Kind::Certs(filter) => (ConfigKind::Certificates, filter),
        Kind::Connections(filter) => (ConfigKind::Connections, filter),
    };
    let namespace = filter.namespaces.wanted();
    let question = query::Kind::Config(ConfigQuery { kind: asked.into(), namespace });
    let (items, complete) = servers.ask(question).all().await;
    let mut outcome = Outcome::Fine;
    if !screen.format.is_text() {
        for (node, kind) in &items {
            if let Some(object) = record(node, kind) {
                screen.object(&object)?;
            }
        }
    } else {
        match asked {
            ConfigKind::Workloads => workloads(&items, screen)?,
            ConfigKind::Services => services(&items, screen)?,
            ConfigKind::Policies => policies(&items, screen)?,
            ConfigKind::Routes => routes::text(&items, screen)?,
            ConfigKind::Accounts => accounts(&items, screen)?,
            ConfigKind::Certificates => certificates(&items, screen)?,
            ConfigKind::Connections => edges::connections_text(&items, screen)?,
            ConfigKind::ConfigUnspecified => {}
        }
    }
    complete?;
    if items.iter().any(|(_, kind)| matches!(kind, item::Kind::Certificate(info) if !Validity::is_valid(&info.state))) {
        outcome = Outcome::Found;
    }
    Ok(outcome)
}

fn workloads<W: Write>(items: &[(String, item::Kind)], screen: &mut Screen<W>) -> Result<(), Failure> {
    let mut table =
        Table::new(["SEEN BY", "POD", "NODE", "ADDRESSES", "IDENTITY", "PROTOCOL", "HEALTH", "SERVICES", "POLICIES"]);
    for (seen_by, kind) in items {
        let item::Kind::Workload(info) = kind else { continue };
        table.push([
            seen_by.into(),
            format!("{}/{}", info.namespace, info.name).into(),
            (&info.node).into(),
            info.addresses.join(",").into(),
            words::short_identity(&info.identity).into(),
            (&info.protocol).into(),
            if info.healthy { "healthy".into() } else { Cell::new("unhealthy", Mood::Bad) },
            info.services.join(",").into(),
            info.policies.join(",").into(),
        ]);
    }
    Ok(screen.table(&mut table)?)
}

fn services<W: Write>(items: &[(String, item::Kind)], screen: &mut Screen<W>) -> Result<(), Failure> {
    let mut table =
        Table::new(["SEEN BY", "NAMESPACE", "HOSTNAME", "ADDRESSES", "PORTS", "LOAD BALANCING", "ENDPOINTS"]);
    for (seen_by, kind) in items {
        let item::Kind::Service(info) = kind else { continue };
        table.push([
            seen_by.into(),
            (&info.namespace).into(),
            (&info.hostname).into(),
            info.addresses.join(",").into(),
            info.ports.join(",").into(),
            (&info.load_balancing).into(),
            info.endpoints.join(", ").into(),
        ]);
    }
    Ok(screen.table(&mut table)?)
}

fn policies<W: Write>(items: &[(String, item::Kind)], screen: &mut Screen<W>) -> Result<(), Failure> {
    let mut table = Table::new(["SEEN BY", "POLICY", "SCOPE", "ACTION", "RULES", "WORKLOADS"]);
    for (seen_by, kind) in items {
        let item::Kind::Policy(info) = kind else { continue };
        table.push([
            seen_by.into(),
            format!("{}/{}", info.namespace, info.name).into(),
            (&info.scope).into(),
            (&info.action).into(),
            info.rules.to_string().into(),
            info.workloads.join(",").into(),
        ]);
    }
    Ok(screen.table(&mut table)?)
}

fn accounts<W: Write>(items: &[(String, item::Kind)], screen: &mut Screen<W>) -> Result<(), Failure> {
    let mut table = Table::new(["SEEN BY", "NAMESPACE", "ACCOUNTS"]);
    for (seen_by, kind) in items {
        let item::Kind::Accounts(Accounts { namespace, names, mode: _ }) = kind else { continue };
        table.push([seen_by.into(), namespace.into(), names.join(",").into()]);
    }
    Ok(screen.table(&mut table)?)
}

fn certificates<W: Write>(items: &[(String, item::Kind)], screen: &mut Screen<W>) -> Result<(), Failure> {
    let mut table = Table::new(["NODE", "IDENTITY", "STATE", "SERIAL", "NOT BEFORE", "NOT AFTER"]);
    for (node, kind) in items {
        let item::Kind::Certificate(info) = kind else { continue };
        let mood = if Validity::is_valid(&info.state) { Mood::Good } else { Mood::Bad };
        let (not_before, not_after) = validity(info);
        table.push([
            node.into(),
            (&info.identity).into(),
            Cell::new(&info.state, mood),
            (&info.serial).into(),
            not_before.unwrap_or_default().into(),
            not_after.unwrap_or_default().into(),
        ]);
    }
    Ok(screen.table(&mut table)?)
}

fn validity(info: &CertificateInfo) -> (Option<String>, Option<String>) {
    (
        words::time(info.not_before.map(|time| (time.seconds, time.nanos))),
        words::time(info.not_after.map(|time| (time.seconds, time.nanos))),
    )
}

/// The record of `-o json` and `-o yaml`; `seen_by` is the node whose view it is. Nothing for an answer of another
/// kind.
fn record(seen_by: &str, kind: &item::Kind) -> Option<Value> {
    Some(match kind {
        item::Kind::Workload(WorkloadInfo {
            uid,
            namespace,
            name,
            node,
            addresses,
            identity,
            protocol,
            healthy,
            services,
            policies,
            telemetry,
            workload,
            revision,
        }) => json!({
            "seen_by": seen_by, "uid": uid, "namespace": namespace, "pod": name, "node": node, "addresses": addresses,
            "identity": identity, "protocol": protocol, "healthy": healthy, "services": services, "policies": policies,
            "telemetry": serde_json::from_slice::<Value>(telemetry).unwrap_or_default(), "workload": workload,
            "revision": revision,
        }),
        item::Kind::Service(ServiceInfo { namespace, hostname, addresses, ports, endpoints, load_balancing }) => {
            json!({
                "seen_by": seen_by, "namespace": namespace, "hostname": hostname, "addresses": addresses, "ports": ports,
                "endpoints": endpoints, "load_balancing": load_balancing,
            })
        }
        item::Kind::Policy(PolicyInfo { namespace, name, scope, action, rules, workloads }) => json!({
            "seen_by": seen_by, "namespace": namespace, "name": name, "scope": scope, "action": action, "rules": rules,
            "workloads": workloads,
        }),
        item::Kind::Traffic(TrafficInfo { service, rules }) => {
            let rules: Value = serde_json::from_slice(rules).unwrap_or_default();
            json!({ "seen_by": seen_by, "service": service, "rules": rules })
        }
        item::Kind::Accounts(Accounts { namespace, names, mode: _ }) => {
            json!({ "seen_by": seen_by, "namespace": namespace, "accounts": names })
        }
        item::Kind::Certificate(info) => {
            let (not_before, not_after) = validity(info);
            json!({
                "seen_by": seen_by, "identity": info.identity, "serial": info.serial, "not_before": not_before,
                "not_after": not_after, "state": info.state,
            })
        }
        item::Kind::Connection(info) => edges::connection_record(seen_by, info),
        _ => return None,
    })
}

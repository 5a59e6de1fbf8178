//! `meshctl identity`: which pod speaks as whom, and how it stands with its certificate.

use std::io::Write;

use mesh_common::{
    model::Validity,
    proto::nodemesh::{IdentityInfo, IdentityQuery, Redirection, item, query},
};
use serde_json::{Value, json};

use crate::{
    Outcome,
    client::{Failure, Servers},
    flows,
    output::{Cell, Mood, Namespaces, Screen, Table},
    words,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl identity                  # every pod that the agents redirect, or should
  meshctl identity shop/web
  meshctl identity -n shop -o yaml")]
pub struct Arguments {
    /// NAME or NAMESPACE/NAME
    #[arg(value_parser = flows::pod)]
    pod: Option<String>,
    #[command(flatten)]
    namespaces: Namespaces,
}

/// Found: a redirected pod whose certificate is not there, or cannot be renewed.
pub async fn run<W: Write>(
    servers: &Servers,
    arguments: &Arguments,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let Arguments { pod, namespaces } = arguments;
    let pod = pod.clone().unwrap_or_default();
    let question = IdentityQuery { namespace: namespaces.wanted(), pod: pod.clone() };
    let (items, complete) = servers.ask(query::Kind::Identity(question)).all().await;
    let mut all: Vec<(String, IdentityInfo)> = items
        .into_iter()
        .filter_map(|(node, kind)| match kind {
            item::Kind::Identity(info) => Some((node, info)),
            _ => None,
        })
        .collect();
    all.sort_by(|a, b| (&a.1.namespace, &a.1.pod, &a.0).cmp(&(&b.1.namespace, &b.1.pod, &b.0)));
    if all.is_empty() && !pod.is_empty() {
        complete?;
        return Err(Failure::Usage(format!(
            "no agent that was asked has a pod {pod}: see `meshctl status` for those that joined, and `meshctl config \
             workloads` for its node"
        )));
    }
    if screen.format.is_text() {
        text(&all, screen)?;
    } else {
        all.iter().try_for_each(|(node, info)| screen.object(&record(node, info)))?;
    }
    complete?;
    let wrong = |info: &IdentityInfo| info.redirection() == Redirection::Enabled && !is_valid(info);
    Ok(if all.iter().any(|(_, info)| wrong(info)) { Outcome::Found } else { Outcome::Fine })
}

fn is_valid(info: &IdentityInfo) -> bool {
    info.certificate.as_ref().is_some_and(|certificate| Validity::is_valid(&certificate.state))
}

fn text<W: Write>(all: &[(String, IdentityInfo)], screen: &mut Screen<W>) -> Result<(), Failure> {
    let mut table =
        Table::new(["NODE", "POD", "IDENTITY", "ADDRESSES", "REDIRECTION", "CERTIFICATE", "SERIAL", "NOT AFTER"]);
    for (node, info) in all {
        let certificate = info.certificate.clone().unwrap_or_default();
        let mood = if is_valid(info) { Mood::Good } else { Mood::Bad };
        table.push([
            node.into(),
            format!("{}/{}", info.namespace, info.pod).into(),
            (&info.identity).into(),
            info.addresses.join(",").into(),
            words::redirection(info.redirection()).into(),
            Cell::new(&certificate.state, mood),
            (&certificate.serial).into(),
            words::time(certificate.not_after.map(|time| (time.seconds, time.nanos))).unwrap_or_default().into(),
        ]);
    }
    Ok(screen.table(&mut table)?)
}

fn record(node: &str, info: &IdentityInfo) -> Value {
    let certificate = info.certificate.clone().unwrap_or_default();
    let time = |time: Option<(i64, i32)>| words::time(time);
    json!({
        "node": node,
        "namespace": info.namespace,
        "pod": info.pod,
        "identity": info.identity,
        "addresses": info.addresses,
        "redirection": words::redirection(info.redirection()),
        "state": certificate.state,
        "serial": certificate.serial,
        "not_before": time(certificate.not_before.map(|time| (time.seconds, time.nanos))),
        "not_after": time(certificate.not_after.map(|time| (time.seconds, time.nanos))),
    })
}

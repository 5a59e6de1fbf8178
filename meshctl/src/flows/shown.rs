//! Flows as people read them: a table, or a line each.

use std::io::Write;

use mesh_common::proto::nodemesh::{Endpoint, Flow, Observation, ObservedAs, Security, Verdict};

use super::{ended, milliseconds, record};
use crate::{
    client::Failure,
    output::{Cell, Format, Mood, Screen, Table},
    words,
};

pub const HEADER: [&str; 16] = [
    "TIME",
    "NODE",
    "ID",
    "DIR",
    "SOURCE",
    "DESTINATION",
    "SERVICE",
    "PATH",
    "SECURITY",
    "VERDICT",
    "REASON",
    "POLICY#RULE",
    "OBSERVED",
    "BYTES",
    "DURATION",
    "REQUEST",
];
/// While following, a row cannot wait for the widths of those after it.
pub const FOLLOW_WIDTHS: [usize; 16] = [24, 8, 7, 8, 36, 36, 28, 11, 15, 9, 16, 24, 8, 14, 8, 7];

pub fn show<W: Write>(flows: &[Flow], table: &mut Table<16>, screen: &mut Screen<W>) -> Result<(), Failure> {
    match screen.format {
        Format::Json | Format::Yaml => flows.iter().try_for_each(|flow| screen.object(&record(flow)))?,
        Format::Compact => flows.iter().try_for_each(|flow| screen.spans(&line(flow)))?,
        Format::Table => {
            flows.iter().for_each(|flow| table.push(row(flow)));
            screen.table(table)?;
        }
    }
    Ok(())
}

fn mood(verdict: Verdict) -> Mood {
    match verdict {
        Verdict::Forwarded => Mood::Good,
        Verdict::Dropped | Verdict::Error => Mood::Bad,
        Verdict::Audit | Verdict::Unspecified => Mood::Plain,
    }
}

/// Who, to whom, what of it, and which way: what is not there is left out, so that a line is one of prose.
pub fn line(flow: &Flow) -> Vec<Cell> {
    let dim = |text: String| (!text.is_empty()).then(|| Cell::new(text, Mood::Dim));
    let plain = |text: String| (!text.is_empty()).then(|| Cell::new(text, Mood::Plain));
    let port = flow.destination.as_ref().and_then(|end| end.address.rsplit_once(':')).map(|(_, port)| port);
    let destination = match flow.destination.as_ref() {
        Some(end) if !end.pod.is_empty() => {
            format!("{}/{}{}", end.namespace, end.pod, port.map(|port| format!(":{port}")).unwrap_or_default())
        }
        end => end.map(|end| end.address.clone()).unwrap_or_default(),
    };
    let source = match flow.source.as_ref() {
        Some(end) if !end.pod.is_empty() => format!("{}/{}", end.namespace, end.pod),
        end => end.map(|end| end.address.clone()).unwrap_or_default(),
    };
    let known = |text: &str| if text.is_empty() { "?".to_owned() } else { text.to_owned() };
    let service = words::short_service(&flow.service);
    let decided = if flow.policy.is_empty() { String::new() } else { format!("by {}", deciding(flow)) };
    let bad = if mood(flow.verdict()) == Mood::Bad { mood(flow.verdict()) } else { Mood::Plain };
    [
        dim(words::time(ended(flow)).unwrap_or_default()),
        dim(format!("{}#{} {}", flow.node, flow.id, words::direction(flow.direction()))),
        plain(format!("{} -> {}", known(&source), known(&destination))),
        dim(if service.is_empty() { service } else { format!("({service})") }),
        plain(words::protocol(flow).to_owned()),
        Some(Cell::new(words::verdict(flow.verdict()), mood(flow.verdict()))),
        (!flow.reason.is_empty()).then(|| Cell::new(&flow.reason, bad)),
        plain(decided),
        plain(asked(flow)),
        plain(milliseconds(flow).map(words::span).unwrap_or_default()),
        dim(format!("{}/{}B", flow.bytes_sent, flow.bytes_received)),
        dim(format!("{} {}", words::path(flow.path()), words::security(flow.security()))),
        plain(flow.observations.iter().map(observed).collect::<Vec<_>>().join("; ")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The request, or how many datagrams.
fn asked(flow: &Flow) -> String {
    let request = flow.http.as_ref().map(words::request);
    let datagrams = || flow.udp.map(|udp| format!("udp {}/{}", udp.datagrams_sent, udp.datagrams_received));
    request.or_else(datagrams).unwrap_or_default()
}

fn row(flow: &Flow) -> [Cell; 16] {
    let security = match flow.security() {
        Security::Plaintext => Mood::Dim,
        _ => Mood::Plain,
    };
    [
        words::time(ended(flow)).unwrap_or_default().into(),
        (&flow.node).into(),
        flow.id.to_string().into(),
        words::direction(flow.direction()).into(),
        end_text(flow.source.as_ref()).into(),
        end_text(flow.destination.as_ref()).into(),
        words::short_service(&flow.service).into(),
        words::path(flow.path()).into(),
        Cell::new(words::security(flow.security()), security),
        Cell::new(words::verdict(flow.verdict()), mood(flow.verdict())),
        (&flow.reason).into(),
        deciding(flow).into(),
        flow.observations.iter().map(observed).collect::<Vec<_>>().join("; ").into(),
        format!("{}/{}", flow.bytes_sent, flow.bytes_received).into(),
        milliseconds(flow).map(words::span).unwrap_or_default().into(),
        asked(flow).into(),
    ]
}

fn named(policy: &str, rule: i32) -> String {
    match (policy, rule) {
        ("", _) => String::new(),
        (policy, rule @ 0..) => format!("{policy}#{rule}"),
        (policy, _) => policy.to_string(),
    }
}

/// The policy and rule that decided.
pub fn deciding(flow: &Flow) -> String {
    named(&flow.policy, flow.rule)
}

fn observed(seen: &Observation) -> String {
    let policy = named(&seen.policy, seen.rule);
    match (seen.observed_as(), seen.would_refuse) {
        (ObservedAs::Audited, _) => format!("audited by {policy}"),
        (ObservedAs::DryRun, true) => format!("dry run {policy} would refuse"),
        (ObservedAs::DryRun, false) => format!("dry run {policy} would permit"),
        (ObservedAs::Unspecified, _) => policy,
    }
}

/// `namespace/pod (namespace/service-account)`, or the address of whom the mesh does not know.
pub fn end_text(end: Option<&Endpoint>) -> String {
    let Some(end) = end else { return String::new() };
    let who = match (end.namespace.as_str(), end.pod.as_str()) {
        (_, "") => end.address.clone(),
        (namespace, pod) => format!("{namespace}/{pod}"),
    };
    match end.identity.as_str() {
        "" => who,
        identity => format!("{who} ({})", words::short_identity(identity)),
    }
}

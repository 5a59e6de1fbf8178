//! `meshctl flows`: one line a connection, with both identities, the way it took and what decided. Requests have lines
//! of their own where something befell them: a refusal, an answer that the mesh gave itself, an audit.

use std::{
    io::Write,
    time::{Duration, SystemTime},
};

use mesh_common::proto::nodemesh::{
    Direction, Endpoint, Flow, FlowsQuery, HttpRequest, Observation, ObservedAs, Security, Verdict, item, query,
};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::{
    Outcome,
    client::{Answers, Failure, Servers},
    output::{Cell, Format, Mood, Namespaces, Screen, Table},
    words::{self, DirectionFilter, VerdictFilter},
};

const HEADER: [&str; 16] = [
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
const FOLLOW_WIDTHS: [usize; 16] = [24, 8, 7, 8, 36, 36, 28, 11, 15, 9, 16, 24, 8, 14, 8, 7];
/// While following, recorded flows arrive in one go from each server; such a pause ends them.
const PAUSE: Duration = Duration::from_millis(250);
/// How long flows without a pause are taken for recorded ones.
const LONGEST_BACKLOG: Duration = Duration::from_secs(1);

#[derive(Debug, Default, clap::Args)]
#[command(
    after_help = "The verdict is AUDIT where a connection was forwarded and an AUDIT policy matched; OBSERVED names
it, and dry-run policies that would have decided otherwise. A line with a REQUEST is of that request, besides the
line of its connection: requests are recorded where policies refused or audited them, or the mesh answered itself.

Examples:
  meshctl flows -f -n shop
  meshctl flows --verdict dropped --since 5m
  meshctl flows --from shop/cart --to shop/web --last 1 -o yaml"
)]
pub struct Arguments {
    /// Go on with the connections to come
    #[arg(short, long)]
    follow: bool,
    /// Only the newest N of those recorded
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    last: Option<u32>,
    /// Only those that ended within this time: 30s, 5m, 2h, 1d
    #[arg(long, value_name = "TIME", value_parser = words::duration)]
    since: Option<Duration>,
    #[command(flatten)]
    namespaces: Namespaces,
    /// Source or destination is this pod: NAME or NAMESPACE/NAME
    #[arg(long, value_parser = pod)]
    pod: Option<String>,
    /// The source is this pod
    #[arg(long, value_name = "POD", value_parser = pod)]
    from: Option<String>,
    /// The destination is this pod
    #[arg(long, value_name = "POD", value_parser = pod)]
    to: Option<String>,
    /// How it ended
    #[arg(long, value_enum, ignore_case = true)]
    verdict: Option<VerdictFilter>,
    /// As the reporting node saw it
    #[arg(long, value_enum, ignore_case = true)]
    direction: Option<DirectionFilter>,
}

/// `name` or `namespace/name`.
pub(crate) fn pod(text: &str) -> Result<String, String> {
    let parts = text.split('/').collect::<Vec<_>>();
    if parts.len() <= 2 && parts.iter().all(|part| !part.is_empty()) {
        Ok(text.to_string())
    } else {
        Err("a pod is NAME or NAMESPACE/NAME".into())
    }
}

pub async fn run<W: Write>(
    servers: &Servers,
    arguments: &Arguments,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let mut answers = servers.ask(query::Kind::Flows(question(arguments)));
    if !arguments.follow {
        let (items, complete) = answers.all().await;
        let flows = items.into_iter().filter_map(|(node, kind)| flow_of(node, kind)).collect();
        show(&newest(flows, arguments), &mut Table::new(HEADER), screen)?;
        return complete.map(|()| Outcome::Fine);
    }
    let mut table = Table::new(HEADER).with_widths(FOLLOW_WIDTHS);
    let (mut living, mut unsaid) = (answers.asked(), None);
    let mut failures = |failure: Failure| {
        living = living.saturating_sub(1);
        if living == 0 {
            // It ends the command, which says it.
            unsaid = Some(failure);
        } else {
            // The others go on.
            eprintln!("meshctl: {}", crate::output::plain(&failure.to_string()));
        }
    };
    let recorded = newest(backlog(&mut answers, &mut failures).await, arguments);
    if !recorded.is_empty() {
        show(&recorded, &mut table, screen)?;
    }
    while let Some(answer) = answers.next().await {
        match answer {
            Ok((node, kind)) => show(flow_of(node, kind).as_slice(), &mut table, screen)?,
            Err(failure) => failures(failure),
        }
    }
    Err(unsaid.unwrap_or_else(|| Failure::Unreachable("the servers ended their streams; were they stopped?".into())))
}

/// What has been recorded, as far as it comes without a pause: no server says where its new flows begin. A flow that
/// comes later is not lost, it is only not in order.
async fn backlog(answers: &mut Answers, failures: &mut impl FnMut(Failure)) -> Vec<Flow> {
    let end = Instant::now() + LONGEST_BACKLOG;
    let mut flows = Vec::new();
    while let Ok(Some(answer)) = timeout_at(end.min(Instant::now() + PAUSE), answers.next()).await {
        match answer {
            Ok((node, kind)) => flows.extend(flow_of(node, kind)),
            Err(failure) => failures(failure),
        }
    }
    flows
}

/// Those of all servers in order of time; each sent its own newest, of which only the newest `last` are kept.
fn newest(mut flows: Vec<Flow>, arguments: &Arguments) -> Vec<Flow> {
    let Arguments { last, since, .. } = arguments;
    if let Some(earliest) = since.and_then(|since| SystemTime::now().checked_sub(since)) {
        let earliest = earliest.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        flows
            .retain(|flow| ended(flow).is_some_and(|(seconds, _)| u64::try_from(seconds).is_ok_and(|s| s >= earliest)));
    }
    flows.sort_by_key(ended);
    let excess = last.map_or(0, |last| flows.len().saturating_sub(last as usize));
    flows.drain(..excess);
    flows
}

fn question(arguments: &Arguments) -> FlowsQuery {
    let Arguments { follow, last, since, namespaces, pod, from, to, verdict, direction } = arguments;
    FlowsQuery {
        follow: *follow,
        last: last.unwrap_or(0),
        namespace: namespaces.wanted(),
        pod: pod.clone().unwrap_or_default(),
        from: from.clone().unwrap_or_default(),
        to: to.clone().unwrap_or_default(),
        verdict: verdict.map_or(Verdict::Unspecified, Verdict::from).into(),
        direction: direction.map_or(Direction::Unspecified, Direction::from).into(),
        since: since.and_then(|since| SystemTime::now().checked_sub(since)).map(Into::into),
        ..FlowsQuery::default()
    }
}

pub(crate) fn flow_of(node: String, kind: item::Kind) -> Option<Flow> {
    match kind {
        item::Kind::Flow(mut flow) => {
            if flow.node.is_empty() {
                flow.node = node;
            }
            Some(flow)
        }
        _ => None,
    }
}

fn show<W: Write>(flows: &[Flow], table: &mut Table<16>, screen: &mut Screen<W>) -> Result<(), Failure> {
    match screen.format {
        Format::Json | Format::Yaml => flows.iter().try_for_each(|flow| screen.object(&record(flow)))?,
        Format::Table => {
            flows.iter().for_each(|flow| table.push(row(flow)));
            screen.table(table)?;
        }
    }
    Ok(())
}

fn row(flow: &Flow) -> [Cell; 16] {
    let verdict = match flow.verdict() {
        Verdict::Forwarded => Mood::Good,
        Verdict::Dropped | Verdict::Error => Mood::Bad,
        Verdict::Audit | Verdict::Unspecified => Mood::Plain,
    };
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
        Cell::new(words::verdict(flow.verdict()), verdict),
        (&flow.reason).into(),
        deciding(flow).into(),
        flow.observations.iter().map(observed).collect::<Vec<_>>().join("; ").into(),
        format!("{}/{}", flow.bytes_sent, flow.bytes_received).into(),
        milliseconds(flow).map(words::span).unwrap_or_default().into(),
        flow.http.as_ref().map(words::request).unwrap_or_default().into(),
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
pub(crate) fn deciding(flow: &Flow) -> String {
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
pub(crate) fn end_text(end: Option<&Endpoint>) -> String {
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

fn ended(flow: &Flow) -> Option<(i64, i32)> {
    flow.end.or(flow.start).map(|time| (time.seconds, time.nanos))
}

pub(crate) fn milliseconds(flow: &Flow) -> Option<f64> {
    let (start, end) = (flow.start?, flow.end?);
    let elapsed = (end.seconds - start.seconds) as f64 * 1e3 + f64::from(end.nanos - start.nanos) / 1e6;
    Some(elapsed.max(0.0))
}

pub(crate) fn end_record(end: Option<&Endpoint>) -> Value {
    let end = end.cloned().unwrap_or_default();
    json!({
        "namespace": end.namespace,
        "pod": end.pod,
        "workload": end.workload,
        "service_account": end.service_account,
        "identity": end.identity,
        "address": end.address,
    })
}

fn request_record(http: &HttpRequest) -> Value {
    let HttpRequest { method, path, host, status, version, principal, flags, request_id, .. } = http;
    json!({
        "method": method,
        "path": path,
        "host": host,
        "status": (*status > 0).then_some(status),
        "version": version,
        "principal": principal,
        "flags": flags,
        "request_id": request_id,
    })
}

/// The record of `-o json` and `-o yaml`. Its names and words do not change.
pub(crate) fn record(flow: &Flow) -> Value {
    let time = |time: Option<(i64, i32)>| words::time(time);
    let observed = |seen: &Observation| {
        json!({
            "policy": seen.policy,
            "rule": (seen.rule >= 0).then_some(seen.rule),
            "observed_as": words::observed_as(seen.observed_as()),
            "would_refuse": seen.would_refuse,
        })
    };
    json!({
        "time": time(ended(flow)),
        "start": time(flow.start.map(|start| (start.seconds, start.nanos))),
        "duration_ms": milliseconds(flow),
        "id": flow.id,
        "node": flow.node,
        "direction": words::direction(flow.direction()),
        "verdict": words::verdict(flow.verdict()),
        "reason": flow.reason,
        "source": end_record(flow.source.as_ref()),
        "destination": end_record(flow.destination.as_ref()),
        "service": flow.service,
        "path": words::path(flow.path()),
        "security": words::security(flow.security()),
        "tls_version": flow.tls_version,
        "tls_cipher": flow.tls_cipher,
        "rtt_us": flow.tcp.map(|tcp| tcp.rtt_us),
        "retransmits": flow.tcp.map(|tcp| tcp.retransmits),
        "bytes_sent": flow.bytes_sent,
        "bytes_received": flow.bytes_received,
        "policy": flow.policy,
        "rule": (!flow.policy.is_empty() && flow.rule >= 0).then_some(flow.rule),
        "generation": flow.generation,
        "error": flow.error,
        "observations": flow.observations.iter().map(observed).collect::<Vec<_>>(),
        "http": flow.http.as_ref().map(request_record),
    })
}

#[cfg(test)]
pub(crate) mod tests;

//! `meshctl flows`: one line a connection, with both identities, the way it took and what decided. Requests that an
//! agent reads have lines of their own.

mod filters;
mod order;
mod record;
mod shown;

use std::{
    io::Write,
    time::{Duration, SystemTime},
};

use mesh_common::proto::nodemesh::{Flow, FlowsQuery, FlowsWindow, flows_query::Only, item, query};
use tokio::time::{Instant, timeout_at};

pub use filters::{Filters, pod};
pub use record::{end_record, record};
pub use shown::{deciding, end_text, line};

use crate::{
    Outcome,
    client::{Answers, Failure, Servers},
    output::{self, Screen, Table},
    words::{self, ProtocolFilter},
};
use order::{Newest, Reorder};
use shown::{FOLLOW_WIDTHS, HEADER, show};

/// While following, recorded flows arrive in one go from each server; such a pause ends them.
const PAUSE: Duration = Duration::from_millis(250);
/// How long flows without a pause are taken for recorded ones.
const LONGEST_BACKLOG: Duration = Duration::from_secs(1);

#[derive(Debug, Default, clap::Args)]
#[command(
    after_help = "The verdict is AUDIT where a connection was forwarded and an AUDIT policy matched; OBSERVED names
it, and dry-run policies that would have decided otherwise. A line with a REQUEST is of that request, besides the
line of its connection: requests have lines where an agent reads them. Agents filter; what they could not keep
is told at the end, on stderr.

Examples:
  meshctl flows -f -n shop -o compact
  meshctl flows --verdict dropped --since 5m
  meshctl flows --from shop/cart --to shop/web --last 1 -o yaml
  meshctl flows --protocol http --http-status 5xx --path /api -f
  meshctl flows --trace-id 4bf92f3577b34da6a3ce929d0e0e4736"
)]
pub struct Arguments {
    /// Go on with the connections and requests to come
    #[arg(short, long)]
    follow: bool,
    /// Only the newest N of those recorded
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    last: Option<u32>,
    /// Only those that ended within this time: 30s, 5m, 2h, 1d
    #[arg(long, value_name = "TIME", value_parser = words::duration)]
    since: Option<Duration>,
    #[command(flatten)]
    filters: Filters,
    /// tcp is what is no request, http is every request, grpc are those of gRPC
    #[arg(long, value_enum, ignore_case = true)]
    protocol: Option<ProtocolFilter>,
}

pub async fn run<W: Write>(
    servers: &Servers,
    arguments: &Arguments,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let now = SystemTime::now();
    let question = question(arguments, now);
    let mut answers = servers.ask(query::Kind::Flows(question.clone()));
    if arguments.follow {
        return follow(&mut answers, (&question, arguments), screen).await;
    }
    let (mut kept, mut windows, mut failures) = (Newest::new(arguments.last), Vec::new(), Vec::new());
    while let Some(answer) = answers.next().await {
        match answer {
            Ok((node, item::Kind::Window(window))) => windows.push((node, window)),
            Ok((node, kind)) => {
                if let Some(flow) = flow_of(node, kind) {
                    filters::understood(&question, &flow)?;
                    kept.push(flow);
                }
            }
            Err(failure) => failures.push(failure),
        }
    }
    show(&kept.in_order(), &mut Table::new(HEADER), screen)?;
    let asked_from = arguments.since.and_then(|since| now.checked_sub(since));
    windows.sort_by(|a, b| a.0.cmp(&b.0));
    for (node, window) in &windows {
        if let Some(text) = lost(node, window, asked_from) {
            eprintln!("meshctl: {}", output::plain(&text));
        }
    }
    crate::client::first(failures).map(|()| Outcome::Fine)
}

async fn follow<W: Write>(
    answers: &mut Answers,
    (question, arguments): (&FlowsQuery, &Arguments),
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let mut table = Table::new(HEADER).with_widths(FOLLOW_WIDTHS);
    let (mut living, mut unsaid) = (answers.asked(), None);
    let mut failures = |failure: Failure| {
        living = living.saturating_sub(1);
        if living == 0 {
            // It ends the command, which says it.
            unsaid = Some(failure);
        } else {
            // The others go on.
            eprintln!("meshctl: {}", output::plain(&failure.to_string()));
        }
    };
    let mut recorded = Newest::new(arguments.last);
    backlog(answers, &mut failures).await.into_iter().for_each(|flow| recorded.push(flow));
    let recorded = recorded.in_order();
    if !recorded.is_empty() {
        recorded.iter().try_for_each(|flow| filters::understood(question, flow))?;
        show(&recorded, &mut table, screen)?;
    }
    let mut held = Reorder::default();
    loop {
        let due = held.next_due();
        let answer = tokio::select! {
            answer = answers.next() => answer,
            () = async { tokio::time::sleep_until(due.unwrap_or_else(Instant::now)).await }, if due.is_some() => {
                show(&held.due(Instant::now()), &mut table, screen)?;
                continue;
            }
        };
        match answer {
            Some(Ok((node, kind))) => {
                if let Some(flow) = flow_of(node, kind) {
                    filters::understood(question, &flow)?;
                    let full = held.push(flow, Instant::now());
                    show(full.as_slice(), &mut table, screen)?;
                }
            }
            Some(Err(failure)) => failures(failure),
            None => break,
        }
    }
    show(&held.all(), &mut table, screen)?;
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

fn question(arguments: &Arguments, now: SystemTime) -> FlowsQuery {
    let Arguments { follow, last, since, filters, protocol } = arguments;
    let since = match since {
        Some(since) => now.checked_sub(*since),
        // Who asks for all is told how far back all goes.
        None => (last.is_none() && !follow).then_some(SystemTime::UNIX_EPOCH),
    };
    FlowsQuery {
        follow: *follow,
        last: last.unwrap_or(0),
        since: since.map(Into::into),
        only: protocol.map_or(Only::All, Only::from).into(),
        ..filters.question()
    }
}

/// What is missing in the answer of a node; nothing if nothing is.
fn lost(node: &str, window: &FlowsWindow, asked_from: Option<SystemTime>) -> Option<String> {
    let FlowsWindow { from, replaced, lost } = window;
    let reaches = from.and_then(|from| SystemTime::try_from(from).ok());
    let is_short = *replaced > 0 && reaches.is_none_or(|reaches| asked_from.is_none_or(|asked| asked < reaches));
    let mut parts = Vec::new();
    if is_short {
        let since = words::time(from.map(|from| (from.seconds, from.nanos))).unwrap_or_default();
        parts.push(format!("its records are whole since {since} only, {replaced} had to make room"));
    }
    if *lost > 0 {
        parts.push(format!("its kernel had no room for {lost} since its programs were loaded"));
    }
    (!parts.is_empty()).then(|| format!("node {node}: {}", parts.join("; ")))
}

pub fn flow_of(node: String, kind: item::Kind) -> Option<Flow> {
    match kind {
        item::Kind::Flow(mut flow) => {
            if flow.node.is_empty() {
                flow.node = node;
            }
            Some(*flow)
        }
        _ => None,
    }
}

fn ended(flow: &Flow) -> Option<(i64, i32)> {
    flow.end.or(flow.start).map(|time| (time.seconds, time.nanos))
}

pub fn milliseconds(flow: &Flow) -> Option<f64> {
    let (start, end) = (flow.start?, flow.end?);
    let elapsed = (end.seconds - start.seconds) as f64 * 1e3 + f64::from(end.nanos - start.nanos) / 1e6;
    Some(elapsed.max(0.0))
}

#[cfg(test)]
pub(crate) mod tests;

//! `meshctl policy test`: what a change of policies would have meant for the connections and requests that the agents have
//! recorded. Both sides are compiled here, by the controller's own translation and index, so that an equal rewrite is no
//! change; records are put to the result by the same evaluation that agents decide with.

mod record;
mod tested;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    io::Write,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use mesh_common::proto::nodemesh::{FlowsQuery, item, query};
use mesh_controller::analyze::{Change, Effect, Finding, Said, Severity};
use serde_json::{Value, json};

use crate::{
    Outcome, analyze,
    client::{Cluster, Failure, Servers},
    output::{Cell, Format, Mood, Screen, Table},
    words,
};
pub use tested::of_connection;

use record::Skipped;
use tested::{End, Pair, Tested};

#[derive(Debug, clap::Subcommand)]
pub enum Question {
    /// Run changed policies against what was recorded: which pairs would be denied or allowed now
    Test(Arguments),
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The files hold AuthorizationPolicies, PeerAuthentications and RequestAuthentications. Each recorded connection
and request is asked about before and after; listed are those pairs for which the answer differs. It is
`unknown` where it depends on what is not recorded: headers, claims, and which requests a connection
carried. Requests are recorded that were refused, or that an AUDIT or dry-run policy speaks of: an AUDIT
policy on a workload makes all of its requests known. Dry-run policies change nothing, and nothing is
said of them here. Agents keep a bounded number of records; how far back they reach is said.

Examples:
  meshctl policy test -f new.yaml --since 1h
  meshctl policy test --delete AuthorizationPolicy/shop/cart
  meshctl policy test -f new.yaml --current manifests/ --controller /var/lib/nodemesh/admin.sock

Exit codes:
  0  nothing changes for anybody that was recorded
  1  somebody would be denied, or allowed
  2  the question was wrong
  3  it cannot be said: records do not reach back so far, or what decides was not recorded"
)]
pub struct Arguments {
    #[command(flatten)]
    change: analyze::change::Arguments,
    /// Records of what ended within this time: 30s, 5m, 2h, 1d
    #[arg(long, value_name = "TIME", value_parser = words::duration, default_value = "1h")]
    since: Duration,
}

/// Asks every agent for its records.
///
/// # Errors
/// The change cannot be read; what runs now cannot be known.
pub async fn test<W: Write>(
    arguments: &Arguments,
    servers: &Servers,
    cluster: &Cluster,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let change = arguments.change.compile(true, cluster).await?;
    let since = SystemTime::now().checked_sub(arguments.since).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut tested = Tested::new(&change);
    let mut answers =
        servers.ask(query::Kind::Flows(FlowsQuery { since: Some(since.into()), ..FlowsQuery::default() }));
    let mut failures = Vec::new();
    while let Some(answer) = answers.next().await {
        match answer {
            Ok((node, item::Kind::Flow(mut flow))) => {
                flow.node = node;
                tested.flow(&change, &flow);
            }
            Ok((node, item::Kind::Window(window))) => tested.window(&node, window),
            Ok(_) => {}
            Err(failure) => failures.push(crate::output::plain(&failure.to_string())),
        }
    }
    let since = Timestamp::try_from(since).unwrap_or(Timestamp::UNIX_EPOCH);
    let mut missing = tested.missing(since);
    missing.extend(failures);
    show(&change, &tested, (since, &missing), screen)?;
    let changes = tested.count(Effect::NewlyDenied) + tested.count(Effect::NewlyAllowed);
    // What is the same everywhere changes nothing for anybody, recorded or not.
    let unsure = tested.affected > 0 && (!missing.is_empty() || tested.count(Effect::Unknown) > 0);
    Ok(match (changes, unsure) {
        (1.., _) => Outcome::Found,
        (0, true) => Outcome::Unsure,
        (0, false) => Outcome::Fine,
    })
}

fn show<W: Write>(
    change: &Change,
    tested: &Tested,
    (since, missing): (Timestamp, &[String]),
    screen: &mut Screen<W>,
) -> Result<(), Failure> {
    if screen.format != Format::Table {
        return Ok(records(change, tested, (since, missing)).iter().try_for_each(|record| screen.object(record))?);
    }
    for finding in &change.findings {
        screen.line(&finding.to_string(), mood_of(finding))?;
    }
    let mut table = Table::new(["CHANGE", "COUNT", "SOURCE", "DESTINATION", "PORT", "REQUEST", "BEFORE", "AFTER"]);
    for (pair, count) in &tested.pairs {
        let request = pair.request.as_ref().map(|(method, path)| format!("{method} {path}")).unwrap_or_default();
        let after = match pair.effect {
            Effect::Unknown => format!("needs: {}", pair.needs.join(", ")),
            _ => said(pair.after.as_ref()),
        };
        let mood = match pair.effect {
            Effect::NewlyDenied => Mood::Bad,
            Effect::NewlyAllowed => Mood::Good,
            _ => Mood::Plain,
        };
        table.push([
            Cell::new(word(pair.effect).replace('_', " "), mood),
            count.to_string().into(),
            named(&pair.source, true).into(),
            named(&pair.destination, false).into(),
            pair.port.to_string().into(),
            request.into(),
            said(pair.before.as_ref()).into(),
            after.into(),
        ]);
    }
    if !table.is_empty() {
        screen.table(&mut table)?;
    }
    for line in summary(change, tested, since) {
        screen.line(&line, Mood::Plain)?;
    }
    Ok(missing.iter().try_for_each(|line| screen.line(line, Mood::Bad))?)
}

fn mood_of(finding: &Finding) -> Mood {
    if finding.severity == Severity::Error { Mood::Bad } else { Mood::Plain }
}

fn summary(change: &Change, tested: &Tested, since: Timestamp) -> Vec<String> {
    let Tested { skipped, records, judged, affected, .. } = tested;
    let objects = change.changed.len();
    let mut lines = vec![match affected {
        0 => format!("{objects} objects: what they come to is what runs now; nothing changes for any pod"),
        _ => format!(
            "{objects} objects change what is decided about {affected} pods: of {judged} records newly denied {}, newly \
             allowed {}, unknown {}",
            tested.count(Effect::NewlyDenied),
            tested.count(Effect::NewlyAllowed),
            tested.count(Effect::Unknown)
        ),
    }];
    let others: Vec<_> =
        Skipped::ALL.iter().filter_map(|why| Some(format!("{} {}", skipped.get(why)?, why.text()))).collect();
    let left_out = if others.is_empty() { String::new() } else { format!("; left out: {}", others.join(", ")) };
    lines.push(format!("{records} records since {since:.0}{left_out}"));
    lines.extend(tested.windows.iter().filter_map(|(node, window)| {
        let told = window.told.as_ref()?;
        let from = tested::from(told).map(|from| format!("{from:.0}")).unwrap_or_default();
        let lost = match (told.replaced, told.lost) {
            (0, 0) => String::new(),
            (replaced, lost) => format!("; since it started {replaced} made room for others, {lost} were lost"),
        };
        Some(format!("node {node}: {} records, complete from {from}{lost}", window.records))
    }));
    lines
}

fn word(effect: Effect) -> &'static str {
    match effect {
        Effect::Unchanged => "unchanged",
        Effect::NewlyDenied => "newly_denied",
        Effect::NewlyAllowed => "newly_allowed",
        Effect::Unknown => "unknown",
    }
}

/// The workload, of a source with what it proved.
fn named(end: &End, is_source: bool) -> String {
    let who = if end.workload.is_empty() { end.address.clone() } else { format!("{}/{}", end.namespace, end.workload) };
    match end.identity.as_str() {
        _ if !is_source => who,
        "" => format!("{who} (no identity)"),
        identity => format!("{who} ({})", words::short_identity(identity)),
    }
}

/// What decided.
fn said(said: Option<&Said>) -> String {
    let Some(Said { permitted, reason, policy, rule }) = said else { return String::new() };
    let by = match (policy.as_str(), rule) {
        ("", _) => String::new(),
        (policy, Some(rule)) => format!(" {policy}#{rule}"),
        (policy, None) => format!(" {policy}"),
    };
    if *permitted { format!("permitted{by}") } else { format!("{reason}{by}") }
}

fn records(change: &Change, tested: &Tested, (since, missing): (Timestamp, &[String])) -> Vec<Value> {
    let findings = change.findings.iter().map(|finding| {
        let Finding { file, object, field, why, severity } = finding;
        json!({
            "kind": "finding", "severity": severity.word(), "file": file, "object": object, "field": field, "why": why,
        })
    });
    let windows = tested.windows.iter().map(|(node, window)| {
        let told = window.told.unwrap_or_default();
        let from = window.told.as_ref().and_then(tested::from).map(|from| format!("{from:.3}"));
        json!({
            "kind": "window", "node": node, "from": from, "records": window.records, "pods": window.pods,
            "replaced": told.replaced, "lost": told.lost,
        })
    });
    let skipped: serde_json::Map<_, _> = Skipped::ALL
        .iter()
        .map(|why| (why.word().to_owned(), tested.skipped.get(why).copied().unwrap_or_default().into()))
        .collect();
    let summary = json!({
        "kind": "summary",
        "objects": change.changed,
        "pods": tested.affected,
        "since": format!("{since:.3}"),
        "records": tested.records,
        "judged": tested.judged,
        "skipped": skipped,
        "newly_denied": tested.count(Effect::NewlyDenied),
        "newly_allowed": tested.count(Effect::NewlyAllowed),
        "unknown": tested.count(Effect::Unknown),
        "missing": missing,
    });
    findings.chain(tested.pairs.iter().map(pair)).chain(windows).chain([summary]).collect()
}

/// Names and words of it do not change.
fn pair((pair, count): (&Pair, &u64)) -> Value {
    let Pair { effect, source, destination, port, request, before, after, needs } = pair;
    let end = |end: &End| {
        let End { namespace, workload, identity, address } = end;
        json!({ "namespace": namespace, "workload": workload, "identity": identity, "address": address })
    };
    let said = |said: &Option<Said>| {
        said.as_ref().map(|Said { permitted, reason, policy, rule }| {
            json!({ "permitted": permitted, "reason": reason, "policy": policy, "rule": rule })
        })
    };
    json!({
        "kind": "pair",
        "change": word(*effect),
        "count": count,
        "source": end(source),
        "destination": end(destination),
        "port": port,
        "method": request.as_ref().map(|(method, _)| method),
        "path": request.as_ref().map(|(_, path)| path),
        "before": said(before),
        "after": said(after),
        "needs": needs,
    })
}

//! What came out, for people and as JSON.

use std::io::Write;

use jiff::Timestamp;
use mesh_controller::analyze::{Change, Effect, Finding, Said, Severity};
use serde_json::{Value, json};

use super::{
    record::Skipped,
    tested::{End, Pair, Tested, from},
};
use crate::{
    client::Failure,
    output::{Cell, Mood, Screen, Table},
    words,
};

/// Writes all that came out.
pub fn show<W: Write>(
    change: &Change,
    tested: &Tested,
    (since, missing): (Timestamp, &[String]),
    screen: &mut Screen<W>,
) -> Result<(), Failure> {
    if !screen.format.is_text() {
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
        let from = from(told).map(|from| format!("{from:.0}")).unwrap_or_default();
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
pub fn said(said: Option<&Said>) -> String {
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
        let from = window.told.as_ref().and_then(from).map(|from| format!("{from:.3}"));
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

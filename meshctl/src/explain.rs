//! `meshctl explain`: how one connection or request was decided, policy by policy, as it was when it was decided.

use std::io::Write;

use mesh_common::proto::nodemesh::{
    ConsideredClause, ConsideredCondition, ConsideredMatch, ConsideredPolicy, ConsideredRule, Direction, ExplainQuery,
    Explanation, Flow, FlowsQuery, NearestRule, Path, Verdict, item, query,
};
use serde_json::{Value, json};

use crate::{
    Outcome,
    client::{Failure, Servers},
    flows,
    output::{Mood, Screen},
    words,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  meshctl flows --verdict dropped --last 5      # the ids
  meshctl explain 4711 --node node-a            # ids are unique on a node
  meshctl explain --from shop/cart --to shop/web    # the newest refusal or failure between them
  meshctl explain 4711 -o yaml")]
pub struct Arguments {
    /// The id of a flow, as `meshctl flows` and `meshctl config connections` show it
    #[arg(
        value_name = "FLOW",
        value_parser = clap::value_parser!(u64).range(1..),
        required_unless_present_any = ["from", "to"],
        conflicts_with_all = ["from", "to"]
    )]
    flow: Option<u64>,
    /// Instead of an id: the newest that was refused or failed, of this source: NAME or NAMESPACE/NAME
    #[arg(long, value_name = "POD", value_parser = flows::pod)]
    from: Option<String>,
    /// Likewise, of this destination: a pod, or a service
    #[arg(long, value_name = "POD", value_parser = flows::pod)]
    to: Option<String>,
}

/// Records of one refusal, by both nodes, end within these milliseconds.
const BOTH: f64 = 300.0;
/// Of each node and verdict that is looked at.
const RECENT: u32 = 16;

/// Prints the explanation of the one node that knows the flow.
pub async fn run<W: Write>(
    servers: &Servers,
    arguments: &Arguments,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let Arguments { flow, from, to } = arguments;
    let (flow, of_node) = match *flow {
        Some(flow) => (flow, None),
        None => {
            let newest = newest(servers, from.as_deref(), to.as_deref()).await?;
            (newest.id, Some(newest.node))
        }
    };
    let (items, complete) = servers.ask(query::Kind::Explain(ExplainQuery { flow })).all().await;
    let mut known: Vec<(String, Explanation)> = items
        .into_iter()
        .filter_map(|(node, kind)| match kind {
            item::Kind::Explanation(explanation) => Some((node, *explanation)),
            _ => None,
        })
        .filter(|(node, _)| of_node.as_ref().is_none_or(|wanted| wanted == node))
        .collect();
    known.sort_by(|a, b| a.0.cmp(&b.0));
    let (node, explanation) = match known.as_slice() {
        [] => {
            complete?;
            return Err(Failure::Usage(format!(
                "no node has a record of flow {flow}: `meshctl flows` shows those that there are; agents keep the \
                 newest, and none over a restart"
            )));
        }
        [one] => one,
        several => {
            let nodes = several.iter().map(|(node, _)| node.as_str()).collect::<Vec<_>>().join(", ");
            return Err(Failure::Usage(format!(
                "ids of flows are unique on a node, and several have a flow {flow} ({nodes}): name one by --node"
            )));
        }
    };
    show(node, explanation, screen)?;
    // Another node may know another flow of that id; this one is told anyway.
    if let Err(failure) = complete {
        eprintln!("meshctl: {}", crate::output::plain(&failure.to_string()));
    }
    Ok(Outcome::Fine)
}

/// The newest refusal or failure between these. Of one that both nodes recorded, the record that has the detail.
async fn newest(servers: &Servers, from: Option<&str>, to: Option<&str>) -> Result<Flow, Failure> {
    let asked = |verdict: Verdict| {
        query::Kind::Flows(FlowsQuery {
            from: from.unwrap_or_default().to_owned(),
            to: to.unwrap_or_default().to_owned(),
            verdict: verdict.into(),
            last: RECENT,
            ..FlowsQuery::default()
        })
    };
    let mut all = Vec::new();
    let mut failed = None;
    for verdict in [Verdict::Dropped, Verdict::Error] {
        let (items, complete) = servers.ask(asked(verdict)).all().await;
        all.extend(items.into_iter().filter_map(|(node, kind)| flows::flow_of(node, kind)));
        failed = failed.or(complete.err());
    }
    let time = |flow: &Flow| flow.end.map_or(0.0, |end| end.seconds as f64 * 1e3 + f64::from(end.nanos) / 1e6);
    let latest = all.iter().max_by(|one, other| time(one).total_cmp(&time(other))).cloned().unwrap_or_default();
    // Of the same refusal; a connection's record has no request.
    let is_same = |flow: &Flow| match (&flow.http, &latest.http) {
        (Some(one), Some(other)) => (&one.method, &one.path) == (&other.method, &other.path),
        (None, None) => flow.reason == latest.reason,
        _ => true,
    };
    // Somebody's policy says more than that there was one, and a request's more than its connection's.
    let detail = |flow: &Flow| (!flow.policy.is_empty(), flow.http.is_some(), flow.direction() == Direction::Inbound);
    let best = all
        .into_iter()
        .filter(|flow| is_same(flow) && time(&latest) - time(flow) <= BOTH)
        .max_by(|one, other| detail(one).cmp(&detail(other)).then(time(one).total_cmp(&time(other))));
    match (best, failed) {
        (Some(flow), _) => Ok(flow),
        (None, Some(failed)) => Err(failed),
        (None, None) => Err(Failure::Usage(format!(
            "nothing from {} to {} was refused or failed, as far as agents keep records; see `meshctl flows`",
            from.unwrap_or("anybody"),
            to.unwrap_or("anybody")
        ))),
    }
}

fn show<W: Write>(node: &str, explanation: &Explanation, screen: &mut Screen<W>) -> Result<(), Failure> {
    let Explanation { flow, policies: considered, summary, nearest } = explanation;
    let flow = flow.clone().unwrap_or_default();
    if !screen.format.is_text() {
        let object = json!({
            "node": node, "summary": summary, "flow": flows::record(&flow), "policies": policies_record(considered),
            "nearest": nearest_record(nearest.as_ref()),
        });
        return Ok(screen.object(&object)?);
    }
    let service = match flow.service.as_str() {
        "" => String::new(),
        service => format!(" by service {}", words::short_service(service)),
    };
    let (source, destination) = (flows::end_text(flow.source.as_ref()), flows::end_text(flow.destination.as_ref()));
    let address = flow.destination.as_ref().map(|end| end.address.as_str()).unwrap_or_default();
    screen
        .line(&format!("flow {} on node {node}: {source} -> {destination} {address}{service}", flow.id), Mood::Plain)?;
    if let Some(http) = &flow.http {
        screen.line(&format!("request {}", words::request_in_full(http)), Mood::Plain)?;
    }
    let mood = match flow.verdict() {
        Verdict::Dropped | Verdict::Error => Mood::Bad,
        _ => Mood::Good,
    };
    let path = flow.path();
    // Of a request that the agent answered itself there is no way that it took.
    let has_way = path != Path::Unspecified || flow.http.is_none();
    let way = [words::path(path), words::security(flow.security())].map(|word| if has_way { word } else { "" });
    let words = [words::verdict(flow.verdict()), &flow.reason, words::direction(flow.direction()), way[0], way[1]];
    let words = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(", ");
    screen.line(&format!("{words}; configuration {}", flow.generation), mood)?;
    screen.line(summary, Mood::Plain)?;
    if let Some(nearest) = nearest.as_ref().and_then(nearest_text) {
        screen.line(&nearest, Mood::Plain)?;
    }
    policies_text(considered, if flow.http.is_some() { "request" } else { "connection" }, screen)
}

/// What would have to be different, in one sentence; `None`: nobody can say.
pub fn nearest_text(nearest: &NearestRule) -> Option<String> {
    let NearestRule { policy, rule, missing } = nearest;
    // Of an ALLOW rule the conditions do not hold, of a DENY rule they do.
    let allows = !missing.first()?.holds;
    let changes = missing.iter().map(|condition| {
        let ConsideredCondition { field, values, actual, holds } = condition;
        let (name, is_not) = named(field);
        let actual = if actual.is_empty() { "there is none".to_owned() } else { format!("is {actual}") };
        // It has to turn.
        let (start, between) = if is_not == *holds { ("", " or ") } else { ("not ", " and not ") };
        format!("{name} were {start}{} ({actual})", values.join(between))
    });
    let changes = changes.collect::<Vec<_>>().join("; ");
    let would = if allows { "Would be permitted by" } else { "Would not be denied by" };
    Some(format!("{would} policy {policy} rule {rule} if: {changes}."))
}

/// The attribute that a condition asks for, and whether it asks for others than its values.
fn named(field: &str) -> (String, bool) {
    let of_when = |end| field.strip_prefix("when[").and_then(|rest| rest.strip_suffix(end));
    if let Some(key) = of_when("].values") {
        return (key.to_owned(), false);
    }
    if let Some(key) = of_when("].notValues") {
        return (key.to_owned(), true);
    }
    let mut rest = field.strip_prefix("not").unwrap_or_default().chars();
    match rest.next() {
        Some(first) if first.is_ascii_uppercase() => (format!("{}{}", first.to_ascii_lowercase(), rest.as_str()), true),
        _ => (field.to_owned(), false),
    }
}

/// The same in `-o json` and `-o yaml`.
pub fn nearest_record(nearest: Option<&NearestRule>) -> Value {
    let Some(NearestRule { policy, rule, missing }) = nearest else { return Value::Null };
    let missing = missing.iter().map(condition_record).collect::<Vec<_>>();
    json!({ "policy": policy, "rule": rule, "missing": missing, "text": nearest.and_then(nearest_text) })
}

fn condition_record(condition: &ConsideredCondition) -> Value {
    let ConsideredCondition { field, values, actual, holds } = condition;
    json!({ "field": field, "values": values, "actual": actual, "holds": holds })
}

/// Every policy with its rules, clauses and conditions, for people. `who` is what was decided: a connection, a request.
pub fn policies_text<W: Write>(
    policies: &[ConsideredPolicy],
    who: &str,
    screen: &mut Screen<W>,
) -> Result<(), Failure> {
    for policy in policies {
        let ConsideredPolicy { policy, action, scope, dry_run, decided, unknown, rules } = policy;
        let matched = rules.iter().find(|rule| rule.matched).map(|rule| rule.rule);
        let found = match (unknown, matched) {
            (true, _) => "what it says is not known, so it denies".to_owned(),
            (_, Some(rule)) => format!("rule {rule} matches"),
            (_, None) if rules.is_empty() => "it has no rules".to_owned(),
            (_, None) => "no rule matches".to_owned(),
        };
        let kind = if *dry_run { format!("{action} (dry run)") } else { action.clone() };
        let decisive = if *decided { "decided: " } else { "" };
        let mood = match (decided, action.as_str(), matched) {
            (true, "ALLOW", Some(_)) => Mood::Good,
            (true, ..) => Mood::Bad,
            (false, ..) => Mood::Plain,
        };
        screen.line("", Mood::Plain)?;
        screen.line(&format!("{policy}  {kind} {scope}  {decisive}{found}").replace("   ", "  "), mood)?;
        for rule in rules {
            rule_text(rule, who, screen)?;
        }
    }
    Ok(())
}

fn rule_text<W: Write>(rule: &ConsideredRule, who: &str, screen: &mut Screen<W>) -> Result<(), Failure> {
    let ConsideredRule { rule, matched, clauses } = rule;
    let found = if *matched { "matches" } else { "does not match" };
    let everybody = if clauses.is_empty() { ": it has no conditions" } else { "" };
    screen.line(&format!("  rule {rule} {found}{everybody}"), Mood::Plain)?;
    for ConsideredClause { matched: _, matches } in clauses {
        for (index, ConsideredMatch { matched: _, conditions }) in matches.iter().enumerate() {
            if index > 0 {
                screen.line("    or", Mood::Dim)?;
            }
            for ConsideredCondition { field, values, actual, holds } in conditions {
                let (word, mood) = if *holds { ("yes", Mood::Plain) } else { ("no ", Mood::Bad) };
                let actual = if actual.is_empty() { "nothing" } else { actual };
                let values = values.join(", ");
                screen.line(&format!("    {word}  {field} [{values}]: the {who} has {actual}"), mood)?;
            }
        }
    }
    Ok(())
}

/// The same in `-o json` and `-o yaml`. Names and words do not change.
pub fn policies_record(policies: &[ConsideredPolicy]) -> Vec<Value> {
    let one_match = |m: &ConsideredMatch| {
        let conditions = m.conditions.iter().map(condition_record).collect::<Vec<_>>();
        json!({ "matched": m.matched, "conditions": conditions })
    };
    let clause = |c: &ConsideredClause| {
        let matches = c.matches.iter().map(one_match).collect::<Vec<_>>();
        json!({ "matched": c.matched, "matches": matches })
    };
    let rule = |r: &ConsideredRule| {
        let clauses = r.clauses.iter().map(clause).collect::<Vec<_>>();
        json!({ "rule": r.rule, "matched": r.matched, "clauses": clauses })
    };
    let policy = |p: &ConsideredPolicy| {
        let rules: Vec<_> = p.rules.iter().map(rule).collect();
        json!({
            "policy": p.policy, "action": p.action, "scope": p.scope, "dry_run": p.dry_run, "decided": p.decided,
            "unknown": p.unknown, "rules": rules,
        })
    };
    policies.iter().map(policy).collect()
}

//! `meshctl routes`: what each route took since the agents started, or is taking now.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    time::Duration,
};

use mesh_common::proto::nodemesh::{RouteCounts, RoutesQuery, item, query};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    Outcome,
    client::{Failure, Servers},
    output::{Cell, Mood, Namespaces, Screen, Table},
    words,
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Requests are counted by the agent of the client's node. GONE are those whose client went before
there was an answer. FLAGS are those of answers that the agent gave itself or changed, as Envoy has
them: NR no route, UH no endpoint, UF no connection, UO a limit of the circuit breaker, UT timeout,
URX retries used up, FI fault injected, DI delayed, NC no such subset.

Examples:
  meshctl routes -n shop
  meshctl routes -n shop --watch              # rows that change, with requests per second
  meshctl routes --by-node -o json"
)]
pub struct Arguments {
    #[command(flatten)]
    namespaces: Namespaces,
    /// One row for each node, not their sum
    #[arg(long)]
    by_node: bool,
    /// Go on, with the routes that took something in the meantime
    #[arg(short, long)]
    watch: bool,
    /// With --watch: how often to ask
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = words::duration, requires = "watch")]
    every: Duration,
}

/// Node (empty: their sum), service, route.
type Key = (String, String, String);

/// What one route took, on one node or several.
#[derive(Clone, Debug, Default, PartialEq)]
struct Counts {
    nodes: usize,
    requests: u64,
    active: u64,
    /// By hundreds of the status; the first: the client went.
    answers: [u64; 6],
    retries: u64,
    mirrored: u64,
    flags: BTreeMap<String, u64>,
}

/// What each node's agent counted last. Agents start anew and are out of reach at times: what a route took in the
/// meantime is the sum of the nodes' differences, not the difference of their sums.
#[derive(Debug, Default)]
struct Heard {
    /// Requests, by node.
    requests: BTreeMap<Key, u64>,
    nodes: BTreeSet<String>,
    /// The last time every node answered: one that said nothing then had counted nothing.
    was_all: bool,
}

/// What it took at one time, and each second since the time before.
struct Row<'a> {
    key: &'a Key,
    counts: &'a Counts,
    rate: Option<f64>,
}

const HEADER: [&str; 15] = [
    "NODE",
    "SERVICE",
    "ROUTE",
    "REQUESTS",
    "PER SECOND",
    "1XX",
    "2XX",
    "3XX",
    "4XX",
    "5XX",
    "GONE",
    "ACTIVE",
    "RETRIES",
    "MIRRORED",
    "FLAGS",
];
/// While watching, a row cannot wait for the widths of those after it.
const WATCH_WIDTHS: [usize; 15] = [8, 20, 28, 9, 10, 5, 7, 5, 5, 5, 5, 6, 7, 8, 12];

pub async fn run<W: Write>(
    servers: &Servers,
    arguments: &Arguments,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let Arguments { namespaces, by_node, watch, every } = arguments;
    let ask = async || {
        let question = RoutesQuery { namespace: namespaces.wanted() };
        let (items, complete) = servers.ask(query::Kind::Routes(question)).all().await;
        let counted = items.into_iter().filter_map(|(node, kind)| match kind {
            item::Kind::Route(told) => Some((node, told)),
            _ => None,
        });
        (counted.collect::<Vec<_>>(), complete)
    };
    let (counted, complete) = ask().await;
    let mut heard = Heard::default();
    heard.more(&counted, complete.is_ok(), *by_node);
    let mut before = summed(counted, *by_node);
    let mut since = Instant::now();
    let all = before.iter().map(|(key, counts)| Row { key, counts, rate: None }).collect::<Vec<_>>();
    if !watch {
        show(&all, &mut Table::new(HEADER), screen)?;
        return complete.map(|()| Outcome::Fine);
    }
    let mut table = Table::new(HEADER).with_widths(WATCH_WIDTHS);
    show(&all, &mut table, screen)?;
    let mut complete = complete;
    loop {
        match complete {
            Err(failure) if before.is_empty() => return Err(failure),
            // The others go on.
            Err(failure) => eprintln!("meshctl: {}", crate::output::plain(&failure.to_string())),
            Ok(()) => {}
        }
        tokio::time::sleep_until(since + *every).await;
        let (counted, now_complete) = ask().await;
        let seconds = since.elapsed().as_secs_f64();
        since = Instant::now();
        let more = heard.more(&counted, now_complete.is_ok(), *by_node);
        let now = summed(counted, *by_node);
        let changed = now.iter().filter(|(key, counts)| before.get(*key) != Some(counts));
        let rows = changed.map(|(key, counts)| {
            let more = more.get(key).copied().unwrap_or_default();
            Row { key, counts, rate: Some(more as f64 / seconds) }
        });
        let rows = rows.collect::<Vec<_>>();
        if !rows.is_empty() {
            show(&rows, &mut table, screen)?;
        }
        (before, complete) = (now, now_complete);
    }
}

impl Heard {
    /// What was taken since the last time, as far as it can be known.
    fn more(&mut self, counted: &[(String, RouteCounts)], is_all: bool, by_node: bool) -> BTreeMap<Key, u64> {
        let mut all: BTreeMap<Key, u64> = BTreeMap::new();
        let known = std::mem::take(&mut self.nodes);
        for (node, RouteCounts { service, route, requests, .. }) in counted {
            let before = self.requests.insert((node.clone(), service.clone(), route.clone()), *requests);
            // Of a node that is heard for the first time nobody knows since when it counts.
            let before = before.or((self.was_all || known.contains(node)).then_some(0)).unwrap_or(*requests);
            // An agent that was started again counts from nothing.
            let more = requests.checked_sub(before).unwrap_or(*requests);
            let node = if by_node { node.clone() } else { String::new() };
            *all.entry((node, service.clone(), route.clone())).or_default() += more;
        }
        self.nodes = known.into_iter().chain(counted.iter().map(|(node, _)| node.clone())).collect();
        self.was_all = is_all;
        all
    }
}

fn summed(counted: Vec<(String, RouteCounts)>, by_node: bool) -> BTreeMap<Key, Counts> {
    let mut all: BTreeMap<Key, Counts> = BTreeMap::new();
    for (node, told) in counted {
        let RouteCounts { service, route, requests, active, answers, retries, mirrored, flags } = told;
        let node = if by_node { node } else { String::new() };
        let sum = all.entry((node, service, route)).or_default();
        sum.nodes += 1;
        sum.requests += requests;
        sum.active += active;
        sum.answers.iter_mut().zip(answers).for_each(|(sum, more)| *sum += more);
        sum.retries += retries;
        sum.mirrored += mirrored;
        for (flag, count) in flags {
            *sum.flags.entry(flag).or_default() += count;
        }
    }
    all
}

fn show<W: Write>(rows: &[Row<'_>], table: &mut Table<15>, screen: &mut Screen<W>) -> Result<(), Failure> {
    if !screen.format.is_text() {
        return Ok(rows.iter().try_for_each(|row| screen.object(&record(row)))?);
    }
    for Row { key: (node, service, route), counts, rate } in rows {
        let count = |count: u64, mood| Cell::new(count.to_string(), if count > 0 { mood } else { Mood::Plain });
        let [gone, ones, twos, threes, fours, fives] = counts.answers;
        let flags = counts.flags.iter().map(|(flag, count)| format!("{flag}={count}")).collect::<Vec<_>>();
        let nodes = if counts.nodes == 1 { "1 node".into() } else { format!("{} nodes", counts.nodes) };
        table.push([
            if node.is_empty() { nodes } else { node.clone() }.into(),
            words::short_service(service).into(),
            route.into(),
            counts.requests.to_string().into(),
            rate.map(|rate| format!("{rate:.1}")).unwrap_or_default().into(),
            ones.to_string().into(),
            twos.to_string().into(),
            threes.to_string().into(),
            fours.to_string().into(),
            count(fives, Mood::Bad),
            count(gone, Mood::Bad),
            counts.active.to_string().into(),
            counts.retries.to_string().into(),
            counts.mirrored.to_string().into(),
            flags.join(" ").into(),
        ]);
    }
    Ok(screen.table(table)?)
}

fn record(Row { key: (node, service, route), counts, rate }: &Row<'_>) -> Value {
    let Counts { nodes, requests, active, answers: [gone, ones, twos, threes, fours, fives], retries, mirrored, flags } =
        counts;
    json!({
        "node": (!node.is_empty()).then_some(node),
        "nodes": nodes,
        "service": service,
        "route": route,
        "requests": requests,
        "requests_per_second": rate,
        "answers": { "1xx": ones, "2xx": twos, "3xx": threes, "4xx": fours, "5xx": fives },
        "gone": gone,
        "active": active,
        "retries": retries,
        "mirrored": mirrored,
        "flags": flags,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(of_nodes: &[(&str, u64)]) -> Vec<(String, RouteCounts)> {
        let one = |(node, requests): &(&str, u64)| {
            let told =
                RouteCounts { service: "s".into(), route: "r".into(), requests: *requests, ..Default::default() };
            ((*node).to_owned(), told)
        };
        of_nodes.iter().map(one).collect()
    }

    #[test]
    fn agents_that_start_anew_or_are_away_make_no_false_rate() {
        let mut heard = Heard::default();
        let mut more = |of_nodes: &[(&str, u64)], is_all| {
            let all = heard.more(&counted(of_nodes), is_all, false);
            all.into_values().sum::<u64>()
        };
        more(&[("a", 1000), ("b", 100)], true);
        assert_eq!(more(&[("a", 1010), ("b", 110)], true), 20);
        assert_eq!(more(&[("a", 1020), ("b", 5)], true), 15, "b was started again: it took 5 at least");
        assert_eq!(more(&[("a", 1030)], false), 10, "b is out of reach");
        assert_eq!(more(&[("a", 1040), ("b", 7)], false), 12, "b is back with what it took in between");
        assert_eq!(more(&[("a", 1050), ("b", 8), ("c", 5000)], true), 11, "c may have counted for a year");
        assert_eq!(more(&[("a", 1050), ("b", 8), ("c", 5001), ("d", 3)], true), 4, "d had counted nothing");
    }
}

//! `meshctl stat`: requests and connections of the last seconds, by workload, service, route, or edge, summed over all
//! nodes. How the two ends of one connection are not counted twice is said in [`sum`].

pub mod shown;
pub mod sum;

use std::{io::Write, time::Duration};

use clap::ValueEnum;
use mesh_common::proto::nodemesh::{Stat, StatBy, StatQuery, item, query};
use tokio::time::Instant;

use crate::{
    Outcome,
    client::{Failure, Servers},
    output::{self, Namespaces, Screen},
    words,
};
use sum::{Sum, Summed};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Requests are counted where an agent reads them, connections everywhere. SUCCESS is the share of
requests that were neither refused by the mesh nor failed (5xx, a gRPC status like it, no answer); where no
requests are read, of connections. TLS is the share with TLS on the wire, ATTESTED that of direct connections
within a node. Agents keep 10 minutes.

Examples:
  meshctl stat -n shop                       # workloads, over the last minute
  meshctl stat services --window 5m
  meshctl stat edges -n shop -o json
  meshctl stat routes --watch"
)]
pub struct Arguments {
    /// Sums of what
    #[arg(value_enum, default_value_t, ignore_case = true)]
    by: By,
    #[command(flatten)]
    namespaces: Namespaces,
    /// How far back
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = window)]
    window: Duration,
    /// Go on, with new sums each time
    #[arg(short, long)]
    watch: bool,
    /// With --watch: how often
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = words::duration, requires = "watch")]
    every: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum By {
    /// That serve
    #[default]
    #[value(alias = "workload")]
    Workloads,
    /// That clients dialled
    #[value(alias = "service")]
    Services,
    /// That took requests
    #[value(alias = "route")]
    Routes,
    /// From one workload to another
    #[value(alias = "edge")]
    Edges,
}

impl By {
    pub const ALL: [Self; 4] = [Self::Workloads, Self::Services, Self::Routes, Self::Edges];

    pub fn name(self) -> &'static str {
        match self {
            Self::Workloads => "workloads",
            Self::Services => "services",
            Self::Routes => "routes",
            Self::Edges => "edges",
        }
    }
}

impl From<By> for StatBy {
    fn from(by: By) -> Self {
        match by {
            By::Workloads => Self::Workload,
            By::Services => Self::Service,
            By::Routes => Self::Route,
            By::Edges => Self::Edge,
        }
    }
}

/// As long as agents keep sums.
const LONGEST: Duration = Duration::from_secs(600);

pub fn window(text: &str) -> Result<Duration, String> {
    words::duration(text).and_then(|window| match window > LONGEST {
        true => Err("agents keep 10 minutes".into()),
        false => Ok(window),
    })
}

/// What all nodes say, summed; and what went wrong beside it.
pub async fn ask(
    servers: &Servers,
    by: By,
    namespace: String,
    window: Duration,
) -> (Vec<(sum::Key, Sum)>, Result<(), Failure>) {
    let (rows, complete) = rows(servers, by, namespace, window).await;
    let mut summed = Summed::new(by);
    rows.iter().for_each(|(node, row)| summed.add(node, row));
    (summed.rows(), complete)
}

/// As each node says it.
pub async fn rows(
    servers: &Servers,
    by: By,
    namespace: String,
    window: Duration,
) -> (Vec<(String, Stat)>, Result<(), Failure>) {
    let seconds = u32::try_from(window.as_secs()).unwrap_or(u32::MAX);
    let question = StatQuery { by: StatBy::from(by).into(), namespace, seconds };
    let (items, complete) = servers.ask(query::Kind::Stat(question)).all().await;
    let rows = items.into_iter().filter_map(|(node, kind)| match kind {
        item::Kind::Stat(row) => Some((node, *row)),
        _ => None,
    });
    (rows.collect(), complete)
}

pub async fn run<W: Write>(
    servers: &Servers,
    arguments: &Arguments,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let Arguments { by, namespaces, window, watch, every } = arguments;
    loop {
        let asked = Instant::now();
        let (rows, complete) = ask(servers, *by, namespaces.wanted(), *window).await;
        shown::show(*by, &rows, screen)?;
        match complete {
            complete if !watch => return complete.map(|()| Outcome::Fine),
            Err(failure) if rows.is_empty() => return Err(failure),
            // The others go on.
            Err(failure) => eprintln!("meshctl: {}", output::plain(&failure.to_string())),
            Ok(()) => {}
        }
        tokio::time::sleep_until(asked + *every).await;
        if screen.format.is_text() {
            screen.verbatim("\n")?;
        }
    }
}

//! `meshctl policy test`: what a change of policies would have meant for the connections and requests that the agents
//! have recorded. Both sides are compiled here, by the controller's own translation and index, so that an equal rewrite
//! is no change. What is not recorded is taken both ways; with all of it the answer would be the agents' own, as a test
//! holds.

mod record;
mod shown;
mod tested;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use mesh_common::proto::nodemesh::{ConfigKind, ConfigQuery, FlowsQuery, PolicyInfo, item, query};
use mesh_controller::analyze::{Change, Effect};

use crate::{
    Outcome, analyze,
    client::{CONTROLLER, Cluster, Failure, Servers},
    output::Screen,
    words,
};
pub use tested::of_connection;

use tested::Tested;

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
    change: analyze::change::Changing,
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
            // No policy is asked about datagrams.
            Ok((_, item::Kind::Flow(flow))) if flow.udp.is_some() => {}
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
    missing.extend(elsewise(&change, servers).await);
    shown::show(&change, &tested, (since, &missing), screen)?;
    let changes = tested.count(Effect::NewlyDenied) + tested.count(Effect::NewlyAllowed);
    // What is the same everywhere changes nothing for anybody, recorded or not.
    let unsure = tested.affected > 0 && (!missing.is_empty() || tested.count(Effect::Unknown) > 0);
    Ok(match (changes, unsure) {
        (1.., _) => Outcome::Found,
        (0, true) => Outcome::Unsure,
        (0, false) => Outcome::Fine,
    })
}

/// Nodes whose agents hold other policies than what runs now is said to come to. Agents tell how many rules a policy
/// has, not what they say.
async fn elsewise(change: &Change, servers: &Servers) -> Vec<String> {
    let query = ConfigQuery { kind: ConfigKind::Policies.into(), namespace: String::new() };
    // Who does not answer is told of already.
    let (items, _) = servers.ask(query::Kind::Config(query)).all().await;
    let mut held: BTreeMap<String, BTreeSet<(String, String, u32)>> = BTreeMap::new();
    for (node, kind) in items {
        let item::Kind::Policy(PolicyInfo { namespace, name, action, rules, .. }) = kind else { continue };
        held.entry(node).or_default().insert((format!("{namespace}/{name}"), action, rules));
    }
    held.remove(CONTROLLER);
    let of_objects = change.before.policies().values();
    let compiled: BTreeSet<_> = of_objects
        .map(|policy| (policy.name.to_string(), policy.listed_action(), u32::try_from(policy.rules.len()).unwrap_or(0)))
        .collect();
    let differing = held.into_iter().filter_map(|(node, held)| {
        let (name, ..) = held.symmetric_difference(&compiled).next()?;
        Some(format!("node {node} holds other policies than the objects that are said to run now come to, as {name}"))
    });
    differing.collect()
}

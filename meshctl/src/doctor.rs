//! `meshctl doctor`: what is wrong with the mesh that runs, what it means, and what to do. It only looks. What it reads
//! is gathered first, by `check`'s facts and by the questions of other verbs; every judgement about it is pure.

mod agents;
mod certificates;
mod pods;
mod policies;
mod said;
mod traffic;

use std::io;

use crate::{
    Outcome,
    check::{
        Finding, Mark,
        facts::{self, Facts},
        show,
    },
    client::Failure,
    output::{Format, Screen},
    whom::Whom,
};
use said::Said;

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "check says whether the mesh would work on a cluster, or was put on it as it should be; status says \
what is now; doctor says what is wrong, what that means, and what to do.

Marks:
  ✓  as it should be
  ‼  somebody should look at it
  ×  something does not work
Exit code 1: something was found.

Examples:
  meshctl doctor                    # a cluster, or the agent of this machine
  meshctl doctor --node node-a
  meshctl doctor --json"
)]
pub struct Arguments {
    /// As -o json
    #[arg(long)]
    json: bool,
}

/// Found: anything that is not as it should be.
pub async fn run<W: io::Write>(arguments: &Arguments, whom: &Whom, screen: &mut Screen<W>) -> Result<Outcome, Failure> {
    if arguments.json {
        screen.format = Format::Json;
    }
    let findings = look(whom).await?;
    findings.iter().try_for_each(|finding| show(finding, screen))?;
    let found = findings.iter().any(|finding| finding.mark != Mark::Ok);
    Ok(if found { Outcome::Found } else { Outcome::Fine })
}

/// # Errors
/// The cluster's API server does not answer, or, without a cluster, nobody does.
pub async fn look(whom: &Whom) -> Result<Vec<Finding>, Failure> {
    let facts = match &whom.client {
        Some(client) => Some(facts::gather(client).await?),
        None => None,
    };
    let said = match &whom.servers {
        Ok(servers) => said::ask(servers).await,
        Err(failure) => Said { unheard: vec![failure.to_string()], ..Said::default() },
    };
    if facts.is_none() && said.is_empty() {
        return Err(Failure::Unreachable(said.unheard.join("\nmeshctl: ")));
    }
    Ok(judge(facts.as_ref(), &said, &whom.node))
}

/// `node`: the only one that is looked at; empty: all.
fn judge(facts: Option<&Facts>, said: &Said, node: &str) -> Vec<Finding> {
    let mut findings = agents::judge(facts, said, node);
    findings.extend(pods::judge(facts, said, node));
    findings.extend(certificates::judge(said));
    findings.extend(policies::judge(facts, said));
    findings.extend(traffic::judge(facts, said));
    findings
}

/// What was found, or else that all is well.
fn or_well(findings: Vec<Finding>, area: &'static str, well: impl Into<String>) -> Vec<Finding> {
    if findings.is_empty() { vec![Finding::ok(area, well)] } else { findings }
}

/// As in `1 pod`, `2 pods`.
fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

#[cfg(test)]
mod tests;

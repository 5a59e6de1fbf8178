//! `meshctl check`: would the mesh work on this cluster, and does it? Without --probe it only looks. What it reads is
//! gathered first (`facts`); every judgement about it is pure.

mod authority;
pub mod cluster;
pub mod facts;
pub mod mesh;
mod network;
mod nodes;
mod probe;

use std::{io, time::Duration};

use mesh_install::Values;
use serde::Serialize;

use crate::{
    Outcome,
    client::Failure,
    cluster::Access,
    output::{Format, Mood, Screen},
};
use facts::Facts;

#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Marks:
  ✓  as it should be
  ‼  somebody should look at it
  ×  it does not work so; the exit code is 1")]
pub struct Arguments {
    /// Before the mesh is installed: only what it would find
    #[arg(long)]
    pre: bool,
    /// As -o json
    #[arg(long)]
    json: bool,
    /// Ask the kernel of every node too, by a pod on each that is gone afterwards; needs the image
    #[arg(long)]
    probe: bool,
    /// A value for the probe, as for install: --set image.repository=REGISTRY/nodemesh
    #[arg(long, value_name = "NAME=VALUE", requires = "probe")]
    set: Vec<String>,
    /// How long to wait for the probes, in seconds
    #[arg(long, default_value_t = 60, requires = "probe")]
    timeout: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    Ok,
    Warning,
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub mark: Mark,
    /// What it is about, in a word.
    pub area: &'static str,
    pub what: String,
    /// What to do; empty where nothing is to be done.
    pub hint: String,
}

impl Finding {
    pub fn ok(area: &'static str, what: impl Into<String>) -> Self {
        Self { mark: Mark::Ok, area, what: what.into(), hint: String::new() }
    }

    pub fn warning(area: &'static str, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { mark: Mark::Warning, area, what: what.into(), hint: hint.into() }
    }

    pub fn error(area: &'static str, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { mark: Mark::Error, area, what: what.into(), hint: hint.into() }
    }
}

pub async fn run<W: io::Write>(
    arguments: &Arguments,
    access: &Access,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let Arguments { pre, json, probe, set, timeout } = arguments;
    if *json {
        screen.format = Format::Json;
    }
    let mut values = Values::default();
    for assignment in set {
        values.set(assignment).map_err(|wrong| Failure::Usage(format!("--set {wrong}")))?;
    }
    let client = access.client().await?;
    let facts = facts::gather(&client).await?;
    let mut findings = judge(&facts, *pre);
    if *probe {
        findings.extend(probe::run(&client, &facts.nodes, &values, Duration::from_secs(*timeout)).await?);
    }
    findings.iter().try_for_each(|finding| show(finding, screen))?;
    let found = findings.iter().any(|finding| finding.mark == Mark::Error);
    Ok(if found { Outcome::Found } else { Outcome::Fine })
}

pub fn judge(facts: &Facts, pre: bool) -> Vec<Finding> {
    let mut findings = cluster::judge(facts, pre);
    findings.extend(nodes::judge(&facts.nodes));
    findings.extend(network::judge(facts));
    findings.extend(mesh::labels(facts));
    if !pre {
        findings.extend(mesh::running(facts));
    }
    findings
}

pub fn show<W: io::Write>(finding: &Finding, screen: &mut Screen<W>) -> io::Result<()> {
    if !screen.format.is_text() {
        return screen.object(finding);
    }
    let Finding { mark, area, what, hint } = finding;
    let (sign, mood) = match mark {
        Mark::Ok => ("✓", Mood::Good),
        Mark::Warning => ("‼", Mood::Plain),
        Mark::Error => ("×", Mood::Bad),
    };
    screen.line(&format!("{sign} {area:<12} {what}"), mood)?;
    if hint.is_empty() { Ok(()) } else { screen.line(&format!("{:15}→ {hint}", ""), Mood::Dim) }
}

#[cfg(test)]
mod tests;

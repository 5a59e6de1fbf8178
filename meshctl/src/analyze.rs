//! `meshctl analyze`: what of the configuration is not honoured as it was written. Of files it is found here, by the
//! controller's own translation; of a mesh that runs, its controller is asked.

mod known;

use std::{io::Write, path::PathBuf};

use mesh_common::proto::nodemesh::{StatusQuery, item, query};
use mesh_controller::analyze::{Analysis, Finding, Severity, analyze};
use serde_json::{Value, json};

use crate::{
    Outcome,
    client::{Failure, Servers},
    cluster::Access,
    output::{Cell, Format, Mood, Screen, Table},
    status::controller,
};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Files are read, translated and put together as the controller does it. What they speak of and do not
hold is looked up in the cluster, if one is configured; otherwise it is `missing`: nobody can tell
whether it is there, and the rest is looked at as if it were. Without --file the controller is
asked for the problems of what it holds.

Examples:
  meshctl analyze -f manifests/ -f canary.yaml
  meshctl analyze -f canary.yaml --no-cluster -o json
  meshctl analyze                             # of the mesh that runs

Exit codes:
  0  nothing found, or only what is missing among the files
  1  something is not honoured as it was written, or should be written otherwise"
)]
pub struct Arguments {
    /// A file, or a folder whose .yaml, .yml and .json files are read; may be given several times
    #[arg(short, long = "file", value_name = "PATH", num_args = 1..)]
    files: Vec<PathBuf>,
    /// Look at nothing but the files
    #[arg(long, requires = "files")]
    no_cluster: bool,
}

impl Arguments {
    pub fn is_of_files(&self) -> bool {
        !self.files.is_empty()
    }
}

/// Looks at files.
///
/// # Errors
/// A file is not there, or the cluster that was named does not answer.
pub async fn files<W: Write>(
    arguments: &Arguments,
    access: &Access,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let Arguments { files, no_cluster } = arguments;
    for path in files {
        path.metadata().map_err(|error| Failure::Usage(format!("--file {}: {error}", path.display())))?;
    }
    let known = if *no_cluster { Vec::new() } else { known(access).await? };
    let analysis = analyze(files, known);
    show(&analysis, screen)?;
    let is_found = analysis.findings.iter().any(|finding| finding.severity != Severity::Missing);
    Ok(if is_found { Outcome::Found } else { Outcome::Fine })
}

/// What the cluster holds. One that nobody named may be out of reach: then the files alone are looked at.
async fn known(access: &Access) -> Result<Vec<Value>, Failure> {
    let asked = match access.client().await {
        Ok(client) => known::objects(&client).await,
        Err(_) if !access.is_named() => return Ok(Vec::new()),
        Err(failure) => Err(failure),
    };
    match asked {
        Err(failure) if !access.is_named() => {
            eprintln!("meshctl: {}; only the files are looked at", crate::output::plain(&failure.to_string()));
            Ok(Vec::new())
        }
        asked => asked,
    }
}

/// Asks the controller.
pub async fn run<W: Write>(servers: &Servers, screen: &mut Screen<W>) -> Result<Outcome, Failure> {
    let (items, complete) = servers.ask(query::Kind::Status(StatusQuery {})).all().await;
    let controllers = items.into_iter().filter_map(|(_, kind)| match kind {
        item::Kind::Controller(status) => Some(status),
        _ => None,
    });
    let Some(status) = controller::merged(controllers.collect()) else {
        complete?;
        return Err(Failure::Usage("only the controller knows: ask it by --controller or --kubeconfig".into()));
    };
    for problem in &status.problems {
        match screen.format {
            Format::Table => screen.line(problem, Mood::Bad)?,
            Format::Json | Format::Yaml => screen.object(&json!({ "kind": "problem", "text": problem }))?,
        }
    }
    if status.problems.is_empty() && screen.format == Format::Table {
        screen.line("the controller honours everything as it was written", Mood::Good)?;
    }
    complete?;
    Ok(if status.problems.is_empty() { Outcome::Fine } else { Outcome::Found })
}

fn show<W: Write>(analysis: &Analysis, screen: &mut Screen<W>) -> Result<(), Failure> {
    let Analysis { findings, objects, fine, others } = analysis;
    if screen.format != Format::Table {
        for Finding { file, object, field, why, severity } in findings {
            let severity = severity.word();
            screen.object(&json!({
                "kind": "finding", "severity": severity, "file": file, "object": object, "field": field, "why": why,
            }))?;
        }
        return Ok(screen.object(&json!({ "kind": "summary", "objects": objects, "fine": fine, "others": others }))?);
    }
    let mut table = Table::new(["SEVERITY", "FILE", "OBJECT", "FIELD", "WHY"]);
    for Finding { file, object, field, why, severity } in findings {
        let mood = match severity {
            Severity::Error => Mood::Bad,
            Severity::Missing => Mood::Dim,
            Severity::Warning => Mood::Plain,
        };
        table.push([Cell::new(severity.word(), mood), file.into(), object.into(), field.into(), why.into()]);
    }
    if !table.is_empty() {
        screen.table(&mut table)?;
    }
    let plural = if *objects == 1 { "object is" } else { "objects are" };
    let others = if *others == 0 { String::new() } else { format!("; {others} of kinds that the mesh does not read") };
    let mood = if fine == objects { Mood::Good } else { Mood::Plain };
    Ok(screen.line(&format!("{fine} of {objects} {plural} fine{others}"), mood)?)
}

#[cfg(test)]
mod tests;

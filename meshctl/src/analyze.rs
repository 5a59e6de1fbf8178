//! `meshctl analyze`: what of the configuration is not honoured as it was written. Of files it is found here, by the
//! controller's own translation; of a mesh that runs, its controller is asked.

pub mod change;
mod known;

use std::{io::Write, path::PathBuf};

use mesh_common::proto::nodemesh::{StatusQuery, item, query};
use mesh_controller::analyze::{Analysis, Finding, Settings, Severity, analyze, collections, settings};
use serde_json::{Value, json};

use crate::{
    Outcome,
    client::{Cluster, Failure, Servers},
    output::{Cell, Format, Mood, Screen, Table},
    status::controller,
};

#[derive(Debug, Default, clap::Args)]
#[command(
    after_help = "Files are read, translated and put together as the controller does it. What they speak of and do not
hold is looked up in the cluster, if one is configured: what is not there either is an error. Without
one it is `missing`: nobody can tell whether it is there, and the rest is looked at as if it were. The
last line says whether a cluster was looked at. Domains and the root namespace are those of the
cluster's controller. Without --file the controller is asked for the problems of what it holds.

Examples:
  meshctl analyze -f manifests/ -f canary.yaml
  meshctl analyze -f canary.yaml --no-cluster -o json
  meshctl analyze -f manifests/ --no-cluster --cluster-domain example.internal
  meshctl analyze                             # of the mesh that runs

Exit codes:
  0  nothing found, or only what is missing among files that no cluster was asked about
  1  something is not honoured as it was written, or should be written otherwise"
)]
pub struct Arguments {
    /// A file, or a folder whose .yaml, .yml and .json files are read; may be given several times
    #[arg(short, long = "file", value_name = "PATH", num_args = 1..)]
    files: Vec<PathBuf>,
    /// Look at nothing but the files
    #[arg(long, requires = "files")]
    no_cluster: bool,
    /// The suffix of service names [default: the controller's, or cluster.local]
    #[arg(long, requires = "files", value_name = "DOMAIN")]
    cluster_domain: Option<String>,
    /// The trust domain of identities [default: the controller's, or cluster.local]
    #[arg(long, requires = "files", value_name = "DOMAIN")]
    trust_domain: Option<String>,
    /// The namespace whose policies hold for the whole mesh [default: the controller's, or istio-system]
    #[arg(long, requires = "files", value_name = "NAMESPACE")]
    root_namespace: Option<String>,
}

/// What is known of a cluster.
#[derive(Debug, Default)]
struct Known {
    objects: Vec<Value>,
    /// Of its controller.
    arguments: Vec<String>,
}

impl Arguments {
    pub fn is_of_files(&self) -> bool {
        !self.files.is_empty()
    }

    /// Those of a controller with these arguments, but for what is given here.
    fn settings(&self, of_controller: &[String]) -> Result<Settings, Failure> {
        let given = [
            ("--cluster-domain", &self.cluster_domain),
            ("--trust-domain", &self.trust_domain),
            ("--root-namespace", &self.root_namespace),
        ];
        settings_with(of_controller, given)
    }
}

fn settings_with(of_controller: &[String], given: [(&str, &Option<String>); 3]) -> Result<Settings, Failure> {
    let given: Vec<_> = given.iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?))).collect();
    let all = of_controller.iter().chain(&given).map(String::as_str);
    settings(all).map_err(Failure::Usage)
}

/// Looks at files.
///
/// # Errors
/// A file is not there, or the cluster that was named does not answer.
pub async fn files<W: Write>(
    arguments: &Arguments,
    cluster: &Cluster,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let Arguments { files, no_cluster, cluster_domain: _, trust_domain: _, root_namespace: _ } = arguments;
    for path in files {
        path.metadata().map_err(|error| Failure::Usage(format!("--file {}: {error}", path.display())))?;
    }
    let known = if *no_cluster { None } else { known(cluster).await? };
    let settings = arguments.settings(known.as_ref().map_or(&[], |known| &known.arguments))?;
    let analysis = analyze(&settings, files, known.map(|known| known.objects));
    show(&analysis, screen)?;
    let is_found = analysis.findings.iter().any(|finding| finding.severity != Severity::Missing);
    Ok(if is_found { Outcome::Found } else { Outcome::Fine })
}

/// What the cluster holds. One that nobody named may be out of reach: then the files alone are looked at.
async fn known(cluster: &Cluster) -> Result<Option<Known>, Failure> {
    let Cluster { access, mesh_namespace } = cluster;
    let client = match access.client().await {
        Ok(client) => client,
        Err(_) if !access.is_named() => return Ok(None),
        Err(failure) => return Err(failure),
    };
    let said = |failure: &Failure, then: &str| {
        eprintln!("meshctl: {}; {then}", crate::output::plain(&failure.to_string()));
    };
    let objects = match known::objects(&client, collections()).await {
        Ok(objects) => objects,
        Err(failure) if !access.is_named() => {
            said(&failure, "only the files are looked at");
            return Ok(None);
        }
        Err(failure) => return Err(failure),
    };
    // Who may not read it can say by flags what it would.
    let arguments = known::arguments(&client, mesh_namespace).await.unwrap_or_else(|failure| {
        said(&failure, "its domains and root namespace are taken for the usual ones, or as the flags say");
        Vec::new()
    });
    Ok(Some(Known { objects, arguments }))
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
            Format::Table | Format::Compact => screen.line(problem, Mood::Bad)?,
            Format::Json | Format::Yaml => screen.object(&json!({ "kind": "problem", "text": problem }))?,
        }
    }
    if status.problems.is_empty() && screen.format.is_text() {
        screen.line("the controller honours everything as it was written", Mood::Good)?;
    }
    complete?;
    Ok(if status.problems.is_empty() { Outcome::Fine } else { Outcome::Found })
}

fn show<W: Write>(analysis: &Analysis, screen: &mut Screen<W>) -> Result<(), Failure> {
    let Analysis { findings, objects, fine, others, is_of_cluster } = analysis;
    if !screen.format.is_text() {
        for Finding { file, object, field, why, severity } in findings {
            let severity = severity.word();
            screen.object(&json!({
                "kind": "finding", "severity": severity, "file": file, "object": object, "field": field, "why": why,
            }))?;
        }
        return Ok(screen.object(&json!({
            "kind": "summary", "objects": objects, "fine": fine, "others": others, "cluster": is_of_cluster,
        }))?);
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
    let alone = if *is_of_cluster { "" } else { "; no cluster was looked at" };
    let mood = if fine == objects { Mood::Good } else { Mood::Plain };
    Ok(screen.line(&format!("{fine} of {objects} {plural} fine{others}{alone}"), mood)?)
}

#[cfg(test)]
mod tests;

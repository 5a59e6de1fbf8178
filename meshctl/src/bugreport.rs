//! `meshctl bugreport`: one archive with what somebody needs who looks for a fault from afar. It changes nothing. What
//! it could not get is listed in it and said by the exit code; secrets never get in: see `redact`.

mod archive;
mod cluster;
mod contents;
mod mesh;
mod redact;

use std::{
    collections::BTreeSet,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use jiff::Timestamp;
use serde_json::json;

use crate::{
    Outcome,
    client::Failure,
    doctor,
    output::{self, Format, Mood, Screen},
    whom::Whom,
    words,
};
use archive::Archive;

#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "No data of Secrets, no environment of pods, no keys and no tokens are in it; names, addresses, labels, \
policies, flows and logs are. Look before you send it.

Exit code 3: something could not be had; errors.txt in the archive says what and why.

Examples:
  meshctl bugreport                          # a cluster, or the agent of this machine
  meshctl bugreport -n shop --since 15m
  meshctl bugreport --node node-a --dry-run  # what it would hold"
)]
pub struct Arguments {
    /// Where to write it [default: nodemesh-bugreport-TIME.tar.gz here]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Logs and flows of this time: 30s, 5m, 2h, 1d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = words::duration)]
    since: Duration,
    /// Pods, flows and events of these namespaces only [default: all that are in the mesh]
    #[arg(short, long, value_name = "NAMESPACE", value_delimiter = ',')]
    namespace: Vec<String>,
    /// Say what it would hold, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Without a cluster: where the agent or controller serves its metrics, as in 127.0.0.1:15020
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<std::net::SocketAddr>,
}

/// What is wanted of everything.
#[derive(Clone, Debug)]
struct Wanted {
    since: Duration,
    /// Empty: all of the mesh.
    namespaces: BTreeSet<String>,
    /// Empty: all.
    node: String,
}

pub async fn run<W: Write>(arguments: &Arguments, whom: &Whom, screen: &mut Screen<W>) -> Result<Outcome, Failure> {
    let Arguments { out, since, namespace, dry_run, metrics } = arguments;
    if *dry_run {
        contents::of(whom.client.is_some()).try_for_each(|(path, about)| match screen.format {
            Format::Table | Format::Compact => screen.line(&format!("{path:<34} {about}"), Mood::Plain),
            _ => screen.object(&json!({ "path": path, "about": about })),
        })?;
        return Ok(Outcome::Fine);
    }
    let now = Timestamp::now();
    let stamp: String = now.to_string().chars().take(19).map(|c| if c == ':' { '-' } else { c }).collect();
    let name = format!("nodemesh-bugreport-{stamp}");
    let path = out.clone().unwrap_or_else(|| format!("{name}.tar.gz").into());
    let place = |error: io::Error| Failure::Usage(format!("--out {}: {error}", path.display()));
    let mut archive = Archive::new(create(&path).map_err(place)?, &name, now);
    let wanted = Wanted { since: *since, namespaces: namespace.iter().cloned().collect(), node: whom.node.clone() };
    let written = async {
        gather(&mut archive, whom, &wanted, *metrics).await?;
        archive.finish(whom.client.is_some())
    };
    let missing = written.await.map_err(place)?;
    let shown = path.display();
    match screen.format {
        Format::Table | Format::Compact => screen.line(&format!("{shown}"), Mood::Plain)?,
        _ => screen.object(&json!({ "path": path, "missing": missing }))?,
    }
    if missing.is_empty() {
        return Ok(Outcome::Fine);
    }
    progress(&format!("not complete: {} could not be had, see errors.txt in it", missing.len()));
    Ok(Outcome::Unsure)
}

/// For its owner's eyes only; never over another one.
fn create(path: &std::path::Path) -> io::Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

async fn gather<W: Write>(
    archive: &mut Archive<W>,
    whom: &Whom,
    wanted: &Wanted,
    metrics: Option<std::net::SocketAddr>,
) -> io::Result<()> {
    let told = json!({ "meshctl": env!("CARGO_PKG_VERSION"), "since_seconds": wanted.since.as_secs(), "node": wanted.node,
        "namespaces": wanted.namespaces, "time": Timestamp::now().to_string() });
    archive.add("report.json", &format!("{told:#}\n"))?;
    if let Some(client) = &whom.client {
        cluster::gather(archive, client, wanted).await?;
    }
    match &whom.servers {
        Ok(servers) => mesh::gather(archive, servers, wanted).await?,
        Err(failure) => archive.missing("agents and controller", failure),
    }
    if let Some(address) = metrics {
        progress("metrics");
        match mesh::metrics(tokio::net::TcpStream::connect(address)).await {
            Ok(page) => archive.add("metrics/local.txt", &page)?,
            Err(error) => archive.missing("metrics/local.txt", &format!("{address}: {error}")),
        }
    }
    progress("doctor");
    match doctor::look(whom).await {
        Ok(findings) => archive.add("doctor.jsonl", &lines(&findings)),
        Err(failure) => archive.skip("doctor.jsonl", &failure),
    }
}

/// One object a line.
fn lines<T: serde::Serialize>(objects: &[T]) -> String {
    let lines = objects.iter().filter_map(|object| serde_json::to_string(object).ok());
    lines.map(|line| line + "\n").collect()
}

/// What is done now; the answer itself goes elsewhere.
fn progress(what: &str) {
    eprintln!("bugreport: {}", output::plain(what));
}

#[cfg(test)]
mod tests;

//! Reports of one machine, opened by the system's tar.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use mesh_common::proto::nodemesh::{CertificateInfo, ConfigKind, Flow, NodeStatus, WorkloadInfo, item, query};
use tokio::io::AsyncReadExt;
use tonic::Status;

use super::*;
use crate::{client::Servers, tests::Served};

const KEY: &str = "-----BEGIN PRIVATE KEY-----\\nMIGHAgEAMBMGplanted\\n-----END PRIVATE KEY-----";

/// Its files by their paths below the report's folder.
fn opened(archive: &Path) -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let tar = Command::new("tar").arg("-xzf").arg(archive).arg("-C").arg(folder.path()).status().unwrap();
    assert!(tar.success());
    let root = fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let mut files = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let name = path.strip_prefix(&root).unwrap().display().to_string();
                    drop(files.insert(name, fs::read_to_string(&path).unwrap()));
                }
            }
        }
    }
    files
}

async fn report(arguments: &[&str], servers: Servers) -> (Result<Outcome, Failure>, String) {
    let arguments = ["meshctl", "bugreport"].iter().chain(arguments);
    let parsed = <crate::Arguments as clap::Parser>::try_parse_from(arguments).unwrap();
    let crate::Verb::Bugreport(arguments) = parsed.verb else { panic!("another verb") };
    let whom = Whom { client: None, servers: Ok(servers), node: String::new() };
    let mut out = Vec::new();
    let mut screen = Screen::new(&mut out, Format::Table, false);
    let outcome = run(&arguments, &whom, &mut screen).await;
    (outcome, String::from_utf8(out).unwrap())
}

fn agent(deaf: bool) -> Served {
    Served::new(move |kind| match kind {
        query::Kind::Status(_) => {
            Ok(vec![item::Kind::Status(NodeStatus { controller_connected: true, ..NodeStatus::default() })])
        }
        query::Kind::Config(config) => match config.kind() {
            // Nothing that a server says is trusted to be clean.
            ConfigKind::Workloads => {
                Ok(vec![item::Kind::Workload(WorkloadInfo { name: KEY.into(), ..WorkloadInfo::default() })])
            }
            ConfigKind::Certificates => Ok(vec![item::Kind::Certificate(CertificateInfo {
                identity: "spiffe://cluster.local/ns/shop/sa/web".into(),
                state: "valid".into(),
                ..CertificateInfo::default()
            })]),
            ConfigKind::Connections if deaf => Err(Status::unavailable("too much to do")),
            _ => Ok(Vec::new()),
        },
        query::Kind::Flows(query) => {
            assert!(query.last != 1);
            Ok(vec![item::Kind::Flow(Flow { id: 4711, ..Flow::default() }.into())])
        }
        _ => Ok(Vec::new()),
    })
}

fn servers(served: &Served) -> Servers {
    Servers::of_sockets(vec![served.socket()], String::new())
}

#[tokio::test]
async fn one_machine_without_a_cluster() {
    let served = agent(false);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.tar.gz");
    let (outcome, text) = report(&["--out", path.to_str().unwrap()], servers(&served)).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    assert_eq!(text, format!("{}\n", path.display()));
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let files = opened(&path);
    for (name, holds) in [
        ("agents/node-a/status.jsonl", "controller_connected"),
        ("agents/node-a/certificates.jsonl", "spiffe://cluster.local/ns/shop/sa/web"),
        ("agents/node-a/workloads.jsonl", "(left out)"),
        ("doctor.jsonl", r#""mark":"ok""#),
        ("report.json", env!("CARGO_PKG_VERSION")),
        ("contents.txt", "agents/*/*.jsonl"),
    ] {
        assert!(files.get(name).is_some_and(|text| text.contains(holds)), "{name}: {files:#?}");
    }
    assert!(!files.contains_key("errors.txt"));
    for (name, text) in &files {
        assert!(contents::names(name), "{name} is not in the table of contents");
        assert!(!text.contains("planted"), "{name} holds the key");
    }
    // Never over another one.
    let (outcome, _) = report(&["--out", path.to_str().unwrap()], servers(&served)).await;
    assert_eq!(outcome.unwrap_err().exit_code(), 2);
}

#[tokio::test]
async fn what_could_not_be_had_is_in_it_and_in_the_exit_code() {
    let served = agent(true);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.tar.gz");
    // A page that is none.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 512];
            let _ = stream.read(&mut head).await;
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 503 Busy\r\n\r\n").await;
        }
    });
    let arguments = ["--out", path.to_str().unwrap(), "--metrics", &address];
    let (outcome, _) = report(&arguments, servers(&served)).await;
    assert_eq!(outcome.unwrap(), Outcome::Unsure);
    let files = opened(&path);
    let errors = &files["errors.txt"];
    assert!(errors.contains("agents/node-a/connections.jsonl: ") && errors.contains("too much to do"), "{errors}");
    assert!(errors.contains("metrics/local.txt: ") && errors.contains("HTTP/1.1 503 Busy"), "{errors}");
    assert!(files.contains_key("agents/node-a/workloads.jsonl"), "the rest is there");
}

#[tokio::test]
async fn a_page_of_metrics_is_taken_whole() {
    let (mut server, client) = tokio::io::duplex(64);
    tokio::spawn(async move {
        let mut head = [0; 512];
        let _ = server.read(&mut head).await;
        let page = format!("HTTP/1.1 200 OK\r\nx: y\r\n\r\n{}", "mesh_x 1\n".repeat(100));
        let _ = tokio::io::AsyncWriteExt::write_all(&mut server, page.as_bytes()).await;
    });
    let page = mesh::metrics(async { Ok(client) }).await.unwrap();
    assert_eq!(page, "mesh_x 1\n".repeat(100));
}

#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let (outcome, text) = report(&["--dry-run"], Servers::of_sockets(vec!["/nonexistent".into()], String::new())).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    assert!(text.contains("\nagents/*/*.jsonl ") && !text.contains("logs/"), "{text}");
}

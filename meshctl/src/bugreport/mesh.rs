//! What agents and controller say, by the verbs that people have: each answer is that of `meshctl VERB -o json`.

use std::{future::Future, io, time::Duration};

use clap::Parser;
use mesh_common::proto::nodemesh::{StatusQuery, item, query};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{Wanted, archive::Archive, progress};
use crate::{
    Arguments, answer,
    client::{CONTROLLER, Servers},
    output::{Format, Screen},
};

/// File and verb.
const ANSWERS: &[(&str, &str)] = &[
    ("status", "status"),
    ("workloads", "config workloads"),
    ("services", "config services"),
    ("policies", "config policies"),
    ("accounts", "config accounts"),
    ("certificates", "config certs"),
    ("connections", "config connections"),
    ("edges", "edges"),
    ("identities", "identity"),
];
/// What the controller knows by itself.
const CONTROLLERS: usize = 5;
/// Of an agent that is slow. A verb asks it once.
const PATIENCE: Duration = Duration::from_secs(30);
/// A page of metrics.
const PAGE: u64 = 16 << 20;

pub async fn gather<W: io::Write>(archive: &mut Archive<W>, servers: &Servers, wanted: &Wanted) -> io::Result<()> {
    let (items, complete) = servers.ask(query::Kind::Status(StatusQuery {})).all().await;
    if let Err(failure) = complete {
        archive.missing("agents and controller", &failure);
    }
    let mut nodes: Vec<String> = Vec::new();
    let mut controller = false;
    for (node, kind) in items {
        match kind {
            item::Kind::Status(_) => nodes.push(node),
            item::Kind::Controller(_) => controller = true,
            _ => {}
        }
    }
    nodes.sort();
    nodes.dedup();
    if controller {
        progress("controller");
        let servers = servers.about(CONTROLLER);
        for (file, verb) in &ANSWERS[..CONTROLLERS] {
            one(archive, &servers, &format!("controller/{file}.jsonl"), verb).await?;
        }
    }
    for node in nodes {
        progress(&format!("agent {node}"));
        let servers = servers.about(&node);
        for (file, verb) in ANSWERS {
            one(archive, &servers, &format!("agents/{node}/{file}.jsonl"), verb).await?;
        }
        let since = wanted.since.as_secs();
        let mut flows = Vec::new();
        match wanted.namespaces.is_empty() {
            true => flows.push(("flows".to_owned(), format!("flows --since {since}s"))),
            false => flows.extend(
                wanted
                    .namespaces
                    .iter()
                    .map(|name| (format!("flows-{name}"), format!("flows --since {since}s -n {name}"))),
            ),
        }
        for (file, verb) in flows {
            one(archive, &servers, &format!("agents/{node}/{file}.jsonl"), &verb).await?;
        }
    }
    Ok(())
}

async fn one<W: io::Write>(archive: &mut Archive<W>, servers: &Servers, path: &str, verb: &str) -> io::Result<()> {
    let mut out = Vec::new();
    let mut screen = Screen::new(&mut out, Format::Json, false);
    let asked = Arguments::try_parse_from(["meshctl"].into_iter().chain(verb.split(' ')));
    let outcome = match asked {
        Ok(asked) => timeout(PATIENCE, answer(asked.verb, servers, &mut screen)).await,
        Err(error) => return archive.skip(path, &error),
    };
    match outcome {
        Ok(Ok(_)) => {}
        Ok(Err(failure)) => archive.missing(path, &failure),
        Err(_) => archive.missing(path, &format!("no whole answer in {} s", PATIENCE.as_secs())),
    }
    // What came before a failure is worth having.
    archive.add(path, &String::from_utf8_lossy(&out))
}

/// The page that Prometheus would get over this connection.
pub async fn metrics<S: AsyncRead + AsyncWrite + Unpin>(
    stream: impl Future<Output = io::Result<S>>,
) -> io::Result<String> {
    let page = timeout(PATIENCE, async {
        let mut stream = stream.await?;
        // HTTP/1.0: the page ends with the connection, and comes in one piece.
        stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: metrics\r\n\r\n").await?;
        let mut page = Vec::new();
        (&mut stream).take(PAGE).read_to_end(&mut page).await?;
        Ok::<_, io::Error>(page)
    });
    let page = page.await.map_err(|_| io::Error::other(format!("no whole page in {} s", PATIENCE.as_secs())))??;
    let page = String::from_utf8_lossy(&page);
    let (head, body) = page.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("no HTTP"))?;
    let status = head.lines().next().unwrap_or_default();
    match status.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        _ => Err(io::Error::other(status.to_owned())),
    }
}

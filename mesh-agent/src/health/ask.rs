//! What the kubelet's probe of readiness asks. On a node's network the health address belongs to every agent of the
//! node: while one replaces another, either may answer. Only the answer of the own container counts.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::MetadataExt as _,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

const PATIENCE: Duration = Duration::from_secs(2);
/// Of an answer; it is some lines.
const MOST: u64 = 16 * 1024;
/// How answers say whose they are.
pub const SERVER: &str = "mesh-agent/";

/// # Errors
/// The agent is not ready, or another one answers, or none: says which.
pub fn ready(address: SocketAddr) -> Result<()> {
    let place = || format!("--health {address}");
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).with_context(place)?;
    stream.set_read_timeout(Some(PATIENCE)).with_context(place)?;
    stream.write_all(b"GET /healthz/ready HTTP/1.1\r\nhost: agent\r\nconnection: close\r\n\r\n").with_context(place)?;
    let mut answer = String::new();
    stream.take(MOST).read_to_string(&mut answer).with_context(place)?;
    let (pid, ready) = read(&answer).with_context(|| format!("{}: no answer of an agent", place()))?;
    if mount_namespace(&pid.to_string())? != mount_namespace("self")? {
        bail!("the agent that answers (pid {pid}) is another one: this one has not taken over yet, or is replaced");
    }
    ready.map_err(anyhow::Error::msg)
}

/// Whose answer it is, and what it says.
fn read(answer: &str) -> Option<(u32, Result<(), String>)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?;
    let headers = lines.filter_map(|line| line.split_once(": "));
    let server = headers
        .filter(|(name, _)| name.eq_ignore_ascii_case("server"))
        .find_map(|(_, value)| value.strip_prefix(SERVER)?.parse().ok())?;
    Some((server, if status == "200" { Ok(()) } else { Err(body.trim().to_owned()) }))
}

/// A container has one of its own; `/proc/PID/ns/mnt` is the same file for all of its processes (namespaces(7)).
fn mount_namespace(pid: &str) -> Result<(u64, u64)> {
    let path = format!("/proc/{pid}/ns/mnt");
    let file = fs::metadata(&path).with_context(|| format!("cannot see {path}, which needs the node's processes"))?;
    Ok((file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::StatusCode;

    use super::*;
    use crate::health;

    #[test]
    fn an_answer_says_whose_it_is() {
        let answer = |status: &str, server: &str| format!("HTTP/1.1 {status}\r\nServer: {server}\r\na: b\r\n\r\nwhy\n");
        assert_eq!(read(&answer("200 OK", "mesh-agent/7")), Some((7, Ok(()))));
        assert_eq!(read(&answer("503 No", "mesh-agent/7")), Some((7, Err("why".into()))));
        assert_eq!(read(&answer("200 OK", "nginx")), None, "somebody else has the port");
        assert_eq!(read("HTTP/1.1 200 OK\r\n"), None);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_own_container_is_told_from_others() {
        let listener = health::listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let ready_now = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let state = Arc::clone(&ready_now);
        let answer: health::Answer = Arc::new(move |_| {
            let ready = state.load(std::sync::atomic::Ordering::SeqCst);
            Some(if ready {
                (StatusCode::OK, "ready\n".into())
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "no hooks\n".into())
            })
        });
        let server = tokio::spawn(health::serve(listener, answer));
        let ask = || tokio::task::spawn_blocking(move || ready(address).map_err(|error| format!("{error:#}")));
        assert_eq!(ask().await.unwrap(), Ok(()), "this process is of this container");
        ready_now.store(false, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(ask().await.unwrap(), Err("no hooks".into()));
        server.abort();
    }
}

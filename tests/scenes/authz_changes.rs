//! A policy begins to ask for requests while connections are open: none of them goes past it.

use std::{fs, sync::Arc, thread};

use anyhow::{Context, Result, ensure};
use mesh_tests::{A, Answers, Ask, Patience, Pod, eventually};

use crate::cast::{Cast, policy};

const PORT: u16 = 8080;

/// Only GET is permitted.
const READS: &str = "[{ to: [{ operation: { methods: [GET] } }] }]";

/// One connection that carries a GET, and then, once `change` is made, these rows.
fn across(
    cast: &mut Cast,
    server: &Pod,
    http2: bool,
    rows: &[(&str, &str)],
    change: impl FnOnce(&mut Cast) -> Result<()>,
) -> Result<Answers> {
    let gate = cast.world.root().join(format!("gate-{}-{http2}", server.name));
    let rows = [&[("GET", "/before")], rows].concat();
    let ask = Ask { http2, gate: Some(gate.clone()), ..Ask::at(server.at(PORT), "server") }.rows(rows);
    let client = Arc::clone(&cast.client);
    thread::scope(|scope| {
        let asking = scope.spawn(|| client.ask_http(&ask));
        eventually("the first request is answered", Patience::SHORT, || {
            Ok(server.asked(PORT)?.contains_key("/before").then_some(()))
        })?;
        change(cast)?;
        fs::write(&gate, "").context("open the gate")?;
        asking.join().expect("it does not panic")
    })
}

/// Whatever became of the connection, what is denied now is denied, and seen by nobody.
fn holds(server: &Pod, answers: &Answers, rows: &[(&str, u16)]) -> Result<()> {
    for (answer, (path, status)) in answers.rows[1..].iter().zip(rows) {
        // 0: it broke off with the old connection, and was not answered.
        ensure!(answer.status == *status || answer.status == 0, "{path}: {answer:?}");
    }
    let asked = server.asked(PORT)?;
    for (path, status) in rows {
        ensure!(*status == 200 || !asked.contains_key(*path), "{path} went past the policy: {asked:?}");
    }
    let last = answers.rows.last().context("rows")?;
    ensure!(last.status == rows.last().context("rows")?.1, "{last:?}");
    Ok(())
}

const ROWS: [(&str, &str); 4] = [("POST", "/post-1"), ("POST", "/post-2"), ("DELETE", "/delete"), ("GET", "/get")];
const OUTCOMES: [(&str, u16); 4] = [("/post-1", 403), ("/post-2", 403), ("/delete", 403), ("/get", 200)];

fn a_policy_is_added(title: &str, server: fn(&Cast) -> Arc<Pod>, action: &str, rules: &str) -> Result<()> {
    let mut cast = Cast::meshed(title)?;
    let server = server(&cast);
    server.http(PORT)?;
    for http2 in [false, true] {
        // The second connection of a pair is the kernel's own.
        cast.client.ask_http(&Ask::at(server.at(PORT), "server"))?;
        let before = cast.world.counter(A, "CONNECT_DIRECT")?;
        let yaml = policy("requests", &server.name, action, rules);
        let answers = across(&mut cast, &server, http2, &ROWS, |cast| {
            let direct = cast.world.counter(A, "CONNECT_DIRECT")?;
            ensure!((direct > before) == (server.node == A), "it is no direct connection: {direct}");
            cast.world.apply("requests", &yaml)
        })?;
        holds(&server, &answers, &OUTCOMES)?;
        cast.world.delete("requests")?;
    }
    Ok(())
}

#[test]
fn authz_changes_reach_direct_connections_that_are_open() -> Result<()> {
    a_policy_is_added("authz direct", |cast| Arc::clone(&cast.near), "ALLOW", READS)
}

#[test]
fn authz_changes_that_deny_reach_direct_connections_that_are_open() -> Result<()> {
    let rules = "[{ to: [{ operation: { methods: [POST, DELETE] } }] }]";
    a_policy_is_added("authz direct deny", |cast| Arc::clone(&cast.near), "DENY", rules)
}

#[test]
fn authz_changes_reach_tunnels_that_are_open() -> Result<()> {
    a_policy_is_added("authz tunnel", |cast| Arc::clone(&cast.far), "ALLOW", READS)
}

#[test]
fn authz_changes_that_deny_reach_tunnels_that_are_open() -> Result<()> {
    let rules = "[{ to: [{ operation: { methods: [POST, DELETE] } }] }]";
    a_policy_is_added("authz tunnel deny", |cast| Arc::clone(&cast.far), "DENY", rules)
}

/// What is no HTTP meets no condition of requests: ALLOW rules do not permit it, DENY rules without other conditions
/// deny it.
#[test]
fn authz_changes_end_bytes_on_ports_where_requests_are_asked_for() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("authz bytes")?;
    for server in [near, far] {
        server.serve("echo", 7000)?;
        server.serve("greet", 7002)?;
        client.say(server.at(7000), "first")?;
        for (action, rules) in [
            ("ALLOW", "[{ to: [{ operation: { methods: [GET] } }] }]"),
            ("DENY", "[{ to: [{ operation: { methods: [DELETE] } }] }]"),
        ] {
            let held = client.hold(server.at(7000))?;
            world.apply("requests", &policy("requests", &server.name, action, rules))?;
            let ended = held.ended(Patience::SHORT)?;
            ensure!(ended.received > 0, "it had worked before: {ended:?}");
            for _ in 0..2 {
                let said = client.say(server.at(7000), "ping")?;
                ensure!(said.turned_away(), "{action}: {said:?}");
            }
            // A server that speaks first says its greeting to nobody who is not permitted.
            let greeted = client.dial_once(server.at(7002), &["--listen-first", "--text", "bye"])?;
            ensure!(greeted.turned_away(), "{action}: {greeted:?}");
            world.delete("requests")?;
            ensure!(client.say(server.at(7000), "ping")?.echoed(), "{action}: it does not pass again");
        }
    }
    Ok(())
}

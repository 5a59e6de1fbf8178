//! What takes its time is asked again when a policy changes: what is denied now ends, everything else goes on.

use std::{sync::Arc, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{Answer, Ask, Lived, Patience, Pod, World, eventually};

use crate::cast::{Cast, policy};

const PORT: u16 = 8080;
/// How long each may last; the change comes after a tenth of it.
const LIVE_MS: u64 = 3000;

fn permits(paths: &str) -> String {
    format!("[{{ to: [{{ operation: {{ methods: [GET], paths: [{paths}] }} }}] }}]")
}

/// Two of a kind under way; a change denies the first.
fn one_of_two(cast: &mut Cast, server: &Pod, ask: impl Fn(&str) -> Ask) -> Result<[Lived; 2]> {
    let both = policy("streams", &server.name, "ALLOW", &permits("/a, /b"));
    cast.world.apply("streams", &both)?;
    let before = server.asked(PORT)?;
    let client = Arc::clone(&cast.client);
    let asks = [ask("/a"), ask("/b")];
    thread::scope(|scope| {
        let asking = asks.each_ref().map(|ask| {
            let client = Arc::clone(&client);
            scope.spawn(move || client.ask_http(&Ask { live_ms: LIVE_MS, ..ask.clone() }))
        });
        eventually("both are under way", Patience::SHORT, || {
            let asked = server.asked(PORT)?;
            Ok(["/a", "/b"].iter().all(|path| asked.get(*path) > before.get(*path)).then_some(()))
        })?;
        thread::sleep(Duration::from_millis(LIVE_MS / 10));
        let one = policy("streams", &server.name, "ALLOW", &permits("/b"));
        cast.world.manifests.write("streams", &one)?;
        let [a, b] = asking.map(|asking| lived(asking.join().expect("it does not panic")?.first.first()));
        Ok([a?, b?])
    })
}

fn lived(answer: Option<&Answer>) -> Result<Lived> {
    answer.and_then(|answer| answer.lived.clone()).context("no answer")
}

/// The first ended early and in no order, the second did not, and each byte of both was right.
fn told(world: &World, server: &Pod, [denied, permitted]: &[Lived; 2]) -> Result<()> {
    ensure!(!denied.wrong && !permitted.wrong && denied.bytes > 0, "{denied:?} {permitted:?}");
    ensure!(permitted.ended.is_none() && permitted.bytes > denied.bytes, "{denied:?} {permitted:?}");
    ensure!(denied.ended.as_deref().is_some_and(|end| end != "end"), "it goes on, or seems whole: {denied:?}");
    world.flow(server.node, "of a request that was ended", |flow| {
        (flow.direction.as_str(), flow.reason.as_str(), flow.policy.as_str())
            == ("inbound", "POLICY_NO_ALLOW", "shop/streams")
    })?;
    Ok(())
}

fn streams(title: &str, server: fn(&Cast) -> Arc<Pod>, ask: impl Fn(Ask) -> Ask) -> Result<()> {
    let mut cast = Cast::meshed(title)?;
    let server = server(&cast);
    server.http(PORT)?;
    let both = one_of_two(&mut cast, &server, |path| ask(Ask::at(server.at(PORT), "server").path(path)))?;
    told(&cast.world, &server, &both)
}

fn web_socket(ask: Ask) -> Ask {
    let ask = ask.header("connection", "upgrade").header("upgrade", "websocket");
    Ask { upgraded: Some("hello".to_owned()), ..ask }
}

fn download(ask: Ask) -> Ask {
    ask.header("x-pieces", "100000")
}

#[test]
fn streams_of_web_sockets_end_when_they_are_denied_on_one_node() -> Result<()> {
    streams("ws near", |cast| Arc::clone(&cast.near), web_socket)
}

#[test]
fn streams_of_web_sockets_end_when_they_are_denied_across_nodes() -> Result<()> {
    streams("ws far", |cast| Arc::clone(&cast.far), web_socket)
}

#[test]
fn streams_of_downloads_end_when_they_are_denied_on_one_node() -> Result<()> {
    streams("download near", |cast| Arc::clone(&cast.near), download)
}

#[test]
fn streams_of_downloads_end_when_they_are_denied_across_nodes() -> Result<()> {
    streams("download far", |cast| Arc::clone(&cast.far), download)
}

#[test]
fn streams_of_http2_end_when_they_are_denied() -> Result<()> {
    streams("download h2", |cast| Arc::clone(&cast.far), |ask| download(ask).http2())
}

/// An upgrade that nobody permitted gets an answer of HTTP, and the application hears nothing of it (X29).
#[test]
fn streams_that_are_denied_at_first_never_switch() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("ws denied")?;
    for server in [&near, &far] {
        server.http(PORT)?;
        world.apply("streams", &policy("streams", &server.name, "ALLOW", &permits("/a")))?;
        let answers = client.ask_http(&web_socket(Ask::at(server.at(PORT), "server").path("/b")))?;
        ensure!(answers.failed.keys().any(|error| error.contains("not upgraded: 403")), "{answers:?}");
        let answers = client.ask_http(&web_socket(Ask::at(server.at(PORT), "server").path("/a")))?;
        ensure!(answers.echoed, "{answers:?}");
        // h2c is no protocol to switch to, and what it asks for is answered as HTTP/1.1.
        let h2c = Ask::at(server.at(PORT), "server").path("/a").header("connection", "upgrade, http2-settings");
        let answers = client.ask_http(&h2c.header("upgrade", "h2c").header("http2-settings", "AAMAAABkAAQAAP__"))?;
        ensure!(answers.status(200) == 1, "{answers:?}");
        ensure!(server.asked(PORT)?.keys().all(|path| path == "/a"), "{:?}", server.asked(PORT)?);
    }
    Ok(())
}

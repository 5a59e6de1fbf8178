//! The access log as operators read it: on the agent's standard output as JSON or text, by OTLP, and, where nobody
//! asked for one, of what was refused among the agent's own logs. Whatever clients send, a record is one line.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use mesh_tests::{A, Ask, B, Collector, Otlp, Patience, Pod, World, eventually};
use serde_json::Value;

use crate::cast::{Cast, policy};

const PORT: u16 = 8080;
const OTLP: u16 = 4318;

/// The usual pods, with agents of these options, in which `{outside}` is the address of a host outside the cluster.
/// Requests to the far pod are read, and some refused.
fn cast(title: &str, options: &[&str]) -> Result<Cast> {
    let mut world = World::new(title)?;
    world.metrics();
    let outside = world.outside(0)?.1.ip().to_string();
    world.agent_options.extend(options.iter().map(|option| option.replace("{outside}", &outside)));
    let Cast { mut world, client, near, far } = Cast::in_world(world)?;
    world.mesh("shop")?;
    far.http(PORT)?;
    let rules = "[{ to: [{ operation: { paths: ['/admin*'] } }] }]";
    world.apply("admin", &policy("admin", "far", "DENY", rules))?;
    Ok(Cast { world, client, near, far })
}

fn ask(client: &Pod, far: &Pod, path: &str, headers: &[(&str, &str)]) -> Result<u16> {
    let ask = Ask::at(far.at(PORT), "far").path(path);
    let ask = headers.iter().fold(ask, |ask, (name, value)| ask.header(name, value));
    let answers = client.ask_http(&ask)?;
    answers.by_status.keys().next().copied().with_context(|| format!("{answers:?}"))
}

/// The lines of the far node's access log. Each is JSON in ASCII.
fn lines(world: &World) -> Result<Vec<Value>> {
    let log = world.agent(B)?.process.log()?;
    let lines = log.lines().filter(|line| line.contains("\"log\":\"access\""));
    let read = |line: &str| {
        ensure!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
        serde_json::from_str(line).with_context(|| line.to_owned())
    };
    lines.map(read).collect()
}

/// Those of requests, once there is one of this path.
fn requests(world: &World, last: &str) -> Result<Vec<Value>> {
    eventually(format_args!("a line of {last}"), Patience::SHORT, || {
        let requests: Vec<_> = lines(world)?.into_iter().filter(|line| line["method"].is_string()).collect();
        Ok(requests.iter().any(|line| line["path"] == last).then_some(requests))
    })
}

fn of<'a>(lines: &'a [Value], path: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["path"] == path).collect()
}

#[test]
fn each_request_is_a_line_of_json_and_a_record_of_otlp() -> Result<()> {
    let to_collector = format!("--otlp-endpoint=http://{{outside}}:{OTLP}");
    let options = ["--access-log=json", "--access-log-otlp", "--otlp-protocol=http", &to_collector];
    let Cast { world, client, far, .. } = cast("access log", &options)?;
    let (place, _) = world.outside(OTLP)?;
    let collector = Collector::start(&place, OTLP, Otlp::Http)?;
    assert_eq!(ask(&client, &far, "/good?secret=1", &[("x-request-id", "r-1")])?, 200);
    assert_eq!(ask(&client, &far, "/admin/users", &[("x-request-id", "not sane, that is")])?, 403);
    let requests = requests(&world, "/admin/users")?;
    let [good, refused] = ["/good", "/admin/users"].map(|path| of(&requests, path));
    ensure!(good.len() == 1 && refused.len() == 1, "one line each: {requests:#?}");
    let (good, refused) = (good[0], refused[0]);
    let far_at = far.at(PORT).to_string();
    let far_identity = far.identity();
    for (field, value) in [
        ("verdict", "FORWARDED"),
        ("src.workload", "client"),
        ("src.namespace", "shop"),
        ("src.identity", &client.identity()),
        ("dst.addr", &far_at),
        ("dst.workload", "far"),
        ("dst.identity", &far_identity),
        ("direction", "inbound"),
        ("connection_security_policy", "mutual_tls"),
        ("method", "GET"),
        ("authority", "far"),
        ("protocol", "HTTP/1.1"),
        ("request_id", "r-1"),
    ] {
        assert_eq!(good[field], value, "{field} of {good:#}");
    }
    assert_eq!((&good["response_code"], &refused["response_code"]), (&200.into(), &403.into()));
    assert_eq!((&refused["verdict"], &refused["policy"]), (&"DROPPED".into(), &"shop/admin".into()), "{refused:#}");
    assert_eq!(refused["request_id"].as_str().map(str::len), Some(36), "no text that a client liked");
    let all = lines(&world)?;
    assert!(!all.iter().any(|line| line.to_string().contains("secret")), "no query");
    let logs = eventually("both come by OTLP", Patience::SHORT, || {
        let logs: Vec<_> = collector.logs().into_iter().filter(|log| log.attributes.contains_key("method")).collect();
        Ok((logs.len() >= 2).then_some(logs))
    })?;
    assert!(logs.iter().all(|log| log.resource["k8s.pod.name"] == "far"), "{logs:#?}");
    let denied = logs.iter().find(|log| log.attributes["path"] == "/admin/users").context("the refusal")?;
    assert!(denied.body.contains("response_code=403") && denied.body.contains("policy=\"shop/admin\""), "{denied:?}");
    Ok(())
}

#[test]
fn no_client_writes_a_line_of_its_own() -> Result<()> {
    let Cast { world, client, far, .. } = cast("injection", &["--access-log=json"])?;
    let at = far.at(PORT);
    // What is a request at all: bytes in a path that a terminal would obey, and a quote.
    for path in ["/\u{202e}gnp.exe", "/\u{2028}{\"log\":\"access\"}", "/\u{9b}2Jü", "/\\\"}"] {
        client.say(at, &format!("GET {path} HTTP/1.1\r\nHost: far\r\nConnection: close\r\n\r\n"))?;
    }
    // What is none.
    for text in [
        "GET /\u{1b}[2J HTTP/1.1\r\nHost: far\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\n{\"log\":\"access\"\r\n\r\n",
    ] {
        client.say(at, text)?;
    }
    assert_eq!(ask(&client, &far, "/last", &[])?, 200);
    let requests = requests(&world, "/last")?;
    let log = world.agent(B)?.process.log()?;
    assert!(!log.contains('\u{1b}') && !log.contains('\u{202e}') && !log.contains('\u{2028}'), "{log:?}");
    let forged = log.lines().filter(|line| line.starts_with("{\"log\"")).count();
    assert_eq!(forged, 0, "{log}");
    assert!(requests.len() <= 7, "no more lines than requests: {requests:#?}");
    Ok(())
}

#[test]
fn shares_and_errors_alone_and_plain_text() -> Result<()> {
    let options = ["--access-log=text", "--access-log-errors", "--access-log-sampling=50"];
    let Cast { world, client, far, .. } = cast("share of errors", &options)?;
    let many = |path: &str, count| client.ask_http(&Ask::at(far.at(PORT), "far").path(path).many(count, 1));
    ensure!(many("/good", 50)?.status(200) == 50);
    ensure!(many("/admin/200", 200)?.status(403) == 200);
    let found = || -> Result<(usize, usize)> {
        let log = world.agent(B)?.process.log()?;
        let of =
            |path: &str| log.lines().filter(|line| line.contains(" access verdict=") && line.contains(path)).count();
        Ok((of("path=\"/good\""), of("path=\"/admin/200\"")))
    };
    let (good, errors) = eventually("some are written", Patience::SHORT, || Ok(Some(found()?).filter(|n| n.1 >= 60)))?;
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert!(good == 0 && found()?.1 <= 140, "{good} {errors} {:?}", found()?);
    Ok(())
}

#[test]
fn without_a_word_refusals_are_among_the_agents_own_logs_and_not_too_many() -> Result<()> {
    let Cast { world, client, far, .. } = cast("refusals", &[])?;
    assert_eq!(ask(&client, &far, "/good", &[])?, 200);
    let answers = client.ask_http(&Ask::at(far.at(PORT), "far").path("/admin").many(400, 1))?;
    ensure!(answers.status(403) == 400, "{answers:?}");
    let process = Arc::clone(&world.agent(B)?.process);
    let line = process.says("path=\"/admin\"", Patience::SHORT)?;
    assert!(line.contains("INFO access:") && line.contains("verdict=\"DROPPED\""), "{line}");
    process.says("more refusals in this second", Patience::SHORT)?;
    let log = process.log()?;
    let told = log.lines().filter(|line| line.contains("path=\"/admin\"")).count();
    assert!((1..200).contains(&told), "{told}");
    assert!(!log.contains("path=\"/good\"") && !log.contains("\"log\":\"access\""), "{log}");
    assert!(world.metric(A, "mesh_access_log_lost_total{to=\"stdout\",why=\"full\"}").is_err(), "nothing is lost");
    Ok(())
}

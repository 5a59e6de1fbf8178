//! A change of policies is tried on what was recorded, then made: what was foretold happens.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use mesh_tests::{A, Ask, World, programs_dir};
use serde_json::Value;

use crate::cast::{Cast, policy};

const BY_CLIENT: &str = "[{ from: [{ source: { principals: [cluster.local/ns/shop/sa/client] } }] }]";

/// Writes a file that the controller does not read.
pub(crate) fn aside(world: &World, name: &str, yaml: &str) -> Result<PathBuf> {
    let root = world.manifests.folder().parent().context("it is in the world's folder")?;
    let path = root.join(format!("{name}.yaml"));
    fs::write(&path, yaml).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// The exit code, and what was said.
pub(crate) fn asked(world: &World, verb: &[&str], change: &[&str]) -> Result<(i32, Vec<Value>, String)> {
    let mut command = Command::new(programs_dir()?.join("meshctl"));
    command.arg("--controller").arg(world.controller()?.admin_socket()).args(verb).args(change);
    command.arg("--current").arg(world.manifests.folder()).args(["-o", "json"]);
    let output = command.output().context("run meshctl")?;
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let all = values.collect::<Result<Vec<_>, _>>().with_context(|| format!("{verb:?}: {text} {error}"))?;
    Ok((output.status.code().context("it was killed")?, all, error.into_owned()))
}

fn tested(world: &World, change: &[&str]) -> Result<(i32, Vec<Value>, String)> {
    asked(world, &["policy", "test", "--since", "5m"], change)
}

/// `change source -> destination[ method path] count` of each pair, in order.
fn pairs(all: &[Value]) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pairs = all.iter().filter(|value| value["kind"] == "pair").map(|pair| {
        let ends = format!("{} -> {}", text(&pair["source"]["workload"]), text(&pair["destination"]["workload"]));
        let request = match pair["method"].as_str() {
            Some(method) => format!(" {method} {}", text(&pair["path"])),
            None => String::new(),
        };
        format!("{} {ends}{request} {}", text(&pair["change"]), pair["count"])
    });
    pairs.collect()
}

fn summary(all: &[Value]) -> Result<&Value> {
    all.iter().find(|value| value["kind"] == "summary").context("a summary")
}

#[test]
fn whom_a_policy_would_refuse_is_known_before() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("policy test")?;
    let other = world.pod("shop", "other", A)?;
    world.wait_for(&[std::sync::Arc::clone(&other)], true)?;
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
        for who in [&client, &other] {
            assert!(who.say(server.at(7000), "hello")?.echoed());
            world.flow(server.node, "of it", |flow| {
                flow.source.pod == who.full_name() && flow.destination.pod == server.full_name()
            })?;
        }
    }
    let yaml = ["near", "far"].map(|app| policy(&format!("only-client-{app}"), app, "ALLOW", BY_CLIENT)).join("---\n");
    let new = aside(&world, "new", &yaml)?.display().to_string();
    let (code, all, error) = tested(&world, &["-f", &new])?;
    assert_eq!(code, 1, "{all:?} {error}");
    assert_eq!(pairs(&all), ["newly_denied other -> far 1", "newly_denied other -> near 1"], "{all:?}");
    let pair = all.iter().find(|value| value["kind"] == "pair").context("a pair")?;
    assert_eq!(pair["before"]["permitted"], true, "{pair}");
    assert_eq!(
        (&pair["after"]["reason"], &pair["after"]["policy"]),
        (&"POLICY_NO_ALLOW".into(), &"shop/only-client-far".into())
    );
    assert_eq!(pair["source"]["identity"], other.identity());
    let told = summary(&all)?;
    assert_eq!((&told["pods"], &told["newly_denied"], &told["unknown"]), (&2.into(), &2.into(), &0.into()), "{told}");
    assert!(told["skipped"]["of_the_source"].as_u64() >= Some(2), "the client's side of both tunnels: {told}");
    // The agents have not run for five minutes, and say so.
    assert_eq!(told["missing"].as_array().map(Vec::len), Some(2), "{told}");
    assert_eq!(all.iter().filter(|value| value["kind"] == "window" && value["from"].is_string()).count(), 2);

    world.apply("new", &yaml)?;
    for server in [&near, &far] {
        assert!(client.say(server.at(7000), "hello")?.echoed(), "it was not foretold to be refused");
        assert!(other.say(server.at(7000), "hello")?.turned_away(), "it was foretold");
        world.flow(server.node, "that was refused", |flow| {
            flow.reason == "POLICY_NO_ALLOW" && flow.destination.pod == server.full_name()
        })?;
    }
    // The same in other words is no change.
    let block = "\n  - from:\n    - source: { principals: ['cluster.local/ns/shop/sa/client'] }\n";
    let rewritten = yaml.replace(BY_CLIENT, block).replace("io/v1\n", "io/v1beta1\n");
    let same = aside(&world, "same", &rewritten)?.display().to_string();
    let (code, all, error) = tested(&world, &["-f", &same])?;
    assert_eq!((code, pairs(&all)), (0, vec![]), "{all:?} {error}");
    assert_eq!(summary(&all)?["pods"], 0);
    // To take one away lets in whom it refused, and whom it would refuse today.
    let (code, all, _) = tested(&world, &["--delete", "AuthorizationPolicy/shop/only-client-near"])?;
    assert_eq!((code, pairs(&all)), (1, vec!["newly_allowed other -> near 2".to_owned()]), "{all:?}");
    let (code, _, error) = tested(&world, &["--delete", "AuthorizationPolicy/shop/nobody"])?;
    assert_eq!(code, 2);
    assert!(error.contains("there is no AuthorizationPolicy shop/nobody"), "{error}");
    Ok(())
}

#[test]
fn which_requests_a_policy_would_refuse_is_known_before() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("policy test http")?;
    let everything = "[{ to: [{ operation: { paths: ['*'] } }] }]";
    let audits = ["near", "far"].map(|app| policy(&format!("watch-{app}"), app, "AUDIT", everything));
    world.apply("watch", &audits.join("---\n"))?;
    for server in [&near, &far] {
        server.http(8080)?;
        for (method, path) in [("GET", "/"), ("GET", "/admin/x"), ("POST", "/")] {
            let ask = Ask::at(server.at(8080), "app").method(method).path(path).many(1, 1);
            let answers = client.ask_http(&ask)?;
            assert_eq!(answers.status(200), 1, "{answers:?}");
        }
        world.flow(server.node, "of a request", |flow| {
            flow.verdict == "audit" && flow.destination.pod == server.full_name()
        })?;
    }
    let rules = "[{ to: [{ operation: { paths: ['/admin/*'] } }] }, { to: [{ operation: { methods: [POST] } }] }]";
    let yaml = ["near", "far"].map(|app| policy(&format!("closed-{app}"), app, "DENY", rules)).join("---\n");
    let new = aside(&world, "new", &yaml)?.display().to_string();
    let (code, all, error) = tested(&world, &["-f", &new])?;
    assert_eq!(code, 1, "{all:?} {error}");
    let of_requests = |all: &[Value]| -> Vec<String> {
        pairs(&all.iter().filter(|pair| pair["method"].is_string()).cloned().collect::<Vec<_>>())
    };
    let expected = ["far", "near"]
        .map(|server| ["GET /admin/x", "POST /"].map(|request| format!("newly_denied client -> {server} {request} 1")));
    assert_eq!(of_requests(&all), expected.concat(), "{all:?}");
    // Which requests a connection carried is in none of their records.
    let unknown: Vec<_> = all.iter().filter(|pair| pair["change"] == "unknown").collect();
    assert!(!unknown.is_empty() && unknown.iter().all(|pair| pair["method"].is_null()), "{unknown:?}");
    assert_eq!(unknown[0]["needs"].to_string(), r#"["whether it carried requests","method","path"]"#);

    // A header is not recorded: it depends on it, but not where the answer is the same whatever it is.
    let rules =
        "[{ to: [{ operation: { paths: ['/admin/*'] } }], when: [{ key: 'request.headers[x-team]', values: [a] }] }]";
    let header = aside(&world, "header", &policy("teams", "far", "DENY", rules))?.display().to_string();
    let (code, all, _) = tested(&world, &["-f", &header])?;
    assert_eq!((code, of_requests(&all)), (3, vec!["unknown client -> far GET /admin/x 1".to_owned()]), "{all:?}");
    let pair = all.iter().find(|pair| pair["path"] == "/admin/x").context("the request")?;
    assert_eq!(pair["needs"][0], "header x-team", "{pair}");

    world.apply("closed", &yaml)?;
    for server in [&near, &far] {
        for (method, path, status) in [("GET", "/", 200), ("GET", "/admin/x", 403), ("POST", "/", 403)] {
            let ask = Ask::at(server.at(8080), "app").method(method).path(path).many(1, 1);
            let answers = client.ask_http(&ask)?;
            assert_eq!(answers.status(status), 1, "{method} {path}: {answers:?}");
        }
    }
    Ok(())
}

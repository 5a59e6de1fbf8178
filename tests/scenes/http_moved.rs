//! Rules change under load and nobody notices; who has no rules stays in the kernel.

use std::thread;

use anyhow::Result;
use mesh_tests::{A, Ask, B, Patience, eventually};

use crate::http_cast::{HttpCast, PORT, subsets};

fn weights(canary: u32) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: web, namespace: default }}\n\
         spec:\n  hosts: [web]\n  http:\n  - route:\n    \
         - {{ destination: {{ host: web, subset: v1 }}, weight: {} }}\n    \
         - {{ destination: {{ host: web, subset: v2 }}, weight: {canary} }}\n",
        100 - canary
    )
}

#[test]
fn a_canary_is_moved_step_by_step_without_a_failure() -> Result<()> {
    let mut cast = HttpCast::meshed("http moved", "web", "default")?;
    cast.rules("subsets", &subsets("web", [("v1", "v1"), ("v2", "v2")]))?;
    cast.rules("weights", &weights(0))?;
    let before = cast.client.ask_http(&Ask::service(&cast.service).many(50, 2))?;
    assert_eq!(before.of("v1"), 50, "{:?}", before.by_backend);
    let load = Ask { pause_ms: 5, ..Ask::service(&cast.service).many(4000, 8) };
    let client = cast.client.clone();
    let load = thread::spawn(move || client.ask_http(&load));
    for canary in [5, 25, 50, 100] {
        cast.rules("weights", &weights(canary))?;
    }
    assert!(!load.is_finished(), "all steps were taken under load");
    let after = cast.client.ask_http(&Ask::service(&cast.service).many(50, 2))?;
    assert_eq!(after.of("v2"), 50, "{:?}", after.by_backend);
    let answers = load.join().expect("the client's thread ends in order")?;
    assert_eq!((answers.status(200), answers.lost()), (4000, 0), "{:?} {:?}", answers.by_status, answers.failed);
    assert!(answers.of("v1") > 0 && answers.of("v2") > 0, "{:?}", answers.by_backend);
    Ok(())
}

#[test]
fn who_has_no_rules_pays_nothing_and_strangers_come_as_before() -> Result<()> {
    let mut cast = HttpCast::meshed("http beside", "web", "default")?;
    let plain = cast.world.service("default", "plain", 80, PORT, &[&cast.v1])?;
    let stranger = cast.world.pod("outside", "stranger", B)?;
    cast.rules("weights", &weights(0))?;
    cast.rules("subsets", &subsets("web", [("v1", "v1"), ("v2", "v2")]))?;
    // Of the first connection the agent decides for those that follow.
    let answers = cast.client.ask_http(&Ask { fresh: true, ..Ask::service(&plain).many(5, 1) })?;
    assert_eq!((answers.status(200), answers.of("v1")), (5, 5), "{answers:?}");
    cast.world.flow(A, "to plain, direct", |flow| flow.service == plain.full_name() && flow.path == "direct")?;
    assert_eq!(cast.client.ask_http(&Ask::service(&cast.service))?.status(200), 1);

    // The pod by its address, from outside the mesh and from the node itself.
    let url = format!("http://{}:{PORT}/", cast.v1.ip);
    assert!(stranger.curl(&url)?.contains("\"name\":\"v1\""));
    assert!(cast.world.node(A).host.curl(&url)?.contains("\"name\":\"v1\""));

    // Connections that stay meet the next rules.
    let client = cast.client.clone();
    let held = Ask { pause_ms: 100, ..Ask::service(&cast.service).path("/held").many(30, 1) };
    let held = thread::spawn(move || client.ask_http(&held));
    let begun = || Ok(cast.v1.asked(PORT)?.contains_key("/held").then_some(()));
    eventually("it has begun", Patience::SHORT, begun)?;
    cast.rules("weights", &weights(100))?;
    let answers = held.join().expect("the client's thread ends in order")?;
    assert_eq!((answers.status(200), answers.lost()), (30, 0), "{answers:?}");
    assert!(answers.of("v1") > 0 && answers.of("v2") > 0, "{:?}", answers.by_backend);
    Ok(())
}

const TURNED_AWAY: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: web, namespace: default }
spec: { hosts: [web], http: [{ directResponse: { status: 418 } }] }
";

#[test]
fn connections_that_are_older_than_the_first_rules_end_in_a_quiet_moment() -> Result<()> {
    let mut cast = HttpCast::meshed("http first rules", "web", "default")?;
    // Of the first connection the agent decides for those that follow.
    cast.client.ask_http(&Ask { fresh: true, ..Ask::service(&cast.service).many(8, 1) })?;
    let client = cast.client.clone();
    let held = Ask { pause_ms: 2000, ..Ask::service(&cast.service).path("/held").many(32, 8) };
    let held = thread::spawn(move || client.ask_http(&held));
    for pod in [&cast.v1, &cast.v2] {
        let begun = || Ok(pod.asked(PORT)?.contains_key("/held").then_some(()));
        eventually("both serve it", Patience::SHORT, begun)?;
    }
    cast.rules("routes", TURNED_AWAY)?;
    for path in ["direct", "tunnel"] {
        cast.world.flow(A, path, |flow| flow.reason == "RULES_NEWER" && flow.path == path)?;
    }
    let answers = held.join().expect("the client's thread ends in order")?;
    assert_eq!((answers.status(200) + answers.status(418), answers.lost()), (32, 0), "{answers:?}");
    assert!(answers.status(418) > 0, "{answers:?}");
    Ok(())
}

//! The audit stream: one JSON object a line of whatever somebody must answer for, from agents and controller, in one
//! shape. Read as strictly as its types are.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_common::audit::{Bypass, Change, Denied, Kind, Passage, PolicyChange, Record};
use mesh_tests::{A, Ask, B, NodeId, Patience, Pod, World, eventually, kube_folder};

use crate::cast::{Cast, policy};

const CONTROLLER: &str = "controller";
const HTTP: u16 = 8080;
/// Of client, on one port.
const CLIENT_AT_7000: &str = "[{ from: [{ source: { principals: [cluster.local/ns/shop/sa/client] } }], \
                              to: [{ operation: { ports: ['7000'] } }] }]";
const ADMIN: &str = "[{ to: [{ operation: { ports: ['8080'], paths: ['/admin*'] } }] }]";

struct Stage {
    world: World,
    client: Arc<Pod>,
    near: Arc<Pod>,
    far: Arc<Pod>,
}

impl Stage {
    fn new(title: &str) -> Result<Self> {
        let mut stage = Self::in_world(World::new(title)?)?;
        for server in [&stage.near, &stage.far] {
            server.serve("echo", 7000)?;
            server.http(HTTP)?;
        }
        stage.world.mesh("shop")?;
        Ok(stage)
    }

    /// With nobody in the mesh.
    fn in_world(mut world: World) -> Result<Self> {
        world.metrics();
        let folder = world.root().display().to_string();
        world.agent_options.push(format!("--audit-log={folder}/audit-{{node}}.json"));
        world.controller_options.push(format!("--audit-log={folder}/audit-{CONTROLLER}.json"));
        let Cast { world, client, near, far } = Cast::in_world(world)?;
        Ok(Self { world, client, near, far })
    }

    fn file(&self, of: &str) -> PathBuf {
        self.world.root().join(format!("audit-{of}.json"))
    }

    /// All lines of an agent's stream so far, or of the controller's. A line is written whole.
    fn lines(&self, of: &str) -> Result<Vec<Record>> {
        let text = fs::read_to_string(self.file(of))?;
        ensure!(text.is_ascii() && !text.contains(['\r', '\t']) && (text.is_empty() || text.ends_with('\n')), "{text}");
        let read = |line: &str| serde_json::from_str(line).with_context(|| format!("not a record: {line}"));
        text.lines().map(read).collect()
    }

    /// The first line that fits.
    fn line(&self, of: &str, what: &str, fits: impl Fn(&Record) -> bool) -> Result<Record> {
        eventually(format_args!("{of} says {what}"), Patience::LONG, || {
            Ok(self.lines(of)?.into_iter().find(|record| fits(record)))
        })
    }

    fn denied(&self, by: NodeId, what: &str, fits: impl Fn(&Denied) -> bool) -> Result<(Record, Denied)> {
        let of = by.name();
        let record = self.line(of, what, |record| record.denied.as_deref().is_some_and(&fits))?;
        assert_eq!((record.program.as_str(), record.instance.as_str(), record.kind), ("mesh-agent", of, Kind::Denied));
        let denied = record.denied.clone().context("no details")?;
        Ok((record, *denied))
    }
}

#[test]
fn who_is_denied_stands_in_it_whichever_way_they_came() -> Result<()> {
    let mut stage = Stage::new("audit stream")?;
    let deny = |app: &str| policy(&format!("deny-{app}"), app, "DENY", CLIENT_AT_7000);
    // A pod of whose requests policies ask is never reached directly.
    let all = [deny("near"), deny("far"), policy("admin-far", "far", "DENY", ADMIN)];
    stage.world.apply("policies", &all.join("---\n"))?;

    // A connection on the node's own way, which no agent carries, and one through the tunnel.
    for (server, way, security) in [(&stage.near, "direct", "kernel_attested"), (&stage.far, "tunnel", "mutual_tls")] {
        let at = server.at(7000).to_string();
        let of_it = |denied: &Denied| {
            denied.destination.as_ref().is_some_and(|to| to.address.as_ref() == Some(&at))
                && denied.path.as_deref() == Some(way)
                && denied.policy.is_some()
        };
        eventually(format_args!("a refusal by way {way}"), Patience::LONG, || {
            // The kernel learns from the first what it refuses itself from then on.
            assert!(stage.client.say(server.at(7000), "hello")?.turned_away());
            let lines = stage.lines(server.node.name())?;
            Ok(lines.iter().any(|record| record.denied.as_deref().is_some_and(of_it)).then_some(()))
        })?;
        let (record, denied) = stage.denied(server.node, &format!("{way} is denied"), of_it)?;
        assert_eq!(record.reason.as_deref(), Some("POLICY_DENY"), "{record:?}");
        assert_eq!((denied.policy, denied.rule), (Some(format!("shop/deny-{}", server.name)), Some(0)));
        assert_eq!((denied.security.as_str(), denied.request), (security, None));
        let (source, destination) = (denied.source.context("no source")?, denied.destination.context("nowhere")?);
        assert_eq!((source.namespace.as_deref(), source.pod.as_deref()), (Some("shop"), Some("client")));
        assert_eq!(source.identity, Some(stage.client.identity()));
        assert_eq!((destination.pod.as_ref(), destination.identity), (Some(&server.name), Some(server.identity())));
        // The kernel refuses at connect, before the socket has an address.
        let from = source.address.map(|address| address.starts_with(&format!("{}:", stage.client.ip)));
        assert_eq!(from, (way == "tunnel").then_some(true), "{record:?}");
        // It is the flow of that number, by the configuration of that generation.
        let id = denied.flow.context("no flow")?;
        let flow = stage.world.flow(server.node, "of that number", |flow| flow.id == id)?;
        assert_eq!((flow.verdict.as_str(), flow.reason.as_str()), ("dropped", "POLICY_DENY"));
        assert!(record.generation.is_some_and(|generation| generation > 0), "{record:?}");
    }

    // A request: what it asked for without its query, and none of its headers.
    let ask = Ask::at(stage.far.at(HTTP), "far").path("/admin/%C3%BC?token=s3cret").header("x-key", "s3cret");
    assert_eq!(stage.client.ask_http(&ask)?.status(403), 1);
    let (record, denied) = stage.denied(B, "a request is denied", |denied| denied.request.is_some())?;
    let request = denied.request.context("no request")?;
    assert_eq!((request.method.as_str(), request.path.as_str(), request.status), ("GET", "/admin/%C3%BC", 403));
    assert_eq!((request.host.as_str(), request.version.as_str()), ("far", "HTTP/1.1"));
    assert_eq!((denied.policy.as_deref(), denied.rule), (Some("shop/admin-far"), Some(0)), "{record:?}");
    assert_eq!(denied.source.and_then(|source| source.identity), Some(stage.client.identity()));
    for node in [A, B] {
        let file = stage.file(node.name());
        assert!(!fs::read_to_string(&file)?.contains("s3cret"), "of {}", node.name());
        assert_eq!(fs::metadata(&file)?.mode() & 0o777, 0o600);
    }
    Ok(())
}

#[test]
fn every_refusal_of_a_flood_is_in_one_count() -> Result<()> {
    const FLOOD: usize = 300;
    let mut stage = Stage::new("audit stream: a flood")?;
    let all = ["near", "far"].map(|app| policy(&format!("deny-{app}"), app, "DENY", CLIENT_AT_7000));
    stage.world.apply("policies", &all.join("---\n"))?;
    let count = FLOOD.to_string();
    for server in [&stage.near, &stage.far] {
        let dialled = stage.client.dial(server.at(7000), &["--text", "hello", "--count", &count])?;
        assert!(dialled.len() == FLOOD && dialled.iter().all(|one| one.turned_away()), "{}", dialled.len());
    }
    for (node, reporters) in [(A, 2), (B, 1)] {
        // What the agent itself refused, by its metrics.
        let refused = || -> Result<u64> {
            let text = stage.world.node(node).host.curl("http://127.0.0.1:15020/metrics")?;
            let of_it = |line: &&str| {
                line.starts_with("mesh_policy_verdicts_total{")
                    && line.contains("verdict=\"DROPPED\"")
                    && line.contains("dry_run=\"false\"")
            };
            text.lines().filter(of_it).map(|line| Ok(line.rsplit(' ').next().unwrap_or_default().parse::<u64>()?)).sum()
        };
        let mut before = 0;
        let still = Patience { interval: Duration::from_millis(300), ..Patience::LONG };
        let expected = eventually("all of them are recorded", still, || {
            let earlier = std::mem::replace(&mut before, refused()?);
            Ok(Some(before).filter(|now| *now >= FLOOD as u64 && *now == earlier))
        })?;
        stage.world.agent(node)?.process.terminate(Patience::LONG)?;
        let denied: Vec<_> =
            stage.lines(node.name())?.into_iter().filter(|record| record.kind == Kind::Denied).collect();
        assert_eq!(denied.iter().map(|record| record.count).sum::<u64>(), expected, "{denied:?}");
        // Of a pair, by way and decision, the first and what came after it: no line for each.
        assert!(denied.len() <= 8 * reporters, "{} lines", denied.len());
        let summed = denied.iter().max_by_key(|record| record.count).context("none")?;
        assert!(summed.count > 1 && summed.since.is_some_and(|since| since <= summed.time), "{summed:?}");
        assert!(!stage.lines(node.name())?.iter().any(|record| record.kind == Kind::Lost));
    }
    Ok(())
}

#[test]
fn policies_certificates_and_bypasses_stand_in_it_at_agents_and_controller() -> Result<()> {
    let mut stage = Stage::new("audit stream: changes")?;
    let identity = stage.client.identity();
    let of_it = |record: &Record| {
        record.kind == Kind::CertificateIssued
            && record.certificate.as_ref().is_some_and(|one| one.identity.as_ref() == Some(&identity))
    };
    let signed = stage.line(CONTROLLER, "it signed", of_it)?;
    let held = stage.line("a", "it holds a certificate", of_it)?;
    let ([signed, held], programs) =
        ([&signed, &held].map(|record| record.certificate.clone()), [&signed.program, &held.program]);
    assert_eq!(programs, ["mesh-controller", "mesh-agent"]);
    let (signed, held) = (signed.context("no certificate")?, held.context("no certificate")?);
    assert!(signed.serial.is_some() && signed.serial == held.serial, "{signed:?} {held:?}");
    let seconds = |one: &mesh_common::audit::Certificate| {
        one.not_after.and_then(|time| Some(time.0.duration_since(std::time::UNIX_EPOCH).ok()?.as_secs()))
    };
    assert!(seconds(&signed).is_some() && seconds(&signed) == seconds(&held), "{signed:?} {held:?}");
    assert_eq!((signed.node.as_deref(), held.renewed), (Some("a"), false));

    // Written, changed, removed.
    for (rules, change) in
        [(Some(ADMIN), Change::Added), (Some(CLIENT_AT_7000), Change::Changed), (None, Change::Removed)]
    {
        match rules {
            Some(rules) => stage.world.apply("policy", &policy("told", "far", "DENY", rules))?,
            None => stage.world.delete("policy")?,
        }
        for of in [CONTROLLER, "a", "b"] {
            let record = stage.line(of, &format!("the policy is {change:?}"), |record| {
                record.policy.as_ref().is_some_and(|policy| policy.name == "told" && policy.change == change)
            })?;
            let policy = record.policy.context("no policy")?;
            assert_eq!((record.kind, policy.object.as_str()), (Kind::PolicyChanged, "AuthorizationPolicy"));
            assert_eq!(policy.namespace, "shop");
            match of {
                CONTROLLER => assert_eq!(policy.file.as_deref(), Some("policy.yaml")),
                _ => assert!(policy.action.as_deref() == Some("DENY") && record.generation.is_some(), "{policy:?}"),
            }
        }
    }
    let named = |lines: Vec<Record>| {
        let changes = lines.into_iter().filter_map(|record| record.policy).filter(|policy| policy.name == "told");
        changes.map(|policy| policy.change).collect::<Vec<_>>()
    };
    for of in [CONTROLLER, "a", "b"] {
        assert_eq!(named(stage.lines(of)?), [Change::Added, Change::Changed, Change::Removed], "{of}: once each");
    }

    // Out of the mesh for some time, by the annotation of `meshctl bypass`; and back.
    let namespace = |annotations: &str| {
        format!(
            "apiVersion: v1\nkind: Namespace\n\
             metadata: {{ name: shop, labels: {{ nodemesh.io/mode: mesh }}, annotations: {{ {annotations} }} }}\n"
        )
    };
    stage.world.manifests.write("namespace-shop", &namespace("nodemesh.io/bypass-until: '2100-01-01T00:00:00Z'"))?;
    let bypass = |of: &str, change: Passage, pod: Option<&str>| -> Result<Bypass> {
        let record = stage.line(of, &format!("a bypass has {change:?}"), |record| {
            record.bypass.as_ref().is_some_and(|bypass| bypass.change == change && bypass.pod.as_deref() == pod)
        })?;
        Ok(*record.bypass.context("no bypass")?)
    };
    let begun = bypass(CONTROLLER, Passage::Begun, None)?;
    assert_eq!(
        (begun.namespace.as_str(), begun.by.as_deref(), begun.mode.as_deref()),
        ("shop", Some("annotation"), Some("none"))
    );
    assert_eq!(begun.until.map(|until| until.to_string()).as_deref(), Some("2100-01-01T00:00:00.000000Z"));
    for (of, pod) in [("a", "client"), ("b", "far")] {
        assert_eq!(bypass(of, Passage::Begun, Some(pod))?.mode.as_deref(), Some("none"));
    }
    stage.world.manifests.write("namespace-shop", &namespace(""))?;
    bypass(CONTROLLER, Passage::Ended, None)?;
    assert_eq!(bypass("a", Passage::Ended, Some("near"))?.mode.as_deref(), Some("mesh"));
    // By its label, and only watched.
    stage.world.label_namespace("shop", Some("observe"))?;
    let record = stage.line(CONTROLLER, "its label takes it out", |record| {
        record.bypass.as_ref().is_some_and(|bypass| bypass.by.as_deref() == Some("label"))
    })?;
    let bypass = record.bypass.context("no bypass")?;
    assert_eq!((bypass.change, bypass.mode.as_deref()), (Passage::Begun, Some("observe")));
    stage.line("b", "far is watched", |record| {
        record.bypass.as_ref().is_some_and(|bypass| bypass.mode.as_deref() == Some("observe"))
    })?;
    Ok(())
}

#[test]
fn on_kubernetes_it_says_which_version_and_who_wrote_it() -> Result<()> {
    if kube_folder()?.is_none() {
        return Ok(());
    }
    let mut world = World::on_kubernetes("audit stream on kubernetes")?;
    let file = world.root().join("audit-controller.json");
    world.controller_options.push(format!("--audit-log={}", file.display()));
    world.manifests.write("before", &policy("before", "far", "DENY", ADMIN))?;
    world.start_controller()?;
    let told = |name: &str, change: Change| {
        eventually(format_args!("{name} is {change:?}"), Patience::LONG, || {
            let text = fs::read_to_string(&file)?;
            let lines = text.lines().map(serde_json::from_str::<Record>).collect::<Result<Vec<_>, _>>()?;
            let policies = lines.into_iter().filter_map(|record| record.policy);
            Ok(policies.into_iter().find(|policy| policy.name == name && policy.change == change))
        })
    };
    let found = told("before", Change::Found)?;
    world.manifests.write("before", &policy("before", "far", "DENY", CLIENT_AT_7000))?;
    let changed = told("before", Change::Changed)?;
    for policy in [&found, &changed] {
        assert_eq!(policy.manager.as_deref(), Some("mesh-tests"), "{policy:?}");
        assert!(policy.uid.is_some() && policy.uid == found.uid && policy.file.is_none(), "{policy:?}");
    }
    assert_eq!((found.object_generation, changed.object_generation), (Some(1), Some(2)));
    let version = |policy: &PolicyChange| policy.resource_version.as_ref().and_then(|text| text.parse::<u64>().ok());
    assert!(version(&found).is_some() && version(&found) < version(&changed), "{found:?} {changed:?}");
    world.manifests.remove("before")?;
    assert_eq!(told("before", Change::Removed)?.resource_version, changed.resource_version, "the last that was there");
    Ok(())
}

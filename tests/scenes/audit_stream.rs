//! The audit stream: one JSON object a line of whatever somebody must answer for, from agents and controller, in one
//! shape. Read as strictly as its types are.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc};

use anyhow::{Context, Result, ensure};
use mesh_common::audit::{Denied, Kind, Record};
use mesh_tests::{A, Ask, B, NodeId, Patience, Pod, World, eventually};

use crate::cast::{Cast, policy};

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
        let mut world = World::new(title)?;
        world.metrics();
        let folder = world.root().display().to_string();
        world.agent_options.push(format!("--audit-log={folder}/audit-{{node}}.json"));
        let Cast { mut world, client, near, far } = Cast::in_world(world)?;
        for server in [&near, &far] {
            server.serve("echo", 7000)?;
            server.http(HTTP)?;
        }
        world.mesh("shop")?;
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
    let all = ["near", "far"].map(|app| {
        let deny = policy(&format!("deny-{app}"), app, "DENY", CLIENT_AT_7000);
        [deny, policy(&format!("admin-{app}"), app, "DENY", ADMIN)].join("---\n")
    });
    stage.world.apply("policies", &all.join("---\n"))?;

    // A connection on the node's own way, which no agent carries, and one through the tunnel.
    for (server, way, security) in [(&stage.near, "direct", "kernel_attested"), (&stage.far, "tunnel", "mutual_tls")] {
        assert!(stage.client.say(server.at(7000), "hello")?.turned_away());
        let at = server.at(7000).to_string();
        let of_it = |denied: &Denied| {
            denied.destination.as_ref().is_some_and(|to| to.address.as_ref() == Some(&at))
                && denied.path.as_deref() == Some(way)
                && denied.policy.is_some()
        };
        let (record, denied) = stage.denied(server.node, &format!("{way} is denied"), of_it)?;
        assert_eq!(record.reason.as_deref(), Some("POLICY_DENY"), "{record:?}");
        assert_eq!((denied.policy, denied.rule), (Some(format!("shop/deny-{}", server.name)), Some(0)));
        assert_eq!((denied.security.as_str(), denied.request), (security, None));
        let (source, destination) = (denied.source.context("no source")?, denied.destination.context("nowhere")?);
        assert_eq!((source.namespace.as_deref(), source.pod.as_deref()), (Some("shop"), Some("client")));
        assert_eq!(source.identity, Some(stage.client.identity()));
        assert_eq!((destination.pod.as_ref(), destination.identity), (Some(&server.name), Some(server.identity())));
        assert!(source.address.context("from nowhere")?.starts_with(&format!("{}:", stage.client.ip)));
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

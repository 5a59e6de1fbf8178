//! Who takes part: a client on one node and a server on the other, in the mesh and outside it. The server in the mesh
//! has two services: one with rules, one of which nothing is said.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{A, B, Patience, Pod, Process, Service, World, eventually};
use serde_json::{Value, json};

use super::envoy::{self, Pair};
use crate::bench::{
    figures::Side,
    meter,
    stage::{HTTP, MESHED, METRICS, app, policies_yaml},
};

const PLAIN: &str = "plain";
const PORT: u16 = 80;
/// Beyond the seconds of a measurement: starting, warming up.
const MARGIN: f64 = 20.0;
/// What decides which route is taken.
pub const HEADER: &str = "x-user: bench";
pub const PATH: &str = "/items/17?size=1024";
/// The route that the requests take; Envoy has the same ones.
pub const RULES: &str = include_str!("routes.yaml");

/// Two clients and their servers, and whom they go through.
pub struct HttpStage {
    world: World,
    meshed: (Arc<Pod>, Arc<Pod>),
    plain: (Arc<Pod>, Arc<Pod>),
    ruled: Service,
    bytes: Service,
    envoys: Option<Pair>,
    /// Dropping them would end them.
    _servers: [Process; 2],
}

impl HttpStage {
    /// With so many policies, of which one permits the client; and with Envoys of this program.
    pub fn build(policies: usize, envoy: Option<&Path>) -> Result<Self> {
        let mut world = World::new("bench http")?;
        world.quiet();
        world.agent_options.push(format!("--metrics={METRICS}"));
        let mut pods = |namespace: &str| -> Result<(Arc<Pod>, Arc<Pod>)> {
            let mut pod = |name: &str, node| world.pod(namespace, &format!("{namespace}-{name}"), node);
            Ok((pod("client", A)?, pod("server", B)?))
        };
        let (meshed, plain) = (pods(MESHED)?, pods(PLAIN)?);
        let servers = [serve(&meshed.1)?, serve(&plain.1)?];
        let [ruled, bytes] = ["ruled", "bytes"].map(|name| world.service(MESHED, name, PORT, HTTP, &[&meshed.1]));
        let (ruled, bytes) = (ruled?, bytes?);
        let port = format!("[{{ name: tcp, protocol: TCP, port: {PORT}, targetPort: {HTTP}, appProtocol: http }}]");
        for service in [&ruled, &bytes] {
            world.change_service(service, &[&meshed.1], &[("ports", &port)])?;
        }
        world.start()?;
        world.mesh(MESHED)?;
        world.apply("policies", &policies_yaml(policies, None))?;
        world.apply("rules", RULES)?;
        let envoys = envoy.map(|program| envoy::start(&world, program, plain.1.at(HTTP))).transpose()?;
        Ok(Self { world, meshed, plain, ruled, bytes, envoys, _servers: servers })
    }

    /// What is to be measured happens: rules where there are some, bytes where there are none.
    pub fn check(&self, side: Side) -> Result<()> {
        let (client, _) = self.clients(side);
        let asked = |path: &str| -> Result<u16> {
            let url = format!("http://{}{path}", self.target(side)?);
            let words = ["--silent", "--output", "/dev/null", "--max-time", "2", "--write-out", "%{http_code}"];
            let words = [&words[..], &["--header", HEADER, &url]].concat().into_iter().map(str::to_owned);
            let curl = crate::shell::find("curl").context("curl is not installed: cargo xtask setup")?;
            let output = client.output(&curl, &words.collect::<Vec<_>>(), Duration::from_secs(5))?;
            String::from_utf8_lossy(&output.stdout).trim().parse().context("curl says no status")
        };
        // Only rules know of a path that is refused.
        let refused = if matches!(side, Side::Mesh | Side::Envoy) { 403 } else { 200 };
        let what = format!("{PATH} is answered 200, /admin {refused}");
        eventually(format_args!("{what}"), Patience::LONG, || {
            Ok((asked(PATH)? == 200 && asked("/admin")? == refused).then_some(()))
        })
    }

    /// As the client says it, with `cpu`, the seconds that all proxies together have used.
    pub fn load(&self, side: Side, connections: usize, seconds: f64) -> Result<Value> {
        let (client, host) = self.clients(side);
        let (to, connections, length) = (self.target(side)?.to_string(), connections.to_string(), seconds.to_string());
        let words = ["bench", "http", "--to", &to, "--host", host, "--path", PATH, "--header", HEADER];
        let words = [&words[..], &["--connections", &connections, "--seconds", &length]].concat();
        let words: Vec<String> = words.into_iter().map(str::to_owned).collect();
        let before = self.used(side)?;
        let output = client.output(&app()?, &words, Duration::from_secs_f64(seconds + MARGIN))?;
        let used = self.used(side)?;
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{}: {}", words.join(" "), errors.trim());
        let mut figures: Value = serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))?;
        figures["cpu"] = json!(used.iter().sum::<f64>() - before.iter().sum::<f64>());
        figures["cpu_client"] = json!(used[0] - before[0]);
        figures["cpu_server"] = json!(used[1] - before[1]);
        Ok(figures)
    }

    /// Seconds of CPU that the proxies at the client's and the server's side have used so far.
    fn used(&self, side: Side) -> Result<[f64; 2]> {
        match side {
            Side::Plain => Ok([0.0, 0.0]),
            Side::Mesh | Side::Bytes | Side::Unseen | Side::Logged => meter::cpu(&self.world),
            Side::Envoy => {
                let pair = self.envoys.as_ref().context("no Envoy runs")?;
                Ok([meter::cpu_of(&pair.client.cgroup)?, meter::cpu_of(&pair.server.cgroup)?])
            }
        }
    }

    /// Who asks, and how it calls the server.
    fn clients(&self, side: Side) -> (&Pod, &str) {
        match side {
            Side::Plain | Side::Envoy => (&self.plain.0, "ruled.meshed.svc.cluster.local"),
            Side::Mesh | Side::Unseen | Side::Logged => (&self.meshed.0, "ruled.meshed.svc.cluster.local"),
            Side::Bytes => (&self.meshed.0, "bytes.meshed.svc.cluster.local"),
        }
    }

    fn target(&self, side: Side) -> Result<std::net::SocketAddr> {
        Ok(match (side, &self.envoys) {
            (Side::Plain, _) => self.plain.1.at(HTTP),
            (Side::Mesh | Side::Unseen | Side::Logged, _) => self.ruled.addr(),
            (Side::Bytes, _) => self.bytes.addr(),
            (Side::Envoy, Some(pair)) => pair.entry,
            (Side::Envoy, None) => bail!("no Envoy runs"),
        })
    }
}

/// Starts the server in a pod; it listens when this returns.
pub fn serve(pod: &Pod) -> Result<Process> {
    let words = ["bench", "http-serve", "--port", &HTTP.to_string()].map(str::to_owned);
    let server = pod.start(&format!("http-{}", pod.name), &app()?, &words)?;
    server.listens(HTTP)?;
    Ok(server)
}

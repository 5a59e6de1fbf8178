//! Who takes part: a client on one node, a server on the other, and between them agents that see more or less.

use std::{fmt::Write as _, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{A, Ask, B, Patience, Pod, Process, Service, World, eventually};
use serde_json::{Value, json};

use super::{CONNECTIONS, REQUESTS};
use crate::{
    bench::{
        figures::Side,
        http::stage::{HEADER, PATH, RULES, serve},
        meter,
        stage::{self, ECHO, HTTP, MESHED, METRICS, app, policies_yaml},
    },
    shell,
};

/// At once, of requests.
const KEPT: usize = 32;
/// That dial, of connections.
const THREADS: usize = 16;
const PORT: u16 = 80;
/// Beyond the seconds of a measurement: starting, warming up.
const MARGIN: f64 = 20.0;
/// Seconds of load before each measurement: what agents do at their start is over then.
const WARM_UP: f64 = 0.5;
const LIMIT: Duration = Duration::from_secs(10);

/// Answers that each have a status of their own, and so series of their own: 67 each.
const STATUSES: std::ops::Range<u16> = 400..550;
/// Of requests alone, at the client's agent.
pub const SERIES: u64 = 10_000;

pub struct SeenStage {
    world: World,
    client: Arc<Pod>,
    server: Arc<Pod>,
    ruled: Service,
    /// It is answered by the client's agent.
    many: Service,
    /// What all agents are told.
    options: Vec<String>,
    /// Dropping them would end them.
    _servers: [Process; 2],
}

impl SeenStage {
    /// With so many policies, of which one permits the client.
    pub fn build(policies: usize) -> Result<Self> {
        let mut world = World::new("bench telemetry")?;
        world.quiet();
        world.agent_options.push(format!("--metrics={METRICS}"));
        let client = world.pod(MESHED, "meshed-client", A)?;
        let server = world.pod(MESHED, "meshed-server", B)?;
        stage::widen_ports(&client)?;
        let servers = [serve(&server)?, stage::serve(&server)?];
        let [ruled, many] = ["ruled", "many"].map(|name| world.service(MESHED, name, PORT, HTTP, &[&server]));
        let (ruled, many) = (ruled?, many?);
        let port = format!("[{{ name: tcp, protocol: TCP, port: {PORT}, targetPort: {HTTP}, appProtocol: http }}]");
        for service in [&ruled, &many] {
            world.change_service(service, &[&server], &[("ports", &port)])?;
        }
        world.start()?;
        world.mesh(MESHED)?;
        world.apply("policies", &policies_yaml(policies, None))?;
        world.apply("rules", RULES)?;
        world.apply("statuses", &statuses())?;
        let options = world.agent_options.clone();
        let stage = Self { world, client, server, ruled, many, options, _servers: servers };
        stage.answers().context("before measuring")?;
        Ok(stage)
    }

    /// Both agents anew, with what this side sees; they serve, and are warm, when this returns.
    pub fn begin(&mut self, side: Side) -> Result<()> {
        let more: &[&str] = match side {
            Side::Unseen => &["--telemetry=off"],
            Side::Mesh => &[],
            // Standard output is a file.
            Side::Logged => &["--access-log=json", "--access-log-sampling=1"],
            Side::Plain | Side::Bytes | Side::Envoy => bail!("{} sees as others do", side.name()),
        };
        let more = more.iter().map(|option| (*option).to_owned());
        self.world.agent_options = self.options.iter().cloned().chain(more).collect();
        for node in [A, B] {
            self.world.kill_agent(node)?;
            self.world.restart_agent(node)?;
        }
        for node in [A, B] {
            eventually(format_args!("agent {} is connected", node.name()), Patience::LONG, || {
                Ok((self.world.status(node)?["controller_connected"] == true).then_some(()))
            })?;
        }
        self.world.wait_for(&[Arc::clone(&self.client), Arc::clone(&self.server)], true)?;
        self.answers()?;
        for item in [REQUESTS, CONNECTIONS] {
            self.run(item, WARM_UP).context("warming up")?;
        }
        Ok(())
    }

    /// Requests and connections arrive.
    fn answers(&self) -> Result<()> {
        let ask = Ask::service(&self.ruled).path("/health");
        eventually("the service answers by its rules", Patience::LONG, || {
            Ok((self.client.ask_http(&ask)?.status(200) == 1).then_some(()))
        })
    }

    /// As the client says it, with `cpu`, the seconds that both agents have used.
    pub fn load(&self, item: &str, seconds: f64) -> Result<Value> {
        let before = meter::cpu(&self.world)?;
        let mut figures = self.run(item, seconds)?;
        let used = meter::cpu(&self.world)?;
        figures["cpu"] = json!(used.iter().sum::<f64>() - before.iter().sum::<f64>());
        figures["cpu_client"] = json!(used[0] - before[0]);
        figures["cpu_server"] = json!(used[1] - before[1]);
        Ok(figures)
    }

    fn run(&self, item: &str, seconds: f64) -> Result<Value> {
        let (length, kept, threads) = (seconds.to_string(), KEPT.to_string(), THREADS.to_string());
        let (ruled, host) = (self.ruled.addr().to_string(), format!("ruled.{MESHED}.svc.cluster.local"));
        let echo = self.server.at(ECHO).to_string();
        let words: &[&str] = match item {
            REQUESTS => {
                &["http", "--to", &ruled, "--host", &host, "--path", PATH, "--header", HEADER, "--connections", &kept]
            }
            _ => &["connects", "--to", &echo, "--threads", &threads],
        };
        let words = [&["bench"], words, &["--seconds", &length]].concat();
        let text = output(&self.client, &app()?, &words, Duration::from_secs_f64(seconds + MARGIN))?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// Makes the client's agent count [`SERIES`].
    pub fn many_series(&self) -> Result<()> {
        let paths: Vec<String> = STATUSES.map(|status| format!("/{status}")).collect();
        let answers =
            self.client.ask_http(&Ask::service(&self.many).rows(paths.iter().map(|path| ("GET", &**path))))?;
        for status in STATUSES {
            ensure!(answers.status(status) == 1, "no answer {status}: {answers:?}");
        }
        Ok(())
    }

    /// `ms` to read the metrics of the client's agent, how many `series` of requests are in them, and `bytes`.
    pub fn scrape(&self) -> Result<Value> {
        let curl = shell::find("curl").context("curl is not installed: cargo xtask setup")?;
        let words = ["--silent", "--fail", "--write-out", "\n%{time_total}", &format!("http://{METRICS}/metrics")];
        let words = words.map(str::to_owned);
        let found = self.world.node(A).host.output(&curl, &words, LIMIT)?;
        let text = String::from_utf8_lossy(&found.stdout);
        ensure!(found.status.success(), "curl: {}", String::from_utf8_lossy(&found.stderr));
        let (metrics, seconds) = text.rsplit_once('\n').context("curl says no time")?;
        let seconds: f64 = seconds.trim().parse().context("curl says no time")?;
        let series = metrics.lines().filter(|line| line.starts_with("istio_re")).count();
        Ok(json!({ "ms": seconds * 1e3, "series": series, "bytes": metrics.len() }))
    }
}

fn output(pod: &Pod, program: &Path, words: &[&str], limit: Duration) -> Result<String> {
    let owned: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let output = pod.output(program, &owned, limit)?;
    ensure!(output.status.success(), "{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A path for each status.
fn statuses() -> String {
    let mut yaml = format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: many, namespace: {MESHED} }}\n\
         spec:\n  hosts: [many]\n  http:\n"
    );
    for status in STATUSES {
        // Writing to a String cannot fail.
        let _ = writeln!(
            yaml,
            "  - {{ match: [{{ uri: {{ exact: /{status} }} }}], directResponse: {{ status: {status} }} }}"
        );
    }
    yaml
}

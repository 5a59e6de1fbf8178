//! Who takes part: on the same two nodes, a client with a server near and one far in the mesh, and the same three
//! outside it.

use std::{fmt::Write as _, fs, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{A, B, NodeId, Pod, Process, World};
use serde_json::Value;

use super::figures::Side;

pub const ECHO: u16 = 7000;
pub const SINK: u16 = 7001;
pub const HTTP: u16 = 8080;

/// Of each agent, on its node.
pub const METRICS: &str = "127.0.0.1:15020";

pub const MESHED: &str = "meshed";
const PLAIN: &str = "plain";
/// Seconds.
const WARM_UP: &str = "0.1";
/// Pods in the mesh on each node.
const PODS: usize = 10;
/// Beyond the ports of servers and agents.
const PORTS: &str = "16000 65535";

pub struct Stage {
    pub world: World,
    meshed: Cast,
    plain: Cast,
    /// Dropping them would end them.
    _servers: Vec<Process>,
}

/// A client and its servers.
pub struct Cast {
    pub client: Arc<Pod>,
    pub near: Arc<Pod>,
    pub far: Arc<Pod>,
}

impl Stage {
    /// With so many policies, of which one permits the client the ports above, or `instead`, an operation as in an
    /// AuthorizationPolicy.
    pub fn build(policies: usize, instead: Option<&str>) -> Result<Self> {
        let mut world = World::new("bench")?;
        world.quiet();
        // Flows are always recorded; metrics are served on demand.
        world.agent_options.push(format!("--metrics={METRICS}"));
        let mut servers = Vec::new();
        let meshed = cast(&mut world, MESHED, &mut servers)?;
        let plain = cast(&mut world, PLAIN, &mut servers)?;
        for (node, others) in [(A, 2), (B, 1)] {
            for number in others..PODS {
                world.pod(MESHED, &format!("idle-{}-{number}", node.name()), node)?;
            }
        }
        world.start()?;
        world.mesh(MESHED)?;
        world.apply("policies", &policies_yaml(policies, instead))?;
        let stage = Self { world, meshed, plain, _servers: servers };
        for (side, near) in [(Side::Plain, true), (Side::Plain, false), (Side::Mesh, true), (Side::Mesh, false)] {
            let to = stage.target(side, near, ECHO).to_string();
            stage.client(side, &["each", "--to", &to], 15.0).context("before measuring")?;
            // What the first connection to a port costs is measured by itself.
            let to = stage.target(side, near, SINK).to_string();
            stage.client(side, &["bulk", "--to", &to, "--seconds", WARM_UP], 15.0).context("before measuring")?;
        }
        Ok(stage)
    }

    pub fn cast(&self, side: Side) -> &Cast {
        match side {
            Side::Plain | Side::Envoy => &self.plain,
            Side::Mesh | Side::Bytes | Side::Unseen | Side::Logged => &self.meshed,
        }
    }

    pub fn target(&self, side: Side, near: bool, port: u16) -> SocketAddr {
        let Cast { client: _, near: same_node, far } = self.cast(side);
        if near { same_node.at(port) } else { far.at(port) }
    }

    /// Runs a client of mesh-test-app to its end, which must come within `seconds`, and gives what it printed.
    pub fn client(&self, side: Side, arguments: &[&str], seconds: f64) -> Result<Value> {
        let words = [&["bench"], arguments].concat();
        let text = self.program(side, &app()?, &words, seconds)?;
        serde_json::from_str(&text).with_context(|| format!("{}: not JSON: {text}", words.join(" ")))
    }

    /// Runs a program beside the client.
    pub fn program(&self, side: Side, program: &std::path::Path, arguments: &[&str], seconds: f64) -> Result<String> {
        let words: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        let output = self.cast(side).client.output(program, &words, Duration::from_secs_f64(seconds))?;
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{} ({}): {}", words.join(" "), side.name(), errors.trim());
        Ok(text.into_owned())
    }
}

pub fn app() -> Result<PathBuf> {
    Ok(mesh_tests::programs_dir()?.join("mesh-test-app"))
}

/// Starts echo and sink in a pod; they listen when this returns.
pub fn serve(pod: &Pod) -> Result<Process> {
    let (echo, sink) = (ECHO.to_string(), SINK.to_string());
    let words = ["bench", "serve", "--echo", &echo, "--sink", &sink].map(str::to_owned);
    let server = pod.start(&format!("bench-{}", pod.name), &app()?, &words)?;
    server.listens(ECHO)?;
    Ok(server)
}

fn cast(world: &mut World, namespace: &str, servers: &mut Vec<Process>) -> Result<Cast> {
    let mut pod = |name: &str, node: NodeId| -> Result<Arc<Pod>> {
        let pod = world.pod(namespace, &format!("{namespace}-{name}"), node)?;
        widen_ports(&pod)?;
        Ok(pod)
    };
    let cast = Cast { client: pod("client", A)?, near: pod("near", A)?, far: pod("far", B)? };
    for pod in [&cast.near, &cast.far] {
        servers.push(serve(pod)?);
        let kilobyte = "x".repeat(1023) + "\n";
        // The crew of the world keeps it.
        pod.nginx(HTTP, &kilobyte)?;
    }
    Ok(cast)
}

pub fn widen_ports(pod: &Pod) -> Result<()> {
    let name = pod.netns.file_name().and_then(|name| name.to_str()).context("a namespace without a name")?;
    mesh_tests::inside(name, || fs::write("/proc/sys/net/ipv4/ip_local_port_range", PORTS))?
        .with_context(|| format!("set the port range of {}", pod.full_name()))
}

/// One in ten is about the servers; of those the last permits the client, the ports above or `instead`; the others name
/// somebody else.
pub fn policies_yaml(count: usize, instead: Option<&str>) -> String {
    let ports = format!("ports: [\"{ECHO}\", \"{SINK}\", \"{HTTP}\"]");
    let mut yaml = String::new();
    for number in 0..count {
        let (action, selector, source) = match (number % 10, number + 1 == count) {
            (_, true) => ("ALLOW", String::new(), format!("cluster.local/ns/{MESHED}/sa/*")),
            (0, _) => ("ALLOW", String::new(), format!("cluster.local/ns/other/sa/client-{number}")),
            (1, _) => ("DENY", format!("selector: {{ matchLabels: {{ app: other-{number} }} }}, "), "*".to_owned()),
            _ => (
                "ALLOW",
                format!("selector: {{ matchLabels: {{ app: other-{number} }} }}, "),
                format!("cluster.local/ns/other/sa/client-{number}"),
            ),
        };
        let operation = instead.filter(|_| number + 1 == count).unwrap_or(&ports);
        // Writing to a String cannot fail.
        let _ = writeln!(
            yaml,
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{ name: policy-{number}, namespace: {MESHED} }}\n\
             spec: {{ {selector}action: {action}, rules: [{{ from: [{{ source: {{ principals: [\"{source}\"] }} }}], \
             to: [{{ operation: {{ {operation} }} }}] }}] }}\n---"
        );
    }
    yaml
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_policy_permits_the_client_and_one_in_ten_is_asked() {
        let yaml = policies_yaml(100, Some("notPorts: [\"22\"]"));
        assert_eq!(yaml.matches("kind: AuthorizationPolicy").count(), 100);
        assert_eq!(yaml.matches(&format!("/ns/{MESHED}/sa/*")).count(), 1);
        assert_eq!(yaml.matches("notPorts").count(), 1);
        assert_eq!(yaml.lines().filter(|line| line.starts_with("spec: { action")).count(), 11);
    }
}

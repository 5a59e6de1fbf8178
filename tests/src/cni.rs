//! Our CNI plugin alone, called as a runtime calls it behind one that has made a pod's network. What a runtime does
//! with all plugins of a node is [`Runtime`](crate::runtime::Runtime)'s.

use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{NodeId, Patience, Pod, World, eventually};

/// Our plugin's name and the name of its configuration.
const NAME: &str = "nodemesh-cni";
const FILE: &str = "00-nodemesh.conflist";
/// What made the network before there was a mesh.
const OTHER: &str = "10-pods.conflist";
/// A plugin that hangs is killed after this.
const LIMIT: Duration = Duration::from_secs(40);

/// The plugin of one node.
#[derive(Debug)]
pub struct Plugin {
    pub conf_dir: PathBuf,
    pub program: PathBuf,
    /// Instead of the configuration's, in seconds.
    pub timeout: Option<u64>,
}

/// How a call ended.
#[derive(Debug)]
pub struct Called {
    pub succeeded: bool,
    /// What the plugin printed; null: nothing.
    pub printed: Value,
    pub took: Duration,
}

/// A call that is under way.
#[derive(Debug)]
pub struct Calling {
    child: Child,
    start: Instant,
}

impl World {
    /// The agents that start from now on install the plugin, each on its own node, where another network's
    /// configuration is already.
    pub fn install_cni(&mut self) -> Result<()> {
        for node in [NodeId::A, NodeId::B] {
            let folder = self.node(node).cni_conf_dir();
            fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
            let list = json!({
                "cniVersion": "1.1.0", "name": "pods", "disableCheck": false,
                "plugins": [{ "type": "bridge", "bridge": "br0", "capabilities": { "portMappings": true } }],
            });
            fs::write(folder.join(OTHER), list.to_string()).context("write the other configuration")?;
        }
        let folder = |ending: &str| self.root().join(format!("node-{{node}}.{ending}")).display().to_string();
        let options = [format!("--cni-conf-dir={}", folder("net.d")), format!("--cni-bin-dir={}", folder("bin"))];
        self.agent_options.extend(options);
        Ok(())
    }

    /// The plugin of a node, once it is there.
    pub fn plugin(&self, node: NodeId) -> Result<Plugin> {
        let node = self.node(node);
        let (conf_dir, program) = (node.cni_conf_dir(), node.cni_bin_dir().join(NAME));
        let there = || Ok((conf_dir.join(FILE).exists() && program.exists()).then_some(()));
        eventually("the plugin and its configuration are there", Patience::LONG, there)?;
        Ok(Plugin { conf_dir, program, timeout: None })
    }
}

impl Plugin {
    /// Our part of the node's configuration, with what a runtime adds to it.
    pub fn configuration(&self) -> Result<Value> {
        let text = fs::read(self.conf_dir.join(FILE)).context("read our configuration")?;
        let list: Value = serde_json::from_slice(&text).context("our configuration is no JSON")?;
        let plugins = list["plugins"].as_array().context("our configuration has no plugins")?;
        let mut ours = plugins.last().cloned().unwrap_or_default();
        ensure!(ours["type"] == NAME, "the last plugin is not ours: {list}");
        (ours["cniVersion"], ours["name"]) = (list["cniVersion"].clone(), list["name"].clone());
        if let Some(timeout) = self.timeout {
            ours["timeoutSeconds"] = timeout.into();
        }
        Ok(ours)
    }

    /// What the plugin that made the pod's network said.
    pub fn result(pod: &Pod) -> Value {
        json!({
            "cniVersion": "1.1.0",
            "interfaces": [{ "name": "br0" }, { "name": "eth0", "sandbox": pod.netns, "mtu": 1500 }],
            "ips": [{ "address": format!("{}/24", pod.ip), "interface": 1 }],
            "dns": { "nameservers": ["10.96.0.10"] },
        })
    }

    /// Calls the plugin about a pod's sandbox and waits.
    pub fn call(&self, command: &str, pod: &Pod, container: &str) -> Result<Called> {
        self.begin(command, pod, container)?.ended()
    }

    /// The same, without waiting.
    pub fn begin(&self, command: &str, pod: &Pod, container: &str) -> Result<Calling> {
        let mut configuration = self.configuration()?;
        configuration["prevResult"] = Self::result(pod);
        self.begin_with(command, pod, container, &configuration.to_string(), &[])
    }

    /// With this on standard input, and these in the environment instead of the usual.
    pub fn begin_with(
        &self,
        command: &str,
        pod: &Pod,
        container: &str,
        input: &str,
        environment: &[(&str, &str)],
    ) -> Result<Calling> {
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={container};K8S_POD_UID={}",
            pod.namespace, pod.name, pod.uid
        );
        let mut plugin = Command::new(&self.program);
        plugin.env_clear().env("CNI_COMMAND", command).env("CNI_CONTAINERID", container);
        plugin.env("CNI_NETNS", &pod.netns).env("CNI_IFNAME", "eth0").env("CNI_ARGS", arguments);
        plugin.env("CNI_PATH", self.program.parent().unwrap_or(&self.program)).envs(environment.iter().copied());
        plugin.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let start = Instant::now();
        let mut child = plugin.spawn().with_context(|| format!("start {}", self.program.display()))?;
        let mut stdin = child.stdin.take().context("the plugin has no standard input")?;
        // One that fails before it has read everything says why on its standard output.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        Ok(Calling { child, start })
    }
}

impl Calling {
    /// It still runs.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().context("wait for the plugin")?.is_none())
    }

    /// As a kubelet that restarts does to what its runtime began.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill().context("kill the plugin")?;
        self.child.wait().map(drop).context("wait for the plugin")
    }

    /// Its end.
    pub fn ended(mut self) -> Result<Called> {
        while self.runs()? {
            if self.start.elapsed() > LIMIT {
                self.kill()?;
                anyhow::bail!("the plugin did not end within {} s", LIMIT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let took = self.start.elapsed();
        let output = self.child.wait_with_output().context("read what the plugin printed")?;
        let printed = match output.stdout.as_slice() {
            [] => Value::Null,
            text => serde_json::from_slice(text)
                .with_context(|| format!("the plugin printed {}", String::from_utf8_lossy(text)))?,
        };
        Ok(Called { succeeded: output.status.success(), printed, took })
    }
}

impl Called {
    /// The code of its error; `None`: it succeeded.
    pub fn code(&self) -> Option<u64> {
        if self.succeeded { None } else { self.printed["code"].as_u64() }
    }

    /// Its error's words.
    pub fn message(&self) -> String {
        format!(
            "{} {}",
            self.printed["msg"].as_str().unwrap_or_default(),
            self.printed["details"].as_str().unwrap_or_default()
        )
    }
}

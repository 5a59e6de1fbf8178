//! What a container runtime does with CNI: it takes the first configuration of the node's folder and runs its plugins
//! one after another, as the CNI specification says. It is no runtime: it starts no containers.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{Node, config};

/// Where Debian's `containernetworking-plugins` are.
const PLUGINS: &str = "/usr/lib/cni";
/// A runtime waits longer; a scene does not.
const LIMIT: Duration = Duration::from_secs(20);

/// A pod as its runtime knows it.
#[derive(Clone, Debug)]
pub struct Sandbox {
    pub id: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub netns: PathBuf,
}

/// A node's runtime, as far as CNI goes.
#[derive(Debug)]
pub struct Runtime<'a> {
    node: &'a Node,
}

impl<'a> Runtime<'a> {
    pub fn new(node: &'a Node) -> Self {
        Self { node }
    }

    pub fn conf_dir(&self) -> PathBuf {
        self.node.cni_conf_dir()
    }

    pub fn bin_dir(&self) -> PathBuf {
        self.node.cni_bin_dir()
    }

    /// Writes a node's usual configuration: Debian's bridge and host-local, on the bridge and in the network of the
    /// node's pods.
    pub(crate) fn install_bridge(&self) -> Result<()> {
        for folder in [self.conf_dir(), self.bin_dir(), self.node.cni_folder()] {
            fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let id = self.node.id;
        let range = json!({
            "subnet": id.pods(), "rangeStart": id.pod_address(90), "rangeEnd": id.pod_address(200), "gateway": id.bridge(),
        });
        let data = self.node.cni_folder().join("data");
        let ipam = json!({
            "type": "host-local", "dataDir": data, "ranges": [[range]], "routes": [{ "dst": "0.0.0.0/0" }],
        });
        let list = json!({
            "cniVersion": "1.0.0",
            "name": "pods",
            "plugins": [{ "type": "bridge", "bridge": "br0", "ipam": ipam }],
        });
        let file = self.conf_dir().join("10-bridge.conflist");
        fs::write(&file, list.to_string()).with_context(|| format!("write {}", file.display()))
    }

    /// The configuration that counts: the first one by name.
    fn first(&self) -> Result<(PathBuf, Value)> {
        let folder = self.conf_dir();
        let entries = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
        files.retain(|path| path.extension().is_some_and(|extension| extension == "conflist"));
        files.sort();
        let file = files.into_iter().next().with_context(|| format!("no configuration in {}", folder.display()))?;
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        let list = serde_json::from_str(&text).with_context(|| format!("read {}", file.display()))?;
        Ok((file, list))
    }

    /// ADD of all plugins: the addresses of the pod.
    pub fn add(&self, pod: &Sandbox) -> Result<Vec<IpAddr>> {
        let (_, list) = self.first()?;
        let mut result = Value::Null;
        for plugin in plugins(&list)? {
            result = self.run("ADD", &list, plugin, pod, &result)?;
        }
        let kept = self.result_of(pod);
        fs::write(&kept, result.to_string()).with_context(|| format!("write {}", kept.display()))?;
        let ips = result["ips"].as_array().context("a result without ips")?;
        let address = |ip: &Value| ip["address"].as_str()?.split_once('/')?.0.parse().ok();
        ips.iter().map(address).collect::<Option<Vec<_>>>().context("a result with an address that is none")
    }

    /// CHECK of all plugins.
    pub fn check(&self, pod: &Sandbox) -> Result<()> {
        let (_, list) = self.first()?;
        let result = self.result(pod)?;
        plugins(&list)?.iter().try_for_each(|plugin| self.run("CHECK", &list, plugin, pod, &result).map(drop))
    }

    /// DEL of all plugins, in the reverse order.
    pub fn remove(&self, pod: &Sandbox) -> Result<()> {
        let (_, list) = self.first()?;
        let result = self.result(pod).unwrap_or_default();
        plugins(&list)?.iter().rev().try_for_each(|plugin| self.run("DEL", &list, plugin, pod, &result).map(drop))
    }

    /// One plugin of the list once; its result.
    fn run(&self, command: &str, list: &Value, plugin: &Value, pod: &Sandbox, before: &Value) -> Result<Value> {
        let mut conf = plugin.clone();
        for key in ["cniVersion", "name"] {
            conf[key] = list[key].clone();
        }
        if !before.is_null() {
            conf["prevResult"] = before.clone();
        }
        self.run_with(command, plugin["type"].as_str().unwrap_or_default(), &conf.to_string(), pod)
    }

    /// A plugin once, with this text as its configuration; its result, or an error with its code and words.
    pub fn run_with(&self, command: &str, plugin: &str, conf: &str, pod: &Sandbox) -> Result<Value> {
        let dirs = [self.bin_dir(), PathBuf::from(PLUGINS)];
        let program = dirs.iter().map(|dir| dir.join(plugin)).find(|file| file.is_file());
        let program = program.with_context(|| format!("no plugin {plugin} in {dirs:?}"))?;
        let folder = self.node.cni_folder();
        fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        let input = folder.join(format!("{}.{plugin}.{}", pod.id, self.node.host.next_number()));
        fs::write(&input, conf).with_context(|| format!("write {}", input.display()))?;
        let Sandbox { id, namespace, name, uid, netns } = pod;
        let arguments = [
            format!("CNI_COMMAND={command}"),
            format!("CNI_CONTAINERID={id}"),
            format!("CNI_NETNS={}", netns.display()),
            "CNI_IFNAME=eth0".to_owned(),
            format!("CNI_PATH={}:{PLUGINS}", self.bin_dir().display()),
            format!(
                "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
                 K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID={uid}"
            ),
            "sh".to_owned(),
            "-c".to_owned(),
            r#"exec "$0" <"$1""#.to_owned(),
            program.display().to_string(),
            input.display().to_string(),
        ];
        let output = self.node.host.output(&config::installed("env")?, &arguments, LIMIT)?;
        let _ = fs::remove_file(&input);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let read: Value = if said.trim().is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&said).with_context(|| format!("{plugin} {command} printed no JSON: {said}"))?
        };
        if output.status.success() {
            return Ok(read);
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        let word = |key: &str| read[key].as_str().unwrap_or_default();
        match read["code"].as_u64() {
            Some(code) => bail!("{plugin} {command}: code {code}: {}: {}", word("msg"), word("details")),
            None => bail!("{plugin} {command}: {}: {said} {}", output.status, errors.trim()),
        }
    }

    fn result(&self, pod: &Sandbox) -> Result<Value> {
        let kept = self.result_of(pod);
        let text = fs::read_to_string(&kept).with_context(|| format!("read {}", kept.display()))?;
        serde_json::from_str(&text).with_context(|| format!("read {}", kept.display()))
    }

    fn result_of(&self, pod: &Sandbox) -> PathBuf {
        self.node.cni_folder().join(format!("{}.result", pod.id))
    }
}

/// Whether Debian's plugins are there.
///
/// # Errors
/// They are not.
pub(crate) fn has_plugins() -> Result<()> {
    let bridge = Path::new(PLUGINS).join("bridge");
    ensure!(bridge.exists(), "{} is missing: cargo xtask setup", bridge.display());
    Ok(())
}

fn plugins(list: &Value) -> Result<&Vec<Value>> {
    list["plugins"].as_array().context("a configuration without plugins")
}

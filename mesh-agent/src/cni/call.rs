//! What a runtime asks of the plugin: its environment and the configuration on standard input, checked field by field.

use std::{os::unix::ffi::OsStrExt as _, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::problem::Problem;
use crate::config::CniEnvironment;

/// The plugin's type, and so the name of its binary.
pub const NAME: &str = "nodemesh-cni";
/// Those in which a chain can hand on a result as it is.
pub const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", LATEST];
pub const LATEST: &str = "1.1.0";
/// The longest configuration that is read.
pub const LONGEST: usize = 4 * 1024 * 1024;
/// Of the time that the plugin has, what the agent leaves for its answer to arrive.
const FOR_THE_ANSWER: Duration = Duration::from_millis(500);
/// Nobody waits longer for a pod.
const LONGEST_TIMEOUT: u64 = 3600;
/// Of a socket's path, as struct sockaddr_un has room for it and a NUL (include/uapi/linux/un.h).
const LONGEST_SOCKET: usize = 107;
/// Of a name in Kubernetes' sense (RFC 1123 subdomain).
const LONGEST_NAME: usize = 253;
const NAMES: &str = "letters, digits, _, . and -";
/// A device's name has a byte less (IFNAMSIZ in include/uapi/linux/if.h).
const LONGEST_INTERFACE: usize = 15;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

/// One call.
#[derive(Debug)]
pub struct Call {
    pub command: Command,
    pub version: String,
    pub container: String,
    /// May be empty for DEL: it is gone.
    pub netns: String,
    pub conf: Conf,
    arguments: String,
    whole: Value,
}

/// Our own part of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Conf {
    /// The agent's socket for joins.
    pub socket: PathBuf,
    /// The file in which the agent keeps the namespaces' modes.
    pub namespaces: PathBuf,
    /// Namespaces whose pods never join: the agent is not asked.
    #[serde(default = "never_joining")]
    pub exclude: Vec<String>,
    #[serde(default = "timeout_seconds")]
    pub timeout_seconds: u64,
    /// STATUS succeeds without an agent too. With `false` an agent that is away makes the node one without a network.
    #[serde(default)]
    pub status_without_agent: bool,
}

/// A pod as the kubelet names it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

fn never_joining() -> Vec<String> {
    ["kube-system", "nodemesh-system"].map(str::to_owned).to_vec()
}

fn timeout_seconds() -> u64 {
    20
}

impl Conf {
    fn read(whole: &Value) -> Result<Self, Problem> {
        let conf: Self = serde_path_to_error::deserialize(whole).map_err(|error| {
            let (field, why) = (error.path().to_string(), error.inner());
            // Of a field that is missing serde says the name itself.
            Problem::configuration(if field == "." { why.to_string() } else { format!("{field}: {why}") })
        })?;
        let Self { socket, namespaces, exclude: _, timeout_seconds, status_without_agent: _ } = &conf;
        for (field, path) in [("socket", socket), ("namespaces", namespaces)] {
            if !path.is_absolute() || path.as_os_str().as_bytes().contains(&0) {
                return Err(Problem::configuration(format!("{field}: is no absolute path")));
            }
        }
        if socket.as_os_str().len() > LONGEST_SOCKET {
            return Err(Problem::configuration(format!("socket: is longer than {LONGEST_SOCKET} bytes")));
        }
        if *timeout_seconds > LONGEST_TIMEOUT {
            return Err(Problem::configuration(format!("timeoutSeconds: is more than {LONGEST_TIMEOUT}")));
        }
        Ok(conf)
    }

    /// The time that the plugin may take.
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.timeout_seconds.max(1))
    }

    /// The time that the agent may take.
    pub fn patience(&self) -> Duration {
        self.limit().saturating_sub(FOR_THE_ANSWER)
    }
}

impl Call {
    pub fn read(environment: &CniEnvironment, text: &[u8]) -> Result<Self, Problem> {
        if text.len() > LONGEST {
            return Err(Problem::input(format!("standard input: is longer than {LONGEST} bytes")));
        }
        let CniEnvironment { command, container, netns, interface, arguments } = environment;
        let command = match command.as_str() {
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "GC" => Command::Gc,
            "STATUS" => Command::Status,
            "VERSION" => Command::Version,
            "" => return Err(Problem::environment("CNI_COMMAND: is not set; this is a CNI plugin, for a runtime")),
            other => return Err(Problem::environment(format!("CNI_COMMAND: {other} is no command of CNI"))),
        };
        let whole: Value = match serde_json::from_slice(text) {
            Ok(whole @ Value::Object(_)) => whole,
            Ok(_) => return Err(Problem::decode("standard input: the configuration is no JSON object")),
            // Who asks for the versions may not know one to ask in.
            Err(_) if command == Command::Version => Value::Object(Default::default()),
            Err(e) => return Err(Problem::decode(format!("standard input: the configuration is no JSON: {e}"))),
        };
        let version = match &whole["cniVersion"] {
            Value::String(version) => version.clone(),
            Value::Null if command == Command::Version => LATEST.to_owned(),
            Value::Null => return Err(Problem::configuration("cniVersion: is missing")),
            _ => return Err(Problem::configuration("cniVersion: is no text")),
        };
        if command != Command::Version && !VERSIONS.contains(&version.as_str()) {
            return Err(Problem::version(&version));
        }
        let conf = match command {
            // It asks nobody.
            Command::Version => Conf::for_versions(),
            _ => Conf::read(&whole)?,
        };
        let about_a_pod = matches!(command, Command::Add | Command::Del | Command::Check);
        if about_a_pod {
            check_container(container)?;
            check_interface(interface)?;
        }
        if netns.is_empty() && matches!(command, Command::Add | Command::Check) {
            return Err(Problem::environment("CNI_NETNS: is not set"));
        }
        let (container, netns, arguments) = (container.clone(), netns.clone(), arguments.clone());
        Ok(Self { command, version, container, netns, conf, arguments, whole })
    }

    /// The result of the plugins before this one, as they gave it.
    pub fn previous(&self) -> Result<Value, Problem> {
        let mut previous = match &self.whole["prevResult"] {
            Value::Null => {
                let why = "nodemesh-cni makes no network: it is to stand behind a plugin that does";
                return Err(Problem::configuration("prevResult: is missing").because(why));
            }
            Value::Object(previous) => previous.clone(),
            _ => return Err(Problem::decode("prevResult: is no JSON object")),
        };
        if previous.get("cniVersion").is_some_and(|version| !version.is_string()) {
            return Err(Problem::decode("prevResult.cniVersion: is no text"));
        }
        previous.entry("cniVersion").or_insert_with(|| self.version.clone().into());
        Ok(previous.into())
    }

    /// The pod, by the kubelet's words in CNI_ARGS.
    pub fn pod(&self) -> Result<PodName, Problem> {
        let mut pod = PodName::default();
        let (mut ignore, mut unknown) = (false, None);
        for pair in self.arguments.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(Problem::environment(format!("CNI_ARGS: `{pair}` is no KEY=VALUE")));
            };
            match key {
                "K8S_POD_NAMESPACE" => pod.namespace = value.to_owned(),
                "K8S_POD_NAME" => pod.name = value.to_owned(),
                "K8S_POD_UID" => pod.uid = value.to_owned(),
                "K8S_POD_INFRA_CONTAINER_ID" => {}
                "IgnoreUnknown" => ignore = ["1", "true", "TRUE", "True", "t", "T"].contains(&value),
                other => unknown = unknown.or(Some(other)),
            }
        }
        if let Some(unknown) = unknown.filter(|_| !ignore) {
            return Err(Problem::environment(format!("CNI_ARGS: {unknown} is not known, and IgnoreUnknown not set")));
        }
        let needed = [("K8S_POD_NAMESPACE", &pod.namespace), ("K8S_POD_NAME", &pod.name), ("K8S_POD_UID", &pod.uid)];
        if let Some((key, _)) = needed.into_iter().find(|(_, value)| value.is_empty()) {
            return Err(Problem::environment(format!("CNI_ARGS: {key} is missing")));
        }
        let is_name = |name: &str| name.len() <= LONGEST_NAME && name.bytes().all(is_of_names);
        if let Some((key, _)) = needed.into_iter().find(|(_, value)| !is_name(value)) {
            let why =
                format!("CNI_ARGS: {key} is longer than {LONGEST_NAME} bytes, or holds something else than {NAMES}");
            return Err(Problem::environment(why));
        }
        Ok(pod)
    }

    /// The containers that there are, for GC.
    pub fn attachments(&self) -> Result<Vec<String>, Problem> {
        let field = "cni.dev/valid-attachments";
        let Value::Array(list) = &self.whole[field] else {
            return Err(Problem::configuration(format!("{field}: is no list")));
        };
        let container = |(i, attachment): (usize, &Value)| match &attachment["containerID"] {
            Value::String(container) => Ok(container.clone()),
            _ => Err(Problem::configuration(format!("{field}[{i}].containerID: is no text"))),
        };
        list.iter().enumerate().map(container).collect()
    }
}

impl Conf {
    fn for_versions() -> Self {
        Self {
            socket: PathBuf::new(),
            namespaces: PathBuf::new(),
            exclude: Vec::new(),
            timeout_seconds: timeout_seconds(),
            status_without_agent: false,
        }
    }
}

fn check_container(container: &str) -> Result<(), Problem> {
    let wrong = match container.as_bytes() {
        [] => "is not set",
        [first, ..] if !first.is_ascii_alphanumeric() => "does not begin with a letter or a digit",
        all if !all.iter().copied().all(is_of_names) => {
            return Err(Problem::environment(format!("CNI_CONTAINERID: holds something else than {NAMES}")));
        }
        _ => return Ok(()),
    };
    Err(Problem::environment(format!("CNI_CONTAINERID: {wrong}")))
}

fn is_of_names(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.-".contains(&byte)
}

fn check_interface(interface: &str) -> Result<(), Problem> {
    let wrong = match interface {
        "" => "is not set",
        "." | ".." => "is no name",
        long if long.len() > LONGEST_INTERFACE => "is longer than 15 bytes",
        odd if odd.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) => {
            "holds /, :, a space or a control character"
        }
        _ => return Ok(()),
    };
    Err(Problem::environment(format!("CNI_IFNAME: {wrong}")))
}

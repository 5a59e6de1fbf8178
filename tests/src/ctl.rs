//! Asking the mesh as a user does: meshctl's JSON.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{config, place};

/// One connection as an agent recorded it. Words are lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Unique on its node.
    pub id: u64,
    pub node: String,
    /// outbound, inbound
    pub direction: String,
    /// forwarded, dropped, audit, error
    pub verdict: String,
    /// A stable code, as POLICY_DENY; empty if nothing was wrong.
    pub reason: String,
    pub source: Party,
    pub destination: Party,
    /// "namespace/hostname" if the client dialled a service.
    pub service: String,
    /// direct, local, tunnel, passthrough
    pub path: String,
    /// none (plaintext), mutual_tls, kernel_attested
    pub security: String,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// "namespace/name" of the policy that decided; empty: none did.
    pub policy: String,
    /// Its rule that decided, from 0; `None`: no rule of it matched.
    pub rule: Option<i64>,
    /// The configuration that decided.
    pub generation: u64,
    /// What policies that are not enforced said of it.
    pub observations: Vec<Observation>,
    pub error: String,
    pub tls_version: String,
    /// Microseconds; `None`: the kernel was not asked.
    pub rtt_us: Option<u64>,
    pub retransmits: Option<u64>,
}

/// One of [`Flow::observations`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    pub policy: String,
    /// `None`: no rule of it matched.
    pub rule: Option<i64>,
    /// dry_run, audited
    pub observed_as: String,
    pub would_refuse: bool,
}

/// One end of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Party {
    /// "namespace/name"; empty outside the cluster.
    pub pod: String,
    pub identity: String,
    pub address: String,
}

/// The answer of `meshctl authz check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    pub verdict: String,
    pub reason: String,
    pub policy: String,
    pub rule: Option<i64>,
    /// Some policy asks for requests, and none was named.
    pub depends_on_request: bool,
}

/// The flows among `flows` that `matches` names; an error shows all of them.
pub fn expect_flow(flows: &[Flow], what: &str, matches: impl Fn(&Flow) -> bool) -> Result<Flow> {
    let shown = || flows.iter().map(|flow| format!("\n  {flow:?}")).collect::<String>();
    flows.iter().find(|flow| matches(flow)).cloned().with_context(|| format!("no flow {what} among:{}", shown()))
}

/// Runs `meshctl <option> <socket> <arguments> -o json` and gives the objects that it printed.
pub(crate) fn ask(option: &str, socket: &Path, arguments: &[&str]) -> Result<Vec<Value>> {
    ask_with_code(option, socket, arguments).map(|(_, answers)| answers)
}

/// The same, and the exit code: meshctl answers 1 for a finding, 3 where it is not sure.
pub(crate) fn ask_with_code(option: &str, socket: &Path, arguments: &[&str]) -> Result<(i32, Vec<Value>)> {
    let mut command = Command::new(config::built("meshctl")?);
    command.arg(option).arg(socket).args(arguments).args(["-o", "json"]);
    let output = place::finish(command, Duration::from_secs(10))?;
    let code = output.status.code().unwrap_or(-1);
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(
        code == 0 || matches!(code, 1 | 3) && !text.trim().is_empty(),
        "meshctl {}: {}",
        arguments.join(" "),
        errors.trim()
    );
    let values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let mut answers = Vec::new();
    for value in values {
        match value.with_context(|| format!("meshctl {}: not JSON: {text}", arguments.join(" ")))? {
            Value::Array(list) => answers.extend(list),
            other => answers.push(other),
        }
    }
    Ok((code, answers))
}

impl Flow {
    pub(crate) fn of(value: &Value) -> Self {
        let observations = value["observations"].as_array().map(Vec::as_slice).unwrap_or_default();
        Self {
            id: number(value, "id"),
            generation: number(value, "generation"),
            observations: observations.iter().map(Observation::of).collect(),
            node: text(value, "node"),
            direction: word(value, "direction"),
            verdict: word(value, "verdict"),
            reason: text(value, "reason"),
            source: Party::of(&value["source"]),
            destination: Party::of(&value["destination"]),
            service: text(value, "service"),
            path: word(value, "path"),
            security: word(value, "security"),
            bytes_sent: number(value, "bytes_sent"),
            bytes_received: number(value, "bytes_received"),
            policy: text(value, "policy"),
            rule: value["rule"].as_i64(),
            error: text(value, "error"),
            tls_version: text(value, "tls_version"),
            rtt_us: value["rtt_us"].as_u64(),
            retransmits: value["retransmits"].as_u64(),
        }
    }
}

impl Observation {
    fn of(value: &Value) -> Self {
        Self {
            policy: text(value, "policy"),
            rule: value["rule"].as_i64(),
            observed_as: word(value, "observed_as"),
            would_refuse: value["would_refuse"] == true,
        }
    }
}

impl Party {
    fn of(value: &Value) -> Self {
        let (namespace, pod) = (text(value, "namespace"), text(value, "pod"));
        let pod = if pod.is_empty() { pod } else { format!("{namespace}/{pod}") };
        Self { pod, identity: text(value, "identity"), address: text(value, "address") }
    }
}

impl Denial {
    pub(crate) fn of(value: &Value) -> Self {
        Self {
            verdict: word(value, "verdict"),
            reason: text(value, "reason"),
            policy: text(value, "policy"),
            rule: value["rule"].as_i64(),
            depends_on_request: value["depends_on_request"] == true,
        }
    }
}

pub(crate) fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

pub(crate) fn word(value: &Value, key: &str) -> String {
    text(value, key).to_lowercase()
}

fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().or_else(|| value[key].as_str()?.parse().ok()).unwrap_or_default()
}

//! Waits until the controller and the agents run. How far they are is read from their status alone, and is pure.

use std::{io, time::Duration};

use kube::{
    Client,
    api::{DynamicObject, ListParams},
};
use mesh_install::{AGENT, CONTROLLER};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    Outcome,
    client::Failure,
    cluster::{api, explained},
    output::{Mood, Screen},
};

const PERIOD: Duration = Duration::from_millis(500);

/// How far a Deployment or DaemonSet is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub done: bool,
    pub text: String,
}

/// From the object as the API has it.
pub fn progress(object: &Value) -> Progress {
    let (spec, status) = (&object["spec"], &object["status"]);
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    let seen = number(&status["observedGeneration"]) >= number(&object["metadata"]["generation"]);
    if !seen || status["observedGeneration"].is_null() {
        return Progress { done: false, text: "not seen by Kubernetes' own controllers yet".into() };
    }
    let (wanted, updated, available, all) = if object["kind"] == "DaemonSet" {
        let wanted = number(&status["desiredNumberScheduled"]);
        (wanted, number(&status["updatedNumberScheduled"]), number(&status["numberAvailable"]), wanted)
    } else {
        let wanted = spec["replicas"].as_i64().unwrap_or(1);
        let available = number(&status["availableReplicas"]);
        (wanted, number(&status["updatedReplicas"]), available, number(&status["replicas"]))
    };
    // Old ones of a Deployment still count as available.
    let done = updated >= wanted && available >= wanted && all <= wanted;
    Progress { done, text: format!("{available} of {wanted} run, {updated} are new") }
}

/// Says what changed, each time it does.
pub async fn wait<W: io::Write>(
    client: &Client,
    namespace: &str,
    timeout: Duration,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let deadline = Instant::now() + timeout;
    let mut said = [String::new(), String::new()];
    loop {
        let mut done = true;
        for ((kind, name), said) in [("Deployment", CONTROLLER), ("DaemonSet", AGENT)].into_iter().zip(&mut said) {
            let object = api(client, "apps/v1", kind, Some(namespace)).get(name).await;
            let object = object.map_err(|error| explained(&format!("reading {kind} {namespace}/{name}"), error))?;
            let mut object = serde_json::to_value(object).unwrap_or_default();
            object["kind"] = kind.into();
            let progress = progress(&object);
            done &= progress.done;
            if *said != progress.text && screen.format.is_text() {
                let mood = if progress.done { Mood::Good } else { Mood::Dim };
                screen.line(&format!("{name:<16} {}", progress.text), mood)?;
                *said = progress.text;
            }
        }
        if done {
            return Ok(Outcome::Fine);
        }
        if Instant::now() >= deadline {
            break;
        }
        tokio::time::sleep(PERIOD).await;
    }
    let selector = ListParams::default().labels(&format!("{}={}", mesh_install::PART_OF_LABEL, mesh_install::PART_OF));
    let pods = api(client, "v1", "Pod", Some(namespace)).list(&selector).await;
    let pods = pods.map_err(|error| explained("listing the pods of the mesh", error))?;
    let why = pods.items.iter().flat_map(waiting).collect::<Vec<_>>();
    let why = if why.is_empty() { String::new() } else { format!("\n  {}", why.join("\n  ")) };
    Err(Failure::Unreachable(format!(
        "not everything runs after {} s (it goes on without meshctl; --timeout waits longer){why}",
        timeout.as_secs()
    )))
}

/// Why containers of a pod do not run, and why it has no node.
fn waiting(pod: &DynamicObject) -> Vec<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let status = &pod.data["status"];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut why = Vec::new();
    for condition in list(&status["conditions"]) {
        if condition["type"] == "PodScheduled" && condition["status"] == "False" {
            why.push(format!("pod {name} has no node: {}", text(&condition["message"])));
        }
    }
    for container in [list(&status["initContainerStatuses"]), list(&status["containerStatuses"])].concat() {
        let waiting = &container["state"]["waiting"];
        if waiting.is_object() {
            let message = text(&waiting["message"]);
            let message = if message.is_empty() { String::new() } else { format!(": {message}") };
            why.push(format!("pod {name} waits, {}{message}", text(&waiting["reason"])));
        } else if container["ready"] == false {
            why.push(format!("pod {name} runs and is not ready: kubectl logs {name}"));
        }
    }
    why
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn done_is_what_is_new_and_runs() {
        let deployment = |status: Value| {
            progress(&json!({
                "kind": "Deployment", "metadata": { "generation": 2 }, "spec": { "replicas": 2 }, "status": status,
            }))
        };
        assert!(!deployment(json!({})).done);
        let old = json!({ "observedGeneration": 1, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2 });
        assert!(!deployment(old).done, "that was before the change");
        let part = json!({ "observedGeneration": 2, "replicas": 3, "updatedReplicas": 2, "availableReplicas": 3 });
        assert!(!deployment(part).done, "an old one is still there");
        let whole = json!({ "observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2 });
        assert_eq!(deployment(whole), Progress { done: true, text: "2 of 2 run, 2 are new".into() });
        let agents = |updated: u32, available: u32| {
            progress(&json!({ "kind": "DaemonSet", "metadata": { "generation": 1 }, "status": {
                "observedGeneration": 1, "desiredNumberScheduled": 3, "updatedNumberScheduled": updated,
                "numberAvailable": available,
            }}))
        };
        assert!(!agents(2, 3).done);
        assert!(!agents(3, 2).done);
        assert!(agents(3, 3).done);
    }

    #[test]
    fn a_pod_says_why_it_does_not_run() {
        let pod: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "a" },
            "status": {
                "conditions": [{ "type": "PodScheduled", "status": "False", "message": "0/3 nodes" }],
                "containerStatuses": [
                    { "ready": false, "state": { "waiting": { "reason": "ErrImagePull", "message": "no such image" } } },
                    { "ready": false, "state": { "running": {} } },
                ],
            },
        }))
        .unwrap();
        assert_eq!(
            waiting(&pod),
            [
                "pod a has no node: 0/3 nodes",
                "pod a waits, ErrImagePull: no such image",
                "pod a runs and is not ready: kubectl logs a"
            ]
        );
    }
}

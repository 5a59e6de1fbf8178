//! `meshctl check --probe`: asks every node's own kernel. A pod on each runs `mesh-agent programs` with the agent's
//! capabilities and folders: that eBPF programs load, and that bpffs, cgroups and the folders for CNI are there. It is
//! the one part of check that makes something, and it takes all of it away again.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, PostParams},
};
use mesh_install::{NAME_LABEL, Values, objects};
use serde_json::Value;
use tokio::time::Instant;

use super::Finding;
use crate::{
    client::Failure,
    cluster::{explained, is_missing},
    errand::Errand,
};

const NAME: &str = "mesh-probe";
const PERIOD: Duration = Duration::from_millis(500);
const AREA: &str = "kernel";

/// # Errors
/// The API server does not answer, or refuses the pods.
pub async fn run(client: &Client, nodes: &[Node], values: &Values, timeout: Duration) -> Result<Vec<Finding>, Failure> {
    let objects = objects(values);
    let namespace = values.namespace();
    let made = make_namespace(client, &objects, namespace).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let found = look(&pods, nodes, &objects, namespace, timeout).await;
    let gone = take_away(client, &pods, made.then_some(namespace)).await;
    let found = found?;
    gone.map(|()| found)
}

/// Whether it was not there before.
async fn make_namespace(client: &Client, objects: &[Value], name: &str) -> Result<bool, Failure> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let doing = |error| explained(&format!("making namespace {name} for the probes"), error);
    if namespaces.get_opt(name).await.map_err(doing)?.is_some() {
        return Ok(false);
    }
    let object = objects.iter().find(|object| object["kind"] == "Namespace").cloned().unwrap_or_default();
    let object = serde_json::from_value(object).map_err(|error| Failure::Usage(error.to_string()))?;
    namespaces.create(&PostParams::default(), &object).await.map_err(doing)?;
    Ok(true)
}

async fn look(
    pods: &Api<Pod>,
    nodes: &[Node],
    objects: &[Value],
    namespace: &str,
    timeout: Duration,
) -> Result<Vec<Finding>, Failure> {
    let agents = objects.iter().find(|object| object["kind"] == "DaemonSet");
    let mut template = agents.map(|agents| agents["spec"]["template"]["spec"].clone()).unwrap_or_default();
    if let Some(spec) = template.as_object_mut() {
        // The account may not be there yet, and the probe needs none.
        spec.remove("serviceAccountName");
    }
    let errand = Errand { name: NAME, verb: "programs", options: &[], restart: "Never" };
    let linux = nodes.iter().filter(|node| {
        node.status
            .as_ref()
            .and_then(|status| status.node_info.as_ref())
            .is_none_or(|info| info.operating_system == "linux")
    });
    let mut waiting = BTreeMap::new();
    for node in linux.filter_map(|node| node.metadata.name.as_deref()) {
        let pod = errand.pod(&template, namespace, node).map_err(Failure::Unreachable)?;
        let name = pod.metadata.name.clone().unwrap_or_default();
        match pods.create(&PostParams::default(), &pod).await {
            Ok(_) => drop(waiting.insert(name, node.to_owned())),
            // Of an earlier attempt that was interrupted.
            Err(kube::Error::Api(status)) if status.code == 409 => drop(waiting.insert(name, node.to_owned())),
            Err(error) => return Err(explained(&format!("probing node {node}"), error)),
        }
    }
    let deadline = Instant::now() + timeout;
    let mut findings = Vec::new();
    loop {
        let labelled = ListParams::default().labels(&format!("{NAME_LABEL}={NAME}"));
        let listed = pods.list(&labelled).await.map_err(|error| explained("listing the probes", error))?;
        let over = Instant::now() >= deadline;
        for pod in &listed.items {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let Some(node) = waiting.get(name) else { continue };
            if let Some(finding) = judge(node, pod, over) {
                findings.push(finding);
                waiting.remove(name);
            }
        }
        if waiting.is_empty() || over {
            return Ok(findings);
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// What a probe found; `None`: nothing yet. `over`: nobody waits any longer.
pub fn judge(node: &str, pod: &Pod, over: bool) -> Option<Finding> {
    let status = pod.status.as_ref();
    let containers = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    let state = containers.first().and_then(|container| container.state.as_ref());
    match status.and_then(|status| status.phase.as_deref()) {
        Some("Succeeded") => Some(Finding::ok(AREA, format!("{node} takes the programs"))),
        Some("Failed") => {
            let said = state.and_then(|state| state.terminated.as_ref()).and_then(|end| end.message.as_deref());
            let said = said.and_then(|said| said.trim().lines().last()).unwrap_or("its probe failed and said nothing");
            let hint = "the mesh does not work on that node: see what the message names, or keep agents from it by \
                        agent.nodeSelector";
            Some(Finding::error(AREA, format!("{node}: {said}"), hint))
        }
        _ if over => {
            let waits = state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.clone());
            let hint = "can it pull the image (--set image.repository=…), and are /sys/fs/bpf and /sys/fs/cgroup mounted? \
                        kubectl describe the pod, or wait longer by --timeout";
            let why = waits.unwrap_or_else(|| "its probe did not run".to_owned());
            Some(Finding::warning(AREA, format!("{node} was not probed: {why}"), hint))
        }
        _ => None,
    }
}

async fn take_away(client: &Client, pods: &Api<Pod>, namespace: Option<&str>) -> Result<(), Failure> {
    let labelled = ListParams::default().labels(&format!("{NAME_LABEL}={NAME}"));
    let now = DeleteParams::default().grace_period(0);
    let doing = |error| explained("taking the probes away", error);
    for pod in pods.list_metadata(&labelled).await.map_err(doing)?.items {
        match pods.delete(pod.metadata.name.as_deref().unwrap_or_default(), &now).await {
            Err(error) if !is_missing(&error) => return Err(doing(error)),
            _ => {}
        }
    }
    if let Some(namespace) = namespace {
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces.delete(namespace, &DeleteParams::default()).await.map_err(doing)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::check::Mark;

    #[test]
    fn a_probe_says_what_its_kernel_says() {
        let of = |status: Value, over| {
            let pod = serde_json::from_value(json!({ "metadata": {}, "status": status })).unwrap();
            judge("a", &pod, over).map(|finding| (finding.mark, finding.what))
        };
        assert_eq!(of(json!({ "phase": "Running" }), false), None);
        let succeeded = of(json!({ "phase": "Succeeded" }), false);
        assert_eq!(succeeded, Some((Mark::Ok, "a takes the programs".to_owned())));
        let ended = |state: Value| json!([{ "name": "x", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state }]);
        let message = "NAME  VERIFIED\nmesh-agent: kernel 5.15.0 does not take connect4\n";
        let failed = json!({ "phase": "Failed", "containerStatuses": ended(json!({ "terminated": { "exitCode": 1, "message": message } })) });
        assert_eq!(
            of(failed, false),
            Some((Mark::Error, "a: mesh-agent: kernel 5.15.0 does not take connect4".to_owned()))
        );
        let waits = json!({ "phase": "Pending", "containerStatuses": ended(json!({ "waiting": { "reason": "ErrImagePull" } })) });
        assert_eq!(of(waits, true), Some((Mark::Warning, "a was not probed: ErrImagePull".to_owned())));
    }
}

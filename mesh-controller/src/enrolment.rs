//! How it stands with the redirection of each pod, written on the pod itself: for people, and for every replica of the
//! controller, over restarts. Whoever is linked to the pod's agent writes. What is written is decided here, without
//! I/O; `writer` writes.

mod writer;

pub use writer::Writer;

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use mesh_common::model::{LocalPod, Mode};

use crate::{
    index::{
        PodName, Redirected, Report, World,
        redirection::{ENABLED, annotation, says_enabled},
    },
    link::Reports,
    source::{Kind, Update},
};

const OBSERVED: &str = "observed";

/// What shall be written on one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub pod: PodName,
    pub pod_uid: String,
    pub before: Option<String>,
    /// `None`: nothing any more.
    pub after: Option<String>,
}

/// What an event on the pod says of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Occasion {
    Enrolled,
    Unenrolled,
    Failed(String),
}

/// What shall be said of a pod of this mode, of which its agent says this, and which says `now` of itself. While the
/// agent has not heard of the mode, what is there stays. Who takes HBONE says so until it leaves the mesh: one that had
/// failed and was taken for unredirected would be sent plaintext.
pub fn wanted(mode: Mode, report: &Report, now: Option<&str>) -> Option<String> {
    let now_enabled = now.is_some_and(says_enabled);
    let with = |word: &str| match report.why.as_str() {
        "" => word.to_owned(),
        why => format!("{word}: {why}"),
    };
    match (mode, report.redirected) {
        (Mode::Mesh, Redirected::Enabled) => Some(ENABLED.to_owned()),
        (Mode::Mesh, Redirected::Failed) if now_enabled => Some(format!("{ENABLED}, {}", with("failed"))),
        (Mode::Mesh | Mode::Observe, Redirected::Failed) => Some(with("failed")),
        (Mode::Mesh, Redirected::Pending) if !now_enabled => Some(with("pending")),
        (Mode::Observe, Redirected::Pending) => Some(with("pending")),
        (Mode::Observe, Redirected::Disabled) => Some(OBSERVED.to_owned()),
        (Mode::None, Redirected::Disabled) => None,
        _ => now.map(ToOwned::to_owned),
    }
}

/// Every pod of a linked node that should say something else of itself. `known` is what was written and is not seen
/// yet.
pub fn changes(
    world: &World,
    update: &Update,
    linked: &BTreeMap<String, Reports>,
    known: &BTreeMap<PodName, Change>,
) -> Vec<Change> {
    let of_linked = |pod: &Pod| {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
        node.and_then(|node| linked.get(node)).is_some_and(|reports| !reports.is_empty())
    };
    let pods: HashMap<(&str, &str), &ObjectMeta> = update
        .objects
        .iter()
        .filter_map(|object| match &object.kind {
            Kind::Pod(pod) if of_linked(pod) => {
                Some(((pod.metadata.namespace.as_deref()?, pod.metadata.name.as_deref()?), &pod.metadata))
            }
            _ => None,
        })
        .collect();
    let local = linked.iter().filter_map(|(node, reports)| Some((world.local_pods.get(node)?, reports)));
    let local = local.flat_map(|(pods, reports)| pods.values().map(move |pod| (pod, reports)));
    local
        .filter_map(|(pod, reports)| {
            let metadata = pods.get(&(pod.namespace.as_str(), pod.name.as_str()))?;
            change(pod, reports, metadata, known)
        })
        .collect()
}

fn change(
    pod: &LocalPod,
    reports: &Reports,
    metadata: &ObjectMeta,
    known: &BTreeMap<PodName, Change>,
) -> Option<Change> {
    let name = PodName { namespace: pod.namespace.clone(), name: pod.name.clone() };
    // What is said of a pod that had this name says nothing of this one.
    let report = reports.get(&name).filter(|report| report.pod_uid == pod.pod_uid)?;
    if metadata.uid.as_deref() != Some(pod.pod_uid.as_str()) {
        return None;
    }
    let written = known.get(&name).filter(|change| change.pod_uid == pod.pod_uid);
    let before = match written {
        Some(change) => change.after.clone(),
        None => annotation(metadata).map(ToOwned::to_owned),
    };
    let after = wanted(pod.mode, report, before.as_deref());
    (after != before).then(|| Change { pod: name, pod_uid: pod.pod_uid.clone(), before, after })
}

impl Change {
    /// It may be over by itself in a moment, and is written only if it is not.
    pub fn may_pass(&self) -> bool {
        self.after.as_deref().is_some_and(|after| after.contains("pending") || after.contains("failed"))
    }

    /// Whether an event tells of it.
    pub fn occasion(&self) -> Option<Occasion> {
        let enabled = |said: &Option<String>| said.as_deref().is_some_and(says_enabled);
        let failed = |said: &Option<String>| {
            let (_, why) = said.as_deref()?.split_once("failed")?;
            Some(why.trim_start_matches(": ").to_owned())
        };
        match (failed(&self.before), failed(&self.after)) {
            (None, Some(why)) => Some(Occasion::Failed(why)),
            _ if enabled(&self.after) && !enabled(&self.before) => Some(Occasion::Enrolled),
            _ if enabled(&self.before) && !enabled(&self.after) => Some(Occasion::Unenrolled),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;

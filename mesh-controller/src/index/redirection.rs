//! Which pods take HBONE: what agents report, and what is remembered of it.

use std::{collections::BTreeMap, fmt, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::source::{Kind, Object};

/// Says on a pod of a Kubernetes API how its redirection stands, for people and for other replicas of the controller.
pub const ANNOTATION: &str = "nodemesh.io/redirection";
/// How it begins on a pod that takes HBONE.
pub const ENABLED: &str = "enabled";

/// A pod by name. Only with its UID is it the same pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodName {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What an agent says of one of its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub redirected: Redirected,
    pub pod_uid: String,
    /// Why it is pending or has failed.
    pub why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirected {
    Disabled,
    Pending,
    Enabled,
    Failed,
}

/// Reports, and the memory of earlier ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirection {
    /// Pods that were redirected when last seen, with their UIDs.
    pub remembered: BTreeMap<PodName, String>,
    /// The last report of each node.
    pub reports: BTreeMap<String, BTreeMap<PodName, Report>>,
}

impl Redirection {
    /// Is this pod of this node to be reached by HBONE? From its agent's first word that it is, a pod stays so until it
    /// is gone or no longer asked to be in the mesh. An agent that has just started says of its pods that they are
    /// pending, not redirected, or nothing at all: to believe that would send plaintext where TLS was promised, so
    /// connections are refused meanwhile. Reports of other nodes than the pod's own mean nothing.
    pub fn is_redirected(&self, node: &str, name: &PodName, pod_uid: &str) -> bool {
        let report = self.reports.get(node).and_then(|pods| pods.get(name)).filter(|report| report.pod_uid == pod_uid);
        report.is_some_and(|report| report.redirected == Redirected::Enabled)
            || self.remembered.get(name).is_some_and(|uid| uid == pod_uid)
    }
}

/// What a pod says of its redirection.
pub fn annotation(pod: &ObjectMeta) -> Option<&str> {
    pod.annotations.as_ref()?.get(ANNOTATION).map(String::as_str)
}

/// Whether that is of a pod that takes HBONE, however it stands with it.
pub fn says_enabled(said: &str) -> bool {
    said.strip_prefix(ENABLED).is_some_and(|rest| rest.is_empty() || rest.starts_with(','))
}

/// Pods that say of themselves that they take HBONE.
pub fn annotated(objects: &[Arc<Object>]) -> BTreeMap<PodName, String> {
    let pods = objects.iter().filter_map(|object| match &object.kind {
        Kind::Pod(pod) => Some(&pod.metadata),
        _ => None,
    });
    let enabled = pods.filter(|metadata| annotation(metadata).is_some_and(says_enabled));
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    enabled.map(|of| (PodName { namespace: text(&of.namespace), name: text(&of.name) }, text(&of.uid))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redirection(remembered: bool, report: Option<(&str, Redirected, &str)>) -> bool {
        let name = PodName { namespace: "shop".into(), name: "cart".into() };
        let mut state = Redirection::default();
        if remembered {
            state.remembered.insert(name.clone(), "u1".into());
        }
        if let Some((node, redirected, uid)) = report {
            let report = Report { redirected, pod_uid: uid.into(), why: String::new() };
            state.reports.insert(node.into(), [(name.clone(), report)].into());
        }
        state.is_redirected("a", &name, "u1")
    }

    #[test]
    fn only_the_own_agent_s_word_about_this_very_pod_counts() {
        use Redirected::{Disabled, Enabled, Failed, Pending};
        assert!(!redirection(false, None));
        assert!(redirection(false, Some(("a", Enabled, "u1"))));
        assert!(!redirection(false, Some(("b", Enabled, "u1"))));
        assert!(!redirection(false, Some(("a", Enabled, "u0"))));
        assert!(!redirection(false, Some(("a", Pending, "u1"))));
        assert!(redirection(true, None));
        assert!(redirection(true, Some(("a", Pending, "u1"))));
        assert!(redirection(true, Some(("a", Failed, "u1"))));
        assert!(redirection(true, Some(("a", Disabled, "u1"))));
        assert!(!redirection(false, Some(("a", Disabled, "u1"))));
        assert!(redirection(true, Some(("b", Disabled, "u1"))));
    }
}

//! The label `nodemesh.io/same-node`: may a pod of the mesh speak past TLS to others of its own node?

use mesh_common::model::SameNode;

use super::{Labels, Settings};
use crate::status::Fault;

pub const SAME_NODE_LABEL: &str = "nodemesh.io/same-node";

/// What holds for a pod with these labels in a namespace with those: the pod's label, or the namespace's, or the
/// mesh-wide setting. A value that has no meaning is a fault of the object that carries it, see [`check`], and counts
/// there as `tls`, the stricter one.
pub fn same_node(settings: &Settings, namespace_labels: Option<&Labels>, pod_labels: &Labels) -> SameNode {
    let of = |labels: &Labels| labels.get(SAME_NODE_LABEL).map(|value| meaning(value).unwrap_or(SameNode::Tls));
    of(pod_labels).or_else(|| of(namespace_labels?)).unwrap_or(settings.same_node)
}

/// What is wrong with the label, if it is there.
pub fn check(labels: &Labels) -> Option<Fault> {
    let why = meaning(labels.get(SAME_NODE_LABEL)?).err()?;
    Some(Fault::new(format!("metadata.labels[{SAME_NODE_LABEL}]"), format_args!("{why}; it counts as tls")))
}

/// The value of the label, and of `--same-node`.
///
/// # Errors
/// If the text is neither `direct` nor `tls`.
pub fn meaning(value: &str) -> Result<SameNode, String> {
    match value {
        "direct" => Ok(SameNode::Direct),
        "tls" => Ok(SameNode::Tls),
        other => Err(format!("`{other}` is none of direct, tls")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tests::settings;

    fn labels(value: &str) -> Labels {
        [(SAME_NODE_LABEL.to_owned(), value.to_owned())].into()
    }

    #[test]
    fn the_pod_beats_its_namespace_and_that_the_mesh() {
        use SameNode::{Direct, Tls};
        let none = Labels::new();
        for (mesh, namespace, pod, expected) in [
            (Direct, &none, &none, Direct),
            (Tls, &none, &none, Tls),
            (Direct, &labels("tls"), &none, Tls),
            (Tls, &labels("direct"), &none, Direct),
            (Direct, &labels("tls"), &labels("direct"), Direct),
            (Tls, &labels("direct"), &labels("tls"), Tls),
            // What cannot be read is the stricter one, for the object that says it.
            (Direct, &labels("TLS"), &none, Tls),
            (Direct, &labels("direct"), &labels("mtls"), Tls),
            (Direct, &labels("mtls"), &labels("direct"), Direct),
        ] {
            let settings = Settings { same_node: mesh, ..settings() };
            assert_eq!(same_node(&settings, Some(namespace), pod), expected, "{mesh:?} {namespace:?} {pod:?}");
        }
        assert_eq!(same_node(&settings(), None, &none), Direct);
    }

    #[test]
    fn unknown_values_are_reported() {
        assert_eq!(check(&Labels::new()), None);
        assert_eq!(check(&labels("direct")).or(check(&labels("tls"))), None);
        let fault = check(&labels("TLS")).expect("a fault");
        assert_eq!(fault.field, "metadata.labels[nodemesh.io/same-node]");
        assert_eq!(fault.why, "`TLS` is none of direct, tls; it counts as tls");
    }
}

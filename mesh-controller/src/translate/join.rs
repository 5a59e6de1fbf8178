//! The label `nodemesh.io/mode`: does a pod take part in the mesh?

use mesh_common::model::Mode;

use super::{Labels, Settings};
use crate::status::Fault;

pub const MODE_LABEL: &str = "nodemesh.io/mode";

/// The mode of a pod with these labels in a namespace with those; the pod's label beats the namespace's. A value that
/// has no meaning is a fault of the object that carries it, see [`check`], and counts as absent.
pub fn mode(settings: &Settings, namespace: &str, namespace_labels: Option<&Labels>, pod_labels: &Labels) -> Mode {
    if namespace == "kube-system" || namespace == settings.own_namespace {
        return Mode::None;
    }
    let of = |labels: &Labels| labels.get(MODE_LABEL).and_then(|value| meaning(value).ok());
    of(pod_labels).or_else(|| of(namespace_labels?)).unwrap_or(Mode::None)
}

/// What is wrong with the label, if it is there.
pub fn check(labels: &Labels) -> Option<Fault> {
    let why = meaning(labels.get(MODE_LABEL)?).err()?;
    Some(Fault::new(format!("metadata.labels[{MODE_LABEL}]"), why))
}

fn meaning(value: &str) -> Result<Mode, String> {
    match value {
        "mesh" => Ok(Mode::Mesh),
        "observe" => Ok(Mode::Observe),
        "none" => Ok(Mode::None),
        other => Err(format!("`{other}` is none of mesh, observe, none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tests::settings;

    fn labels(value: &str) -> Labels {
        [(MODE_LABEL.to_owned(), value.to_owned())].into()
    }

    #[test]
    fn the_pod_beats_its_namespace() {
        let none = Labels::new();
        let of = |namespace, outer: &Labels, inner: &Labels| mode(&settings(), namespace, Some(outer), inner);
        assert_eq!(of("shop", &labels("mesh"), &none), Mode::Mesh);
        assert_eq!(of("shop", &labels("mesh"), &labels("none")), Mode::None);
        assert_eq!(of("shop", &labels("none"), &labels("mesh")), Mode::Mesh);
        assert_eq!(of("shop", &none, &none), Mode::None);
        assert_eq!(of("shop", &labels("mesh"), &labels("msh")), Mode::Mesh);
        assert_eq!(of("shop", &labels("mesh"), &labels("observe")), Mode::Observe);
        assert_eq!(of("shop", &labels("observe"), &none), Mode::Observe);
        assert_eq!(of("shop", &labels("observe"), &labels("mesh")), Mode::Mesh);
        assert_eq!(of("kube-system", &labels("observe"), &labels("mesh")), Mode::None);
        assert_eq!(of("nodemesh-system", &labels("mesh"), &labels("mesh")), Mode::None);
    }

    #[test]
    fn unknown_values_are_reported() {
        assert_eq!(check(&labels("mesh")), None);
        assert_eq!(check(&Labels::new()), None);
        assert_eq!(check(&labels("observe")), None);
        assert!(check(&labels("Mesh")).expect("a fault").why.contains("none of"));
    }
}

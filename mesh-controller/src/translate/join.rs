//! The label `nodemesh.io/mode`: does a pod take part in the mesh? And the annotation that takes a namespace out of it
//! for some time.

use k8s_openapi::jiff::Timestamp;
use mesh_common::model::Mode;

use super::{Labels, Settings};
use crate::status::Fault;

pub const MODE_LABEL: &str = "nodemesh.io/mode";
/// On a namespace, RFC 3339: until then its pods are not in the mesh, whatever labels say.
pub const BYPASS_ANNOTATION: &str = "nodemesh.io/bypass-until";

/// The mode of a pod with these labels in a namespace with those; the pod's label beats the namespace's. A value that
/// has no meaning is a fault of the object that carries it, see [`check`], and counts as absent.
pub fn mode(settings: &Settings, namespace: &str, namespace_labels: Option<&Labels>, pod_labels: &Labels) -> Mode {
    if namespace == "kube-system" || namespace == settings.own_namespace {
        return Mode::None;
    }
    let of = |labels: &Labels| labels.get(MODE_LABEL).and_then(|value| meaning(value).ok());
    of(pod_labels).or_else(|| of(namespace_labels?)).unwrap_or(Mode::None)
}

/// Until when the namespace with these annotations is taken out of the mesh; `None` if it is not, or not any more.
///
/// # Errors
/// If the annotation is no time: it counts as absent, so that a slip of the pen opens nothing.
pub fn bypass(annotations: &Labels, now: Timestamp) -> Result<Option<Timestamp>, Fault> {
    let Some(text) = annotations.get(BYPASS_ANNOTATION) else { return Ok(None) };
    let until: Timestamp = text.parse().map_err(|e| {
        let field = format!("metadata.annotations[{BYPASS_ANNOTATION}]");
        Fault::new(field, format_args!("`{text}` is no time as in 2026-01-31T12:00:00Z ({e}); nothing is bypassed"))
    })?;
    Ok(Some(until).filter(|until| *until > now))
}

/// The mode of a pod in a namespace that is bypassed. Who only watches pods stands in nobody's way.
pub fn bypassed(mode: Mode) -> Mode {
    match mode {
        Mode::Mesh => Mode::None,
        Mode::Observe | Mode::None => mode,
    }
}

/// What the label says, if it is there and has a meaning.
pub fn word(labels: &Labels) -> Option<&'static str> {
    let mode = meaning(labels.get(MODE_LABEL)?).ok()?;
    Some(match mode {
        Mode::Mesh => "mesh",
        Mode::Observe => "observe",
        Mode::None => "none",
    })
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
    fn a_bypass_ends_by_itself_and_never_begins_by_mistake() {
        let at = |now: &str, until: &str| {
            let annotations = [(BYPASS_ANNOTATION.to_owned(), until.to_owned())].into();
            bypass(&annotations, now.parse().expect("a time")).map(|until| until.map(|until| until.to_string()))
        };
        let until = "2026-01-31T12:00:00Z";
        assert_eq!(at("2026-01-31T11:59:59Z", until), Ok(Some(until.to_owned())));
        assert_eq!(at("2026-01-31T11:59:59Z", "2026-01-31T14:00:00+02:00"), Ok(Some(until.to_owned())));
        assert_eq!(at("2026-01-31T12:00:00Z", until), Ok(None));
        assert_eq!(bypass(&Labels::new(), Timestamp::MIN), Ok(None));
        for wrong in ["", "soon", "10m", "2026-01-31", "1769860800"] {
            let fault = at("2026-01-31T11:59:59Z", wrong).expect_err(wrong);
            assert_eq!(fault.field, "metadata.annotations[nodemesh.io/bypass-until]");
            assert!(fault.why.ends_with("nothing is bypassed"), "{}", fault.why);
        }
        let modes = [Mode::Mesh, Mode::Observe, Mode::None].map(bypassed);
        assert_eq!(modes, [Mode::None, Mode::Observe, Mode::None]);
    }

    #[test]
    fn unknown_values_are_reported() {
        assert_eq!(check(&labels("mesh")), None);
        assert_eq!(check(&Labels::new()), None);
        assert_eq!(check(&labels("observe")), None);
        assert!(check(&labels("Mesh")).expect("a fault").why.contains("none of"));
    }
}

//! CustomResourceDefinitions of the policies: which kinds are installed, and in which version they are read. Pure.

use kube::{api::ApiResource, core::GroupVersionKind, runtime::watcher::Event};
use serde_json::Value;

use super::{health::Health, raw::Raw};
use crate::{
    source::CustomKind,
    status::{Extent, Problem},
};

/// What is known of one kind's definition.
#[derive(Debug)]
pub struct Definition {
    pub kind: CustomKind,
    pub health: Health,
    /// A first list has come to its end.
    pub complete: bool,
    state: State,
    arriving: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Absent,
    /// It is there; the API does not serve it yet.
    Pending,
    /// In no version that is read.
    Foreign,
    Served(&'static str),
}

impl Definition {
    pub fn new(kind: CustomKind) -> Self {
        let health = Health::new(kind.kind());
        Self { kind, health, complete: false, state: State::Absent, arriving: State::Absent }
    }

    /// The name of the definition.
    pub fn name(&self) -> String {
        format!("{}.{}", self.kind.plural(), self.kind.group())
    }

    /// The kind of definitions themselves.
    pub fn resource() -> ApiResource {
        let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
        ApiResource::from_gvk_with_plural(&kind, "customresourcedefinitions")
    }

    /// The version in which the kind is to be read; `None` if it is not installed, or not yet.
    pub fn version(&self) -> Option<String> {
        match self.state {
            State::Served(version) => Some(self.kind.api_version(version)),
            State::Absent | State::Pending | State::Foreign => None,
        }
    }

    /// The kind is not installed. A definition that is there and is not served just now takes nothing away.
    pub fn is_absent(&self) -> bool {
        self.complete && self.state == State::Absent
    }

    pub fn problem(&self) -> Option<Problem> {
        let foreign = || {
            let why = format!("served in no version that is read, only in one of {}", self.kind.versions().join(", "));
            let object = format!("CustomResourceDefinition {}", self.name());
            Problem { file: String::new(), object, field: "spec.versions".to_owned(), why, extent: Extent::Whole }
        };
        self.health.problem(self.complete).or_else(|| (self.state == State::Foreign).then(foreign))
    }

    /// Takes in what the watch says; whether a problem came or went.
    pub fn take(&mut self, event: &Event<Raw>) -> bool {
        let well = !matches!(event, Event::Init) && self.health.is_well();
        let before = self.state;
        match event {
            Event::Init => self.arriving = State::Absent,
            Event::InitApply(raw) => self.arriving = State::of(self.kind, &raw.value),
            Event::InitDone => (self.state, self.complete) = (self.arriving, true),
            Event::Apply(raw) => self.state = State::of(self.kind, &raw.value),
            Event::Delete(_) => self.state = State::Absent,
        }
        well || (before == State::Foreign) != (self.state == State::Foreign)
    }
}

impl State {
    fn of(kind: CustomKind, definition: &Value) -> Self {
        let list = |path: &str| definition.pointer(path).and_then(Value::as_array).into_iter().flatten();
        let is = |value: &Value, key: &str, wanted: &str| value.get(key).and_then(Value::as_str) == Some(wanted);
        let mut conditions = list("/status/conditions");
        if !conditions.any(|condition| is(condition, "type", "Established") && is(condition, "status", "True")) {
            return Self::Pending;
        }
        let served = |name: &str| {
            list("/spec/versions")
                .any(|version| is(version, "name", name) && version.get("served") == Some(&true.into()))
        };
        kind.versions().iter().find(|name| served(name)).map_or(Self::Foreign, |version| Self::Served(version))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn raw(established: &str, versions: &[(&str, bool)]) -> Raw {
        let versions: Vec<_> = versions.iter().map(|(name, served)| json!({"name": name, "served": served})).collect();
        let conditions = json!([{"type": "Established", "status": established}]);
        let value = json!({"spec": {"versions": versions}, "status": {"conditions": conditions}});
        serde_json::from_value(value).expect("an object")
    }

    #[test]
    fn the_newest_version_that_is_served_is_read() {
        let mut definition = Definition::new(CustomKind::PeerAuthentication);
        definition.take(&Event::Init);
        assert!(!definition.is_absent());
        definition.take(&Event::InitDone);
        assert!(definition.is_absent() && definition.version().is_none());
        for (established, versions, expected) in [
            ("False", &[("v1", true)][..], None),
            ("True", &[("v1", true), ("v1beta1", true)], Some("security.istio.io/v1")),
            ("True", &[("v1", false), ("v1beta1", true)], Some("security.istio.io/v1beta1")),
            ("True", &[("v2", true)], None),
        ] {
            definition.take(&Event::Apply(raw(established, versions)));
            assert_eq!(definition.version().as_deref(), expected, "{established} {versions:?}");
            assert!(!definition.is_absent());
            assert_eq!(definition.problem().is_some(), versions[0].0 == "v2");
        }
        definition.take(&Event::Apply(raw("True", &[("v1", true)])));
        // Seen again in a list, and gone in the next one.
        for event in [Event::Init, Event::InitApply(raw("True", &[("v1", true)])), Event::InitDone] {
            definition.take(&event);
            assert_eq!(definition.version().as_deref(), Some("security.istio.io/v1"));
        }
        definition.take(&Event::Init);
        assert!(!definition.is_absent());
        definition.take(&Event::InitDone);
        assert!(definition.is_absent());
    }
}

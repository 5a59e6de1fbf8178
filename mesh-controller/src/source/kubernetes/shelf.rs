//! The objects of one kind, kept as its watch tells them. What a list says replaces what was there at once and only
//! when all of it has come: half a list would take the other half of the mesh away. Pure.

use std::{collections::BTreeMap, sync::Arc};

use kube::runtime::watcher::Event;
use serde_json::Value;

use super::{health::Health, raw::Raw, trim::trim};
use crate::{
    source::{CustomKind, Key, Object, Origin, documents},
    status::{Problem, parents::List},
};

/// All that is known of one kind.
#[derive(Debug)]
pub struct Shelf {
    /// As in `security.istio.io/v1`.
    pub version: String,
    pub kind: &'static str,
    kept: Kept,
    /// A list that has not come to its end.
    arriving: Option<Kept>,
    /// A first list has come to its end.
    complete: bool,
    pub health: Health,
}

#[derive(Debug, Default)]
struct Kept {
    objects: BTreeMap<Key, Arc<Object>>,
    /// Objects that do not fit their kind. One that did before is still among `objects`.
    refused: BTreeMap<Key, Problem>,
    /// Of policies and routes: what their status says, and their version, without which it cannot be written.
    standings: BTreeMap<Key, Standing>,
}

/// What the status of a policy or a route says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    pub api_version: String,
    pub resource_version: String,
    pub generation: i64,
    /// As they are written, whoever wrote them.
    pub conditions: Vec<Value>,
    /// The same, of the Gateway API's kinds: what is in the list of their status.
    pub parents: Vec<Value>,
}

/// What an event changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    pub objects: bool,
    pub standings: bool,
}

impl Shelf {
    pub fn new(version: &str, kind: &'static str) -> Self {
        let (kept, arriving) = (Kept::default(), None);
        Self { version: version.to_owned(), kind, kept, arriving, complete: false, health: Health::new(kind) }
    }

    /// What is there, without what is on its way.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    pub fn objects(&self) -> impl ExactSizeIterator<Item = &Arc<Object>> {
        self.kept.objects.values()
    }

    pub fn refused(&self) -> impl Iterator<Item = (&Key, &Problem)> {
        self.kept.refused.iter()
    }

    pub fn standings(&self) -> impl Iterator<Item = (&Key, &Standing)> {
        self.kept.standings.iter()
    }

    /// What is wrong with following this kind.
    pub fn problem(&self) -> Option<Problem> {
        self.health.problem(self.complete)
    }

    /// The kind is not installed any more, or is to be read in another version.
    pub fn clear(&mut self) -> Changed {
        let changed = Changed {
            objects: !self.kept.objects.is_empty() || !self.kept.refused.is_empty() || self.problem().is_some(),
            standings: !self.kept.standings.is_empty(),
        };
        *self = Self::new(&self.version, self.kind);
        changed
    }

    /// Takes in what the watch says.
    pub fn take(&mut self, event: Event<Raw>) -> Changed {
        // That a list begins is known before anybody was asked for it.
        let well = !matches!(event, Event::Init) && self.health.is_well();
        let mut changed = match event {
            Event::Init => {
                self.arriving = Some(Kept::default());
                Changed::default()
            }
            Event::InitApply(raw) => {
                let mut arriving = self.arriving.take().unwrap_or_default();
                arriving.apply(&self.version, self.kind, raw, Some(&self.kept));
                self.arriving = Some(arriving);
                Changed::default()
            }
            Event::InitDone => {
                let before = std::mem::replace(&mut self.kept, self.arriving.take().unwrap_or_default());
                let first = !std::mem::replace(&mut self.complete, true);
                Changed {
                    objects: first || self.kept.objects != before.objects || self.kept.refused != before.refused,
                    standings: self.kept.standings != before.standings,
                }
            }
            Event::Apply(raw) => self.kept.apply(&self.version, self.kind, raw, None),
            Event::Delete(raw) => self.kept.delete(self.kind, &raw),
        };
        changed.objects |= well;
        changed
    }
}

impl Kept {
    /// What has not changed stays the same object in memory, which is cheap to compare. `before` is what was kept
    /// before the list to which this object belongs.
    fn apply(&mut self, version: &str, kind: &'static str, raw: Raw, before: Option<&Self>) -> Changed {
        let Raw { metadata, value, manager } = raw;
        let mut changed = Changed::default();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let custom = CustomKind::find(group, kind);
        let custom = custom.filter(|custom| custom.has_conditions() || custom.list().is_some());
        let origin = match CustomKind::find(group, kind).is_some() || kind == "Namespace" {
            true => Origin { resource_version: metadata.resource_version.clone(), manager },
            false => Origin::default(),
        };
        let standing = custom.and_then(|custom| Standing::read(version, custom.list(), &value));
        let read = documents::object(version, kind, trim(kind, value));
        let name = |text: Option<String>| text.unwrap_or_default();
        let key = Key { kind: kind.to_owned(), namespace: name(metadata.namespace), name: name(metadata.name) };
        if let Some(mut standing) = standing {
            standing.resource_version = name(metadata.resource_version);
            changed.standings = self.standings.get(&key) != Some(&standing);
            self.standings.insert(key.clone(), standing);
        }
        let known = before.unwrap_or(self).objects.get(&key).cloned();
        match read {
            Ok(Some(kind)) => {
                changed.objects = self.refused.remove(&key).is_some();
                let object = Object { file: String::new(), kind, origin };
                let object = match known {
                    Some(known) if *known == object => known,
                    _ => {
                        changed.objects = true;
                        Arc::new(object)
                    }
                };
                self.objects.insert(key, object);
            }
            Ok(None) => {}
            Err(refused) => {
                let fault = refused.fault;
                let why = match known {
                    Some(_) => format!("{}; what it said before stays", fault.why),
                    None => fault.why,
                };
                let problem = Problem {
                    file: String::new(),
                    object: key.to_string(),
                    field: fault.field,
                    why,
                    extent: fault.extent,
                };
                changed.objects = self.refused.get(&key) != Some(&problem);
                if let Some(known) = known {
                    self.objects.insert(key.clone(), known);
                }
                self.refused.insert(key, problem);
            }
        }
        changed
    }

    fn delete(&mut self, kind: &str, raw: &Raw) -> Changed {
        let name = |text: &Option<String>| text.clone().unwrap_or_default();
        let key =
            Key { kind: kind.to_owned(), namespace: name(&raw.metadata.namespace), name: name(&raw.metadata.name) };
        let object = self.objects.remove(&key).is_some();
        let refused = self.refused.remove(&key).is_some();
        Changed { objects: object || refused, standings: self.standings.remove(&key).is_some() }
    }
}

impl Standing {
    fn read(version: &str, of: Option<List>, value: &Value) -> Option<Self> {
        let generation = value.pointer("/metadata/generation").and_then(Value::as_i64)?;
        let list = |path: &str| value.pointer(path).and_then(Value::as_array).cloned().unwrap_or_default();
        Some(Self {
            api_version: version.to_owned(),
            resource_version: String::new(),
            generation,
            conditions: list("/status/conditions"),
            parents: of.map(|of| list(&format!("/status/{}", of.name()))).unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn raw(value: Value) -> Raw {
        serde_json::from_value(value).expect("an object")
    }

    fn pod(name: &str, node: &str) -> Raw {
        let metadata = json!({"name": name, "namespace": "shop", "resourceVersion": "1"});
        raw(json!({"metadata": metadata, "spec": {"nodeName": node, "containers": []}}))
    }

    fn names(shelf: &Shelf) -> Vec<String> {
        shelf.objects().map(|object| object.key().name).collect()
    }

    fn listed(pods: &[Raw]) -> Shelf {
        let mut shelf = Shelf::new("v1", "Pod");
        shelf.take(Event::Init);
        for pod in pods {
            assert_eq!(shelf.take(Event::InitApply(pod.clone())), Changed::default());
        }
        assert!(!shelf.is_complete() && names(&shelf).is_empty());
        assert!(shelf.take(Event::InitDone).objects);
        assert!(shelf.is_complete());
        shelf
    }

    #[test]
    fn a_list_counts_when_all_of_it_has_come() {
        let mut shelf = listed(&[pod("a", "n"), pod("b", "n")]);
        let before: Vec<_> = shelf.objects().cloned().collect();
        shelf.take(Event::Init);
        shelf.take(Event::InitApply(pod("b", "n")));
        assert_eq!(names(&shelf), ["a", "b"]);
        assert!(shelf.take(Event::InitDone).objects);
        assert_eq!(names(&shelf), ["b"]);
        assert!(Arc::ptr_eq(shelf.objects().next().expect("b"), &before[1]), "an equal object is the same one");
        // A list that says the same is no change; one that breaks off is none at all.
        for event in [Event::Init, Event::InitApply(pod("b", "n")), Event::InitDone] {
            assert_eq!(shelf.take(event), Changed::default());
        }
        shelf.take(Event::Init);
        shelf.take(Event::Init);
        assert_eq!(names(&shelf), ["b"]);
    }

    #[test]
    fn what_is_not_read_is_no_change() {
        let mut shelf = listed(&[pod("a", "n")]);
        let mut same = pod("a", "n");
        same.value["spec"]["volumes"] = json!([{"name": "v"}]);
        same.value["metadata"]["resourceVersion"] = "2".into();
        assert_eq!(shelf.take(Event::Apply(same)), Changed::default());
        assert!(shelf.take(Event::Apply(pod("a", "m"))).objects);
        assert!(shelf.take(Event::Delete(pod("a", "m"))).objects);
        assert_eq!(shelf.take(Event::Delete(pod("a", "m"))), Changed::default());
    }

    #[test]
    fn a_pod_that_cannot_be_read_keeps_what_it_said() {
        let mut shelf = listed(&[pod("a", "n")]);
        let broken = |name: &str| {
            let mut pod = pod(name, "m");
            pod.value["spec"]["hostNetwork"] = 7.into();
            pod
        };
        assert!(shelf.take(Event::Apply(broken("a"))).objects);
        assert!(shelf.take(Event::Apply(broken("b"))).objects);
        assert_eq!(names(&shelf), ["a"]);
        let said: Vec<_> = shelf.refused().map(|(_, problem)| problem.to_string()).collect();
        assert!(said[0].starts_with("Pod shop/a: spec.hostNetwork: invalid type"), "{}", said[0]);
        assert!(said[0].ends_with("what it said before stays"), "{}", said[0]);
        assert!(said[1].starts_with("Pod shop/b: spec.hostNetwork"), "{}", said[1]);
        // Also over a new list.
        shelf.take(Event::Init);
        shelf.take(Event::InitApply(broken("a")));
        shelf.take(Event::InitDone);
        assert_eq!((names(&shelf), shelf.refused().count()), (vec!["a".to_owned()], 1));
        assert!(shelf.take(Event::Apply(pod("a", "m"))).objects);
        assert_eq!(shelf.refused().count(), 0);
    }

    #[test]
    fn a_policy_s_status_is_no_part_of_it() {
        let policy = |status: Value, version: &str| {
            let metadata = json!({"name": "p", "namespace": "shop", "generation": 3, "resourceVersion": version});
            raw(json!({"metadata": metadata, "spec": {}, "status": status}))
        };
        let mut shelf = Shelf::new("security.istio.io/v1", "AuthorizationPolicy");
        for event in [Event::Init, Event::InitApply(policy(json!({}), "1")), Event::InitDone] {
            shelf.take(event);
        }
        let written = json!({"conditions": [{"type": "Accepted"}]});
        let changed = shelf.take(Event::Apply(policy(written, "2")));
        assert_eq!(changed, Changed { objects: false, standings: true });
        let (_, standing) = shelf.standings().next().expect("a standing");
        assert_eq!((standing.resource_version.as_str(), standing.generation), ("2", 3));
        assert_eq!(standing.conditions, [json!({"type": "Accepted"})]);
    }

    #[test]
    fn a_route_s_parents_are_kept_and_a_grant_has_none() {
        let object = |kind: &'static str| {
            let metadata = json!({"name": "r", "namespace": "shop", "generation": 3, "resourceVersion": "7"});
            let status = json!({
                "parents": [{"controllerName": "example.com/other"}],
                "ancestors": [{"controllerName": "example.com/ancestors"}],
            });
            let mut shelf = Shelf::new("gateway.networking.k8s.io/v1", kind);
            let object = raw(json!({"metadata": metadata, "spec": {}, "status": status}));
            for event in [Event::Init, Event::InitApply(object), Event::InitDone] {
                shelf.take(event);
            }
            shelf
        };
        for kind in ["HTTPRoute", "GRPCRoute", "TCPRoute", "TLSRoute"] {
            let shelf = object(kind);
            let (_, standing) = shelf.standings().next().expect("a standing");
            assert_eq!(standing.parents, [json!({"controllerName": "example.com/other"})], "{kind}");
        }
        let policy = object("BackendTLSPolicy");
        let (_, standing) = policy.standings().next().expect("a standing");
        assert_eq!(standing.parents, [json!({"controllerName": "example.com/ancestors"})]);
        assert_eq!(object("ReferenceGrant").standings().count(), 0);
    }
}

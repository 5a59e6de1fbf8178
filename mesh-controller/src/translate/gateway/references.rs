//! References to services: parents and backends.

use serde::Deserialize;
use serde_json::Value;

use super::{
    BackendRef, Draft, FilterSpec, ITEMS, PARENTS, Parent, ParentKind, Reason, Reference, Unresolved, WEIGHT, bounded,
    header_changes, port_number,
};
use crate::status::{Extent, Fault, read};

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
const ISTIO_GROUP: &str = "networking.istio.io";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ParentRefSpec {
    /// Looked at before.
    #[serde(rename = "group")]
    _group: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    namespace: Option<String>,
    name: String,
    section_name: Option<String>,
    port: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BackendRefSpec {
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    port: Option<i64>,
    weight: Option<i64>,
    filters: Option<Vec<FilterSpec>>,
}

/// Those that are the mesh's business. Each other is passed over, or, if it cannot be read, added to `faults`.
pub fn parents(namespace: &str, written: Option<&Value>, faults: &mut Vec<Fault>) -> Vec<Parent> {
    let list = match written {
        None | Some(Value::Null) => return Vec::new(),
        Some(Value::Array(list)) if list.len() <= PARENTS => list,
        Some(Value::Array(list)) => {
            let why = format!("has {} items, {PARENTS} are the most; the route is not applied", list.len());
            faults.push(Fault::new("spec.parentRefs", why).of_extent(Extent::Whole));
            return Vec::new();
        }
        Some(_) => {
            faults.push(Fault::new("spec.parentRefs", "is no list; the route is not applied").of_extent(Extent::Whole));
            return Vec::new();
        }
    };
    let mut all: Vec<Parent> = Vec::new();
    for (i, written) in list.iter().enumerate() {
        let field = format!("spec.parentRefs[{i}]");
        match parent(namespace, &field, written) {
            Ok(Some(parent)) => {
                let is_same = |other: &Parent| {
                    (other.kind, &other.namespace, &other.name, other.port, &other.section)
                        == (parent.kind, &parent.namespace, &parent.name, parent.port, &parent.section)
                };
                if all.iter().any(is_same) {
                    faults.push(Fault::new(field, "stands twice"));
                } else {
                    all.push(parent);
                }
            }
            Ok(None) => {}
            Err(fault) => faults.push(Fault { why: format!("{}; it is left out", fault.why), ..fault }),
        }
    }
    all
}

fn parent(own: &str, field: &str, written: &Value) -> Result<Option<Parent>, Fault> {
    // Whose it is must be known first: what others' parents may say is not known here.
    let said = |key: &str| written.get(key).and_then(Value::as_str);
    let kind = match (said("group").unwrap_or(GATEWAY_GROUP), said("kind").unwrap_or("Gateway")) {
        ("", "Service") => ParentKind::Service,
        (ISTIO_GROUP, "ServiceEntry") => ParentKind::ServiceEntry,
        _ => return Ok(None),
    };
    let spec: ParentRefSpec = read(written.clone()).map_err(|fault| fault.within(field))?;
    let ParentRefSpec { _group: _, _kind: _, namespace, name, section_name, port } = spec;
    let port = port.map(|port| port_number(&format!("{field}.port"), port)).transpose()?;
    if name.is_empty() {
        return Err(Fault::new(format!("{field}.name"), "is empty"));
    }
    let namespace = namespace.filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| own.to_owned());
    let section = section_name.filter(|section| !section.is_empty());
    Ok(Some(Parent { field: field.to_owned(), written: written.clone(), kind, namespace, name, port, section }))
}

/// Where a rule sends what it takes.
pub fn backends(draft: &mut Draft<'_>, written: Option<Vec<BackendRefSpec>>) {
    let field = format!("{}.backendRefs", draft.field);
    let Some(list) = draft.take(bounded(&field, written, ITEMS)) else { return };
    for (i, spec) in list.into_iter().enumerate() {
        let field = format!("{field}[{i}]");
        let BackendRefSpec { group, kind, namespace, name, port, weight, filters } = spec;
        let weight = match weight.unwrap_or(1) {
            weight @ 0..=WEIGHT => u32::try_from(weight).unwrap_or(u32::MAX),
            weight => {
                let why = format!("{weight} is not from 0 to {WEIGHT}");
                draft.errors.push(Fault::new(format!("{field}.weight"), why));
                continue;
            }
        };
        let (mut headers, mut refused) = (None, None);
        match header_changes(draft.kind, &field, filters) {
            Ok(changes) => headers = changes,
            Err(fault) => {
                refused = Some(format!("{}: {}", fault.field, fault.why));
                let why = format!("{}; what is sent to this backend is answered with an error", fault.why);
                draft.notes.push(Fault { why, ..fault });
            }
        }
        let reference = reference(draft.namespace, field, group, kind, namespace, name, port);
        draft.rule.backends.push(BackendRef { weight, reference, headers, refused });
    }
}

impl BackendRefSpec {
    /// The backend of a mirror, which has neither weight nor filters.
    pub fn plain(self, own: &str, field: String) -> Result<Reference, Fault> {
        let Self { group, kind, namespace, name, port, weight, filters } = self;
        for (key, given) in [("weight", weight.is_some()), ("filters", filters.is_some())] {
            if given {
                return Err(Fault::new(format!("{field}.{key}"), "is not known"));
            }
        }
        Ok(reference(own, field, group, kind, namespace, name, port))
    }
}

fn reference(
    own: &str,
    field: String,
    group: Option<String>,
    kind: Option<String>,
    namespace: Option<String>,
    name: String,
    port: Option<i64>,
) -> Reference {
    let namespace = namespace.filter(|namespace| !namespace.is_empty()).unwrap_or_else(|| own.to_owned());
    let (group, kind) = (group.unwrap_or_default(), kind.unwrap_or_else(|| "Service".to_owned()));
    let unresolved = |reason, why: String| Some(Unresolved { reason, why });
    let number = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    let broken = match (group.as_str(), kind.as_str(), port, number) {
        ("", "Service", _, Some(_)) => None,
        ("", "Service", None, _) => unresolved(Reason::UnsupportedValue, "needs a port".into()),
        ("", "Service", Some(port), None) => {
            unresolved(Reason::UnsupportedValue, format!("{port} is not a port (1 to 65535)"))
        }
        (group, kind, ..) => {
            let group = if group.is_empty() { String::new() } else { format!(" of {group}") };
            unresolved(Reason::InvalidKind, format!("{kind}{group} is no kind of backend here, Service is"))
        }
    };
    Reference { field, namespace, name, port: number.unwrap_or_default(), broken }
}

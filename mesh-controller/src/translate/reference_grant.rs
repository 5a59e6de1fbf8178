//! `ReferenceGrant` -> who may refer to services of its namespace. One that cannot be read grants nothing.

use serde::Deserialize;

use crate::{
    source::Custom,
    status::{Extent, Fault, read},
};

const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// Of each list, as in the API's schema.
const MOST: usize = 16;

/// What one object allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReferenceGrant {
    /// Whose services may be referred to.
    pub namespace: String,
    /// Kinds of routes, and the namespaces in which they may stand.
    from: Vec<(String, String)>,
    /// Names of services; an empty one: all.
    to: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    from: Vec<From>,
    to: Vec<To>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct From {
    group: String,
    kind: String,
    namespace: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct To {
    group: String,
    kind: String,
    name: Option<String>,
}

/// Reads one object; what is wrong with it is added to `faults`. What it says of other kinds is others' business.
pub fn reference_grant(object: &Custom, faults: &mut Vec<Fault>) -> ReferenceGrant {
    let Custom { metadata, spec, fault } = object;
    let mut grant = ReferenceGrant { namespace: metadata.namespace.clone().unwrap_or_default(), ..Default::default() };
    let parsed = match fault {
        Some(fault) => Err(fault.clone()),
        None => read::<Spec>(spec.clone()).map_err(|fault| fault.within("spec")),
    };
    let bounded = parsed.and_then(|Spec { from, to }| {
        for (key, len) in [("from", from.len()), ("to", to.len())] {
            if !(1..=MOST).contains(&len) {
                return Err(Fault::new(format!("spec.{key}"), format_args!("has {len} items, 1 to {MOST} are taken")));
            }
        }
        Ok((from, to))
    });
    match bounded {
        Err(fault) => {
            let why = format!("{}; until that is mended it grants nothing", fault.why);
            faults.push(Fault { why, extent: Extent::Whole, ..fault });
        }
        Ok((from, to)) => {
            let from = from.into_iter().filter(|from| from.group == GATEWAY_GROUP);
            grant.from = from.map(|from| (from.kind, from.namespace)).collect();
            let to = to.into_iter().filter(|to| to.group.is_empty() && to.kind == "Service");
            grant.to = to.map(|to| to.name.unwrap_or_default()).collect();
        }
    }
    grant
}

impl ReferenceGrant {
    /// A route of this kind in `from` may refer to a service of the grant's namespace.
    pub fn allows(&self, kind: &str, from: &str, service: &str) -> bool {
        self.from.iter().any(|(k, namespace)| k == kind && namespace == from)
            && self.to.iter().any(|name| name.is_empty() || name == service)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use serde_json::{Value, json};

    use super::*;

    fn grant(spec: Value) -> (ReferenceGrant, Vec<Fault>) {
        let metadata = ObjectMeta { namespace: Some("shop".into()), ..ObjectMeta::default() };
        let mut faults = Vec::new();
        (reference_grant(&Custom { metadata, spec, fault: None }, &mut faults), faults)
    }

    #[test]
    fn a_grant_names_kind_namespace_and_service() {
        let from = json!([{"group": GATEWAY_GROUP, "kind": "HTTPRoute", "namespace": "web"}]);
        let (all, faults) = grant(json!({"from": from, "to": [{"group": "", "kind": "Service"}]}));
        assert!(faults.is_empty());
        assert!(all.allows("HTTPRoute", "web", "cart"));
        assert!(!all.allows("GRPCRoute", "web", "cart"));
        assert!(!all.allows("HTTPRoute", "other", "cart"));
        let (one, _) = grant(json!({"from": from, "to": [{"group": "", "kind": "Service", "name": "cart"}]}));
        assert!(one.allows("HTTPRoute", "web", "cart") && !one.allows("HTTPRoute", "web", "pay"));
        let (secrets, faults) = grant(json!({"from": from, "to": [{"group": "", "kind": "Secret"}]}));
        assert!(faults.is_empty() && !secrets.allows("HTTPRoute", "web", "cart"));
    }

    #[test]
    fn one_that_cannot_be_read_grants_nothing() {
        let from = json!([{"group": GATEWAY_GROUP, "kind": "HTTPRoute", "namespace": "web"}]);
        let to = json!([{"group": "", "kind": "Service"}]);
        for (spec, field) in [
            (json!({"from": from, "to": to, "unless": "x"}), "spec.unless"),
            (json!({"from": from}), "spec"),
            (json!({"from": [], "to": to}), "spec.from"),
            (json!({"from": vec![from[0].clone(); 17], "to": to}), "spec.from"),
            (json!({"from": from, "to": [{"group": "", "kind": "Service", "name": 7}]}), "spec.to[0].name"),
            (json!(3), "spec"),
        ] {
            let (grant, faults) = grant(spec);
            assert_eq!(faults[0].field, field);
            assert!(!grant.allows("HTTPRoute", "web", "cart"));
        }
    }
}

//! Discovery resources into model objects, with the resource and field named where that fails.

use std::{fmt, sync::Arc};

use mesh_common::{
    model::{
        Accounts, LocalPod, Policy, TrustBundle,
        telemetry::Telemetry,
        traffic::{Inbound, RateLimit, Traffic},
    },
    proto::{Address, WireError, discovery::Resource, nodemesh, security, type_url, workload},
    route::Matches,
};
use prost::Message;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{
    identity::Anchors,
    state::{Kind, Object, Reach, Rules},
};

/// What the agent subscribes to, in this order. The controller answers
/// roots and accounts first, and nothing is permitted before
/// the policies: so a deleted account is known as such by then.
pub const KINDS: [Kind; 7] =
    [Kind::TrustBundle, Kind::Accounts, Kind::Policy, Kind::OnDemand, Kind::Address, Kind::Traffic, Kind::LocalPod];

/// Why a resource was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub resource: String,
    /// The path of the field inside the resource; a message that is no valid protobuf names the field itself.
    pub field: String,
    pub why: String,
    /// For a policy: whom it may be about.
    pub reach: Reach,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "resource `{}`: {}: {}", self.resource, self.field, self.why)
    }
}

pub fn type_url(kind: Kind) -> &'static str {
    match kind {
        Kind::Address => type_url::ADDRESS,
        Kind::Policy => type_url::AUTHORIZATION,
        Kind::OnDemand => type_url::ON_DEMAND,
        Kind::Traffic => type_url::TRAFFIC,
        Kind::LocalPod => type_url::LOCAL_POD,
        Kind::Accounts => type_url::ACCOUNTS,
        Kind::TrustBundle => type_url::TRUST_BUNDLE,
    }
}

/// Decodes and converts one resource of a response of type `kind`.
pub fn object(kind: Kind, resource: &Resource) -> Result<Object, Rejection> {
    let reach = if kind == Kind::Policy { reach(resource) } else { Reach::Named };
    let reject = |field: &str, why: String| Rejection {
        resource: resource.name.clone(),
        field: field.into(),
        why,
        reach: reach.clone(),
    };
    let Some(any) = &resource.resource else {
        return Err(reject("resource", "is missing".into()));
    };
    if any.type_url != type_url(kind) {
        return Err(reject("resource.type_url", format!("is `{}`, not `{}`", any.type_url, type_url(kind))));
    }
    let object = match kind {
        Kind::Address => {
            decode::<workload::Address>(&any.value).and_then(Address::try_from).map(|address| match address {
                Address::Workload(workload) => Object::Workload(workload),
                Address::Service(service) => Object::Service(service),
            })
        }
        Kind::Policy => decode::<security::Authorization>(&any.value).and_then(Policy::try_from).map(Object::Policy),
        Kind::Traffic => decode::<nodemesh::Traffic>(&any.value)
            .and_then(Traffic::try_from)
            .and_then(compiled)
            .map(Arc::new)
            .map(Object::Traffic),
        Kind::LocalPod => decode::<nodemesh::LocalPod>(&any.value)
            .and_then(LocalPod::try_from)
            .and_then(limited)
            .map(Object::LocalPod),
        Kind::Accounts => decode::<nodemesh::Accounts>(&any.value).and_then(Accounts::try_from).map(Object::Accounts),
        Kind::OnDemand => decode::<nodemesh::OnDemand>(&any.value).map(|nodemesh::OnDemand {}| Object::OnDemand),
        Kind::TrustBundle => decode::<nodemesh::TrustBundle>(&any.value)
            .and_then(TrustBundle::try_from)
            .and_then(usable)
            .map(Object::TrustBundle),
    };
    let object = object.map_err(|error| reject(&error.field, error.why))?;
    let content = object.resource_name();
    if content != resource.name {
        return Err(reject("name", format!("the content is named `{content}`")));
    }
    Ok(object)
}

/// What stands for a pod of which the newest version cannot be read whole: all of it that can, and the rest as it was
/// before (`earlier`), but for its rules for tokens. Where those cannot be read, every request is refused: without them
/// each would pass. `None` if nobody knows what pod it is.
pub fn stand_in(resource: &Resource, earlier: Option<&Resource>) -> Option<LocalPod> {
    let earlier = earlier.and_then(|resource| match object(Kind::LocalPod, resource) {
        Ok(Object::LocalPod(pod)) => Some(pod),
        _ => None,
    });
    let any = resource.resource.as_ref().filter(|any| any.type_url == type_url(Kind::LocalPod));
    let message = any.and_then(|any| nodemesh::LocalPod::decode(&*any.value).ok());
    let mut message = message.filter(|message| message.uid == resource.name);
    let told = message.as_mut().map(|message| std::mem::take(&mut message.inbound));
    let seen = message.as_mut().map(|message| std::mem::take(&mut message.telemetry));
    let seen = seen
        .and_then(|seen| if seen.is_empty() { Some(Telemetry::default()) } else { serde_json::from_slice(&seen).ok() });
    let before = earlier.as_ref().map(|pod| pod.inbound.clone()).unwrap_or_default();
    let telemetry: Telemetry = seen.or_else(|| earlier.as_ref().map(|pod| pod.telemetry.clone())).unwrap_or_default();
    let pod = message.and_then(|message| LocalPod::try_from(message).ok()).or(earlier)?;
    let inbound = told.map_or_else(|| Inbound { unreadable: true, ..before.clone() }, |told| readable(&told, &before));
    Some(LocalPod { inbound, telemetry, ..pod })
}

/// What is not there is nothing, as in the whole.
fn member<T: DeserializeOwned + Default>(told: &mut Map<String, Value>, name: &str) -> Option<T> {
    told.remove(name).map_or_else(|| Some(T::default()), |value| serde_json::from_value(value).ok())
}

fn readable(told: &[u8], before: &Inbound) -> Inbound {
    let told = if told.is_empty() { &b"{}"[..] } else { told };
    let Ok(Value::Object(mut told)) = serde_json::from_slice(told) else {
        return Inbound { unreadable: true, ..before.clone() };
    };
    let protocols = member(&mut told, "protocols").unwrap_or_else(|| before.protocols.clone());
    let limits = member(&mut told, "limits").filter(|limits: &Vec<RateLimit>| patterns(limits).is_ok());
    let tokens = member(&mut told, "tokens");
    // Of a member that is not known, nobody knows whom it would refuse.
    let unreadable = tokens.is_none() || !told.is_empty();
    let limits = limits.unwrap_or_else(|| before.limits.clone());
    Inbound { protocols, limits, tokens: tokens.unwrap_or_default(), unreadable }
}

/// Whom a policy is about, if that much of it can be read; otherwise it may be about everybody.
fn reach(resource: &Resource) -> Reach {
    let any = resource.resource.as_ref().filter(|any| any.type_url == type_url::AUTHORIZATION);
    let Some(Ok(policy)) = any.map(|any| security::Authorization::decode(&*any.value)) else {
        return Reach::Everybody;
    };
    match security::Scope::try_from(policy.scope) {
        Ok(security::Scope::WorkloadSelector) => Reach::Named,
        Ok(security::Scope::Namespace) => Reach::Namespace(policy.namespace),
        Ok(security::Scope::Global) | Err(_) => Reach::Everybody,
    }
}

/// Rules with a pattern that is none are refused whole.
fn compiled(traffic: Traffic) -> Result<Rules, WireError> {
    Rules::new(traffic).map_err(|error| WireError { field: format!("rules.{}", error.field), why: error.why })
}

/// A pod with a limit that has a pattern that is none is refused.
fn limited(pod: LocalPod) -> Result<LocalPod, WireError> {
    patterns(&pod.inbound.limits)?;
    Ok(pod)
}

fn patterns(limits: &[RateLimit]) -> Result<(), WireError> {
    for (number, limit) in limits.iter().enumerate() {
        Matches::new(&limit.matches).map_err(|error| {
            let error = error.within(format_args!("inbound.limits[{number}]"));
            WireError { field: error.field, why: error.why }
        })?;
    }
    Ok(())
}

/// A bundle with a root that no verifier can be built of is refused whole.
fn usable(bundle: TrustBundle) -> Result<TrustBundle, WireError> {
    match Anchors::of(&bundle) {
        Ok(_) => Ok(bundle),
        Err(error) => Err(WireError { field: "roots".into(), why: format!("{error}") }),
    }
}

fn decode<M: Message + Default>(bytes: &[u8]) -> Result<M, WireError> {
    M::decode(bytes).map_err(|error| WireError { field: "resource".into(), why: error.to_string() })
}

#[cfg(test)]
mod tests {
    use mesh_common::model::{
        Mode, SameNode,
        traffic::{Origin, PathMatch, RequestMatch},
    };

    use super::*;

    #[test]
    fn a_limit_with_a_pattern_that_is_none_is_refused_by_field() {
        let limit = |path: &str| {
            let pattern = RequestMatch { path: Some(PathMatch::Regex(path.into())), ..RequestMatch::default() };
            let (total, identity) = (None, None);
            let matches = vec![pattern];
            RateLimit { origin: Origin::default(), ports: vec![], matches, total, identity, overrides: vec![] }
        };
        let pod = |path: &str| LocalPod {
            uid: "Kubernetes//Pod/shop/a".into(),
            pod_uid: "u".into(),
            namespace: "shop".into(),
            name: "a".into(),
            service_account: "default".into(),
            addresses: vec![],
            strict_by: None,
            probe_ports: vec![],
            mode: Mode::Mesh,
            same_node: SameNode::Direct,
            inbound: Inbound { limits: vec![limit("/a"), limit(path)], ..Inbound::default() },
            telemetry: Telemetry::default(),
        };
        let read = |pod: LocalPod| {
            let value = nodemesh::LocalPod::from(&pod).encode_to_vec();
            let resource = Some(prost_types::Any { type_url: type_url::LOCAL_POD.into(), value });
            object(Kind::LocalPod, &Resource { name: pod.uid, resource, ..Resource::default() })
        };
        assert!(read(pod("/[a-z]+")).is_ok());
        let refused = read(pod("(")).unwrap_err().to_string();
        assert!(refused.contains("inbound.limits[1].matches[0].path.regex"), "{refused}");
    }
}

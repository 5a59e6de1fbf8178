//! `nodemesh.v1.Traffic` <-> [`Traffic`], and the labels of workloads.

use prost::Message;
use serde::{Serialize, de::DeserializeOwned};

use super::{WireError, nodemesh as wire, type_url, workload};
use crate::model::{
    telemetry::Telemetry,
    traffic::{Inbound, Labels, Traffic},
};

/// The extension of workloads that carries [`wire::Labels`].
const LABELS: &str = "nodemesh.io/labels";

impl TryFrom<wire::Traffic> for Traffic {
    type Error = WireError;

    fn try_from(message: wire::Traffic) -> Result<Self, WireError> {
        read("rules", &message.rules)
    }
}

impl From<&Traffic> for wire::Traffic {
    fn from(traffic: &Traffic) -> Self {
        Self { rules: written(traffic) }
    }
}

pub(super) fn inbound(bytes: &[u8]) -> Result<Inbound, WireError> {
    if bytes.is_empty() { Ok(Inbound::default()) } else { read("inbound", bytes) }
}

pub(super) fn wire_inbound(inbound: &Inbound) -> Vec<u8> {
    if *inbound == Inbound::default() { Vec::new() } else { written(inbound) }
}

pub(super) fn telemetry(bytes: &[u8]) -> Result<Telemetry, WireError> {
    if bytes.is_empty() { Ok(Telemetry::default()) } else { read("telemetry", bytes) }
}

pub(super) fn wire_telemetry(telemetry: &Telemetry) -> Vec<u8> {
    if *telemetry == Telemetry::default() { Vec::new() } else { written(telemetry) }
}

/// Of all extensions; others are not ours to understand.
pub(super) fn labels(extensions: &[workload::Extension]) -> Result<Labels, WireError> {
    let wrong = |why: &dyn std::fmt::Display| WireError::new("workload.extensions[nodemesh.io/labels]", why);
    let Some(own) = extensions.iter().find(|extension| extension.name == LABELS) else { return Ok(Labels::new()) };
    let any = own.config.as_ref().ok_or_else(|| wrong(&"is empty"))?;
    if any.type_url != type_url::LABELS {
        return Err(wrong(&format_args!("is `{}`", any.type_url)));
    }
    let wire::Labels { labels } = wire::Labels::decode(&*any.value).map_err(|e| wrong(&e))?;
    Ok(labels.into_iter().collect())
}

pub(super) fn wire_labels(labels: &Labels) -> Vec<workload::Extension> {
    if labels.is_empty() {
        return Vec::new();
    }
    let message = wire::Labels { labels: labels.clone().into_iter().collect() };
    let config = prost_types::Any { type_url: type_url::LABELS.to_owned(), value: message.encode_to_vec() };
    vec![workload::Extension { name: LABELS.to_owned(), config: Some(config) }]
}

pub(super) fn read<T: DeserializeOwned>(field: &str, bytes: &[u8]) -> Result<T, WireError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|e| {
        let path = e.path().to_string();
        let field = if path == "." { field.to_owned() } else { format!("{field}.{path}") };
        WireError::new(field, e.into_inner())
    })?;
    json.end().map_err(|e| WireError::new(field, e))?;
    Ok(value)
}

pub(super) fn written(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data with keys that are texts or numbers")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::traffic::{DestinationPolicy, For, HttpRoute, Protocol, Routes, Subset, TrafficPolicy};

    fn traffic() -> Traffic {
        let route: HttpRoute = serde_json::from_str(
            r#"{"name": "shop/cart/0", "origin": {"object": "VirtualService shop/cart", "field": "spec.http[0]"},
                "matches": [{"path": {"prefix": "/a"}, "headers": [{"name": "x", "value": "any"}]}],
                "action": {"forward": [{"weight": 1, "target": {"backend": {"service": "shop/cart.shop"}}}]},
                "retries": {"attempts": 3, "on": ["5xx", {"status": 418}, {"grpc": 14}], "backoff": 25,
                            "maxBackoff": 250, "avoidTried": true}}"#,
        )
        .expect("a route");
        let subset = Subset {
            labels: [("version".into(), "v1".into())].into(),
            all: TrafficPolicy::default(),
            ports: BTreeMap::new(),
        };
        let policy = DestinationPolicy {
            ports: [(80, TrafficPolicy::default())].into(),
            subsets: [("v1".to_owned(), subset)].into(),
            ..DestinationPolicy::default()
        };
        Traffic {
            service: "shop/cart.shop.svc.cluster.local".parse().expect("a name"),
            protocols: [(80, Protocol::Http)].into(),
            routes: vec![For::everybody(Routes { http: vec![route], ..Routes::default() })],
            policies: vec![For::everybody(policy)],
            seen: true,
        }
    }

    #[test]
    fn rules_come_through_and_nothing_is_dropped() {
        let message = wire::Traffic::from(&traffic());
        assert_eq!(Traffic::try_from(message.clone()), Ok(traffic()));
        let text = String::from_utf8(message.rules).expect("JSON");
        for (known, unknown, field) in [
            (r#""prefix":"/a""#, r#""suffix":"/a""#, "rules.routes[0].value.http[0].matches[0].path"),
            (r#""attempts":3"#, r#""attempts":-3"#, "rules.routes[0].value.http[0].retries.attempts"),
            (r#""weight":1"#, r#""weight":1,"size":1"#, "rules.routes[0].value.http[0].action"),
        ] {
            assert!(text.contains(known), "{text}");
            let rules = text.replace(known, unknown).into_bytes();
            let refused = Traffic::try_from(wire::Traffic { rules }).expect_err(unknown);
            assert!(refused.field.starts_with(field), "{refused}");
        }
        let rules = [text.as_bytes(), b"x"].concat();
        assert_eq!(Traffic::try_from(wire::Traffic { rules }).expect_err("more").field, "rules");
    }

    #[test]
    fn labels_travel_beside_extensions_of_others() {
        let known: Labels = [("version".to_owned(), "v1".to_owned())].into();
        let mut wire = wire_labels(&known);
        wire.insert(0, workload::Extension { name: "other".into(), config: None });
        assert_eq!(labels(&wire), Ok(known));
        assert_eq!(labels(&[]), Ok(Labels::new()));
        wire[1].config = None;
        assert!(labels(&wire).is_err());
    }
}

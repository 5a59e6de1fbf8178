//! `discovery.k8s.io/v1 EndpointSlice` -> who serves a service, and at which ports.

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::api::discovery::v1;

use super::{address, is_tcp, port, usable};
use crate::status::Fault;

const SERVICE_LABEL: &str = "kubernetes.io/service-name";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    pub namespace: String,
    /// The name of the service, in the same namespace.
    pub service: String,
    /// TCP ports by the name of the service port that they answer.
    pub ports: BTreeMap<String, u16>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub addresses: Vec<IpAddr>,
    /// The pod's name, in the same namespace; `None` if the slice does not say.
    pub pod: Option<String>,
    pub health: Health,
}

/// May new connections go to an endpoint?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Ready,
    /// It ends, and still answers: only if the service has no ready one.
    Draining,
    Unready,
}

/// `None` for a slice that belongs to no service. Addresses and ports that are none are left out and added to `faults`.
///
/// # Errors
/// If its addresses are of a type that is not supported.
pub fn slice(slice: &v1::EndpointSlice, faults: &mut Vec<Fault>) -> Result<Option<Slice>, Fault> {
    let v1::EndpointSlice { address_type, endpoints, metadata, ports } = slice;
    let Some(service) = metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_LABEL)) else {
        return Ok(None);
    };
    if !matches!(address_type.as_str(), "IPv4" | "IPv6") {
        return Err(Fault::new(
            "addressType",
            format_args!("`{address_type}` is not supported yet, only IPv4 and IPv6"),
        ));
    }
    let mut by_name = BTreeMap::new();
    for (i, p) in ports.iter().flatten().enumerate().filter(|(_, p)| is_tcp(p.protocol.as_ref())) {
        if let Some(number) = p.port.and_then(|number| usable(port(format!("ports[{i}].port"), number), faults)) {
            by_name.insert(p.name.clone().unwrap_or_default(), number);
        }
    }
    let endpoints = endpoints
        .iter()
        .flatten()
        .enumerate()
        .map(|(i, endpoint)| {
            let field = format!("endpoints[{i}].addresses");
            let pod = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
            Endpoint {
                addresses: endpoint.addresses.iter().filter_map(|text| usable(address(&field, text), faults)).collect(),
                pod: pod.and_then(|target| target.name.clone()),
                health: health(endpoint.conditions.as_ref()),
            }
        })
        .collect();
    Ok(Some(Slice {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        service: service.clone(),
        ports: by_name,
        endpoints,
    }))
}

/// By definition of the kind, not known counts as ready, as serving what is ready, and as not terminating. Where a
/// service publishes what is not ready, a terminating endpoint counts as ready there, and all the same ends.
fn health(conditions: Option<&v1::EndpointConditions>) -> Health {
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
    match conditions.and_then(|c| c.terminating).unwrap_or(false) {
        false if ready => Health::Ready,
        true if serving || ready => Health::Draining,
        _ => Health::Unready,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_condition_of_an_endpoint() {
        let of = |text: &str| {
            let conditions: v1::EndpointConditions = serde_yaml_ng::from_str(text).expect("conditions");
            health(Some(&conditions))
        };
        assert_eq!(health(None), Health::Ready);
        for (conditions, expected) in [
            ("{}", Health::Ready),
            ("{ready: true}", Health::Ready),
            ("{ready: false}", Health::Unready),
            ("{ready: false, serving: true}", Health::Unready),
            ("{ready: false, serving: true, terminating: true}", Health::Draining),
            ("{ready: false, serving: false, terminating: true}", Health::Unready),
            ("{ready: true, serving: true, terminating: false}", Health::Ready),
            // publishNotReadyAddresses
            ("{ready: true, serving: false, terminating: false}", Health::Ready),
            ("{ready: true, serving: false, terminating: true}", Health::Draining),
        ] {
            assert_eq!(of(conditions), expected, "{conditions}");
        }
    }
}

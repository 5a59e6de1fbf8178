//! `v1 Node` -> where its pods run, and the addresses that are its own.

use std::net::IpAddr;

use k8s_openapi::api::core::v1;
use mesh_common::model::Locality;

/// Of the well-known labels of topology; empty where the node does not say.
pub fn locality(node: &v1::Node) -> Locality {
    let label = |key| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned().unwrap_or_default();
    Locality {
        region: label("topology.kubernetes.io/region"),
        zone: label("topology.kubernetes.io/zone"),
        // Kubernetes has no word for a part of a zone.
        subzone: label("topology.istio.io/subzone"),
    }
}

/// Names among them are nobody's addresses.
pub fn addresses(node: &v1::Node) -> impl Iterator<Item = IpAddr> {
    let told = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    told.filter_map(|told| told.address.parse().ok())
}

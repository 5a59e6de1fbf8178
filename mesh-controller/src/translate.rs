//! Objects -> model, one file per kind. Pure: no I/O, no waiting, so that every source shares it.

mod affinity;
pub mod authorization_policy;
pub mod backend_tls_policy;
pub mod destination_rule;
pub mod endpoint_slice;
pub mod fields;
pub mod gateway;
pub mod grpc_route;
pub mod hosts;
pub mod http_route;
pub mod join;
mod load_balancing;
pub mod mesh_config;
pub mod node;
pub mod pattern;
pub mod peer_authentication;
pub mod pod;
mod probe;
pub mod protocol;
pub mod rate_limit_policy;
pub mod reference_grant;
pub mod request_authentication;
pub mod same_node;
pub mod service;
pub mod service_entry;
pub mod span;
pub mod tcp_route;
pub mod telemetry;
pub mod tls_route;
pub mod traffic;
pub mod virtual_service;
pub mod waypoint;

use std::{collections::BTreeMap, net::IpAddr};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_common::model::SameNode;
use serde::Deserialize;

use crate::status::Fault;

pub type Labels = BTreeMap<String, String>;

/// What holds for the whole mesh.
#[derive(Clone, Debug)]
pub struct Settings {
    /// As in workload uids: `<cluster>//Pod/<namespace>/<name>`.
    pub cluster: String,
    /// The suffix of service names, as in `cluster.local`.
    pub cluster_domain: String,
    pub trust_domain: String,
    /// Policies in this namespace hold for the whole mesh.
    pub root_namespace: String,
    /// Where the mesh itself lives; its pods never join.
    pub own_namespace: String,
    /// For pods whose labels, and whose namespace's, say nothing of it.
    pub same_node: SameNode,
}

/// `spec.selector` of policies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Selector {
    #[serde(default)]
    pub match_labels: Option<Labels>,
}

impl Selector {
    /// The labels asked for; `None` where the selector selects everything.
    pub fn labels(self) -> Option<Labels> {
        self.match_labels.filter(|labels| !labels.is_empty())
    }
}

/// Every wanted label is there with its value.
pub fn selects(wanted: &Labels, labels: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Seconds since 1970; objects without a time count as the newest.
fn created(metadata: &ObjectMeta) -> i64 {
    metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second())
}

/// The address of one pod or service.
fn address(field: &str, text: &str) -> Result<IpAddr, Fault> {
    let ip: IpAddr = text.parse().map_err(|e| Fault::new(field, format_args!("`{text}`: {e}")))?;
    let ip = ip.to_canonical();
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local {
        return Err(Fault::new(field, format_args!("`{text}` is not the address of a pod or service")));
    }
    Ok(ip)
}

fn port(field: impl Into<String>, value: i32) -> Result<u16, Fault> {
    u16::try_from(value)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| Fault::new(field, format_args!("{value} is not a port (1 to 65535)")))
}

/// The value without its fault, which is added to `faults`: one bad address or port is left out, the object stays.
fn usable<T>(read: Result<T, Fault>, faults: &mut Vec<Fault>) -> Option<T> {
    read.map_err(|fault| faults.push(Fault { why: format!("{}; it is left out", fault.why), ..fault })).ok()
}

/// Only TCP is the mesh's business; no protocol means TCP.
fn is_tcp(protocol: Option<&String>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

//! `v1 Service` -> a service of the model. Which workloads serve it is said by EndpointSlices.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::{api::core::v1, apimachinery::pkg::util::intstr::IntOrString};
use mesh_common::model::{
    self, ServicePort,
    traffic::{Clients, Protocol},
};

use super::{
    Labels, Settings, address, affinity::affinity, created, is_tcp, load_balancing::load_balancing, pod::Pod, port,
    protocol::protocol, traffic::Facts, usable, waypoint::Waypoint,
};
use crate::status::Fault;

/// A service, and how its ports are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Seconds since 1970.
    pub created: i64,
    /// With every address that it claims.
    pub service: Arc<model::Service>,
    /// Its endpoints count as healthy, whatever their pods say of themselves.
    pub publish_not_ready: bool,
    /// Pods of its namespace, ready or not. None: only slices say who serves it.
    pub selector: Labels,
    /// Where it is reached from outside: of load balancers, and external ones. They are nobody else's.
    pub outside: Vec<IpAddr>,
    pub ports: Vec<Port>,
    pub waypoint: Waypoint,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Empty if the service has one port only.
    pub name: String,
    pub port: u16,
    pub target: Target,
    pub protocol: Protocol,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Number(u16),
    /// The container's port of this name.
    Named(String),
}

/// `None` for an ExternalName: it is a DNS alias, nothing of it is ever seen by the mesh. Of a headless service there
/// is only who serves it: its names are its pods' addresses, and those are known. What arrives at node ports and load
/// balancers comes from outside, in plaintext, and is a connection to the pod by the time that the mesh sees it.
/// Addresses and ports that are none are left out and added to `faults`.
///
/// # Errors
/// If it has no spec.
pub fn service(settings: &Settings, service: &v1::Service, faults: &mut Vec<Fault>) -> Result<Option<Service>, Fault> {
    let v1::Service { metadata, spec, status } = service;
    let Some(spec) = spec else { return Err(Fault::new("spec", "is missing")) };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Ok(None);
    }
    let namespace = metadata.namespace.clone().unwrap_or_default();
    let name = metadata.name.clone().unwrap_or_default();
    let ports = spec.ports.iter().flatten().enumerate().filter(|(_, p)| is_tcp(p.protocol.as_ref()));
    let ports: Vec<_> = ports.filter_map(|(i, p)| usable(service_port(i, p), faults)).collect();
    Ok(Some(Service {
        created: created(metadata),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        selector: spec.selector.clone().unwrap_or_default(),
        outside: outside(spec, status.as_ref()),
        service: Arc::new(model::Service {
            hostname: format!("{name}.{namespace}.svc.{}", settings.cluster_domain),
            addresses: addresses(spec, faults),
            load_balancing: load_balancing(spec, faults),
            affinity: affinity(spec, faults),
            ports: ports.iter().map(|p| ServicePort { port: p.port, target: p.target.number().unwrap_or(0) }).collect(),
            name,
            namespace,
        }),
        ports,
        waypoint: Waypoint::of(metadata.labels.as_ref()),
    }))
}

fn service_port(i: usize, p: &v1::ServicePort) -> Result<Port, Fault> {
    let number = port(format!("spec.ports[{i}].port"), p.port)?;
    let target = match &p.target_port {
        None | Some(IntOrString::Int(0)) => Target::Number(number),
        Some(IntOrString::Int(target)) => Target::Number(port(format!("spec.ports[{i}].targetPort"), *target)?),
        Some(IntOrString::String(name)) => Target::Named(name.clone()),
    };
    let name = p.name.clone().unwrap_or_default();
    Ok(Port { port: number, target, protocol: protocol(p.app_protocol.as_deref(), &name), name })
}

fn addresses(spec: &v1::ServiceSpec, faults: &mut Vec<Fault>) -> Vec<IpAddr> {
    let list = spec.cluster_ips.iter().flatten().enumerate().map(|(i, ip)| (format!("spec.clusterIPs[{i}]"), ip));
    let first = spec.cluster_ip.iter().map(|ip| ("spec.clusterIP".to_owned(), ip));
    let mut found = Vec::new();
    for (field, text) in first.chain(list) {
        // Headless, or not given an address yet.
        if text == "None" || text.is_empty() {
            continue;
        }
        if let Some(ip) = usable(address(&field, text), faults).filter(|ip| !found.contains(ip)) {
            found.push(ip);
        }
    }
    found
}

/// What cannot be read cannot be claimed either.
fn outside(spec: &v1::ServiceSpec, status: Option<&v1::ServiceStatus>) -> Vec<IpAddr> {
    let ingress = status.and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref());
    let given = ingress.into_iter().flatten().filter_map(|ingress| ingress.ip.as_ref());
    given.chain(spec.external_ips.iter().flatten()).filter_map(|text| text.parse().ok()).collect()
}

impl Target {
    fn number(&self) -> Option<u16> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Named(_) => None,
        }
    }
}

impl Service {
    /// A service of Kubernetes may be named from everywhere.
    pub fn facts(&self) -> Facts {
        Facts { ports: self.ports.iter().map(|p| (p.port, p.protocol)).collect(), exported: Clients::Everybody }
    }

    /// The ports as one pod answers them. `slice` are the ports that its EndpointSlice gives, by the service port's
    /// name: they are what kube-proxy would use. A port that the pod does not have is left out.
    pub fn ports_of(&self, slice: &BTreeMap<String, u16>, pod: &Pod) -> Vec<ServicePort> {
        self.ports
            .iter()
            .filter_map(|p| {
                let target = slice.get(&p.name).copied().or_else(|| match &p.target {
                    Target::Number(number) => Some(*number),
                    Target::Named(name) => pod.ports.get(name).copied(),
                })?;
                Some(ServicePort { port: p.port, target })
            })
            .collect()
    }
}

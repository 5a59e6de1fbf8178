//! `istio.workload.Address` <-> [`Workload`] and [`Service`].

use std::{collections::BTreeMap, net::IpAddr};

use super::{WireError, ip_from_bytes, ip_to_bytes, port, topology, traffic, workload as wire};
use crate::model::{Affinity, Identity, Service, ServiceName, ServicePort, Tunnel, Workload, WorkloadKind};

/// What an empty trust domain on the wire means.
pub const TRUST_DOMAIN_DEFAULT: &str = "cluster.local";

/// One discoverable address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "short-lived, and most addresses are workloads")]
pub enum Address {
    Workload(Workload),
    Service(Service),
}

impl TryFrom<wire::Address> for Address {
    type Error = WireError;

    fn try_from(message: wire::Address) -> Result<Self, WireError> {
        match message.r#type {
            Some(wire::address::Type::Workload(workload)) => Ok(Self::Workload(workload.try_into()?)),
            Some(wire::address::Type::Service(service)) => Ok(Self::Service(service.try_into()?)),
            None => Err(WireError::new("type", "neither a workload nor a service")),
        }
    }
}

impl From<&Address> for wire::Address {
    fn from(address: &Address) -> Self {
        let r#type = match address {
            Address::Workload(workload) => wire::address::Type::Workload(workload.into()),
            Address::Service(service) => wire::address::Type::Service(service.into()),
        };
        Self { r#type: Some(r#type) }
    }
}

impl TryFrom<wire::Workload> for Workload {
    type Error = WireError;

    fn try_from(message: wire::Workload) -> Result<Self, WireError> {
        if message.uid.is_empty() {
            return Err(WireError::new("workload.uid", "is empty"));
        }
        let trust_domain = if message.trust_domain.is_empty() { TRUST_DOMAIN_DEFAULT } else { &message.trust_domain };
        let account = if message.service_account.is_empty() { "default" } else { &message.service_account };
        let identity = Identity::new(trust_domain, &message.namespace, account)
            .map_err(|e| WireError::new("workload.service_account", e))?;
        let addresses = message
            .addresses
            .iter()
            .map(|bytes| ip_from_bytes("workload.addresses", bytes))
            .collect::<Result<_, _>>()?;
        let tunnel = match wire::TunnelProtocol::try_from(message.tunnel_protocol) {
            Ok(wire::TunnelProtocol::None) => Tunnel::None,
            Ok(wire::TunnelProtocol::Hbone) => Tunnel::Hbone,
            Err(e) => return Err(WireError::new("workload.tunnel_protocol", e)),
        };
        let kind = match message.workload_type() {
            wire::WorkloadType::Deployment => WorkloadKind::Deployment,
            wire::WorkloadType::Cronjob => WorkloadKind::CronJob,
            wire::WorkloadType::Pod => WorkloadKind::Pod,
            wire::WorkloadType::Job => WorkloadKind::Job,
        };
        let mut services = BTreeMap::new();
        for (name, list) in &message.services {
            let field = format!("workload.services[{name}]");
            let name: ServiceName = name.parse().map_err(|e| WireError::new(&*field, e))?;
            services.insert(name, ports(&field, &list.ports)?);
        }
        let policies = message
            .authorization_policies
            .iter()
            .map(|name| name.parse().map_err(|e| WireError::new("workload.authorization_policies", e)))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            healthy: message.status() == wire::WorkloadStatus::Healthy,
            host_network: message.network_mode() == wire::NetworkMode::HostNetwork,
            uid: message.uid,
            name: message.name,
            namespace: message.namespace,
            addresses,
            network: message.network,
            tunnel,
            identity,
            node: message.node,
            canonical_name: message.canonical_name,
            canonical_revision: message.canonical_revision,
            kind,
            workload_name: message.workload_name,
            policies,
            cluster: message.cluster_id,
            locality: message.locality.map(Into::into).unwrap_or_default(),
            services,
            labels: traffic::labels(&message.extensions)?,
        })
    }
}

impl From<&Workload> for wire::Workload {
    fn from(workload: &Workload) -> Self {
        let Workload {
            uid,
            name,
            namespace,
            addresses,
            network,
            tunnel,
            identity,
            node,
            canonical_name,
            canonical_revision,
            kind,
            workload_name,
            policies,
            healthy,
            cluster,
            host_network,
            locality,
            services,
            labels,
        } = workload;
        let mut message = Self {
            uid: uid.clone(),
            name: name.clone(),
            namespace: namespace.clone(),
            addresses: addresses.iter().copied().map(ip_to_bytes).collect(),
            network: network.clone(),
            // The default travels as an empty text, as the ecosystem does it.
            trust_domain: match identity.trust_domain() {
                TRUST_DOMAIN_DEFAULT => String::new(),
                other => other.to_owned(),
            },
            service_account: identity.service_account().to_owned(),
            node: node.clone(),
            canonical_name: canonical_name.clone(),
            canonical_revision: canonical_revision.clone(),
            workload_name: workload_name.clone(),
            authorization_policies: policies.iter().map(ToString::to_string).collect(),
            cluster_id: cluster.clone(),
            locality: topology::wire_locality(locality),
            services: services
                .iter()
                .map(|(name, ports)| (name.to_string(), wire::PortList { ports: wire_ports(ports) }))
                .collect(),
            extensions: traffic::wire_labels(labels),
            ..Self::default()
        };
        message.set_tunnel_protocol(match tunnel {
            Tunnel::None => wire::TunnelProtocol::None,
            Tunnel::Hbone => wire::TunnelProtocol::Hbone,
        });
        message.set_workload_type(match kind {
            WorkloadKind::Deployment => wire::WorkloadType::Deployment,
            WorkloadKind::CronJob => wire::WorkloadType::Cronjob,
            WorkloadKind::Pod => wire::WorkloadType::Pod,
            WorkloadKind::Job => wire::WorkloadType::Job,
        });
        message.set_status(if *healthy { wire::WorkloadStatus::Healthy } else { wire::WorkloadStatus::Unhealthy });
        message.set_network_mode(if *host_network {
            wire::NetworkMode::HostNetwork
        } else {
            wire::NetworkMode::Standard
        });
        message
    }
}

impl TryFrom<wire::Service> for Service {
    type Error = WireError;

    fn try_from(message: wire::Service) -> Result<Self, WireError> {
        if message.hostname.is_empty() || message.namespace.is_empty() {
            return Err(WireError::new("service.hostname", "hostname and namespace must both be set"));
        }
        // The resource's name is both of them, and must lead back to the service.
        if message.hostname.contains('/') || message.namespace.contains('/') {
            return Err(WireError::new("service.hostname", "hostname and namespace must not contain `/`"));
        }
        let addresses = message
            .addresses
            .iter()
            .map(|address| {
                let ip = ip_from_bytes("service.addresses", &address.address)?;
                let host = match ip {
                    IpAddr::V4(_) => 32,
                    IpAddr::V6(_) => 128,
                };
                if address.length != 0 && address.length != host {
                    return Err(WireError::new("service.addresses.length", "address ranges are not supported"));
                }
                Ok(ip)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            ports: ports("service.ports", &message.ports)?,
            name: message.name,
            namespace: message.namespace,
            hostname: message.hostname,
            addresses,
            load_balancing: topology::load_balancing(message.load_balancing)?,
            affinity: affinity(message.client_ip_affinity)?,
        })
    }
}

impl From<&Service> for wire::Service {
    fn from(service: &Service) -> Self {
        let Service { name, namespace, hostname, addresses, ports, load_balancing, affinity } = service;
        Self {
            name: name.clone(),
            namespace: namespace.clone(),
            hostname: hostname.clone(),
            addresses: addresses
                .iter()
                .map(|ip| wire::NetworkAddress { address: ip_to_bytes(*ip), ..Default::default() })
                .collect(),
            ports: wire_ports(ports),
            load_balancing: load_balancing.as_ref().map(Into::into),
            client_ip_affinity: affinity.map_or(0, Affinity::seconds),
            ..Self::default()
        }
    }
}

/// 0 is none.
fn affinity(seconds: u32) -> Result<Option<Affinity>, WireError> {
    let wanted = (seconds != 0).then(|| Affinity::try_from(i64::from(seconds)));
    wanted.transpose().map_err(|e| WireError::new("service.client_ip_affinity", e))
}

fn ports(field: &str, list: &[wire::Port]) -> Result<Vec<ServicePort>, WireError> {
    list.iter()
        .map(|p| Ok(ServicePort { port: port(field, p.service_port)?, target: port(field, p.target_port)? }))
        .collect()
}

fn wire_ports(list: &[ServicePort]) -> Vec<wire::Port> {
    list.iter()
        .map(|p| wire::Port { service_port: p.port.into(), target_port: p.target.into(), app_protocol: 0 })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_affinity_that_no_service_can_have_is_refused_by_its_field() {
        let read = |seconds| affinity(seconds).map(|read| read.map_or(0, Affinity::seconds)).map_err(|e| e.field);
        for seconds in [0, 1, 86_400] {
            assert_eq!(read(seconds), Ok(seconds));
        }
        assert_eq!(read(86_401), Err("service.client_ip_affinity".to_owned()));
    }
}

//! Services: a name and virtual addresses for a set of workloads.

use std::{fmt, net::IpAddr, str::FromStr};

use super::LoadBalancing;

/// `namespace/hostname`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    pub namespace: String,
    pub hostname: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub name: String,
    pub namespace: String,
    /// As in `cart.shop.svc.cluster.local`.
    pub hostname: String,
    /// Virtual addresses; a headless service has none.
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
    /// `None`: every endpoint is as good as any other.
    pub load_balancing: Option<LoadBalancing>,
}

/// A port of a service, and the port at which the workload answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePort {
    pub port: u16,
    /// 0 where only the workload knows it (a named target port).
    pub target: u16,
}

impl Service {
    pub fn service_name(&self) -> ServiceName {
        ServiceName { namespace: self.namespace.clone(), hostname: self.hostname.clone() }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

/// The text has no `/` or an empty part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not of the form namespace/name")]
pub struct NameError(pub String);

/// Splits `namespace/name`.
pub(crate) fn split_name(text: &str) -> Result<(String, String), NameError> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok((namespace.into(), name.into()))
        }
        _ => Err(NameError(text.into())),
    }
}

impl FromStr for ServiceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (namespace, hostname) = split_name(text)?;
        Ok(Self { namespace, hostname })
    }
}

//! Services: a name and virtual addresses for a set of workloads.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use super::LoadBalancing;

/// `namespace/hostname`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
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
    /// `None`: each connection may go to another endpoint.
    pub affinity: Option<Affinity>,
}

/// A client keeps its endpoint, among those that may be chosen, until this long after its last connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affinity(u32);

/// As Kubernetes has it (`timeoutSeconds`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not from 1 to {MAX}", MAX = Affinity::MAX)]
pub struct AffinityError(i64);

/// A port of a service, and the port at which the workload answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePort {
    pub port: u16,
    /// 0 where only the workload knows it (a named target port).
    pub target: u16,
}

impl Affinity {
    /// Seconds, where nobody says how many.
    pub const DEFAULT: Self = Self(10_800);
    /// Seconds of a day.
    const MAX: u32 = 86_400;

    pub const fn seconds(self) -> u32 {
        self.0
    }
}

impl TryFrom<i64> for Affinity {
    type Error = AffinityError;

    fn try_from(seconds: i64) -> Result<Self, AffinityError> {
        match u32::try_from(seconds) {
            Ok(seconds @ 1..=Self::MAX) => Ok(Self(seconds)),
            _ => Err(AffinityError(seconds)),
        }
    }
}

impl Service {
    /// How an endpoint is chosen, for people, as in `strict: node; client IP for 10800 s`; empty: by chance among all.
    pub fn choice(&self) -> String {
        let near = self.load_balancing.as_ref().map(ToString::to_string);
        let kept = self.affinity.map(|affinity| format!("client IP for {} s", affinity.seconds()));
        near.into_iter().chain(kept).collect::<Vec<_>>().join("; ")
    }

    pub fn service_name(&self) -> ServiceName {
        ServiceName { namespace: self.namespace.clone(), hostname: self.hostname.clone() }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.hostname)
    }
}

impl TryFrom<String> for ServiceName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> Self {
        name.to_string()
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Level, LoadBalancingMode};

    #[test]
    fn how_an_endpoint_is_chosen_in_words() {
        let near = LoadBalancing { preference: vec![Level::Node], mode: LoadBalancingMode::Strict };
        let choice = |load_balancing: Option<&LoadBalancing>, affinity| {
            let (name, namespace, hostname) = Default::default();
            let load_balancing = load_balancing.cloned();
            Service { name, namespace, hostname, addresses: vec![], ports: vec![], load_balancing, affinity }.choice()
        };
        let minute = Affinity::try_from(60).ok();
        assert_eq!(choice(None, None), "");
        assert_eq!(choice(Some(&near), None), "strict: node");
        assert_eq!(choice(None, minute), "client IP for 60 s");
        assert_eq!(choice(Some(&near), minute), "strict: node; client IP for 60 s");
    }
}

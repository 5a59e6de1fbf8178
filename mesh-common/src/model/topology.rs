//! Where workloads run, and which of a service's endpoints are near enough to be chosen.

use std::fmt;

/// Where a workload runs, as its Node's labels say. Empty: not said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Locality {
    /// `topology.kubernetes.io/region`
    pub region: String,
    /// `topology.kubernetes.io/zone`
    pub zone: String,
    /// `topology.istio.io/subzone`
    pub subzone: String,
}

/// What a client and an endpoint may have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    Network,
    Cluster,
    Region,
    Zone,
    Subzone,
    Node,
}

/// A service's preference among its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBalancing {
    /// From wide to narrow, never none. An endpoint is as near as the number of levels that it shares with the client,
    /// counted from the first until one is not shared.
    pub preference: Vec<Level>,
    pub mode: LoadBalancingMode,
}

/// What holds where no healthy endpoint shares all levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadBalancingMode {
    /// The nearest that there are.
    Failover,
    /// None.
    Strict,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Network => "network",
            Self::Cluster => "cluster",
            Self::Region => "region",
            Self::Zone => "zone",
            Self::Subzone => "subzone",
            Self::Node => "node",
        })
    }
}

impl fmt::Display for LoadBalancing {
    /// As in `strict: node`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { preference, mode } = self;
        f.write_str(match mode {
            LoadBalancingMode::Failover => "failover: ",
            LoadBalancingMode::Strict => "strict: ",
        })?;
        for (i, level) in preference.iter().enumerate() {
            write!(f, "{}{level}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

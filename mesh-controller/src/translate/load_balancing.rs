//! `spec.internalTrafficPolicy` and `spec.trafficDistribution` of a Service -> its preference among its endpoints.

use k8s_openapi::api::core::v1;
use mesh_common::model::{Level, LoadBalancing, LoadBalancingMode};

use crate::status::Fault;

/// As Kubernetes has it, the policy (only this) beats the distribution (rather this). A value that has no meaning is
/// added to `faults` and counts as absent. The levels are those that the ambient ecosystem gives these words.
pub fn load_balancing(spec: &v1::ServiceSpec, faults: &mut Vec<Fault>) -> Option<LoadBalancing> {
    let mut unknown = |field: &str, value: &str, known: &str| {
        faults.push(Fault::new(field, format_args!("`{value}` is none of {known}; no endpoint is preferred")));
        None
    };
    let distribution = match spec.traffic_distribution.as_deref() {
        None => None,
        Some("PreferClose") => Some(&[Level::Network, Level::Region, Level::Zone, Level::Subzone][..]),
        Some("PreferSameZone") => Some(&[Level::Network, Level::Region, Level::Zone][..]),
        Some("PreferSameNode") => Some(&[Level::Network, Level::Region, Level::Zone, Level::Subzone, Level::Node][..]),
        Some(other) => unknown("spec.trafficDistribution", other, "PreferClose, PreferSameZone, PreferSameNode"),
    };
    let only = match spec.internal_traffic_policy.as_deref() {
        None | Some("Cluster") => None,
        Some("Local") => Some(&[Level::Node][..]),
        Some(other) => unknown("spec.internalTrafficPolicy", other, "Cluster, Local"),
    };
    let strict = only.map(|levels| (levels, LoadBalancingMode::Strict));
    let (levels, mode) = strict.or_else(|| Some((distribution?, LoadBalancingMode::Failover)))?;
    Some(LoadBalancing { preference: levels.to_vec(), mode })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(spec: &str) -> (String, Vec<String>) {
        let spec: v1::ServiceSpec = serde_yaml_ng::from_str(spec).expect("a service's spec");
        let mut faults = Vec::new();
        let found = load_balancing(&spec, &mut faults).map(|found| found.to_string()).unwrap_or_default();
        (found, faults.into_iter().map(|fault| format!("{}: {}", fault.field, fault.why)).collect())
    }

    #[test]
    fn every_word_of_kubernetes() {
        for (spec, expected) in [
            ("{}", ""),
            ("{trafficDistribution: PreferClose}", "failover: network, region, zone, subzone"),
            ("{trafficDistribution: PreferSameZone}", "failover: network, region, zone"),
            ("{trafficDistribution: PreferSameNode}", "failover: network, region, zone, subzone, node"),
            ("{internalTrafficPolicy: Cluster}", ""),
            ("{internalTrafficPolicy: Local}", "strict: node"),
            ("{internalTrafficPolicy: Local, trafficDistribution: PreferSameZone}", "strict: node"),
            (
                "{internalTrafficPolicy: Cluster, trafficDistribution: PreferSameZone}",
                "failover: network, region, zone",
            ),
        ] {
            assert_eq!(read(spec), (expected.to_owned(), vec![]), "{spec}");
        }
    }

    #[test]
    fn what_has_no_meaning_is_reported_and_prefers_nobody() {
        let (found, faults) = read("{trafficDistribution: PreferFar, internalTrafficPolicy: Node}");
        assert_eq!(found, "");
        assert_eq!(
            faults,
            [
                "spec.trafficDistribution: `PreferFar` is none of PreferClose, PreferSameZone, PreferSameNode; \
                 no endpoint is preferred",
                "spec.internalTrafficPolicy: `Node` is none of Cluster, Local; no endpoint is preferred",
            ]
        );
        // The one that can be read still counts.
        assert_eq!(read("{trafficDistribution: PreferFar, internalTrafficPolicy: Local}").0, "strict: node");
    }
}

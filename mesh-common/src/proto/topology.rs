//! Locality and load balancing of `istio.workload` <-> [`Locality`] and [`LoadBalancing`].

use super::{
    WireError,
    workload::{
        self as wire,
        load_balancing::{Mode, Scope},
    },
};
use crate::model::{Level, LoadBalancing, LoadBalancingMode, Locality};

impl From<wire::Locality> for Locality {
    fn from(message: wire::Locality) -> Self {
        let wire::Locality { region, zone, subzone } = message;
        Self { region, zone, subzone }
    }
}

/// One that says nothing does not travel.
pub(super) fn wire_locality(locality: &Locality) -> Option<wire::Locality> {
    let Locality { region, zone, subzone } = locality.clone();
    let wire = wire::Locality { region, zone, subzone };
    (wire != wire::Locality::default()).then_some(wire)
}

/// `None` where it prefers nobody. PASSTHROUGH is such a one: a client that dialled a service's address must be given
/// an endpoint.
pub(super) fn load_balancing(message: Option<wire::LoadBalancing>) -> Result<Option<LoadBalancing>, WireError> {
    // Which endpoints are healthy enough is not the service's to say here: the workload's own status counts.
    let Some(wire::LoadBalancing { routing_preference, mode, health_policy: _ }) = message else { return Ok(None) };
    let mode = match Mode::try_from(mode) {
        Ok(Mode::UnspecifiedMode | Mode::Passthrough) => return Ok(None),
        Ok(Mode::Failover) => LoadBalancingMode::Failover,
        Ok(Mode::Strict) => LoadBalancingMode::Strict,
        Err(e) => return Err(WireError::new("service.load_balancing.mode", e)),
    };
    let level = |(i, scope): (usize, &i32)| {
        let field = || format!("service.load_balancing.routing_preference[{i}]");
        match Scope::try_from(*scope) {
            Ok(Scope::Region) => Ok(Level::Region),
            Ok(Scope::Zone) => Ok(Level::Zone),
            Ok(Scope::Subzone) => Ok(Level::Subzone),
            Ok(Scope::Node) => Ok(Level::Node),
            Ok(Scope::Cluster) => Ok(Level::Cluster),
            Ok(Scope::Network) => Ok(Level::Network),
            Ok(Scope::UnspecifiedScope) => Err(WireError::new(field(), "is not specified")),
            Err(e) => Err(WireError::new(field(), e)),
        }
    };
    let preference: Vec<Level> = routing_preference.iter().enumerate().map(level).collect::<Result<_, _>>()?;
    Ok((!preference.is_empty()).then_some(LoadBalancing { preference, mode }))
}

impl From<&LoadBalancing> for wire::LoadBalancing {
    fn from(load_balancing: &LoadBalancing) -> Self {
        let LoadBalancing { preference, mode } = load_balancing;
        let mode = match mode {
            LoadBalancingMode::Failover => Mode::Failover,
            LoadBalancingMode::Strict => Mode::Strict,
        };
        let scope = |level: &Level| match level {
            Level::Network => Scope::Network,
            Level::Cluster => Scope::Cluster,
            Level::Region => Scope::Region,
            Level::Zone => Scope::Zone,
            Level::Subzone => Scope::Subzone,
            Level::Node => Scope::Node,
        };
        Self {
            routing_preference: preference.iter().map(|level| scope(level).into()).collect(),
            mode: mode.into(),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(preference: Vec<i32>, mode: i32) -> Result<Option<LoadBalancing>, String> {
        let message = wire::LoadBalancing { routing_preference: preference, mode, ..Default::default() };
        load_balancing(Some(message)).map_err(|e| e.field)
    }

    #[test]
    fn only_what_prefers_somebody_is_a_preference() {
        let node = LoadBalancing { preference: vec![Level::Node], mode: LoadBalancingMode::Strict };
        assert_eq!(read(vec![4], 1), Ok(Some(node)));
        assert_eq!(read(vec![], 1), Ok(None));
        assert_eq!(read(vec![4], 0), Ok(None));
        assert_eq!(read(vec![4], 3), Ok(None), "PASSTHROUGH");
        assert_eq!(load_balancing(None).map_err(|e| e.field), Ok(None));
    }

    #[test]
    fn what_is_not_known_is_refused_by_its_field() {
        assert_eq!(read(vec![4], 9), Err("service.load_balancing.mode".to_owned()));
        assert_eq!(read(vec![4, 9], 2), Err("service.load_balancing.routing_preference[1]".to_owned()));
        assert_eq!(read(vec![0], 2), Err("service.load_balancing.routing_preference[0]".to_owned()));
    }

    #[test]
    fn a_locality_that_says_nothing_does_not_travel() {
        assert_eq!(wire_locality(&Locality::default()), None);
        let locality = Locality { zone: "z".into(), ..Locality::default() };
        assert_eq!(wire_locality(&locality).map(Locality::from), Some(locality));
    }
}

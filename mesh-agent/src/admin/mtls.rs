//! Whom a pod of this node takes without an identity: PeerAuthentication as the policies in force say it.

use mesh_common::{
    model::{Mode, Policy},
    proto::nodemesh::PodMtls,
};

use crate::{pods::PodStatus, state::Snapshot};

/// `None`: nobody in the mesh, or nobody said yet what policies there are.
pub fn of(snapshot: &Snapshot, status: &PodStatus, older: usize) -> Option<PodMtls> {
    let pod = snapshot.local_pod(&status.namespace, &status.name).filter(|pod| pod.mode == Mode::Mesh)?;
    let workload = snapshot.workload(&pod.uid)?;
    let applicable = snapshot.policies_of(workload);
    let (strict, other_ports) =
        asked(applicable.policies.iter().map(|policy| &**policy).filter(|p| p.is_strict_mtls()));
    Some(PodMtls {
        workload: workload.workload_name.clone(),
        strict,
        other_ports: other_ports.into_iter().map(u32::from).collect(),
        strict_by: pod.strict_by.as_ref().map(ToString::to_string).unwrap_or_default(),
        older: u32::try_from(older).unwrap_or(u32::MAX),
    })
}

/// On every port, but for these, where it is the other way round. One policy applies to a workload.
fn asked<'a>(policies: impl Iterator<Item = &'a Policy>) -> (bool, Vec<u16>) {
    let (mut everywhere, mut ports, mut but) = (false, Vec::new(), Vec::new());
    for policy in policies {
        let matches = policy.rules.iter().flat_map(|rule| &rule.clauses).flat_map(|clause| &clause.matches);
        let (mut these, mut not): (Vec<u16>, Vec<u16>) = (Vec::new(), Vec::new());
        for matched in matches {
            these.extend(&matched.destination_ports);
            not.extend(&matched.not_destination_ports);
        }
        match (these.is_empty(), not.is_empty()) {
            (true, true) => everywhere = true,
            (false, _) => ports.extend(these),
            (true, false) => but.extend(not),
        }
    }
    match (everywhere, but.is_empty()) {
        (true, _) => (true, Vec::new()),
        (false, false) => (true, sorted(but)),
        (false, true) => (false, sorted(ports)),
    }
}

fn sorted(mut ports: Vec<u16>) -> Vec<u16> {
    ports.sort_unstable();
    ports.dedup();
    ports
}

#[cfg(test)]
mod tests {
    use mesh_common::model::{Action, Clause, Match, PolicyName, Rule, Scope, StringMatch};

    use super::*;

    fn strict(scope: Match) -> Policy {
        let anonymous = Match { not_principals: vec![StringMatch::Presence], ..Match::default() };
        let clauses = [anonymous, scope].into_iter().filter(|matched| *matched != Match::default());
        Policy {
            name: PolicyName { namespace: "istio-system".into(), name: Policy::STRICT_STATIC.into() },
            scope: Scope::WorkloadSelector,
            action: Action::Deny,
            rules: vec![Rule { clauses: clauses.map(|matched| Clause { matches: vec![matched] }).collect() }],
            dry_run: false,
        }
    }

    #[test]
    fn ports_are_excepted_either_way() {
        let everywhere = strict(Match::default());
        let but = strict(Match { not_destination_ports: vec![9090, 80], ..Match::default() });
        let only = strict(Match { destination_ports: vec![80], ..Match::default() });
        assert_eq!(asked([].into_iter()), (false, vec![]));
        assert_eq!(asked([&everywhere].into_iter()), (true, vec![]));
        assert_eq!(asked([&but].into_iter()), (true, vec![80, 9090]));
        assert_eq!(asked([&only].into_iter()), (false, vec![80]));
        assert_eq!(asked([&only, &everywhere].into_iter()), (true, vec![]));
    }
}

//! Which policies hold for which workloads.

use std::collections::BTreeMap;

use mesh_common::model::{Policy, PolicyName, Scope};

use super::{Objects, Read, World};
use crate::{
    status::{Extent, Fault, Problem},
    translate::{
        Labels, Settings,
        peer_authentication::{Effective, Modes},
        selects,
    },
};

/// Adds every policy, and names those with a selector in the workloads that they select.
pub fn select(settings: &Settings, world: &mut World, objects: &Objects<'_>, problems: &mut Vec<Problem>) {
    let modes = Modes::new(settings, objects.peer_authentications.iter().map(|read| read.value.clone()).collect());
    for Read { object, value } in objects.peer_authentications.iter().filter(|read| read.value.selector.is_none()) {
        if let Some(winner) = modes.of_namespace(&value.namespace).filter(|winner| winner.name != value.name) {
            let why = format!("is not applied: {}/{} is older and holds for the same", winner.namespace, winner.name);
            problems.push(object.problem(Fault::new("", why).of_extent(Extent::Conflict)));
        }
    }
    let strict_everywhere =
        PolicyName { namespace: settings.root_namespace.clone(), name: Policy::STRICT_STATIC.to_owned() };
    let labels: BTreeMap<&str, &Labels> =
        objects.pods.iter().map(|r| (r.value.uid.as_str(), &r.value.labels)).collect();
    for workload in world.workloads.values_mut() {
        let Some(labels) = labels.get(workload.uid.as_str()) else { continue };
        workload.policies.extend(match modes.effective(&workload.namespace, labels) {
            Effective::Permissive => None,
            Effective::Strict => Some(strict_everywhere.clone()),
            Effective::ByPort(name) => Some(name),
        });
        let local = world.local_pods.get_mut(&workload.node).and_then(|pods| pods.get_mut(&workload.uid));
        if let Some(local) = local {
            local.strict_by = modes.strict_by(&workload.namespace, labels);
        }
        let selecting = objects.authorization_policies.iter().map(|read| &read.value).filter(|authorization| {
            let name = &authorization.policy.name;
            authorization.policy.scope == Scope::WorkloadSelector
                && (name.namespace == settings.root_namespace || name.namespace == workload.namespace)
                && authorization.selector.as_ref().is_some_and(|wanted| selects(wanted, labels))
        });
        workload.policies.extend(selecting.map(|authorization| authorization.policy.name.clone()));
        // An order that does not depend on that of files.
        workload.policies.sort();
    }
    let authorizations = objects.authorization_policies.iter().map(|read| read.value.policy.clone());
    // The generated ones last: of two with one name the last is served, and nobody may replace what makes STRICT.
    world.policies = authorizations.chain(modes.policies()).map(|policy| (policy.name.clone(), policy)).collect();
}

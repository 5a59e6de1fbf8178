//! Which policies hold for which workloads.

mod named;

use std::{collections::BTreeMap, sync::Arc};

use mesh_common::model::{Policy, PolicyName};

use super::{Objects, Read, World, draft::Draft};
use crate::{
    status::{Extent, Fault, Problem},
    translate::{
        Settings,
        peer_authentication::{Effective, Modes},
        pod::Pod,
    },
};
use named::Named;

/// Adds every policy, and names those with a selector or targets in the pods that they select. To be called when the
/// pods' services are known.
pub fn select(
    settings: &Settings,
    world: &mut World,
    drafts: &mut BTreeMap<&str, Draft<'_>>,
    objects: &Objects<'_>,
    problems: &mut Vec<Problem>,
) {
    let modes = Modes::new(settings, objects.peer_authentications.iter().map(|read| read.value.clone()).collect());
    for Read { object, value } in objects.peer_authentications.iter().filter(|read| read.value.selector.is_none()) {
        if let Some(winner) = modes.of_namespace(&value.namespace).filter(|winner| winner.name != value.name) {
            let why = format!("is not applied: {}/{} is older and holds for the same", winner.namespace, winner.name);
            problems.push(object.problem(Fault::new("", why).of_extent(Extent::Conflict)));
        }
    }
    let strict_everywhere =
        PolicyName { namespace: settings.root_namespace.clone(), name: Policy::STRICT_STATIC.to_owned() };
    let named = Named::new(settings, world, drafts, objects, problems);
    for draft in drafts.values_mut() {
        let Pod { namespace, labels, .. } = draft.pod;
        draft.policies.extend(match modes.effective(namespace, labels) {
            Effective::Permissive => None,
            Effective::Strict => Some(strict_everywhere.clone()),
            Effective::ByPort(name) => Some(name),
        });
        if let Some(local) = &mut draft.local {
            local.strict_by = modes.strict_by(namespace, labels);
        }
        draft.policies.extend(named.of(draft));
        // An order that does not depend on that of files.
        draft.policies.sort();
        draft.policies.dedup();
    }
    let authorizations = objects.authorization_policies.iter().map(|read| read.value.policy.clone());
    // The generated ones last: of two with one name the last is served, and nobody may replace what makes STRICT.
    world.policies = authorizations
        .chain(modes.policies().into_iter().map(Arc::new))
        .map(|policy| (policy.name.clone(), policy))
        .collect();
}

//! Which policies hold for which workloads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_common::model::{Policy, PolicyName, Scope};

use super::{Objects, Read, World, draft::Draft};
use crate::{
    status::{Extent, Fault, Problem},
    translate::{
        Settings,
        peer_authentication::{Effective, Modes},
        pod::Pod,
        selects,
    },
};

/// Adds every policy, and names those with a selector in the pods that they select.
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
    let mut selecting: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for Read { object: _, value: authorization } in &objects.authorization_policies {
        if let (Scope::WorkloadSelector, Some(wanted)) = (authorization.policy.scope, &authorization.selector) {
            let name = &authorization.policy.name;
            selecting.entry(name.namespace.as_str()).or_default().push((wanted, name));
        }
    }
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
        let namespaces: BTreeSet<&str> = [settings.root_namespace.as_str(), namespace.as_str()].into();
        let candidates = namespaces.into_iter().filter_map(|namespace| selecting.get(namespace)).flatten();
        let names = candidates.filter(|(wanted, _)| selects(wanted, labels)).map(|(_, name)| (*name).clone());
        draft.policies.extend(names);
        // An order that does not depend on that of files.
        draft.policies.sort();
    }
    let authorizations = objects.authorization_policies.iter().map(|read| read.value.policy.clone());
    // The generated ones last: of two with one name the last is served, and nobody may replace what makes STRICT.
    world.policies = authorizations
        .chain(modes.policies().into_iter().map(Arc::new))
        .map(|policy| (policy.name.clone(), policy))
        .collect();
}

//! Services that a RateLimitPolicy is about and that do not exist: of those nobody is limited, and its author should
//! know. Only said: such a service may come.

use mesh_common::model::ServiceName;
use serde_json::Value;

use super::{Objects, Read, World};
use crate::{
    names,
    source::{Custom, Kind, Object},
    status::{Extent, Fault, Problem},
    translate::{Settings, hosts, rate_limit_policy::Workloads},
};

/// To be called when all services are known.
pub fn find(settings: &Settings, world: &World, objects: &Objects<'_>, problems: &mut Vec<Problem>) {
    for Read { object, value } in &objects.rate_limit_policies {
        let Workloads::Serving(services) = &value.workloads else { continue };
        let is_any = services.iter().any(|service| world.services.contains_key(service));
        let extent = if is_any { Extent::Part } else { Extent::Whole };
        for (field, service) in named(settings, object) {
            if !world.services.contains_key(&service) {
                let why = format!("no such Service ({}); nobody is limited by it", service.hostname);
                problems.push(object.problem(Fault::new(field, why).of_extent(extent)));
            }
        }
    }
}

/// As the policy's translation reads them; what it refuses is reported there.
fn named(settings: &Settings, object: &Object) -> Vec<(String, ServiceName)> {
    let Kind::Custom(_, custom) = &object.kind else { return Vec::new() };
    let Custom { metadata, spec, fault: _ } = &**custom;
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let targets = spec["targetRefs"].as_array().into_iter().flatten().enumerate();
    let service = |(i, target): (usize, &Value)| {
        let is_service = target["group"].is_null() && matches!(target["kind"].as_str(), None | Some("Service"));
        let name = target["name"].as_str().filter(|name| is_service && names::label(name).is_ok())?;
        Some((format!("spec.targetRefs[{i}]"), hosts::service(settings, namespace, name)))
    };
    targets.filter_map(service).collect()
}

#[cfg(test)]
mod tests {
    use crate::{
        index::tests::{SHOP, said, world},
        status::Extent,
    };

    fn policy(targets: &str) -> String {
        format!(
            "---\n{{apiVersion: nodemesh.io/v1alpha1, kind: RateLimitPolicy, metadata: {{name: p, namespace: shop}}, spec: \
             {{targetRefs: [{targets}], local: {{total: {{requests: 5}}}}}}}}\n"
        )
    }

    #[test]
    fn a_policy_about_a_service_that_is_not_there_says_so() {
        let there = world(&[SHOP, &policy("{name: cart}")].concat());
        assert_eq!(said(&there), [] as [String; 0]);
        let why = "no such Service (crat.shop.svc.cluster.local); nobody is limited by it";
        for (targets, field, extent) in [
            ("{name: crat}", "spec.targetRefs[0]", Extent::Whole),
            ("{kind: Service, name: cart}, {kind: Service, name: crat}", "spec.targetRefs[1]", Extent::Part),
        ] {
            let world = world(&[SHOP, &policy(targets)].concat());
            assert_eq!(said(&world), [format!("all.yaml: RateLimitPolicy shop/p: {field}: {why}")]);
            assert_eq!(world.problems[0].extent, extent);
        }
    }
}

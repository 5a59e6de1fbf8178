//! Which RateLimitPolicies limit requests to a pod. All that select it hold at once, the oldest first.

use mesh_common::model::{ServiceName, traffic::RateLimit};

use crate::{
    source::Key,
    status::Fault,
    translate::{pod::Pod, rate_limit_policy::RateLimitPolicy},
};

/// Limits of one pod: each is asked for every request.
const MOST: usize = 64;

/// `serves` are the services of the pod. The order of `policies` does not matter. What is beyond the bound is left out
/// and reported.
pub fn limits<'s>(
    policies: &[&RateLimitPolicy],
    pod: &Pod,
    serves: impl Iterator<Item = &'s ServiceName> + Clone,
) -> (Vec<RateLimit>, Vec<(Key, Fault)>) {
    let mut selecting: Vec<_> = policies.iter().filter(|policy| policy.selects(pod, serves.clone())).collect();
    selecting.sort_by_key(|policy| (policy.created, &policy.object));
    let mut found = Vec::new();
    let mut faults = Vec::new();
    for policy in selecting {
        if found.len() + policy.limits.len() > MOST {
            let name = format!("{}/{}", pod.namespace, pod.name);
            let why = format!("pod {name} has {MOST} limits of older policies; this one does not hold for it");
            faults.push((policy.object.clone(), Fault::new("spec", why)));
        } else {
            found.extend(policy.limits.iter().cloned());
        }
    }
    (found, faults)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        index::tests::{SHOP, objects, settings},
        source::Kind,
        translate::{fields::tests::custom, hosts, pod, rate_limit_policy::rate_limit_policy},
    };

    #[test]
    fn policies_select_by_labels_services_and_namespace() {
        let settings = settings();
        let update = objects(SHOP);
        let cart = update.objects.iter().find_map(|object| match &object.kind {
            Kind::Pod(v1) => pod::pod(&settings, v1, &mut Vec::new()).ok().flatten(),
            _ => None,
        });
        let cart = cart.filter(|pod| pod.name.starts_with("cart")).expect("the cart's pod");
        let service = hosts::service(&settings, "shop", "cart");
        for (policy, expected) in [
            ("{name: a, namespace: shop}\nspec: {LOCAL}", 1),
            ("{name: a, namespace: istio-system}\nspec: {LOCAL}", 1),
            ("{name: a, namespace: web}\nspec: {LOCAL}", 0),
            ("{name: a, namespace: shop}\nspec: {LOCAL, selector: {matchLabels: {app: cart}}}", 1),
            ("{name: a, namespace: shop}\nspec: {LOCAL, selector: {matchLabels: {app: pay}}}", 0),
            ("{name: a, namespace: shop}\nspec: {LOCAL, targetRefs: [{name: pay}, {name: cart}]}", 1),
            ("{name: a, namespace: shop}\nspec: {LOCAL, targetRefs: [{name: pay}]}", 0),
            ("{name: a, namespace: web}\nspec: {LOCAL, targetRefs: [{name: cart}]}", 0),
        ] {
            let text = format!("metadata: {}", policy.replace("LOCAL", "local: {total: {requests: 1}}"));
            let policy = rate_limit_policy(&settings, &custom(&text), &mut Vec::new());
            let (found, faults) = limits(&[&policy], &cart, [&service].into_iter());
            assert_eq!((found.len(), faults.len()), (expected, 0), "{text}");
        }
        let text = "metadata: {name: a, namespace: shop}\nspec: {local: {total: {requests: 1}}}";
        let policy = rate_limit_policy(&settings, &custom(text), &mut Vec::new());
        let many = vec![&policy; MOST + 1];
        let (found, faults) = limits(&many, &cart, [&service].into_iter());
        assert_eq!((found.len(), faults.len()), (MOST, 1));
    }
}

//! Which RateLimitPolicies limit requests to a pod. All that select it hold at once, the oldest first.

use mesh_common::model::{ServiceName, traffic::RateLimit};

use super::budget::{Cost, bytes, expressions};
use crate::translate::{Labels, rate_limit_policy::RateLimitPolicy};

/// Of one pod: each limit is asked for every request, and each regular expression compiled by its agent. As bytes 110
/// pods, which is what a node usually has at most, are a fifth of the largest message that an agent takes (128 MiB).
pub const POD: Cost = Cost { rules: 64, patterns: 1_000, bytes: 256 << 10 };

/// What holds for a pod.
#[derive(Debug, Default)]
pub struct Limited<'a> {
    pub limits: Vec<RateLimit>,
    /// Policies that select it and for which it has no room.
    pub left_out: Vec<&'a RateLimitPolicy>,
}

/// `policies` are those that may be about pods of its namespace, the oldest first; `serves` its services.
pub fn limits<'a, 's>(
    policies: impl Iterator<Item = &'a RateLimitPolicy>,
    namespace: &str,
    labels: &Labels,
    serves: impl Iterator<Item = &'s ServiceName> + Clone,
) -> Limited<'a> {
    let mut limited = Limited::default();
    let mut sum = Cost::default();
    for policy in policies.filter(|policy| policy.selects(namespace, labels, serves.clone())) {
        let with = sum + cost(policy);
        if with.rules > POD.rules || with.patterns > POD.patterns || with.bytes > POD.bytes {
            limited.left_out.push(policy);
        } else {
            sum = with;
            limited.limits.extend(policy.limits.iter().cloned());
        }
    }
    limited
}

fn cost(policy: &RateLimitPolicy) -> Cost {
    let matches = policy.limits.iter().flat_map(|limit| &limit.matches);
    Cost { rules: policy.limits.len(), patterns: matches.map(expressions).sum(), bytes: bytes(&policy.limits) }
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
            let found = limits([&policy].into_iter(), &cart.namespace, &cart.labels, [&service].into_iter());
            assert_eq!((found.limits.len(), found.left_out.len()), (expected, 0), "{text}");
        }
        let text = "metadata: {name: a, namespace: shop}\nspec: {local: {total: {requests: 1}}}";
        let policy = rate_limit_policy(&settings, &custom(text), &mut Vec::new());
        let found = |many: &[RateLimitPolicy]| {
            let found = limits(many.iter(), &cart.namespace, &cart.labels, [&service].into_iter());
            (found.limits.len(), found.left_out.len())
        };
        assert_eq!(found(&vec![policy; POD.rules + 1]), (POD.rules, 1));
        // Neither is one pod told of more than a message can bring for all of a node.
        let rule = |number: usize| {
            let path = "a".repeat(4_000);
            let matched = format!("{{path: {{exact: /{number}{path}}}}}");
            format!("{{local: {{total: {{requests: 1}}}}, matches: [{matched}, {matched}]}}")
        };
        let large = |number: usize| {
            let rules: Vec<_> = (0..15).map(rule).collect();
            let text =
                format!("metadata: {{name: l{number}, namespace: shop}}\nspec: {{rules: [{}]}}", rules.join(", "));
            rate_limit_policy(&settings, &custom(&text), &mut Vec::new())
        };
        assert_eq!(found(&[large(0), large(1)]), (30, 0));
        assert_eq!(found(&[large(0), large(1), large(2)]), (30, 1));
    }
}

//! How a BackendTLSPolicy stands for each service that it is about: for its `status.ancestors`.

use mesh_common::model::traffic::TrustedRoots;
use serde_json::{Value, json};

use crate::{
    status::{Extent, Problem, conditions::Condition, parents::ParentStatus},
    translate::backend_tls_policy::{BackendTlsPolicy, Target},
};

const REFERENCES: &str = "spec.validation.caCertificateRefs";

/// `problems` are those of this policy. One entry for each of its targets that can be read.
pub fn of(policy: &BackendTlsPolicy, problems: &[&Problem]) -> Vec<ParentStatus> {
    let mut all: Vec<ParentStatus> = Vec::new();
    for target in &policy.targets {
        let parent = reference(target);
        if all.iter().all(|known| known.parent != parent) {
            all.push(ParentStatus { parent, conditions: conditions(policy, target, problems) });
        }
    }
    all
}

fn reference(target: &Target) -> Value {
    let name = target.service.hostname.split('.').next().unwrap_or_default();
    let mut reference = json!({ "group": "", "kind": "Service", "namespace": target.service.namespace, "name": name });
    if let Some(port) = &target.port {
        reference["sectionName"] = json!(port);
    }
    reference
}

/// There is no such service or port, or another policy has it.
fn is_about(problem: &Problem, target: &Target) -> bool {
    problem.field.strip_prefix(&target.field).is_some_and(|rest| matches!(rest, "" | ".sectionName"))
}

fn conditions(policy: &BackendTlsPolicy, target: &Target, problems: &[&Problem]) -> Vec<Condition> {
    let condition = |type_, status, reason, message| Condition { type_, status, reason, message };
    let text = |problem: &Problem| format!("{}: {}", problem.field, problem.why);
    let own = problems.iter().find(|problem| is_about(problem, target));
    let references = problems.iter().find(|problem| problem.field.starts_with(REFERENCES));
    let accepted = match (own, &policy.tls.roots, references) {
        (Some(own), ..) if own.extent == Extent::Conflict => condition("Accepted", false, "Conflicted", text(own)),
        (Some(own), ..) => condition("Accepted", false, "TargetNotFound", text(own)),
        (None, TrustedRoots::Unusable(_), Some(said)) => {
            condition("Accepted", false, "NoValidCACertificate", text(said))
        }
        (None, TrustedRoots::Unusable(why), None) => condition("Accepted", false, "Invalid", why.clone()),
        (None, ..) => condition("Accepted", true, "Accepted", String::new()),
    };
    let references = match references {
        Some(said) => condition("ResolvedRefs", false, "InvalidKind", text(said)),
        None => condition("ResolvedRefs", true, "ResolvedRefs", String::new()),
    };
    let mut all = vec![accepted, references];
    let rest = problems.iter().filter(|problem| !policy.targets.iter().any(|target| is_about(problem, target)));
    let rest: Vec<_> = rest.map(|problem| text(problem)).collect();
    if all[0].status && !rest.is_empty() {
        all.push(condition("PartiallyInvalid", true, "NotHonoured", rest.join("\n")));
    }
    all.iter_mut().for_each(Condition::shorten);
    all
}

#[cfg(test)]
mod tests {
    use crate::index::tests::{SHOP, world};

    /// The policy of this name says this, about these targets; the conditions of each.
    fn said(policies: &[(&str, &str, &str)], of: &str) -> Vec<(String, Vec<(bool, &'static str)>)> {
        let policies = policies.iter().map(|(name, targets, validation)| {
            format!(
                "\n---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: BackendTLSPolicy, metadata: {{name: {name}, \
                 namespace: shop}}, spec: {{targetRefs: [{targets}], validation: {{hostname: a.b, {validation}}}}}}}"
            )
        });
        let world = world(&format!("{SHOP}{}", policies.collect::<String>()));
        let (_, parents) = world.route_parents.iter().find(|(key, _)| key.name == of).expect("a status");
        assert!(world.routes.keys().any(|key| key.name == of), "its version is known");
        let conditions = parents.iter().map(|status| {
            let conditions = status.conditions.iter().map(|condition| (condition.status, condition.reason));
            (status.parent.to_string(), conditions.collect())
        });
        conditions.collect()
    }

    const CART: &str = "{group: '', kind: Service, name: cart}";
    const SYSTEM: &str = "wellKnownCACertificates: System";
    const GOOD: [(bool, &str); 2] = [(true, "Accepted"), (true, "ResolvedRefs")];

    #[test]
    fn a_policy_of_tls_says_how_each_service_takes_it() {
        let nowhere =
            "{group: '', kind: Service, name: nowhere}, {group: '', kind: Service, name: cart, sectionName: x}";
        let told = said(&[("one", &format!("{CART}, {nowhere}"), SYSTEM)], "one");
        let not_found = vec![(false, "TargetNotFound"), (true, "ResolvedRefs")];
        let cart = r#"{"group":"","kind":"Service","name":"cart","namespace":"shop"}"#;
        assert_eq!(told[0], (cart.to_owned(), GOOD.to_vec()));
        assert_eq!(told[1], (cart.replace("cart", "nowhere"), not_found.clone()));
        assert_eq!(told[2].1, not_found);
        assert!(told[2].0.contains(r#""sectionName":"x""#));
    }

    #[test]
    fn the_younger_of_two_is_conflicted_and_what_cannot_be_read_is_not_accepted() {
        let both = [("one", CART, SYSTEM), ("two", CART, SYSTEM)];
        assert_eq!(said(&both, "one")[0].1, GOOD);
        assert_eq!(said(&both, "two")[0].1, [(false, "Conflicted"), (true, "ResolvedRefs")]);
        let references = "caCertificateRefs: [{group: '', kind: ConfigMap, name: ca}]";
        let refused = said(&[("one", CART, references)], "one");
        assert_eq!(refused[0].1, [(false, "NoValidCACertificate"), (false, "InvalidKind")]);
        assert_eq!(said(&[("one", CART, "x: y")], "one")[0].1[0], (false, "Invalid"));
        let part = said(&[("one", &format!("{CART}, {{group: g, kind: X, name: b}}"), SYSTEM)], "one");
        assert_eq!(part[0].1, [GOOD[0], GOOD[1], (true, "NotHonoured")]);
    }
}

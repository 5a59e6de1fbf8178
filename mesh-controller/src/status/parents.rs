//! What the status of a Gateway API route says of it: `status.parents`, one entry for each parent and controller. Pure.

use serde_json::{Value, json};

use super::conditions::{Condition, merged};

/// By which the mesh is known in statuses.
pub const CONTROLLER: &str = "nodemesh.io/controller";
/// Entries of all controllers together, as in the API's schema.
const MOST: usize = 32;

/// What holds of a route for one of its parents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStatus {
    /// As it stands in `spec.parentRefs`.
    pub parent: Value,
    pub conditions: Vec<Condition>,
}

/// The list to be written where `now` stands: `None` if it says all of this already. Entries of other controllers stay,
/// those for parents that are no more go. `time` is RFC 3339.
pub fn parents(now: &[Value], wanted: &[ParentStatus], generation: i64, time: &str) -> Option<Vec<Value>> {
    let is_own = |entry: &&Value| entry.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER);
    let mut list: Vec<Value> = now.iter().filter(|entry| !is_own(entry)).cloned().collect();
    for ParentStatus { parent, conditions } in wanted.iter().take(MOST.saturating_sub(list.len())) {
        let before = now.iter().filter(is_own).find(|entry| entry.get("parentRef") == Some(parent));
        let before = before.and_then(|entry| entry.get("conditions")).and_then(Value::as_array);
        let before = before.map(Vec::as_slice).unwrap_or_default();
        let conditions = merged(before, conditions, generation, time).unwrap_or_else(|| before.to_vec());
        list.push(json!({"parentRef": parent, "controllerName": CONTROLLER, "conditions": conditions}));
    }
    let same = list.len() == now.len() && list.iter().all(|entry| now.contains(entry));
    (!same).then_some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(parent: &Value, status: bool) -> ParentStatus {
        let accepted = Condition { type_: "Accepted", status, reason: "Accepted", message: String::new() };
        ParentStatus { parent: parent.clone(), conditions: vec![accepted] }
    }

    #[test]
    fn entries_of_others_stay_and_those_of_parents_that_are_no_more_go() {
        let (cart, pay) = (json!({"kind": "Service", "name": "cart"}), json!({"kind": "Service", "name": "pay"}));
        let foreign = json!({"parentRef": cart, "controllerName": "example.com/other", "conditions": []});
        let first =
            parents(std::slice::from_ref(&foreign), &[wanted(&cart, true), wanted(&pay, true)], 1, "T1").expect("new");
        assert_eq!(first.len(), 3);
        assert_eq!(first[0], foreign);
        assert_eq!(first[1]["controllerName"], CONTROLLER);
        assert_eq!(first[1]["conditions"][0]["lastTransitionTime"], "T1");
        assert_eq!(parents(&first, &[wanted(&cart, true), wanted(&pay, true)], 1, "T2"), None);
        let second = parents(&first, &[wanted(&cart, false)], 2, "T2").expect("a change");
        assert_eq!(second.len(), 2);
        assert_eq!(second[1]["conditions"][0]["status"], "False");
        assert_eq!(second[1]["conditions"][0]["observedGeneration"], 2);
        assert_eq!(parents(&second, &[], 2, "T3"), Some(vec![foreign]), "no parent is left");
    }

    #[test]
    fn a_time_is_that_of_the_last_change() {
        let cart = json!({"kind": "Service", "name": "cart"});
        let first = parents(&[], &[wanted(&cart, true)], 1, "T1").expect("new");
        let second = parents(&first, &[wanted(&cart, true)], 2, "T2").expect("another generation");
        assert_eq!(second[0]["conditions"][0]["lastTransitionTime"], "T1");
        // Conditions that another writer put there stay.
        let mut noted = second.clone();
        noted[0]["conditions"].as_array_mut().expect("a list").push(json!({"type": "Synced", "status": "True"}));
        assert_eq!(parents(&noted, &[wanted(&cart, true)], 2, "T3"), None);
    }

    #[test]
    fn there_are_no_more_than_the_api_takes() {
        let foreign: Vec<_> = (0..31).map(|i| json!({"parentRef": {"name": i}, "controllerName": "x/y"})).collect();
        let cart = json!({"kind": "Service", "name": "cart"});
        let written = parents(&foreign, &[wanted(&cart, true), wanted(&cart, true)], 1, "T").expect("new");
        assert_eq!(written.len(), 32);
    }
}

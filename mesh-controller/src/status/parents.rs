//! What statuses of the Gateway API say: a route's `status.parents`, one entry for each parent and controller, and a
//! policy's `status.ancestors`, one for each service that it is about and controller. Pure.

use serde_json::{Value, json};

use super::conditions::{Condition, merged};

/// By which the mesh is known in statuses.
pub const CONTROLLER: &str = "nodemesh.io/controller";

/// Which of the two lists, and so what its entries are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    Parents,
    Ancestors,
}

/// What holds of a route for one of its parents, or of a policy for one of its services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentStatus {
    /// Of a route as it stands in `spec.parentRefs`.
    pub parent: Value,
    pub conditions: Vec<Condition>,
}

impl List {
    /// As in `status.parents`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Parents => "parents",
            Self::Ancestors => "ancestors",
        }
    }

    fn reference(self) -> &'static str {
        match self {
            Self::Parents => "parentRef",
            Self::Ancestors => "ancestorRef",
        }
    }

    /// Entries of all controllers together, as in the API's schemas.
    fn most(self) -> usize {
        match self {
            Self::Parents => 32,
            Self::Ancestors => 16,
        }
    }
}

/// The list to be written where `now` stands: `None` if it says all of this already. Entries of other controllers stay,
/// those for parents that are no more go. `time` is RFC 3339.
pub fn listed(kind: List, now: &[Value], wanted: &[ParentStatus], generation: i64, time: &str) -> Option<Vec<Value>> {
    let reference = kind.reference();
    let is_own = |entry: &&Value| entry.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER);
    let mut list: Vec<Value> = now.iter().filter(|entry| !is_own(entry)).cloned().collect();
    for ParentStatus { parent, conditions } in wanted.iter().take(kind.most().saturating_sub(list.len())) {
        let before = now.iter().filter(is_own).find(|entry| entry.get(reference) == Some(parent));
        let before = before.and_then(|entry| entry.get("conditions")).and_then(Value::as_array);
        let before = before.map(Vec::as_slice).unwrap_or_default();
        let conditions = merged(before, conditions, generation, time).unwrap_or_else(|| before.to_vec());
        list.push(json!({reference: parent, "controllerName": CONTROLLER, "conditions": conditions}));
    }
    let same = list.len() == now.len() && list.iter().all(|entry| now.contains(entry));
    (!same).then_some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parents(now: &[Value], wanted: &[ParentStatus], generation: i64, time: &str) -> Option<Vec<Value>> {
        listed(List::Parents, now, wanted, generation, time)
    }

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
        let foreign: Vec<_> = (0..15).map(|i| json!({"ancestorRef": {"name": i}, "controllerName": "x/y"})).collect();
        let written =
            listed(List::Ancestors, &foreign, &[wanted(&cart, true), wanted(&cart, true)], 1, "T").expect("new");
        assert_eq!((written.len(), &written[15]["ancestorRef"]), (16, &cart));
    }
}

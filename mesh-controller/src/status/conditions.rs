//! What a policy's status says of it: `status.conditions`. Pure.

use serde_json::{Value, json};

use super::{Extent, Problem};

/// Types that are written here. Those of others stay as they are.
const OWN: [&str; 5] = ["Accepted", "Programmed", "Conflicted", "PartiallyInvalid", "ResolvedRefs"];
/// A text that is longer helps nobody, and the API bounds what it takes.
const LONGEST: usize = 1024;

/// How many of the agents hold a policy in its present version.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Programmed {
    pub on: usize,
    pub of: usize,
    /// Nodes whose agents refused it.
    pub refused: Vec<String>,
}

/// One condition, without its times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub type_: &'static str,
    pub status: bool,
    pub reason: &'static str,
    pub message: String,
}

/// What holds for a policy that has these problems.
pub fn conditions(problems: &[&Problem], programmed: &Programmed) -> Vec<Condition> {
    let of = |extents: &[Extent]| {
        let texts = problems.iter().filter(|problem| extents.contains(&problem.extent));
        let texts: Vec<_> = texts
            .map(|problem| match problem.field.as_str() {
                "" => problem.why.clone(),
                field => format!("{field}: {}", problem.why),
            })
            .collect();
        (!texts.is_empty()).then(|| shortened(texts.join("\n")))
    };
    let (part, whole, conflict) = (of(&[Extent::Note, Extent::Part]), of(&[Extent::Whole]), of(&[Extent::Conflict]));
    let condition = |type_, status, reason, message| Condition { type_, status, reason, message };
    let mut all = vec![match &whole {
        Some(why) => condition("Accepted", false, "Invalid", why.clone()),
        None => condition("Accepted", true, "Accepted", String::new()),
    }];
    let Programmed { on, of, refused } = programmed;
    let mut message = format!("on {on} of {of} nodes");
    if !refused.is_empty() {
        message += &format!("; refused by {}", refused.join(", "));
    }
    let message = shortened(message);
    all.push(match (on, of) {
        (_, 0) => condition("Programmed", false, "NoAgents", message),
        (on, of) if on == of => condition("Programmed", true, "Programmed", message),
        _ if !refused.is_empty() => condition("Programmed", false, "Refused", message),
        _ => condition("Programmed", false, "Pending", message),
    });
    all.extend(conflict.map(|why| condition("Conflicted", true, "Conflicted", why)));
    all.extend(part.map(|why| condition("PartiallyInvalid", true, "NotHonoured", why)));
    all
}

impl Condition {
    /// Its message is one that the API takes.
    pub fn shorten(&mut self) {
        self.message = shortened(std::mem::take(&mut self.message));
    }
}

fn shortened(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text += " ...";
    }
    text
}

/// The list to be written where `now` stands: `None` if it says all of this already. `time` is RFC 3339.
pub fn merged(now: &[Value], wanted: &[Condition], generation: i64, time: &str) -> Option<Vec<Value>> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let is_own = |value: &&Value| OWN.contains(&text(value, "type").as_str());
    let mut list: Vec<Value> = now.iter().filter(|value| !is_own(value)).cloned().collect();
    for Condition { type_, status, reason, message } in wanted {
        let status = if *status { "True" } else { "False" };
        let before = now.iter().find(|value| text(value, "type") == *type_);
        let since = before.filter(|before| text(before, "status") == status);
        let since = since.map(|before| text(before, "lastTransitionTime")).filter(|since| !since.is_empty());
        list.push(json!({
            "type": type_,
            "status": status,
            "reason": reason,
            "message": message,
            "observedGeneration": generation,
            "lastTransitionTime": since.unwrap_or_else(|| time.to_owned()),
        }));
    }
    let same = list.len() == now.len() && list.iter().all(|condition| now.contains(condition));
    (!same).then_some(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(extent: Extent, field: &str, why: &str) -> Problem {
        Problem { field: field.into(), extent, ..Problem::of_file("", why) }
    }

    fn said(problems: &[&Problem], on: usize, of: usize, refused: &[&str]) -> Vec<String> {
        let refused = refused.iter().map(ToString::to_string).collect();
        let all = conditions(problems, &Programmed { on, of, refused });
        all.into_iter().map(|c| format!("{} {} {}: {}", c.type_, c.status, c.reason, c.message)).collect()
    }

    #[test]
    fn every_condition_says_why() {
        let part = problem(Extent::Part, "spec.rules[0].to[0].operation.paths", "never matches");
        let whole = problem(Extent::Whole, "spec.action", "CUSTOM");
        let conflict = problem(Extent::Conflict, "", "is not applied");
        let accepted = "Accepted true Accepted: ";
        assert_eq!(said(&[], 2, 2, &[]), [accepted, "Programmed true Programmed: on 2 of 2 nodes"]);
        assert_eq!(said(&[], 1, 2, &[])[1], "Programmed false Pending: on 1 of 2 nodes");
        assert_eq!(said(&[], 1, 2, &["b"])[1], "Programmed false Refused: on 1 of 2 nodes; refused by b");
        assert_eq!(said(&[], 0, 0, &[])[1], "Programmed false NoAgents: on 0 of 0 nodes");
        assert_eq!(said(&[&whole], 2, 2, &[])[0], "Accepted false Invalid: spec.action: CUSTOM");
        let both = said(&[&part, &conflict], 2, 2, &[]);
        assert_eq!(both[0], accepted);
        assert_eq!(both[2], "Conflicted true Conflicted: is not applied");
        let field = "PartiallyInvalid true NotHonoured: spec.rules[0].to[0].operation.paths: never matches";
        assert_eq!(both[3], field);
        let long = problem(Extent::Whole, "", &"ä".repeat(5000));
        assert!(said(&[&long], 1, 1, &[])[0].len() < 2200);
    }

    #[test]
    fn what_says_so_already_is_not_written_again() {
        let wanted = |on| conditions(&[], &Programmed { on, of: 2, refused: Vec::new() });
        let foreign = json!({"type": "Reconciled", "status": "True"});
        let stale = json!({"type": "Conflicted", "status": "True"});
        let first = merged(&[foreign.clone(), stale], &wanted(1), 1, "T1").expect("something new");
        assert_eq!(first.len(), 3);
        assert!(first.contains(&foreign), "what others write stays");
        assert_eq!(merged(&first, &wanted(1), 1, "T2"), None);
        // In any order.
        let turned: Vec<_> = first.iter().rev().cloned().collect();
        assert_eq!(merged(&turned, &wanted(1), 1, "T2"), None);
        let second = merged(&first, &wanted(2), 2, "T2").expect("a change");
        let time = |list: &[Value], type_: &str| {
            list.iter().find(|c| c["type"] == type_).map(|c| c["lastTransitionTime"].clone()).unwrap_or_default()
        };
        assert_eq!((time(&second, "Accepted"), time(&second, "Programmed")), ("T1".into(), "T2".into()));
        assert_eq!(second[1]["observedGeneration"], 2);
    }
}

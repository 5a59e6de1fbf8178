//! What would have to be different for a refused connection or request to be permitted.

use super::{Considered, ConsideredClause, ConsideredCondition, ConsideredMatch, ConsideredRule};
use crate::model::{Action, PolicyName};

/// The rule that is next to another decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    pub policy: PolicyName,
    /// From 0.
    pub rule: usize,
    /// Each has to turn. Of an ALLOW rule they do not hold, of a DENY rule they do.
    pub missing: Vec<ConsideredCondition>,
}

/// Of a refusal for want of an ALLOW rule: that with the fewest conditions to turn, the first of several. Of a DENY
/// rule that matched: this rule, with the fewest that make it stop. `None`: permitted, no rule could have permitted it,
/// or the policy that decided is not known.
///
/// `considered` is what [`super::explain`] tells.
pub fn nearest(considered: &[Considered]) -> Option<Nearest> {
    let decided = considered.iter().find(|considered| considered.decided)?;
    let matched = decided.rules.iter().position(|rule| rule.matched);
    match (decided.known?.action, matched) {
        (Action::Deny, Some(rule)) => {
            let missing = stopping(&decided.rules[rule])?;
            Some(Nearest { policy: decided.name.clone(), rule, missing })
        }
        (Action::Allow, None) => {
            let allows = considered.iter().filter(|considered| {
                considered.known.is_some_and(|known| known.action == Action::Allow && !known.dry_run)
            });
            let rules = allows.flat_map(|policy| policy.rules.iter().enumerate().map(move |rule| (policy, rule)));
            let (policy, (rule, missing)) = rules
                .map(|(policy, (number, rule))| (policy, (number, lacking(rule))))
                .min_by_key(|(_, (_, all))| all.len())?;
            Some(Nearest { policy: policy.name.clone(), rule, missing: missing.into_iter().cloned().collect() })
        }
        _ => None,
    }
}

/// The fewest conditions without which the rule does not match.
fn lacking(rule: &ConsideredRule) -> Vec<&ConsideredCondition> {
    let lacks = |m: &ConsideredMatch| m.conditions.iter().filter(|condition| !condition.holds).count();
    let open = rule.clauses.iter().filter(|clause| !clause.matched);
    let nearest = open.filter_map(|clause| clause.matches.iter().min_by_key(|m| lacks(m)));
    nearest.flat_map(|m| &m.conditions).filter(|condition| !condition.holds).collect()
}

/// The fewest conditions that make it stop matching: one of each alternative of one clause. `None`: nothing does.
fn stopping(rule: &ConsideredRule) -> Option<Vec<ConsideredCondition>> {
    let of_clause = |clause: &ConsideredClause| {
        // A clause without matches always holds, as does a match without conditions.
        let matched = clause.matches.iter().filter(|m| m.matched);
        let each = matched.map(|m| m.conditions.first().cloned()).collect::<Option<Vec<_>>>()?;
        (!each.is_empty()).then_some(each)
    };
    rule.clauses.iter().filter_map(of_clause).min_by_key(Vec::len)
}

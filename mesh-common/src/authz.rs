//! Policies compiled for many decisions: it answers exactly as [`authorize`], but asks few of
//! many rules. Knows no state and waits for nothing; whoever changes policies makes a new one.

mod hash;
mod index;
mod keys;
pub mod partial;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::model::{Action, Connection, Denied, Observation, Passing, Permit, Policy, PolicyName, authorize, observe};
use index::Index;
use keys::{Asked, Keyed, Seen};

/// The policies of one workload in one configuration.
#[derive(Debug)]
pub struct Rules {
    policies: Arc<[Arc<Policy>]>,
    /// Those that are not enforced.
    idle: Vec<Arc<Policy>>,
    first_allow: Option<usize>,
    open: Arc<Table>,
    bytes: Arc<Table>,
    requests: Arc<Table>,
}

/// What can hold of one sort of [`Passing`].
#[derive(Debug)]
struct Table {
    deny: Side,
    allow: Side,
}

#[derive(Debug)]
struct Side {
    action: Action,
    /// Policy and rule, in the order in which they are asked.
    places: Vec<(u32, u32)>,
    index: Index,
}

impl Rules {
    /// `policies` are those that apply to the workload, in the order in which [`authorize`] has
    /// them.
    pub fn new(policies: &Arc<[Arc<Policy>]>) -> Self {
        let table = |seen| {
            let side = |action| Side::new(policies, action, seen);
            Arc::new(Table { deny: side(Action::Deny), allow: side(Action::Allow) })
        };
        let enforced = |action| policies.iter().position(|policy| policy.is_enforced() && policy.action == action);
        let (open, bytes, requests) = if policies.iter().any(|policy| policy.is_enforced() && policy.asks()) {
            (table(Seen::Open), table(Seen::Bytes), table(Seen::Request))
        } else {
            let every = table(Seen::Open);
            (every.clone(), every.clone(), every)
        };
        Self {
            policies: Arc::clone(policies),
            idle: policies.iter().filter(|policy| !policy.is_enforced()).cloned().collect(),
            first_allow: enforced(Action::Allow),
            open,
            bytes,
            requests,
        }
    }

    /// As [`authorize`]. `unknown` is the first policy that applies and nobody has.
    pub fn decide(
        &self,
        unknown: Option<&PolicyName>,
        connection: &Connection,
        passing: &Passing<'_>,
    ) -> Result<Permit, Denied> {
        if let Some(name) = unknown {
            return Err(Denied::unknown(name));
        }
        let table = match passing {
            Passing::Open => &self.open,
            Passing::Bytes { .. } => &self.bytes,
            // No key finds a rule about a name that nobody knows; it is rare.
            Passing::Unnamed => {
                return authorize(self.policies.iter().map(|policy| &**policy), unknown, connection, passing);
            }
            Passing::Request(_) => &self.requests,
        };
        let asked = Asked::new(connection, passing);
        if let Some((policy, rule)) = table.deny.first(&self.policies, &asked) {
            return Err(Denied::by(policy, rule));
        }
        if let Some((policy, rule)) = table.allow.first(&self.policies, &asked) {
            return Ok(Permit::by(policy, rule));
        }
        match self.first_allow {
            None => Ok(Permit::without_policy()),
            Some(first) => Err(Denied::no_allow(&self.policies[first].name)),
        }
    }

    /// As [`observe`]; where every policy is enforced it costs nothing.
    pub fn observe(
        &self,
        outcome: &Result<Permit, Denied>,
        connection: &Connection,
        passing: &Passing<'_>,
    ) -> Vec<Observation> {
        observe(self.idle.iter().map(|policy| &**policy), outcome, connection, passing)
    }
}

impl Side {
    fn new(policies: &[Arc<Policy>], action: Action, seen: Seen) -> Self {
        let seed = hash::seed();
        let mut places = Vec::new();
        let mut rules = Vec::new();
        let enforced = policies.iter().zip(0..).filter(|(policy, _)| policy.is_enforced() && policy.action == action);
        for (policy, number) in enforced {
            for (rule, place) in policy.rules.iter().zip(0..) {
                // A rule that cannot hold of what is seen needs no place.
                if let Some(keyed) = Keyed::new(rule, action, seen, seed) {
                    places.push((number, place));
                    rules.push(keyed);
                }
            }
        }
        Self { action, places, index: Index::new(&rules, seed) }
    }

    /// The first rule that matches, with its policy.
    fn first<'p>(&self, policies: &'p [Arc<Policy>], asked: &Asked<'_>) -> Option<(&'p Policy, usize)> {
        let rule = |place: u32| {
            let (policy, rule) = self.places[place as usize];
            (&*policies[policy as usize], rule as usize)
        };
        let place = self.index.lowest(asked, |place| {
            let (policy, number) = rule(place);
            policy.rules[number].matches(self.action, asked.connection, asked.passing)
        })?;
        Some(rule(place))
    }
}

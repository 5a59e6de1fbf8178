//! What policies said, by policy and reason.

use std::{
    fmt::Write as _,
    hash::{Hash as _, Hasher as _},
    sync::atomic::Ordering,
};

use mesh_common::model::ObservedAs;

use super::{
    super::{
        sets::{Place, Sets},
        text,
    },
    Traffic, owner,
};
use crate::telemetry::flow::{Flow, Party, Verdict};

impl Traffic {
    /// What policies said of a connection or a request; `known` is where the verdict was counted of one like it. Where
    /// this one's was.
    pub(super) fn decided(&self, flow: &Flow, known: Option<Place>) -> Option<Place> {
        if let Some(place) = known
            && self.verdicts.count_at(place, |count| *count += 1)
        {
            return known;
        }
        let policy = flow.policy.as_ref().map_or(["", ""], |policy| [&*policy.namespace, &*policy.name]);
        let reason = flow.reason.as_deref().unwrap_or_default();
        if flow.http.is_some() && flow.verdict == Verdict::Dropped {
            let Party { facts, .. } = &flow.destination;
            let values = [flow.direction.reporter(), &facts.workload, &facts.namespace, policy[0], policy[1], reason];
            let overflow = [values[0], "overflow", "overflow", "", "overflow", reason];
            self.plain(&self.refused, values, overflow, flow, |[reporter, workload, namespace, of, policy, reason]| {
                [
                    ("reporter", reporter),
                    ("destination_workload", workload),
                    ("destination_workload_namespace", namespace),
                    ("policy", &*named(of, policy)),
                    ("reason", reason),
                ]
                .map(|(name, value)| (name, value.to_owned()))
                .to_vec()
            });
        }
        let place = self.verdict(flow, [flow.verdict.name(), policy[0], policy[1], reason, "false"]);
        // Beside the connection's own verdict, so that a sum without dry runs counts connections.
        for seen in &flow.observations {
            let would = match (seen.observed_as, seen.would_refuse) {
                (ObservedAs::Audited, _) => Verdict::Audit,
                (ObservedAs::DryRun, true) => Verdict::Dropped,
                (ObservedAs::DryRun, false) => Verdict::Forwarded,
            };
            self.verdict(flow, [would.name(), &seen.policy.namespace, &seen.policy.name, "", "true"]);
        }
        place
    }

    pub(super) fn verdict(&self, flow: &Flow, values: [&str; 5]) -> Option<Place> {
        let overflow = [values[0], "", "overflow", values[3], values[4]];
        self.plain(&self.verdicts, values, overflow, flow, |[verdict, of, policy, reason, dry_run]| {
            let policy = named(of, policy);
            [("verdict", verdict), ("policy", &*policy), ("reason", reason), ("dry_run", dry_run)]
                .map(|(name, value)| (name, value.to_owned()))
                .to_vec()
        })
    }

    /// Where it was counted; `None`: under the overflow.
    fn plain<const N: usize>(
        &self,
        sets: &Sets<[Box<str>; N], u64>,
        values: [&str; N],
        overflow: [&str; N],
        flow: &Flow,
        told: impl Fn([&str; N]) -> Vec<(&'static str, String)>,
    ) -> Option<Place> {
        let under = |values: [&str; N], owner: Option<&dyn Fn() -> String>| {
            let mut hasher = sets.hasher();
            values.hash(&mut hasher);
            let is = |key: &[Box<str>; N]| key.iter().zip(values).all(|(own, other)| **own == *other);
            let make = || {
                let mut labels = String::new();
                for (name, value) in told(values) {
                    let comma = if labels.is_empty() { "" } else { "," };
                    let _ = write!(labels, "{comma}{name}=\"");
                    text::escape(&mut labels, &value);
                    labels.push('"');
                }
                (values.map(Box::from), labels)
            };
            sets.count(hasher.finish(), is, make, owner, |count| *count += 1)
        };
        let place = under(values, Some(&|| owner(flow)));
        if place.is_none() {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
            under(overflow, None);
        }
        place
    }
}

/// As policies are named.
fn named(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

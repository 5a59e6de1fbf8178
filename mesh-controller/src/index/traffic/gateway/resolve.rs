//! Rules with what their references lead to.

use mesh_common::model::traffic::{Action, Backend, HttpRoute, Mirror, Target, WeightedBackend};

use super::{
    super::budget::{Cost, bytes, expressions},
    Known,
};
use crate::translate::gateway::{BackendRef, Route, Rule, Unresolved};

/// A route whose references were followed.
#[derive(Debug)]
pub struct Resolved<'a> {
    pub route: &'a Route,
    /// As [`Route::rules`]: without matches. What connections are sent to is among the action's backends.
    pub rules: Vec<HttpRoute>,
    /// Of all of them at one port, if each condition is told with the rest of its rule.
    pub cost: Cost,
    /// References that lead nowhere, by their fields.
    pub unresolved: Vec<(String, Unresolved)>,
}

impl<'a> Resolved<'a> {
    pub fn new(known: &Known<'_>, route: &'a Route) -> Self {
        let (rules, cost) = (Vec::new(), Cost::default());
        let mut resolved = Self { route, rules, cost, unresolved: Vec::new() };
        for rule in &route.rules {
            let told = resolved.rule(known, rule);
            let rest = Cost { rules: 1, patterns: 0, bytes: bytes(&told) };
            resolved.cost = rule.matches.iter().fold(resolved.cost, |sum, matched| {
                let (patterns, bytes) = (expressions(&matched.request), bytes(&matched.request));
                sum + rest + Cost { rules: 0, patterns, bytes }
            });
            if rule.matches.is_empty() {
                resolved.cost = resolved.cost + rest * route.server_names.len().max(1);
            }
            resolved.rules.push(told);
        }
        resolved
    }

    fn rule(&mut self, known: &Known<'_>, rule: &Rule) -> HttpRoute {
        let Rule { matches: _, template, backends, mirrors, refused } = rule;
        let mut told = template.clone();
        let backends: Vec<_> = backends.iter().map(|backend| self.backend(known, backend)).collect();
        for mirror in mirrors {
            match known.resolve(self.route, &mirror.reference) {
                Ok((service, port)) => {
                    let backend = Backend { service, port: Some(port), subset: None };
                    told.mirrors.push(Mirror { backend, percent: mirror.percent });
                }
                Err(unresolved) => self.unresolved.push((mirror.reference.field.clone(), unresolved)),
            }
        }
        if let Some(why) = refused {
            // Of all that it says only what it matches is left.
            return HttpRoute {
                action: Action::Forward(vec![self.refusal(why.clone())]),
                headers: None,
                rewrite: None,
                cors: None,
                timeout: None,
                try_timeout: None,
                retries: None,
                mirrors: Vec::new(),
                ..told
            };
        }
        if let Action::Forward(list) = &mut told.action {
            *list = backends;
            if list.iter().all(|backend| backend.weight == 0) {
                *list = vec![self.refusal("it has no backend that weighs anything".to_owned())];
            }
        }
        told
    }

    fn backend(&mut self, known: &Known<'_>, backend: &BackendRef) -> WeightedBackend {
        let BackendRef { weight, reference, headers, refused } = backend;
        let invalid = |why: String| Target::Invalid { status: self.route.kind.refusal(), why };
        let (target, unresolved) = match (known.resolve(self.route, reference), refused) {
            (Ok(_), Some(why)) => (invalid(why.clone()), None),
            (Ok((service, port)), None) => (Target::Backend(Backend { service, port: Some(port), subset: None }), None),
            (Err(unresolved), _) => (invalid(unresolved.why.clone()), Some(unresolved)),
        };
        self.unresolved.extend(unresolved.map(|unresolved| (reference.field.clone(), unresolved)));
        WeightedBackend { weight: *weight, target, headers: headers.clone() }
    }

    fn refusal(&self, why: String) -> WeightedBackend {
        let target = Target::Invalid { status: self.route.kind.refusal(), why };
        WeightedBackend { weight: 1, target, headers: None }
    }
}

//! Rules with what their references lead to, for clients of each of a route's parents.

use std::collections::BTreeSet;

use mesh_common::model::traffic::{Action, Backend, HttpRoute, Mirror, Target, WeightedBackend};

use super::{
    super::budget::{Cost, bytes, expressions},
    Known,
    known::Exempt,
};
use crate::{
    status::Fault,
    translate::gateway::{BackendRef, Parent, ParentKind, Reference, Route, Rule, Unresolved},
};

/// A route's references followed for each of its parents: where one may lead depends on whose clients are sent there.
#[derive(Debug)]
pub struct Followed<'a> {
    /// No two for the same exemption.
    all: Vec<(Exempt<'a>, Resolved<'a>)>,
    /// By the route's parents, which of them.
    at: Vec<usize>,
}

/// A route whose references were followed for clients of one parent.
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

impl<'a> Followed<'a> {
    pub fn new(known: &Known<'_>, route: &'a Route) -> Self {
        let mut followed = Self { all: Vec::new(), at: Vec::new() };
        for parent in &route.parents {
            let exempt = exempt(route, parent);
            let found = followed.all.iter().position(|(known, _)| *known == exempt);
            followed.at.push(found.unwrap_or_else(|| {
                followed.all.push((exempt, Resolved::new(known, route, exempt)));
                followed.all.len() - 1
            }));
        }
        followed
    }

    /// For clients of the parent of this number.
    pub fn at(&self, parent: usize) -> &Resolved<'a> {
        &self.all[self.at[parent]].1
    }

    /// Of all parents, each once.
    pub fn faults(&self) -> impl Iterator<Item = Fault> {
        let all = self.all.iter().flat_map(|(_, resolved)| &resolved.unresolved);
        let told: BTreeSet<_> = all.map(|(field, unresolved)| (field, &unresolved.why)).collect();
        told.into_iter().map(|(field, why)| Fault::new(field, why))
    }
}

/// The service of another namespace that these clients mean anyway, if the route refers to it.
fn exempt<'a>(route: &Route, parent: &'a Parent) -> Exempt<'a> {
    let is_it = |reference: &Reference| reference.namespace == parent.namespace && reference.name == parent.name;
    let refers = |Rule { backends, mirrors, .. }: &Rule| {
        let backends = backends.iter().map(|backend| &backend.reference);
        backends.chain(mirrors.iter().map(|mirror| &mirror.reference)).any(is_it)
    };
    let is_foreign = parent.kind == ParentKind::Service && route.is_consumer_of(parent);
    (is_foreign && route.rules.iter().any(refers)).then_some((parent.namespace.as_str(), parent.name.as_str()))
}

impl<'a> Resolved<'a> {
    fn new(known: &Known<'_>, route: &'a Route, exempt: Exempt<'_>) -> Self {
        let (rules, cost) = (Vec::new(), Cost::default());
        let mut resolved = Self { route, rules, cost, unresolved: Vec::new() };
        for rule in &route.rules {
            let told = resolved.rule(known, exempt, rule);
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

    fn rule(&mut self, known: &Known<'_>, exempt: Exempt<'_>, rule: &Rule) -> HttpRoute {
        let Rule { matches: _, template, backends, mirrors, refused } = rule;
        let mut told = template.clone();
        let backends: Vec<_> = backends.iter().map(|backend| self.backend(known, exempt, backend)).collect();
        for mirror in mirrors {
            match known.resolve(self.route, exempt, &mirror.reference) {
                Ok((service, port)) => {
                    let backend = Backend { service, port: Some(port), subset: None };
                    told.mirrors.push(Mirror { backend, percent: mirror.percent });
                }
                Err(unresolved) => self.unresolved.push((mirror.reference.field.clone(), unresolved)),
            }
        }
        if let Some(why) = refused {
            // Of all that it says only what it matches is left.
            let action = Action::Forward(vec![self.refusal(why.clone())]);
            return HttpRoute {
                matches: told.matches,
                fault: told.fault,
                ..HttpRoute::new(told.name, told.origin, action)
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

    fn backend(&mut self, known: &Known<'_>, exempt: Exempt<'_>, backend: &BackendRef) -> WeightedBackend {
        let BackendRef { weight, reference, headers, refused } = backend;
        let invalid = |why: String| Target::Invalid { status: self.route.kind.refusal(), why };
        let (target, unresolved) = match (known.resolve(self.route, exempt, reference), refused) {
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

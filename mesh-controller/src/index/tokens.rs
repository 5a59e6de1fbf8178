//! Which tokens requests to a pod may bear: the rules of every RequestAuthentication that selects it, in the order of
//! the objects' names, each with the keys of its issuer as far as they are known.

use mesh_common::model::{
    ServiceName,
    traffic::{MAX_TOKEN_RULES, TokenRule},
};

use super::Read;
use crate::{
    jwks::{Fetched, Sets, Wanted},
    source::{CustomKind, Kind, Update},
    status::{Extent, Fault, Problem},
    translate::{
        Settings,
        pod::Pod,
        request_authentication::{Issued, RequestAuthentication, request_authentication},
    },
};

/// Key sets of a mesh: each is fetched again and again.
pub const MAX_URIS: usize = 256;

/// What these objects want, before anything is published.
pub fn wanted(settings: &Settings, update: &Update) -> Wanted {
    let customs = update.objects.iter().filter_map(|object| match &object.kind {
        Kind::Custom(CustomKind::RequestAuthentication, custom) => Some(custom),
        _ => None,
    });
    let rules = customs.flat_map(|custom| request_authentication(settings, custom, &mut Vec::new()).rules);
    rules.filter_map(|issued| issued.remote).map(|remote| (remote.uri, remote.timeout)).take(MAX_URIS).collect()
}

/// All rules of the mesh, with their keys.
pub struct Rules<'a> {
    /// Sorted by object.
    all: Vec<(&'a Read<'a, RequestAuthentication>, Vec<TokenRule>)>,
}

impl<'a> Rules<'a> {
    /// `wanted` becomes what is to be fetched; what is wrong with what was fetched is added to `problems`.
    pub fn new(
        objects: &'a [Read<'a, RequestAuthentication>],
        sets: &Sets,
        wanted: &mut Wanted,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let mut sorted: Vec<_> = objects.iter().collect();
        sorted.sort_by(|a, b| a.value.object.cmp(&b.value.object));
        let all = sorted.into_iter().map(|read| {
            let rules = read.value.rules.iter().map(|Issued { rule, remote }| {
                let Some(remote) = remote else { return rule.clone() };
                let say = |why: &str, extent| {
                    read.object.problem(Fault::new(format!("{}.jwksUri", rule.origin.field), why).of_extent(extent))
                };
                let longest = wanted.get(&remote.uri).map_or(remote.timeout, |known| (*known).max(remote.timeout));
                if wanted.len() >= MAX_URIS && !wanted.contains_key(&remote.uri) {
                    let why = format!("{MAX_URIS} other URIs are fetched already; tokens of this issuer are refused");
                    problems.push(say(&why, Extent::Part));
                    return rule.clone();
                }
                wanted.insert(remote.uri.clone(), longest);
                let Some(Fetched { keys, why }) = sets.get(&remote.uri) else { return rule.clone() };
                if let Some(why) = why {
                    let (still, extent) = match keys {
                        Some(_) => ("the keys of before count, for an hour at most", Extent::Note),
                        None => ("tokens of this issuer are refused", Extent::Part),
                    };
                    problems.push(say(&format!("{why}; {still}"), extent));
                }
                TokenRule { keys: keys.as_deref().map(str::to_owned), ..rule.clone() }
            });
            (read, rules.collect())
        });
        Self { all: all.collect() }
    }

    /// Those of one pod, which serves these services. What is beyond the bound is left out and reported: a token of an
    /// issuer without a rule is refused.
    pub fn of<'s>(
        &self,
        pod: &Pod,
        serves: impl Iterator<Item = &'s ServiceName> + Clone,
        problems: &mut Vec<Problem>,
    ) -> Vec<TokenRule> {
        let mut found = Vec::new();
        for (read, rules) in &self.all {
            if !read.value.selects(pod, serves.clone()) {
                continue;
            }
            if found.len() + rules.len() > MAX_TOKEN_RULES {
                let name = format!("{}/{}", pod.namespace, pod.name);
                let why = format!(
                    "pod {name} has more than {MAX_TOKEN_RULES} rules; tokens of this object's issuers are refused there"
                );
                problems.push(read.object.problem(Fault::new("spec.jwtRules", why)));
            } else {
                found.extend(rules.iter().cloned());
            }
        }
        found
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

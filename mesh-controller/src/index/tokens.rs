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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mesh_common::model::traffic::{Inbound, Protocol};

    use super::*;
    use crate::index::{
        Redirection, World,
        tests::{CART, SHOP, objects, settings},
    };

    const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk"}]}"#;

    fn object(namespace: &str, name: &str, spec: &str) -> String {
        format!(
            "---\n{{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {{name: {name}, namespace: \
             {namespace}}}, spec: {{{spec}}}}}\n"
        )
    }

    fn rules(issuer: &str) -> String {
        format!("jwtRules: [{{issuer: {issuer}, jwksUri: 'https://{issuer}.example/'}}]")
    }

    fn world(text: &str, sets: Sets) -> World {
        let update = Update { key_sets: Arc::new(sets), ..objects(text) };
        let world = World::new(&settings(), &update, &Redirection::default());
        assert_eq!(world.key_sets.keys().collect::<Vec<_>>(), wanted(&settings(), &update).keys().collect::<Vec<_>>());
        world
    }

    fn issuers(world: &World) -> Vec<&str> {
        world.local_pods["a"][CART].inbound.tokens.iter().map(|rule| rule.issuer.as_str()).collect()
    }

    #[test]
    fn a_pod_is_told_of_the_rules_that_select_it_by_their_objects_names() {
        let text = [
            SHOP,
            &object("shop", "z", &rules("all")),
            &object("shop", "b", &format!("selector: {{matchLabels: {{app: cart}}}}, {}", rules("labelled"))),
            &object("shop", "a", &format!("targetRefs: [{{kind: Service, name: cart}}], {}", rules("serving"))),
            &object("shop", "c", &format!("targetRefs: [{{kind: Service, name: pay}}], {}", rules("other"))),
            &object("shop", "d", &format!("selector: {{matchLabels: {{app: pay}}}}, {}", rules("others"))),
            &object("web", "e", &rules("elsewhere")),
            &object("istio-system", "f", &rules("mesh")),
        ]
        .concat();
        let found = world(&text, Sets::new());
        assert_eq!(found.problems, []);
        assert_eq!(issuers(&found), ["mesh", "serving", "labelled", "all"]);
        assert_eq!(found.local_pods["a"][CART].inbound.protocols, [(8080, Protocol::Http)].into());
        assert!(found.local_pods["a"][CART].inbound.tokens.iter().all(|rule| rule.keys.is_none()), "not fetched yet");
        let client = found.local_pods["b"].values().next().expect("the client");
        assert_eq!(client.inbound.tokens.len(), 2, "of the namespace and of the mesh");
        assert_eq!(found.key_sets.len(), 7);
        let none = world(SHOP, Sets::new());
        assert_eq!(none.local_pods["a"][CART].inbound, Inbound::default());
        assert!(found.written.keys().filter(|key| key.kind == "RequestAuthentication").count() == 7, "for conditions");
    }

    #[test]
    fn keys_are_told_as_they_are_fetched_and_what_is_wrong_is_reported() {
        let text = [SHOP, &object("shop", "a", &rules("one"))].concat();
        let set = |keys: Option<&str>, why: Option<&str>| -> Sets {
            [("https://one.example/".to_owned(), Fetched { keys: keys.map(Into::into), why: why.map(Into::into) })]
                .into()
        };
        let told = |sets: Sets| {
            let world = world(&text, sets);
            let said: Vec<_> = world.problems.iter().map(ToString::to_string).collect();
            (world.local_pods["a"][CART].inbound.tokens[0].keys.clone(), said.join("\n"))
        };
        assert_eq!(told(set(Some(KEYS), None)), (Some(KEYS.to_owned()), String::new()));
        let (keys, said) = told(set(Some(KEYS), Some("the answer is 500")));
        assert_eq!(keys.as_deref(), Some(KEYS));
        assert!(said.contains("spec.jwtRules[0].jwksUri: the answer is 500; the keys of before count"), "{said}");
        let (keys, said) = told(set(None, Some("the answer is 500")));
        assert_eq!(keys, None);
        assert!(
            said.ends_with("spec.jwtRules[0].jwksUri: the answer is 500; tokens of this issuer are refused"),
            "{said}"
        );
    }

    #[test]
    fn bounds_refuse_what_is_beyond_them() {
        let of = |from: usize, to: usize| {
            let rules =
                (from..to).map(|number| format!("{{issuer: i{number}, jwksUri: 'https://i{number}.example/'}}"));
            format!("jwtRules: [{}]", rules.collect::<Vec<_>>().join(", "))
        };
        let many: Vec<_> = (0..5).map(|at| object("shop", &format!("o{at}"), &of(at * 60, at * 60 + 60))).collect();
        let world = world(&[SHOP, &many.concat()].concat(), Sets::new());
        assert_eq!((world.key_sets.len(), issuers(&world).len()), (MAX_URIS, 60));
        let said = |what: &str| world.problems.iter().filter(|problem| problem.why.contains(what)).count();
        assert_eq!(said("other URIs are fetched already"), 300 - MAX_URIS);
        assert_eq!(said("has more than 64 rules"), 8, "of both pods, each of four objects");
    }
}

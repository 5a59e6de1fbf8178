//! Which tokens requests to a pod may bear: the rules of every RequestAuthentication that selects it, in the order of
//! the objects' names, each with the keys of its issuer as far as they are known.

use std::{collections::BTreeMap, sync::Arc};

use mesh_common::model::traffic::{MAX_TOKEN_RULES, TokenRule};

use super::{Read, draft::Draft};
use crate::{
    jwks::{Fetched, Sets, Want, Wanted},
    source::{CustomKind, Kind, Update},
    status::{Extent, Fault, Problem},
    translate::{
        Settings, node,
        request_authentication::{Issued, Remote, RequestAuthentication, refusing, request_authentication},
    },
};

/// Key sets of a mesh, and of one namespace of it: each is fetched again and again.
const MAX_URIS: usize = 256;
const URIS_OF_ONE: usize = 32;

/// What the rules of one pod may have on the wire, with their keys. All pods of a node are told in few messages.
const BYTES: usize = 256 << 10;

/// What these objects want, before anything is published.
pub fn wanted(settings: &Settings, update: &Update) -> Wanted {
    let customs = update.objects.iter().filter_map(|object| match &object.kind {
        Kind::Custom(CustomKind::RequestAuthentication, custom) => Some(custom),
        _ => None,
    });
    let objects: Vec<_> = customs.map(|custom| request_authentication(settings, custom, &mut Vec::new())).collect();
    let nodes = update.objects.iter().filter_map(|object| match &object.kind {
        Kind::Node(node) => Some(node::addresses(node)),
        _ => None,
    });
    Wanted { sets: chosen(objects.iter()), nodes: Arc::new(nodes.flatten().collect()) }
}

/// What is fetched: the sets of the root namespace, then of each other namespace one, then of each a second one …
fn chosen<'a>(objects: impl Iterator<Item = &'a RequestAuthentication>) -> BTreeMap<String, Want> {
    let mut objects: Vec<_> = objects.collect();
    objects.sort_by_key(|object| (!object.is_root, &object.object));
    let remotes = |object: &'a RequestAuthentication| object.rules.iter().filter_map(|issued| issued.remote.as_ref());
    // By namespace, in the order in which they are written.
    let mut by_namespace: BTreeMap<(bool, &str), Vec<&Remote>> = BTreeMap::new();
    for object in &objects {
        let own = by_namespace.entry((!object.is_root, object.object.namespace.as_str())).or_default();
        let most = if object.is_root { MAX_URIS } else { URIS_OF_ONE };
        for remote in remotes(object) {
            if own.len() < most && own.iter().all(|known| known.uri != remote.uri) {
                own.push(remote);
            }
        }
    }
    let mut wanted: BTreeMap<String, Want> = BTreeMap::new();
    let (root, others): (Vec<_>, Vec<_>) = by_namespace.into_iter().partition(|((is_other, _), _)| !is_other);
    let rounds = (0..URIS_OF_ONE).flat_map(|round| others.iter().filter_map(move |(_, uris)| uris.get(round)));
    for Remote { uri, .. } in root.iter().flat_map(|(_, uris)| uris).chain(rounds) {
        if wanted.len() == MAX_URIS {
            break;
        }
        wanted.entry(uri.clone()).or_default();
    }
    for object in &objects {
        for Remote { uri, timeout } in remotes(object) {
            if let Some(want) = wanted.get_mut(uri) {
                want.within = want.within.max(*timeout);
                if !want.namespaces.contains(&object.object.namespace) {
                    want.namespaces.insert(object.object.namespace.clone());
                }
            }
        }
    }
    wanted
}

/// All rules of the mesh, with their keys.
pub struct Rules<'a> {
    /// Sorted by object.
    all: Vec<(&'a Read<'a, RequestAuthentication>, Sized)>,
}

/// Rules, and their bytes on the wire.
struct Sized {
    rules: Vec<TokenRule>,
    bytes: usize,
}

impl<'a> Rules<'a> {
    /// `wanted` becomes what is to be fetched; what is wrong with what was fetched is added to `problems`.
    pub fn new(
        objects: &'a [Read<'a, RequestAuthentication>],
        sets: &Sets,
        wanted: &mut BTreeMap<String, Want>,
        problems: &mut Vec<Problem>,
    ) -> Self {
        *wanted = chosen(objects.iter().map(|read| read.value));
        let mut sorted: Vec<_> = objects.iter().collect();
        sorted.sort_by(|a, b| a.value.object.cmp(&b.value.object));
        let all = sorted.into_iter().map(|read| {
            let rules = read.value.rules.iter().map(|Issued { rule, remote }| {
                let Some(remote) = remote else { return rule.clone() };
                let say = |why: &str, extent| {
                    read.object.problem(Fault::new(format!("{}.jwksUri", rule.origin.field), why).of_extent(extent))
                };
                if !wanted.contains_key(&remote.uri) {
                    let why = format!(
                        "is not fetched: its namespace has {URIS_OF_ONE} others, or the mesh has {MAX_URIS}; tokens of \
                         this issuer are refused"
                    );
                    problems.push(say(&why, Extent::Part));
                    return rule.clone();
                }
                let Some(Fetched { keys, why }) = sets.get(&remote.uri) else { return rule.clone() };
                if let Some(why) = why {
                    let (still, extent) = match keys {
                        Some(_) => ("the keys of before count, for an hour at most", Extent::Note),
                        None => ("tokens of this issuer are refused", Extent::Part),
                    };
                    problems.push(say(&format!("{why}; {still}"), extent));
                }
                TokenRule { keys: keys.clone(), ..rule.clone() }
            });
            (read, Sized::new(rules.collect()))
        });
        Self { all: all.collect() }
    }

    /// Those of one pod. What is beyond the bounds is left out and reported: a token of an issuer without a rule, or
    /// without keys, is refused.
    pub fn of(&self, draft: &Draft<'_>, problems: &mut Vec<Problem>) -> Vec<TokenRule> {
        let pod = draft.pod;
        // Ready or not: requests to its address reach it all the same.
        let belongs = || draft.belongs.iter().map(|(service, _)| &*service.service);
        let (mut found, mut bytes) = (Vec::new(), 0);
        for (read, own) in &self.all {
            if !read.value.selects(pod, belongs(), &draft.waypoints) {
                continue;
            }
            let mut report = |most: &dyn std::fmt::Display| {
                let why = format!(
                    "pod {}/{} has more than {most}; tokens of this object's issuers are refused there",
                    pod.namespace, pod.name
                );
                problems.push(read.object.problem(Fault::new("spec.jwtRules", why)));
            };
            if found.len() + own.rules.len() > MAX_TOKEN_RULES {
                report(&format_args!("{MAX_TOKEN_RULES} rules"));
            } else if bytes + own.bytes <= BYTES {
                bytes += own.bytes;
                found.extend(own.rules.iter().cloned());
            } else {
                report(&format_args!("{BYTES} bytes of rules and keys"));
                // Where their tokens are, and what is theirs to write, still counts if it can.
                let keyless = own.rules.iter().map(|rule| TokenRule { keys: None, ..rule.clone() });
                let keyless = Some(Sized::new(keyless.collect())).filter(|keyless| bytes + keyless.bytes <= BYTES);
                let keyless =
                    keyless.unwrap_or_else(|| Sized::new(vec![refusing(&read.value.object, "spec.jwtRules").rule]));
                bytes += keyless.bytes;
                found.extend(keyless.rules);
            }
        }
        found
    }
}

impl Sized {
    fn new(rules: Vec<TokenRule>) -> Self {
        let bytes = rules.iter().map(|rule| serde_json::to_vec(rule).map_or(usize::MAX, |json| json.len()));
        Self { bytes: bytes.fold(0, usize::saturating_add), rules }
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::model::traffic::{Millis, Protocol};

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
        assert_eq!(world.key_sets, wanted(&settings(), &update));
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
        assert_eq!(found.key_sets.sets.len(), 7);
        let none = world(SHOP, Sets::new());
        assert!(none.local_pods["a"][CART].inbound.tokens.is_empty());
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
        assert_eq!(told(set(Some(KEYS), None)), (Some(KEYS.into()), String::new()));
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
        let of = |who: &str, count: usize| {
            let rules = (0..count).map(|i| format!("{{issuer: {who}{i}, jwksUri: 'https://{who}{i}.example/'}}"));
            format!("jwtRules: [{}]", rules.collect::<Vec<_>>().join(", "))
        };
        let many: Vec<_> = (0..5).map(|at| object("shop", &format!("o{at}"), &of(&format!("{at}-"), 60))).collect();
        let found = world(&[SHOP, &many.concat()].concat(), Sets::new());
        assert_eq!((found.key_sets.sets.len(), issuers(&found).len()), (URIS_OF_ONE, 60));
        let said =
            |world: &World, what: &str| world.problems.iter().filter(|problem| problem.why.contains(what)).count();
        assert_eq!(said(&found, "is not fetched"), 300 - URIS_OF_ONE);
        assert_eq!(said(&found, "has more than 64 rules"), 8, "of both pods, each of four objects");
    }

    #[test]
    fn the_bytes_of_a_pod_are_bounded_and_keys_are_shared() {
        let of = |who: &str, more: &str, count: usize| {
            let rules = (0..count).map(|i| {
                format!("{{issuer: {who}{i}, jwksUri: 'https://{who}.example/', fromHeaders: [{{name: {who}}}]{more}}}")
            });
            object("shop", who, &format!("jwtRules: [{}]", rules.collect::<Vec<_>>().join(", ")))
        };
        let large = format!(", audiences: [{}]", "a".repeat(20_000));
        let text = [SHOP, &of("a", "", 2), &of("b", "", 10), &of("c", &large, 20), &of("d", "", 1)].concat();
        let keys: Arc<str> = KEYS.repeat(200).into();
        let of_all = |who: &str| (format!("https://{who}.example/"), Fetched { keys: Some(keys.clone()), why: None });
        let found = world(&text, ["a", "b", "c", "d"].map(of_all).into());
        let tokens = &found.local_pods["a"][CART].inbound.tokens;
        let keyed = tokens.iter().map(|rule| (rule.issuer.as_str(), rule.keys.is_some()));
        let keyed: Vec<_> = keyed.collect();
        assert_eq!(keyed[..2], [("a0", true), ("a1", true)]);
        let b: Vec<_> = (0..10).map(|i| format!("b{i}")).collect();
        assert_eq!(keyed[2..12], b.iter().map(|issuer| (issuer.as_str(), true)).collect::<Vec<_>>());
        // Of the third the rules are too many without their keys, too.
        assert_eq!(keyed[12..], [("", false), ("d0", false)]);
        assert_eq!(tokens[13].from_headers[0].name, "d");
        assert!(Arc::ptr_eq(tokens[0].keys.as_ref().expect("keys"), tokens[11].keys.as_ref().expect("keys")));
        let said = |who: &str| {
            let name = format!("RequestAuthentication shop/{who}");
            found.problems.iter().filter(|p| p.object == name && p.why.contains("262144 bytes of rules")).count()
        };
        assert_eq!(["a", "b", "c", "d"].map(said), [0, 0, 2, 2], "of both pods");
    }

    #[test]
    fn no_namespace_takes_the_place_of_another_nor_of_the_root() {
        let of = |who: &str, count: usize| {
            let rules = (0..count).map(|i| format!("{{issuer: i, jwksUri: 'https://{i:02}.{who}.example/'}}"));
            object(who, "o", &format!("jwtRules: [{}]", rules.collect::<Vec<_>>().join(", ")))
        };
        let greedy: String = (0..20).map(|at| of(&format!("a{at:02}"), 60)).collect();
        let shared = object("web", "p", "jwtRules: [{issuer: i, jwksUri: 'https://00.zoo.example/', timeout: 9s}]");
        let text = [SHOP, &greedy, &of("zoo", 3), &shared, &of("istio-system", 40)].concat();
        let found = world(&text, Sets::new());
        assert_eq!(found.key_sets.sets.len(), MAX_URIS);
        let count = |who: &str| found.key_sets.sets.keys().filter(|uri| uri.contains(&format!(".{who}."))).count();
        // 216 are left: each of 21 has ten, or all it wants.
        assert_eq!([count("istio-system"), count("zoo"), count("a00"), count("a19")], [40, 3, 11, 10]);
        let want = &found.key_sets.sets["https://00.zoo.example/"];
        assert_eq!((want.within, want.namespaces.len()), (Millis(9000), 2), "the longest of both");
    }
}

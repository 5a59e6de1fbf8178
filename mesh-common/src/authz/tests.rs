//! What finding costs: of many rules few are asked. That what is found is right, the tests of decisions show.

use std::collections::HashSet;

use http::HeaderMap;
use serde_json::json;

use super::{
    hash::{self, As},
    index::Index,
    keys::{self, Asked, Keyed, Seen},
};
use crate::model::{
    Action, ClaimCondition, Clause, Connection, HeaderCondition, HttpMatch, Identity, Match, Passing, PathPattern,
    Requested, Rule, ServiceAccountMatch, StringMatch, Token,
};

const RULES: usize = 600;
/// One of them is right.
const RIGHT: usize = 417;
/// Rules that may be asked to find it, for each of the ways in which a value is looked up.
const ASKED: usize = 12;

fn exact(text: String) -> Vec<StringMatch> {
    vec![StringMatch::Exact(text)]
}

fn http(change: impl FnOnce(&mut HttpMatch)) -> Match {
    let mut http = HttpMatch::default();
    change(&mut http);
    Match { http: Some(Box::new(http)), ..Match::default() }
}

fn rule(clauses: impl IntoIterator<Item = Match>) -> Rule {
    Rule { clauses: clauses.into_iter().map(|one| Clause { matches: vec![one] }).collect() }
}

/// The name of one, and its rule with a number.
type Sort = (&'static str, fn(usize) -> Match);

/// Rules that are told apart by one attribute alone, by its name.
fn sorts() -> Vec<Sort> {
    fn path(one: PathPattern) -> Match {
        http(|http| http.paths = vec![one])
    }
    vec![
        ("namespaces", |n| Match { namespaces: exact(format!("n{n:04}")), ..Match::default() }),
        ("namespace beginnings", |n| Match {
            namespaces: vec![StringMatch::Prefix(format!("n{n:04}"))],
            ..Match::default()
        }),
        ("namespace ends", |n| Match { namespaces: vec![StringMatch::Suffix(format!("n{n:04}"))], ..Match::default() }),
        ("principals", |n| Match { principals: exact(format!("td/ns/n{n:04}/sa/a{n:04}")), ..Match::default() }),
        ("accounts", |n| {
            let one = ServiceAccountMatch { namespace: format!("n{n:04}"), service_account: format!("a{n:04}") };
            Match { service_accounts: vec![one], ..Match::default() }
        }),
        ("source addresses", |n| Match { source_ips: vec![net(10, n)], ..Match::default() }),
        ("remote addresses", |n| http(|http| http.remote_ips = vec![net(10, n)])),
        ("addresses of IPv4 as those of IPv6", |n| Match {
            source_ips: vec![format!("::ffff:{}/128", net(10, n).addr()).parse().expect("a network")],
            ..Match::default()
        }),
        ("destination addresses", |n| Match { destination_ips: vec![net(11, n)], ..Match::default() }),
        ("networks of IPv6", |n| Match {
            destination_ips: vec![format!("fd00:0:0:{n:x}::/64").parse().expect("a network")],
            ..Match::default()
        }),
        ("ports", |n| Match { destination_ports: vec![1000 + n as u16], ..Match::default() }),
        ("hosts", |n| http(|http| http.hosts = exact(format!("h{n:04}")))),
        ("methods", |n| http(|http| http.methods = exact(format!("M{n:04}")))),
        ("paths", |n| path(PathPattern::Text(StringMatch::Exact(format!("/p/{n:04}/x"))))),
        ("path beginnings", |n| path(PathPattern::Text(StringMatch::Prefix(format!("/p/{n:04}/"))))),
        ("path ends", |n| path(PathPattern::Text(StringMatch::Suffix(format!("/{n:04}/x"))))),
        ("segments of templates", |n| path(PathPattern::Template(format!("/{{*}}/{n:04}/{{*}}")))),
        ("beginnings of templates", |n| path(PathPattern::Template(format!("/p/{n:04}/{{**}}")))),
        ("ends of templates", |n| path(PathPattern::Template(format!("/{{**}}/{n:04}/x")))),
        ("token's principals", |n| http(|http| http.request_principals = exact(format!("issuer/{n:04}")))),
        ("audiences", |n| http(|http| http.audiences = exact(format!("audience-{n:04}")))),
        ("presenters", |n| http(|http| http.presenters = exact(format!("presenter-{n:04}")))),
        ("headers", |n| {
            let one = HeaderCondition { name: "x-a".into(), values: exact(format!("v{n:04}")), not_values: Vec::new() };
            http(|http| http.headers = vec![one])
        }),
        ("claims", |n| {
            let path = vec!["realm".to_owned(), "role".to_owned()];
            let one = ClaimCondition { path, values: exact(format!("r{n:04}")), not_values: Vec::new() };
            http(|http| http.claims = vec![one])
        }),
    ]
}

fn net(first: u8, n: usize) -> ipnet::IpNet {
    format!("{first}.0.{}.{}/32", n / 256, n % 256).parse().expect("a network")
}

/// How many rules are asked about the connection and request of which everything is number [`RIGHT`], and whether the
/// right one is found.
fn asked_of(rules: &[Rule], v6: bool) -> (usize, Option<u32>) {
    let seed = hash::seed();
    let keyed: Vec<_> = rules.iter().filter_map(|rule| Keyed::new(rule, Action::Allow, Seen::Request, seed)).collect();
    assert_eq!(keyed.len(), rules.len());
    let index = Index::new(&keyed, seed);
    let n = RIGHT;
    let destination = if v6 { format!("fd00:0:0:{n:x}::1") } else { net(11, n).addr().to_string() };
    let connection = Connection {
        source_identity: Some(Identity::new("td", &format!("n{n:04}"), &format!("a{n:04}")).expect("names")),
        source_ip: net(10, n).addr(),
        destination: (destination.parse::<std::net::IpAddr>().expect("an address"), 1000 + n as u16).into(),
    };
    let mut headers = HeaderMap::new();
    headers.insert("x-a", format!("v{n:04}").parse().expect("a value"));
    let claims = json!({ "realm": { "role": format!("r{n:04}") } });
    let token = Token {
        principal: format!("issuer/{n:04}"),
        audiences: vec![format!("audience-{n:04}")],
        presenter: Some(format!("presenter-{n:04}")),
        claims: claims.as_object().expect("an object").clone(),
        ..Token::default()
    };
    let (method, path, host) = (format!("M{n:04}"), format!("/p/{n:04}/x"), format!("h{n:04}"));
    let request = Requested { method: &method, path: &path, host: &host, headers: &headers, token: Some(&token) };
    let passing = Passing::Request(&request);
    let asked = Asked::new(&connection, &passing);
    let mut count = 0;
    let found = index.lowest(&asked, |place| {
        count += 1;
        rules[place as usize].matches(Action::Allow, &connection, &passing)
    });
    (count, found)
}

#[test]
fn rules_are_found_by_every_attribute_without_asking_many() {
    for (name, one) in sorts() {
        let v6 = name.contains("IPv6");
        let rules: Vec<_> = (0..RULES).map(|n| rule([one(n)])).collect();
        let (count, found) = asked_of(&rules, v6);
        assert!(found == Some(RIGHT as u32) && count <= ASKED, "{name}: {count} asked, found {found:?}");
        let others: Vec<_> =
            rules.iter().enumerate().filter(|(n, _)| *n != RIGHT).map(|(_, rule)| rule.clone()).collect();
        let (count, found) = asked_of(&others, v6);
        assert!(found.is_none() && count <= ASKED, "{name}: {count} asked of others, found {found:?}");
    }
}

/// Every second attribute is shared by all rules: the other one must find them.
#[test]
fn rules_are_found_by_what_tells_them_apart() {
    let sorts: Vec<_> = sorts().into_iter().filter(|(name, _)| !name.contains("IPv6")).collect();
    for (shared, own) in sorts.iter().zip(sorts.iter().cycle().skip(1)) {
        let rules: Vec<_> = (0..RULES).map(|n| rule([shared.1(RIGHT), own.1(n)])).collect();
        let (count, found) = asked_of(&rules, false);
        assert!(found == Some(RIGHT as u32) && count <= ASKED, "{} and {}: {count} asked", shared.0, own.0);
        // Twenty-five of each value of the one, and of the other: only both tell.
        let rules: Vec<_> = (0..RULES).map(|n| rule([shared.1(RIGHT + n / 25), own.1(RIGHT + n % 25)])).collect();
        let (count, found) = asked_of(&rules, false);
        assert!(found == Some(0) && count <= ASKED, "{} with {}: {count} asked", shared.0, own.0);
    }
}

#[test]
fn hashes_differ_and_fill_their_low_bits() {
    let seed = hash::seed();
    assert_ne!(seed, hash::seed(), "nobody can foresee it");
    let texts = || (0..4096).map(|n| format!("/p/{n}"));
    type Made = Box<dyn Fn(u64) -> u64>;
    let ways: Vec<(&str, Made)> = vec![
        ("texts", Box::new(move |n| hash::text(seed, format!("/p/{n}").as_bytes()))),
        ("backwards", Box::new(move |n| hash::backwards(seed, format!("/p/{n}").as_bytes()))),
        ("numbers", Box::new(move |n| hash::number(seed, n))),
        ("texts after numbers", Box::new(move |n| hash::text(hash::number(seed, n), b"a"))),
        ("numbers after texts", Box::new(move |n| hash::number(hash::text(seed, format!("{n}").as_bytes()), 1))),
        ("whole", Box::new(move |n| hash::done(hash::text(seed, format!("/p/{n}").as_bytes()), As::Whole))),
    ];
    for (name, hash) in ways {
        let all: HashSet<u64> = (0..4096).map(&hash).collect();
        assert_eq!(all.len(), 4096, "{name}");
        // Tables take the low bits, or the seven highest: chance leaves 63 % of as many places taken.
        let low: HashSet<u64> = all.iter().map(|hash| hash % 4096).collect();
        let high: HashSet<u64> = all.iter().map(|hash| hash >> 57).collect();
        assert!(low.len() > 2300 && high.len() == 128, "{name}: {} and {}", low.len(), high.len());
    }
    let sorts = [As::Whole, As::Beginning, As::End, As::Present, As::Segment, As::Net];
    let of_one: HashSet<u64> = sorts.into_iter().map(|sort| hash::done(hash::text(seed, b"a"), sort)).collect();
    assert_eq!(of_one.len(), 6);
    // A text's hash is made of its beginning's.
    assert!(texts().all(|text| hash::text(hash::text(seed, b"/p"), &text.as_bytes()[2..]) == hash::text(seed, text.as_bytes())));
}

#[test]
fn networks_are_hashed_with_their_family_and_length() {
    let of_v4 = (0..=32).map(|length| keys::net(1, false, length, 0));
    let of_v6 = (0..=128).map(|length| keys::net(1, true, length, 0));
    assert_eq!(of_v4.chain(of_v6).collect::<HashSet<u64>>().len(), 33 + 129);
}

/// What all rules share is a key for those that do not have it, and rules without a key spoil nothing for the others.
#[test]
fn who_lacks_what_all_rules_ask_for_asks_none_of_them() {
    let namespaces = |n: usize| Match { namespaces: exact(format!("n{n:04}")), ..Match::default() };
    let shared: Vec<_> = (0..RULES).map(|_| rule([namespaces(0)])).collect();
    assert_eq!(asked_of(&shared, false), (0, None));
    let keyless = Match { not_namespaces: exact(format!("n{RIGHT:04}")), ..Match::default() };
    let mixed: Vec<_> =
        (0..RULES).map(|n| rule([if n % 3 == 0 { namespaces(n + RULES) } else { keyless.clone() }])).collect();
    assert_eq!(asked_of(&mixed, false), (RULES / 3 * 2, None));
}

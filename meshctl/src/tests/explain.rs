//! `meshctl explain`, `edges`, `identity`, `config connections` and `completion`.

use mesh_common::proto::nodemesh::{
    ConnectionInfo, ConsideredClause, ConsideredCondition, ConsideredMatch, ConsideredPolicy, ConsideredRule, EdgeInfo,
    Endpoint, Explanation, Flow, IdentityInfo, NearestRule,
};

use super::*;
use crate::flows::tests::{refused, request};

fn condition(field: &str, value: &str, actual: &str, holds: bool) -> ConsideredCondition {
    ConsideredCondition { field: field.into(), values: vec![value.into()], actual: actual.into(), holds }
}

fn considered() -> ConsideredPolicy {
    let m = |conditions: Vec<ConsideredCondition>| {
        let matched = conditions.iter().all(|condition| condition.holds);
        ConsideredMatch { matched, conditions }
    };
    let matches = vec![
        m(vec![condition("principals", "cluster.local/ns/shop/sa/cart", "", false)]),
        m(vec![condition("notIpBlocks", "10.0.0.0/8", "192.0.2.1", true), condition("ports", "81", "80", false)]),
    ];
    ConsideredPolicy {
        policy: "shop/web-from-cart".into(),
        action: "ALLOW".into(),
        scope: "workload".into(),
        decided: true,
        rules: vec![ConsideredRule {
            rule: 0,
            matched: false,
            clauses: vec![ConsideredClause { matched: false, matches }],
        }],
        ..Default::default()
    }
}

fn explanation() -> item::Kind {
    let summary = "Refused: no ALLOW rule matches.".into();
    item::Kind::Explanation(
        Explanation { flow: Some(refused()), policies: vec![considered()], summary, nearest: None }.into(),
    )
}

#[tokio::test]
async fn an_explanation_shows_every_condition() {
    let answer = |kind| match kind {
        query::Kind::Explain(query) if query.flow == 7 => Ok(vec![explanation()]),
        _ => Err(Status::internal("another question")),
    };
    let (outcome, text) = meshctl("meshctl explain 7", answer).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    let expected = "\
flow 7 on node node-a: shop/web (shop/web) -> shop/redis 10.1.0.9:80 by service shop/redis
DROPPED, DENY, inbound, tunnel, mutual_tls; configuration 41
Refused: no ALLOW rule matches.

shop/web-from-cart  ALLOW workload  decided: no rule matches
  rule 0 does not match
    no   principals [cluster.local/ns/shop/sa/cart]: the connection has nothing
    or
    yes  notIpBlocks [10.0.0.0/8]: the connection has 192.0.2.1
    no   ports [81]: the connection has 80
";
    assert_eq!(text, expected);
    let (_, text) = meshctl("meshctl explain 7 -o json", answer).await;
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["flow"]["id"], 7);
    assert_eq!(json["policies"][0]["rules"][0]["clauses"][0]["matches"][1]["conditions"][0]["holds"], true);
    let (_, text) = meshctl("meshctl explain 7 -o yaml", answer).await;
    assert_eq!(serde_yaml_ng::from_str::<serde_json::Value>(&text).unwrap(), json);
}

#[tokio::test]
async fn a_request_is_explained_with_what_would_have_permitted_it() {
    let answer = |kind| match kind {
        query::Kind::Explain(_) => Ok(vec![item::Kind::Explanation(
            Explanation {
                flow: Some(request()),
                policies: vec![considered()],
                summary: "Refused: no ALLOW rule matches.".into(),
                nearest: Some(NearestRule {
                    policy: "shop/web-from-cart".into(),
                    rule: 0,
                    missing: vec![
                        condition("methods", "GET", "POST", false),
                        condition("when[request.headers[x-team]].values", "blue", "", false),
                        condition("notPaths", "/api/*", "/api/orders", false),
                    ],
                }),
            }
            .into(),
        )]),
        _ => Err(Status::internal("another question")),
    };
    let (_, text) = meshctl("meshctl explain 7", answer).await;
    let request = "request POST /api/orders: answer 403; at redis, over HTTP/2, token of https://issuer.example/alice, \
                   flag UAEX, route shop/redis/0\n";
    assert!(text.contains(request), "{text}");
    let nearest = "Would be permitted by policy shop/web-from-cart rule 0 if: methods were GET (is POST); \
                   request.headers[x-team] were blue (there is none); paths were not /api/* (is /api/orders).\n";
    assert!(text.contains(nearest) && text.contains("the request has 192.0.2.1"), "{text}");
    let (_, text) = meshctl("meshctl explain 7 -o json", answer).await;
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["nearest"]["missing"][0]["actual"], "POST");
    assert_eq!(json["flow"]["http"]["status"], 403);
}

#[test]
fn what_makes_a_denial_stop_is_said_the_other_way_round() {
    let said = |missing| {
        let nearest = NearestRule { policy: "shop/deny".into(), rule: 2, missing };
        crate::explain::nearest_text(&nearest)
    };
    let two =
        ConsideredCondition { values: vec!["PUT".into(), "DELETE".into()], ..condition("methods", "", "PUT", true) };
    let expected = "Would not be denied by policy shop/deny rule 2 if: methods were not PUT and not DELETE (is PUT).";
    assert_eq!(said(vec![two]).unwrap(), expected);
    let expected = "Would not be denied by policy shop/deny rule 2 if: principals were a/b (there is none).";
    assert_eq!(said(vec![condition("notPrincipals", "a/b", "", true)]).unwrap(), expected);
    assert_eq!(said(Vec::new()), None);
}

#[tokio::test]
async fn a_check_of_a_request_asks_for_it_and_shows_no_secret() {
    let answer = |kind| match kind {
        query::Kind::Authz(query) if query.token == "ey.J.x" && query.method == "POST" => {
            assert_eq!((query.path.as_str(), query.headers[0].value.as_str()), ("/api?access_token=ey", "s3cr3t"));
            Ok(vec![item::Kind::Authz(AuthzAnswer {
                verdict: Verdict::Dropped.into(),
                reason: "JWT_EXPIRED".into(),
                message: "the token is over".into(),
                authoritative: true,
                rule: -1,
                ..Default::default()
            })])
        }
        other => Err(Status::internal(format!("another question: {other:?}"))),
    };
    let line = "meshctl authz check shop/a shop/b --port 80 --method POST --path /api?access_token=ey --jwt ey.J.x \
                --header authorization:s3cr3t";
    for (output, expected) in [
        ("-o table -v", "denied: shop/a -> shop/b port 80 POST /api with a token\n"),
        ("-o json", r#""request":{"headers":["authorization"],"host":"","method":"POST","path":"/api","token":true}"#),
        ("-o yaml", "token: true"),
    ] {
        let (outcome, text) = meshctl(&format!("{line} {output}"), answer).await;
        assert_eq!(outcome.unwrap(), Outcome::Found);
        assert!(text.contains(expected) && text.contains("the token is over"), "{text}");
        assert!(text.contains("Does the client renew it"), "{text}");
        assert!(!text.contains("ey.J") && !text.contains("s3cr3t") && !text.contains("access_token"), "{text}");
    }
}

#[tokio::test]
async fn what_depends_on_the_request_is_no_promise() {
    let answer = |_| {
        Ok(vec![item::Kind::Authz(AuthzAnswer {
            verdict: Verdict::Forwarded.into(),
            authoritative: true,
            depends_on_request: true,
            rule: -1,
            ..Default::default()
        })])
    };
    let (outcome, text) = meshctl("meshctl authz check shop/a shop/b --port 80", answer).await;
    assert_eq!(outcome.unwrap(), Outcome::Unsure);
    assert!(text.starts_with("permitted to connect: shop/a -> shop/b port 80\n"), "{text}");
}

#[tokio::test]
async fn the_newest_failure_between_two_is_found_without_its_id() {
    let at = |flow: Flow, id, seconds: i64| {
        let mut flow = Flow { id, ..flow };
        flow.end.get_or_insert_default().seconds = seconds;
        item::Kind::Flow(flow.into())
    };
    let without = |flow: Flow| Flow { policy: String::new(), ..flow };
    let served = |node: &'static str, kept: Vec<item::Kind>| {
        Served::of(node, move |kind| match kind {
            query::Kind::Flows(query) => {
                assert_eq!((query.from.as_str(), query.to.as_str()), ("shop/web", "redis"));
                let kept = kept.iter().filter(|_| query.verdict() == Verdict::Dropped);
                Ok(kept.cloned().collect())
            }
            query::Kind::Explain(query) => Ok(vec![item::Kind::Explanation(
                Explanation {
                    flow: Some(Flow { id: query.flow, ..refused() }),
                    summary: format!("by {node}"),
                    ..Default::default()
                }
                .into(),
            )]),
            _ => Err(Status::internal("another question")),
        })
    };
    let on = |node: &str, flow: Flow| Flow { node: node.into(), ..flow };
    // The client's node told last, and knows less.
    let a = served("a", vec![at(on("a", refused()), 4, 9), at(without(on("a", refused())), 5, 20)]);
    let b = served("b", vec![at(on("b", request()), 5, 20), at(on("b", refused()), 6, 20)]);
    let (outcome, text) = asked("meshctl explain --from shop/web --to redis", &[&a.socket(), &b.socket()]).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    assert!(text.starts_with("flow 5 on node b:") && text.contains("by b\n"), "{text}");
    let empty = served("a", Vec::new());
    let (outcome, _) = asked("meshctl explain --from shop/web --to redis", &[&empty.socket()]).await;
    let failure = outcome.unwrap_err();
    assert!(failure.exit_code() == 2 && failure.to_string().contains("nothing from shop/web to redis"), "{failure}");
    for wrong in ["meshctl explain", "meshctl explain 7 --to redis", "meshctl explain --to a/b/c"] {
        assert!(Arguments::try_parse_from(wrong.split(' ')).is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn an_id_that_nobody_or_several_know_is_a_wrong_question() {
    let (outcome, _) = meshctl("meshctl explain 7", |_| Ok(Vec::new())).await;
    let failure = outcome.unwrap_err();
    assert_eq!(failure.exit_code(), 2);
    assert!(failure.to_string().contains("no node has a record of flow 7"), "{failure}");
    let served = |node, answers: bool| Served::of(node, move |_| Ok(answers.then(explanation).into_iter().collect()));
    let (a, b, c) = (served("a", true), served("b", true), served("c", false));
    let (outcome, text) = asked("meshctl explain 7", &[&a.socket(), &b.socket(), &c.socket()]).await;
    let failure = outcome.unwrap_err();
    assert_eq!((failure.exit_code(), text.as_str()), (2, ""));
    assert!(failure.to_string().contains("(a, b): name one by --node"), "{failure}");
    let (outcome, _) = asked("meshctl explain 7", &[&b.socket(), &c.socket()]).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine, "only one node knows it");
}

#[tokio::test]
async fn check_is_explained_if_asked() {
    let answer = |_| {
        let policies = vec![considered()];
        let answer =
            AuthzAnswer { verdict: Verdict::Dropped.into(), authoritative: true, policies, ..Default::default() };
        Ok(vec![item::Kind::Authz(answer)])
    };
    let (_, text) = meshctl("meshctl authz check - shop/web --port 80", answer).await;
    assert!(!text.contains("principals"), "{text}");
    let (_, text) = meshctl("meshctl authz check - shop/web --port 80 --verbose", answer).await;
    assert!(text.contains("shop/web-from-cart  ALLOW workload  decided: no rule matches\n"), "{text}");
    let (_, text) = meshctl("meshctl authz check - shop/web --port 80 -o json", answer).await;
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["policies"][0]["policy"], "shop/web-from-cart");
}

#[tokio::test]
async fn edges_and_connections_name_both_ends() {
    let end = |pod: &str, address: &str| {
        Some(Endpoint { namespace: "shop".into(), pod: pod.into(), address: address.into(), ..Default::default() })
    };
    let answer = move |kind| {
        Ok(match kind {
            query::Kind::Edges(query) => {
                assert_eq!(query.namespace, "shop");
                vec![item::Kind::Edge(EdgeInfo {
                    source: end("cart", "10.1.0.7"),
                    destination: end("web", "10.1.0.9:80"),
                    connections: 5,
                    refused: 2,
                    open: 1,
                    ..Default::default()
                })]
            }
            query::Kind::Config(_) => {
                vec![item::Kind::Connection(ConnectionInfo { flow: Some(refused()), tunnel: "10.2.0.9:15008".into() })]
            }
            _ => return Err(Status::internal("another question")),
        })
    };
    let (_, text) = meshctl("meshctl edges -n shop", answer).await;
    assert!(text.contains("shop/cart  shop/web     10.1.0.9:80"), "{text}");
    let (_, text) = meshctl("meshctl edges -n shop -o json", answer).await;
    assert!(text.contains(r#""connections":5"#) && text.contains(r#""refused":2"#), "{text}");
    let (_, text) = meshctl("meshctl config connections -A", answer).await;
    assert!(text.contains("10.2.0.9:15008"), "{text}");
    let (_, text) = meshctl("meshctl config connections -o json", answer).await;
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["id"], &json["tunnel"]), (&7.into(), &"10.2.0.9:15008".into()));
}

#[tokio::test]
async fn a_redirected_pod_without_a_certificate_is_found() {
    let answer = |redirection: Redirection, state: &'static str| {
        move |_| {
            let certificate = Some(CertificateInfo { state: state.into(), ..Default::default() });
            Ok(vec![item::Kind::Identity(IdentityInfo {
                namespace: "shop".into(),
                pod: "web".into(),
                redirection: redirection.into(),
                certificate,
                ..Default::default()
            })])
        }
    };
    let (outcome, text) = meshctl("meshctl identity shop/web", answer(Redirection::Enabled, "valid")).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    assert!(text.contains("shop/web"), "{text}");
    let (outcome, _) = meshctl("meshctl identity", answer(Redirection::Enabled, "failed: no answer")).await;
    assert_eq!(outcome.unwrap(), Outcome::Found);
    let (outcome, _) = meshctl("meshctl identity", answer(Redirection::Disabled, "none: not in the mesh")).await;
    assert_eq!(outcome.unwrap(), Outcome::Fine);
    let (outcome, _) = meshctl("meshctl identity shop/other", |_| Ok(Vec::new())).await;
    assert_eq!(outcome.unwrap_err().exit_code(), 2);
}

#[test]
fn lists_take_all_namespaces_and_every_format() {
    for list in ["flows", "edges", "identity", "config workloads", "config certs", "config connections"] {
        for options in ["-n shop -o yaml", "-A -o json --node a", "--all-namespaces -o table"] {
            let line = format!("meshctl {list} {options}");
            assert!(Arguments::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        let line = format!("meshctl {list} -A -n shop");
        assert!(Arguments::try_parse_from(line.split(' ')).is_err(), "{line}");
    }
}

#[test]
fn completion_knows_the_verbs() {
    for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Arguments::command(), "meshctl", &mut script);
        let script = String::from_utf8(script).unwrap();
        assert!(script.contains("explain") && script.contains("connections"), "{shell}");
    }
}

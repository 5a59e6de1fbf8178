//! AUDIT and dry-run policies about requests refuse none, and say of each what they saw: in its record and in the
//! metrics. What is refused in earnest, a token's refusal too, is counted by its reason.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use mesh_tests::{Ask, Observation, Pod, World};

use crate::cast::{Cast, policy};

const PORT: u16 = 8080;
/// Where each agent serves its metrics.
const METRICS: &str = "127.0.0.1:15020";
/// Of which no key signs anything here.
const ISSUER: &str = "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
                      metadata: { name: tokens, namespace: shop }\n\
                      spec: { jwtRules: [{ issuer: 'https://issuer.example', jwks: '{\"keys\":[]}' }] }\n";

fn dry_run(yaml: &str) -> String {
    yaml.replace("namespace: shop }", "namespace: shop, annotations: { istio.io/dry-run: 'true' } }")
}

fn to(operation: &str) -> String {
    format!("[{{ to: [{{ operation: {{ {operation} }} }}] }}]")
}

/// A metric's lines, without those of other services.
fn counts(world: &World, server: &Pod, metric: &str) -> Result<Vec<String>> {
    let text = world.node(server.node).host.curl(&format!("http://{METRICS}/metrics"))?;
    let prefix = format!("{metric}{{");
    Ok(text.lines().filter(|line| line.starts_with(&prefix)).map(str::to_owned).collect())
}

/// What the lines with all these labels count together.
fn count(lines: &[String], labels: &[(&str, &str)]) -> u64 {
    let has = |line: &&String| labels.iter().all(|(label, value)| line.contains(&format!("{label}=\"{value}\"")));
    let values = lines.iter().filter(has).filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    values.sum()
}

#[test]
fn audit_and_dry_run_see_requests_and_refuse_none() -> Result<()> {
    let mut world = World::new("audit of requests")?;
    world.agent_options = ["--metrics", METRICS].map(str::to_owned).to_vec();
    let Cast { mut world, client, near, far } = Cast::in_world(world)?;
    world.mesh("shop")?;
    for server in [&near, &far] {
        server.http(PORT)?;
    }
    let all = ["near", "far"].map(|app| {
        [
            policy(&format!("audit-{app}"), app, "AUDIT", &to("methods: [POST], paths: ['/orders*']")),
            dry_run(&policy(&format!("deny-{app}"), app, "DENY", &to("paths: ['/admin*']"))),
            dry_run(&policy(&format!("allow-{app}"), app, "ALLOW", &to("methods: [GET, POST]"))),
        ]
        .join("---\n")
    });
    world.apply("idle", &all.join("---\n"))?;
    for server in [&near, &far] {
        let ask = |method: &str, path: &str| {
            let answers = client.ask_http(&Ask::at(server.at(PORT), &server.name).method(method).path(path))?;
            assert_eq!(answers.status(200), 1, "{method} {path} at {}: {answers:?}", server.name);
            anyhow::Ok(())
        };
        for path in ["/orders/1", "/orders/2?key=s3cret"] {
            ask("POST", path)?;
        }
        ask("GET", "/orders/3")?;
        ask("GET", "/admin/users")?;
        ask("PUT", "/carts")?;
        let name = |kind: &str| format!("shop/{kind}-{}", server.name);
        let seen = |kind: &str, rule: Option<i64>, observed_as: &str, would_refuse| Observation {
            policy: name(kind),
            rule,
            observed_as: observed_as.to_owned(),
            would_refuse,
        };
        let expected: [(&str, &str, Vec<Observation>); 3] = [
            ("two POSTs", "audit", vec![seen("audit", Some(0), "audited", false)]),
            ("/admin", "forwarded", vec![seen("deny", Some(0), "dry_run", true)]),
            ("PUT", "forwarded", vec![seen("allow", None, "dry_run", true)]),
        ];
        for (what, verdict, observations) in expected {
            let flow = world.flow(server.node, what, |flow| {
                flow.observations == observations && flow.destination.address == server.at(PORT).to_string()
            })?;
            assert_eq!((flow.verdict.as_str(), flow.reason.as_str(), flow.policy.as_str()), (verdict, "", ""));
            assert_eq!(flow.source.identity, client.identity(), "{flow:?}");
        }
        let told: Vec<_> = world.flows(server.node)?.into_iter().filter(|flow| !flow.observations.is_empty()).collect();
        let told = told.iter().filter(|flow| flow.destination.address == server.at(PORT).to_string()).count();
        assert_eq!(told, 4, "each is told once, and the GET of an order not at all");
        let lines = counts(&world, server, "mesh_policy_verdicts_total")?;
        let idle = |verdict: &str, kind: &str| {
            count(&lines, &[("verdict", verdict), ("policy", &name(kind)), ("dry_run", "true")])
        };
        assert_eq!((idle("AUDIT", "audit"), idle("DROPPED", "deny"), idle("DROPPED", "allow")), (2, 1, 1), "{lines:?}");
        assert_eq!(idle("FORWARDED", "allow") + idle("FORWARDED", "deny"), 0, "{lines:?}");
        assert!(counts(&world, server, "mesh_requests_refused_total")?.is_empty(), "nobody was refused");
    }
    Ok(())
}

#[test]
fn refused_requests_and_tokens_are_counted_by_reason() -> Result<()> {
    let mut world = World::new("refused requests are counted")?;
    world.agent_options = ["--metrics", METRICS].map(str::to_owned).to_vec();
    let Cast { mut world, client, near: _, far } = Cast::in_world(world)?;
    world.mesh("shop")?;
    far.http(PORT)?;
    let policies = [
        policy("admin", "far", "DENY", &to("paths: ['/admin*']")),
        policy("read", "far", "ALLOW", &to("methods: [GET]")),
        ISSUER.to_owned(),
    ];
    world.apply("policies", &policies.join("---\n"))?;
    let token = |header: &str, claims: &str| {
        let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part));
        format!("Bearer {header}.{claims}.{}", URL_SAFE_NO_PAD.encode("signature"))
    };
    let rs256 = r#"{"alg":"RS256"}"#;
    let of = |issuer: &str, expires: u64| format!(r#"{{"iss":"{issuer}","sub":"s","exp":{expires}}}"#);
    let issuer = "https://issuer.example";
    // Method, path, token; the answer and its code; how often.
    let asked = [
        ("GET", "/", None, 200, "", 1),
        ("POST", "/", None, 403, "POLICY_NO_ALLOW", 2),
        ("GET", "/admin", None, 403, "POLICY_DENY", 3),
        ("GET", "/", Some("Bearer rubbish".to_owned()), 401, "JWT_MALFORMED", 1),
        ("GET", "/", Some(token(r#"{"alg":"none"}"#, &of(issuer, 9_999_999_999))), 401, "JWT_ALGORITHM", 2),
        ("GET", "/", Some(token(rs256, &of("https://other.example", 9_999_999_999))), 401, "JWT_ISSUER", 1),
        ("GET", "/", Some(token(rs256, &of(issuer, 1))), 401, "JWT_EXPIRED", 4),
    ];
    let mut expected = BTreeMap::new();
    for (method, path, token, status, code, times) in &asked {
        let mut ask = Ask::at(far.at(PORT), "far").method(method).path(path).many(*times, 1);
        if let Some(token) = token {
            ask = ask.header("authorization", token);
        }
        let answers = client.ask_http(&ask)?;
        assert_eq!(answers.status(*status), *times, "{code}: {answers:?}");
        if !code.is_empty() {
            let first = answers.first.first().context("no answer")?;
            assert_eq!(first.headers.get("nodemesh-reason").map(String::as_str), Some(*code), "{first:?}");
            expected.insert(*code, u64::from(*times));
        }
    }
    let lines = counts(&world, &far, "mesh_requests_refused_total")?;
    let by_code = expected.keys().map(|code| (*code, count(&lines, &[("reason", code), ("reporter", "destination")])));
    assert_eq!(by_code.collect::<BTreeMap<_, _>>(), expected, "{lines:?}");
    assert_eq!(count(&lines, &[("policy", "shop/admin"), ("reason", "POLICY_DENY")]), 3, "{lines:?}");
    assert_eq!(count(&lines, &[]), expected.values().sum::<u64>(), "and nothing else was refused: {lines:?}");
    // The same refusals, in the one metric of all verdicts.
    let verdicts = counts(&world, &far, "mesh_policy_verdicts_total")?;
    for (code, times) in &expected {
        assert_eq!(
            count(&verdicts, &[("verdict", "DROPPED"), ("reason", code), ("dry_run", "false")]),
            *times,
            "{code}"
        );
    }
    Ok(())
}

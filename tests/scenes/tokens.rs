//! RequestAuthentication as users meet it: which tokens are taken, from where, what the application sees of them, and
//! what clients hear of those that are not; within a node and across nodes, over HTTP/1.1 and HTTP/2.

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    A, Answer, Ask, B, Patience, eventually,
    issuer::{TokenKey, key_set, now},
    refused,
};
use serde_json::{Value, json};

use crate::cast::Cast;

const PORT: u16 = 8080;
const ISSUER: &str = "https://issuer.example";

struct Asked {
    status: u16,
    reason: String,
    answer: Answer,
}

impl Asked {
    /// As the application got it.
    fn header(&self, name: &str) -> Option<&str> {
        self.answer.seen["headers"][name].as_str()
    }

    fn path(&self) -> Option<&str> {
        self.answer.seen["path"].as_str()
    }
}

fn claims(changes: Value) -> Value {
    let mut claims = json!({
        "iss": ISSUER, "sub": "alice", "aud": ["shop"], "exp": now() + 600,
        "team": "blue", "realm": { "role": "buyer" },
    });
    for (name, value) in changes.as_object().into_iter().flatten() {
        claims[name] = value.clone();
    }
    claims
}

fn rules(key: &TokenKey) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\n\
         metadata: {{ name: tokens, namespace: shop }}\nspec:\n  jwtRules:\n  \
         - issuer: {ISSUER}\n    audiences: [shop]\n    jwks: '{keys}'\n    \
         fromHeaders: [{{ name: x-token, prefix: 'Token ' }}, {{ name: authorization, prefix: 'Bearer ' }}]\n    \
         fromParams: [token]\n    fromCookies: [session]\n    outputPayloadToHeader: x-payload\n    \
         outputClaimToHeaders: [{{ header: x-team, claim: team }}, {{ header: x-role, claim: realm.role }}]\n  \
         - issuer: forwarding\n    jwks: '{keys}'\n    forwardOriginalToken: true\n    \
         fromHeaders: [{{ name: x-kept }}]\n    fromParams: [kept]\n",
        keys = key_set(&[key])
    )
}

#[test]
fn tokens_are_taken_or_refused_alike_everywhere() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("tokens")?;
    for server in [&near, &far] {
        server.http(PORT)?;
    }
    let (key, stranger) = (TokenKey::new("one")?, TokenKey::new("one")?);
    world.apply("tokens", &rules(&key))?;
    let token = |changes| key.token(&claims(changes));
    let good = token(json!({}))?;
    for server in [&near, &far] {
        eventually(format_args!("the rules hold at {}", server.name), Patience::LONG, || {
            let answers = client.ask_http(&Ask::at(server.at(PORT), "shop").header("authorization", "Bearer x"))?;
            Ok((answers.status(401) == 1).then_some(()))
        })?;
        for http2 in [false, true] {
            let ask = |path: &str, headers: &[(&str, String)]| -> Result<Asked> {
                let mut ask = Ask { http2, ..Ask::at(server.at(PORT), "shop").path(path) };
                for (name, value) in headers {
                    ask = ask.header(name, value);
                }
                let answers = client.ask_http(&ask)?;
                let answer = answers.first.first().with_context(|| format!("no answer: {answers:?}"))?.clone();
                let reason = answer.headers.get("nodemesh-reason").cloned().unwrap_or_default();
                Ok(Asked { status: answer.status, reason, answer })
            };
            let bearing = |token: &str| ask("/a?b=c", &[("authorization", format!("Bearer {token}"))]);
            let what = format!("{} over HTTP/{}", server.name, if http2 { "2" } else { "1.1" });

            // Who bears none is nobody, and says nothing in a token's name.
            let none = ask("/a", &[("x-team", "red".into()), ("x_role", "admin".into()), ("x-payload", "e30".into())])?;
            ensure!(none.status == 200, "{what}: {none:?}", none = none.reason);
            for name in ["x-team", "x_role", "x-role", "x-payload"] {
                ensure!(none.header(name).is_none(), "{what}: {name} was forged: {:?}", none.answer.seen);
            }
            // The same one from each place; nothing of it is left but what it says.
            let places: [(&str, &str, String); 5] = [
                ("/a?b=c", "authorization", format!("Bearer {good}")),
                ("/a?b=c", "authorization", format!("bEARER {good}")),
                ("/a?b=c", "x-token", format!("Token {good}")),
                (&format!("/a?token={good}&b=c"), "x-other", "1".into()),
                ("/a?b=c", "cookie", format!("a=1; session={good}; z=2")),
            ];
            for (path, name, value) in places {
                let found = ask(path, &[(name, value), ("x-team", "red".into())])?;
                ensure!(found.status == 200, "{what}: {name}: {}", found.reason);
                ensure!(found.path() == Some("/a?b=c"), "{what}: {name}: {:?}", found.path());
                ensure!(
                    found.header("x-team") == Some("blue") && found.header("x-role") == Some("buyer"),
                    "{what}: {name}"
                );
                let payload = found.header("x-payload").context("no payload")?;
                ensure!(good.split('.').nth(1) == Some(payload), "{what}: {name}: {payload}");
                ensure!(!found.answer.seen.to_string().contains(&good), "{what}: {name}: the token was passed on");
                let cookie = (name == "cookie").then_some("a=1; z=2");
                ensure!(found.header("cookie") == cookie, "{what}: {:?}", found.header("cookie"));
            }
            let kept = key.token(&json!({ "iss": "forwarding", "sub": "bob" }))?;
            let found = ask("/a", &[("x-kept", kept.clone())])?;
            ensure!(found.status == 200 && found.header("x-kept") == Some(&kept), "{what}: {}", found.reason);
            let found = ask(&format!("/a?kept={kept}"), &[])?;
            ensure!(
                found.status == 200 && found.path() == Some(&format!("/a?kept={kept}")),
                "{what}: {}",
                found.reason
            );

            for (token, reason) in [
                (token(json!({ "iss": "https://other.example" }))?, "JWT_ISSUER"),
                (token(json!({ "aud": "bank" }))?, "JWT_AUDIENCE"),
                (token(json!({ "aud": [] }))?, "JWT_AUDIENCE"),
                (token(json!({ "exp": now() - 120 }))?, "JWT_EXPIRED"),
                (token(json!({ "nbf": now() + 120 }))?, "JWT_NOT_YET_VALID"),
                (token(json!({ "iat": now() + 120 }))?, "JWT_NOT_YET_VALID"),
                (stranger.token(&claims(json!({})))?, "JWT_SIGNATURE"),
                (good[..good.len() - 2].to_owned(), "JWT_SIGNATURE"),
                (good.replace('.', "_"), "JWT_MALFORMED"),
            ] {
                let refused = bearing(&token)?;
                ensure!((refused.status, &*refused.reason) == (401, reason), "{what}: {reason}: {}", refused.reason);
                let challenge = refused.answer.headers.get("www-authenticate").map(String::as_str);
                ensure!(challenge == Some(r#"Bearer error="invalid_token""#), "{what}: {reason}: {challenge:?}");
                ensure!(refused.answer.seen["name"].is_null(), "{what}: {reason}: the application answered");
                let attack = format!("a token that is refused, {what}");
                refused::row("X17", &attack, "401 and a challenge", reason, "flow of the application's node");
            }
            // Clocks differ by a minute at most.
            for changes in [json!({ "exp": now() - 20 }), json!({ "nbf": now() + 20 }), json!({ "iat": now() + 20 })] {
                let found = bearing(&token(changes.clone())?)?;
                ensure!(found.status == 200, "{what}: {changes}: {}", found.reason);
            }
            let two = [("authorization", format!("Bearer {good}")), ("x-token", format!("Token {kept}"))];
            ensure!(ask("/a", &two)?.reason == "JWT_SEVERAL", "{what}: two tokens");
            refused::row("X17", &format!("two tokens at once, {what}"), "401", "JWT_SEVERAL", "the answer");
            if http2 {
                let call = [("content-type", "application/grpc".into()), ("authorization", "Bearer x".to_owned())];
                let refused = ask("/shop.Cart/Add", &call)?;
                let status = refused.answer.headers.get("grpc-status").map(String::as_str);
                ensure!((refused.status, status) == (200, Some("16")), "{what}: {status:?}");
                ensure!(refused.reason == "JWT_MALFORMED", "{what}: {}", refused.reason);
            }
        }
    }
    for node in [A, B] {
        world.flow(node, "refused for its time", |flow| flow.reason == "JWT_EXPIRED")?;
    }
    Ok(())
}

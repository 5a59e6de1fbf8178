//! Who may not ask for what: policies over requests, and tokens.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use mesh_tests::{Answers, Ask, Patience, Pod, eventually};
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData as _, SigningKey as _};
use serde_json::{Value, json};

use super::{Cause, nearest, object};
use crate::http_cast::{HttpCast, PORT};

const ISSUER: &str = "https://issuer.example";
const SECURITY: &str = "security.istio.io/v1";

/// Who signs tokens.
struct Issuer(KeyPair);

impl Issuer {
    fn new() -> Result<Self> {
        Ok(Self(KeyPair::generate_for(&PKCS_ED25519)?))
    }

    fn jwks(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.0.der_bytes());
        json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": x }] }).to_string()
    }

    /// Of the right issuer, audience and time, but for what `bend` changes.
    fn token(&self, algorithm: &str, bend: impl FnOnce(&mut Value)) -> Result<String> {
        let soon = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)? + Duration::from_secs(600);
        let mut claims = json!({ "iss": ISSUER, "sub": "alice", "aud": "shop", "exp": soon.as_secs() });
        bend(&mut claims);
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({ "alg": algorithm })), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes())?);
        Ok(format!("{signed}.{signature}"))
    }
}

fn to(pod: &Pod, path: &str) -> Ask {
    Ask::at(pod.at(PORT), "web").path(path)
}

fn bearing(ask: Ask, token: &str) -> Ask {
    ask.header("authorization", &format!("Bearer {token}"))
}

/// Both agents have the policies once this request is refused.
fn in_force(cast: &HttpCast, of: &Pod) -> Result<()> {
    eventually(format_args!("policies of {} hold", of.name), Patience::LONG, || {
        Ok((cast.client.ask_http(&to(of, "/nothing"))?.status(403) == 1).then_some(()))
    })
}

#[test]
fn what_a_request_has_too_little_or_too_much_of() -> Result<()> {
    let mut cast = HttpCast::meshed("explain policies", "web", "shop")?;
    let (client, far) = (cast.client.clone(), cast.v2.clone());
    let rules = "  action: ALLOW\n  rules:\n  \
         - to: [{ operation: { methods: [GET], paths: [/read] } }]\n  \
         - to: [{ operation: { paths: [/team] } }]\n    \
           when: [{ key: 'request.headers[x-team]', values: [blue] }, { key: 'request.headers[cookie]', values: ['*'] }]\n  \
         - to: [{ operation: { paths: [/host], hosts: [shop.example] } }]\n  \
         - to: [{ operation: { paths: [/mine] } }]\n    \
           from: [{ source: { principals: [cluster.local/ns/shop/sa/nobody] } }]\n  \
         - to: [{ operation: { paths: [/gone/*] } }]\n";
    let deny = "  action: DENY\n  rules:\n  \
         - to: [{ operation: { paths: ['/gone/*'], methods: [DELETE] } }]\n    \
           from: [{ source: { principals: [cluster.local/ns/shop/sa/client] } }]\n";
    let policies = [
        object(SECURITY, "AuthorizationPolicy", "reads", &far, rules),
        object(SECURITY, "AuthorizationPolicy", "keeps", &far, deny),
    ];
    cast.world.apply("policies", &policies.concat())?;
    in_force(&cast, &far)?;

    let between = ("shop/client", "shop/v2");
    let secret = "session=do-not-tell";
    let named = |ask: &Ask, path: &str, code: &str, said: &str| -> Result<Value> {
        let answers: Answers = client.ask_http(ask)?;
        let status = if code == "PATH_AMBIGUOUS" || code == "REQUEST_MALFORMED" { 400 } else { 403 };
        assert_eq!(answers.status(status), 1, "{path}: {answers:?}");
        let told = Cause { between, code, said, path }.is_named(&cast.world)?;
        assert!(!told.to_string().contains("do-not-tell"), "{told}");
        assert_eq!((&told["node"], &told["flow"]["http"]["status"]), (&"b".into(), &status.into()));
        Ok(told)
    };
    let lacks =
        |policy: &str, fields: &[&str]| (format!("shop/{policy}"), fields.iter().map(ToString::to_string).collect());
    let no_allow = "no ALLOW rule matches, first of them in policy shop/reads";
    let told = named(&to(&far, "/read").method("POST"), "/read", "POLICY_NO_ALLOW", no_allow)?;
    assert_eq!(nearest(&told), lacks("reads", &["methods"]));
    let text = "Would be permitted by policy shop/reads rule 0 if: methods were GET (is POST).";
    assert_eq!(told["nearest"]["text"], text);
    let told = named(&to(&far, "/elsewhere"), "/elsewhere", "POLICY_NO_ALLOW", no_allow)?;
    assert_eq!(nearest(&told), lacks("reads", &["paths"]));
    // By a method that no other rule is near to.
    let ask = to(&far, "/team").method("PUT").header("x-team", "red").header("cookie", secret);
    let told = named(&ask, "/team", "POLICY_NO_ALLOW", no_allow)?;
    assert_eq!(nearest(&told).1, ["when[request.headers[x-team]].values"]);
    assert_eq!(told["nearest"]["missing"][0]["actual"], "red");
    assert!(told.to_string().contains("(set)"), "{told}");
    let told = named(&to(&far, "/host").method("PUT"), "/host", "POLICY_NO_ALLOW", no_allow)?;
    assert_eq!(nearest(&told), lacks("reads", &["hosts"]));
    let told = named(&to(&far, "/mine").method("PUT"), "/mine", "POLICY_NO_ALLOW", no_allow)?;
    assert_eq!(nearest(&told), lacks("reads", &["principals"]));
    let told =
        named(&to(&far, "/gone/x").method("DELETE"), "/gone/x", "POLICY_DENY", "denied by policy shop/keeps, rule 0")?;
    assert_eq!(nearest(&told).0, "shop/keeps");
    assert!(told["nearest"]["text"].as_str().unwrap_or_default().starts_with("Would not be denied by"), "{told}");
    named(&to(&far, "/gone/%2500"), "/gone/%2500", "PATH_AMBIGUOUS", "zero byte")?;
    named(&to(&far, "/read%zz"), "/read%zz", "REQUEST_MALFORMED", "two hexadecimal digits")?;
    Ok(())
}

#[test]
fn tokens_that_are_wrong_and_tokens_that_are_missing() -> Result<()> {
    let mut cast = HttpCast::meshed("explain tokens", "web", "shop")?;
    let (client, near) = (cast.client.clone(), cast.v1.clone());
    let issuer = Issuer::new()?;
    let rule = format!("  jwtRules: [{{ issuer: '{ISSUER}', audiences: [shop], jwks: '{}' }}]\n", issuer.jwks());
    let rules = "  rules:\n  \
         - from: [{ source: { requestPrincipals: ['*'] } }]\n    to: [{ operation: { methods: [GET], paths: [/token] } }]\n  \
         - from: [{ source: { requestPrincipals: ['*'] } }]\n    to: [{ operation: { paths: [/admin] } }]\n    \
           when: [{ key: 'request.auth.claims[role]', values: [admin] }]\n";
    let objects = [
        object(SECURITY, "RequestAuthentication", "tokens", &near, &rule),
        object(SECURITY, "AuthorizationPolicy", "tokens", &near, rules),
    ];
    cast.world.apply("tokens", &objects.concat())?;
    in_force(&cast, &near)?;
    let right = issuer.token("EdDSA", |_| {})?;
    eventually("tokens are taken", Patience::LONG, || {
        Ok((client.ask_http(&bearing(to(&near, "/token"), &right))?.status(200) == 1).then_some(()))
    })?;

    let between = ("shop/client", "shop/v1");
    let named = |path: &str, token: Option<&str>, code: &str, said: &str| -> Result<Value> {
        let ask = to(&near, path).method(if path == "/admin" { "PUT" } else { "GET" });
        let answers = client.ask_http(&token.map_or(ask.clone(), |token| bearing(ask, token)))?;
        let status = if code.starts_with("JWT_") { 401 } else { 403 };
        assert_eq!(answers.status(status), 1, "{code}: {answers:?}");
        let told = Cause { between, code, said, path }.is_named(&cast.world)?;
        assert!(token.is_none_or(|token| !told.to_string().contains(token)), "{told}");
        Ok(told)
    };
    let told = named("/token", None, "POLICY_NO_ALLOW", "no ALLOW rule matches")?;
    assert_eq!(nearest(&told).1, ["requestPrincipals"]);
    let told = named("/admin", Some(&right), "POLICY_NO_ALLOW", "no ALLOW rule matches")?;
    assert_eq!(nearest(&told).1, ["when[request.auth.claims[role]].values"]);
    assert_eq!(told["flow"]["http"]["principal"], format!("{ISSUER}/alice"));
    for (number, (code, said, token)) in [
        ("JWT_EXPIRED", "the token is over", issuer.token("EdDSA", |claims| claims["exp"] = 1.into())?),
        ("JWT_ISSUER", "issuer is not accepted here", issuer.token("EdDSA", |claims| claims["iss"] = "x".into())?),
        ("JWT_AUDIENCE", "another audience", issuer.token("EdDSA", |claims| claims["aud"] = "other".into())?),
        ("JWT_SIGNATURE", "signature is wrong", Issuer::new()?.token("EdDSA", |_| {})?),
        ("JWT_ALGORITHM", "algorithm is not accepted", issuer.token("none", |_| {})?),
        ("JWT_MALFORMED", "malformed", "x.y.z".to_owned()),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/token/{number}");
        named(&path, Some(&token), code, said)?;
        // The same is foreseen, without a request.
        let check = ["authz", "check", "shop/client", "shop/v1", "--port", "8080", "--path", &path, "--jwt", &token];
        let foreseen = cast.world.ask_agent(near.node, &check)?;
        assert_eq!((&foreseen[0]["reason"], &foreseen[0]["permitted"]), (&code.into(), &false.into()));
        assert!(!foreseen[0].to_string().contains(&token), "{}", foreseen[0]);
    }
    let check = ["authz", "check", "shop/client", "shop/v1", "--port", "8080", "--path", "/token", "--jwt", &right];
    let foreseen = cast.world.ask_agent(near.node, &check)?;
    assert_eq!((&foreseen[0]["permitted"], &foreseen[0]["policy"]), (&true.into(), &"shop/tokens".into()));
    Ok(())
}

//! Rules, their keys, and what is remembered.

use mesh_common::model::{
    ClaimCondition, StringMatch,
    traffic::{ClaimHeader, TokenHeader},
};

use super::*;
use crate::telemetry::reason::*;

#[test]
fn audiences_and_rules_of_one_issuer() {
    let shop = TokenRule { audiences: vec!["till".into(), "shop".into()], ..rule() };
    let verdict = |rules: &[TokenRule], audience: Value| {
        read(&tokens(rules), &bearing(&KNOWN.token("EdDSA", &claiming("aud", audience))))
    };
    let only = std::slice::from_ref(&shop);
    assert_eq!(verdict(only, json!("shop")), alice());
    assert_eq!(verdict(only, json!(["x", "till"])), alice());
    for wrong in [json!("Shop"), json!("shop/"), json!(""), json!([]), json!(["sho", "p"])] {
        assert_eq!(verdict(only, wrong.clone()), Err(JWT_AUDIENCE), "{wrong}");
    }
    let without = json!({"iss": ISSUER, "sub": "alice"});
    assert_eq!(read(&tokens(only), &bearing(&KNOWN.token("EdDSA", &without))), Err(JWT_AUDIENCE));
    // One of them is enough; the one that came nearest says why.
    let other = TokenRule { keys: set(&STRANGER.jwks()), ..rule() };
    assert_eq!(verdict(&[other.clone(), shop.clone()], json!("shop")), alice());
    assert_eq!(verdict(&[other, shop.clone()], json!("x")), Err(JWT_SIGNATURE));
    let away = TokenRule { keys: None, ..rule() };
    assert_eq!(verdict(&[away.clone(), shop.clone()], json!("shop")), alice());
    assert_eq!(verdict(&[away, shop], json!("x")), Err(JWT_KEYS));
}

#[test]
fn without_keys_no_token_of_the_issuer_counts() {
    for keys in [None, Some("".into()), Some("{}".into()), Some(r#"{"keys":[]}"#.into()), set(&[json!({"kty": "x"})])] {
        let tokens = tokens(&[TokenRule { keys: keys.clone(), ..rule() }]);
        assert_eq!(read(&tokens, &bearing(&KNOWN.token("EdDSA", &claims()))), Err(JWT_KEYS), "{keys:?}");
        assert_eq!(read(&tokens, &request(&[])), Ok(None), "{keys:?}");
    }
    assert_eq!(read(&Tokens::unreadable(), &request(&[])), Err(JWT_KEYS));
    let none = tokens(&[]);
    assert!(none.is_empty() && !Tokens::unreadable().is_empty());
    assert_eq!(read(&none, &bearing("x")), Ok(None));
}

#[test]
fn kid_chooses_and_a_key_without_one_may_be_meant() {
    let mut keys = [STRANGER.jwks()[1].clone(), KNOWN.jwks()[1].clone()];
    keys[0]["kid"] = "old".into();
    keys[1]["kid"] = "new".into();
    let verdict = |keys: &[Value], header: Value| {
        let tokens = tokens(&[TokenRule { keys: set(keys), ..rule() }]);
        read(&tokens, &bearing(&KNOWN.token_of("ES256", &header.to_string(), &claims().to_string())))
    };
    assert_eq!(verdict(&keys, json!({"alg": "ES256", "kid": "new"})), alice());
    assert_eq!(verdict(&keys, json!({"alg": "ES256", "kid": "old"})), Err(JWT_SIGNATURE));
    assert_eq!(verdict(&keys, json!({"alg": "ES256", "kid": "newer"})), Err(JWT_KEY));
    assert_eq!(verdict(&keys, json!({"alg": "ES256"})), alice(), "each is tried");
    keys[0]["kid"] = "new".into();
    assert_eq!(verdict(&keys, json!({"alg": "ES256", "kid": "new"})), alice(), "two of one name");
    keys[1].as_object_mut().expect("a key").remove("kid");
    assert_eq!(verdict(&keys, json!({"alg": "ES256", "kid": "any"})), alice(), "a key without a name");
    // A key of RSA that is for one algorithm.
    let mut rsa = KNOWN.jwks()[0].clone();
    rsa["alg"] = "RS512".into();
    let tokens = tokens(&[TokenRule { keys: set(&[rsa]), ..rule() }]);
    assert_eq!(read(&tokens, &bearing(&KNOWN.token("RS512", &claims()))), alice());
    assert_eq!(read(&tokens, &bearing(&KNOWN.token("PS512", &claims()))), Err(JWT_KEY));
    assert_eq!(read(&tokens, &bearing(&KNOWN.token("RS256", &claims()))), Err(JWT_KEY));
}

#[test]
fn a_point_that_is_on_no_curve_verifies_nothing() {
    let mut key = KNOWN.jwks()[1].clone();
    key["y"] = key["x"].clone();
    let tokens = tokens(&[TokenRule { keys: set(&[key]), ..rule() }]);
    assert_eq!(read(&tokens, &bearing(&KNOWN.token("ES256", &claims()))), Err(JWT_SIGNATURE));
}

#[test]
fn a_known_token_is_known_until_it_is_over_and_in_its_places_only() {
    let here = TokenRule { from_headers: Vec::new(), ..rule() };
    let there = TokenRule { issuer: "other".into(), from_params: vec!["t".into()], ..rule() };
    let tokens = tokens(&[here, there]);
    let token = KNOWN.token("ES256", &claims());
    let first = tokens.read(&bearing(&token), at(NOW)).expect("good").expect("a token");
    let again = tokens.read(&bearing(&token), at(NOW + 659)).expect("good").expect("a token");
    assert!(Arc::ptr_eq(&first, &again), "it was verified again");
    assert_eq!(read_at(&tokens, &bearing(&token), NOW + 660), Err(JWT_EXPIRED));
    assert_eq!(read(&tokens, &asked(&format!("http://cart/?t={token}"), &[])), Err(JWT_ISSUER));
    // What is wrong is not remembered.
    let before = tokens.cache.size();
    assert_eq!(read(&tokens, &bearing(&STRANGER.token("ES256", &claims()))), Err(JWT_SIGNATURE));
    assert_eq!(tokens.cache.size(), before);
}

#[test]
fn what_is_remembered_has_a_bound() {
    let tokens = tokens(&[rule()]);
    let kept = KNOWN.token("EdDSA", &claims());
    let first = tokens.read(&bearing(&kept), at(NOW)).expect("good").expect("a token");
    for number in 0..1000 {
        let token = KNOWN.token("EdDSA", &claiming("number", number));
        assert_eq!(read(&tokens, &bearing(&token)), alice());
        if number % 100 == 0 {
            let again = tokens.read(&bearing(&kept), at(NOW)).expect("good").expect("a token");
            assert!(Arc::ptr_eq(&first, &again), "what is asked for stays");
        }
        assert!(tokens.cache.size() <= 512);
    }
}

#[test]
fn rules_that_no_agent_can_act_on_are_named() {
    let refused = |rule: TokenRule| Tokens::new(&[super::rule(), rule]).map(drop).expect_err("refused").field;
    let header = |name: &str| TokenHeader { name: name.into(), prefix: String::new() };
    assert_eq!(
        refused(TokenRule { from_headers: vec![header("a"), header("a b")], ..rule() }),
        "tokens[1].fromHeaders[1].name"
    );
    assert_eq!(refused(TokenRule { from_headers: vec![header("host")], ..rule() }), "tokens[1].fromHeaders[0].name");
    assert!(Tokens::new(&[TokenRule { from_headers: vec![header("forwarded")], ..rule() }]).is_ok(), "to read");
    for name in ["", "a b", "host", "connection", "x-forwarded-client-cert", "X-Forwarded_For", "forwarded"] {
        assert_eq!(refused(TokenRule { payload_header: Some(name.into()), ..rule() }), "tokens[1].payloadHeader");
        let claim_headers = vec![ClaimHeader { header: name.into(), claim: vec!["sub".into()] }];
        assert_eq!(refused(TokenRule { claim_headers, ..rule() }), "tokens[1].claimHeaders[0].header");
    }
    assert_eq!(Tokens::new(&vec![rule(); MAX_TOKEN_RULES + 1]).map(drop).expect_err("refused").field, "tokens");
    assert!(Tokens::new(&vec![TokenRule { keys: None, ..rule() }; MAX_TOKEN_RULES]).is_ok());
}

#[test]
fn what_a_rule_calls_a_list_is_one_for_policies() {
    let blocked = ClaimCondition {
        path: vec!["roles".into()],
        values: vec![StringMatch::Exact("blocked".into())],
        not_values: Vec::new(),
    };
    let of = |named: &[&str]| {
        let space_delimited = named.iter().map(|name| (*name).to_owned()).collect();
        let tokens = tokens(&[TokenRule { space_delimited, ..rule() }]);
        let parts = bearing(&KNOWN.token("EdDSA", &claiming("roles", "a blocked")));
        let verified = tokens.read(&parts, at(NOW)).expect("it is right").expect("there is one");
        blocked.holds(Some(&verified.token))
    };
    assert_eq!([of(&["roles"]), of(&["role"]), of(&[])], [true, false, false]);
}

//! Where tokens are, and what is left of a request.

use mesh_common::model::traffic::{ClaimHeader, TokenHeader};

use super::*;
use crate::telemetry::reason::*;

fn everywhere() -> TokenRule {
    let header = |name: &str, prefix: &str| TokenHeader { name: name.into(), prefix: prefix.into() };
    TokenRule {
        from_headers: vec![header("x-jwt", ""), header("authorization", "Bearer "), header("x-scheme", "JWT")],
        from_params: vec!["t".into(), "a b".into()],
        from_cookies: vec!["session".into()],
        ..rule()
    }
}

#[test]
fn a_token_is_found_however_its_place_is_spelled() {
    let (good, bad) = (KNOWN.token("EdDSA", &claims()), STRANGER.token("EdDSA", &claims()));
    let tokens = tokens(&[everywhere()]);
    for form in [
        "x-jwt: TOKEN",
        "authorization: Bearer TOKEN",
        "authorization: bearer TOKEN",
        "authorization: BEARER    TOKEN",
        "x-scheme: JWT TOKEN",
        "x-scheme: jwtTOKEN",
        "cookie: session=TOKEN",
        "cookie: a=b; session=TOKEN; c=d",
        "cookie: a=b;session =\"TOKEN\"",
        "?t=TOKEN",
        "?x=1&t=TOKEN&y",
        "?%74=TOKEN",
        "?a+b=TOKEN",
        "?a%20b=TOKEN",
    ] {
        for (token, expected) in [(&good, alice()), (&bad, Err(JWT_SIGNATURE))] {
            let form = form.replace("TOKEN", token);
            let parts = match form.split_once(": ") {
                Some((name, value)) => request(&[(name, value)]),
                None => asked(&format!("http://cart/a{form}"), &[]),
            };
            assert_eq!(read(&tokens, &parts), expected, "{form}");
        }
    }
    for headers in [
        &[("authorization", "Basic dXNlcjpwYXNz")][..],
        &[("authorization", "Bearer")],
        &[("cookie", "sessions=x; Session=y")],
        &[("x-jwts", "x")],
        &[],
    ] {
        assert_eq!(read(&tokens, &request(headers)), Ok(None), "{headers:?}");
    }
    for headers in [
        &[("x-jwt", "")][..],
        &[("authorization", "Basic Bearer x")],
        &[("authorization", "Bearer opaque")],
        &[("cookie", "session=")],
        &[("x-scheme", "a jwt b")],
    ] {
        assert_eq!(read(&tokens, &request(headers)), Err(JWT_MALFORMED), "{headers:?}");
    }
    for query in ["?t", "?t=", "?t=%ff", "?t=x%"] {
        assert_eq!(read(&tokens, &asked(&format!("http://cart/{query}"), &[])), Err(JWT_MALFORMED), "{query}");
    }
    let mut bytes = request(&[]);
    bytes.headers.insert("x-jwt", HeaderValue::from_bytes(b"\xff\xfe").expect("a value"));
    assert_eq!(read(&tokens, &bytes), Err(JWT_MALFORMED));
}

#[test]
fn without_a_place_it_is_looked_for_where_everybody_does() {
    let token = KNOWN.token("EdDSA", &claims());
    let usual = tokens(&[rule()]);
    assert_eq!(read(&usual, &bearing(&token)), alice());
    assert_eq!(read(&usual, &asked(&format!("http://cart/?access_token={token}"), &[])), alice());
    assert_eq!(read(&usual, &request(&[("x-jwt", &token)])), Ok(None));
    let elsewhere = tokens(&[TokenRule { from_params: vec!["t".into()], ..rule() }]);
    assert_eq!(read(&elsewhere, &bearing(&token)), Ok(None), "a place that is named takes the place of the usual ones");
}

#[test]
fn two_tokens_are_refused_and_one_in_two_places_is_one() {
    let (one, two) = (KNOWN.token("EdDSA", &claims()), KNOWN.token("EdDSA", &claiming("sub", "bob")));
    let tokens = tokens(&[everywhere()]);
    let bearer = |token: &str| format!("Bearer {token}");
    let session = |token: &str| format!("session={token}");
    let both = |first: &str, second: &str| {
        [
            request(&[("x-jwt", first), ("x-jwt", second)]),
            request(&[("x-jwt", first), ("authorization", &bearer(second))]),
            request(&[("authorization", &bearer(first)), ("authorization", &bearer(second))]),
            request(&[("x-jwt", first), ("cookie", &session(second))]),
            request(&[("cookie", &format!("{}; {}", session(first), session(second)))]),
            request(&[("cookie", &session(first)), ("cookie", &session(second))]),
            asked(&format!("http://cart/?t={first}&t={second}"), &[]),
            asked(&format!("http://cart/?t={first}&%74={second}"), &[]),
            asked(&format!("http://cart/?t={first}"), &[("x-jwt", second)]),
        ]
    };
    for (number, parts) in both(&one, &two).iter().enumerate() {
        assert_eq!(read(&tokens, parts), Err(JWT_SEVERAL), "{number}");
    }
    for (number, parts) in both(&one, &one).iter_mut().enumerate() {
        assert_eq!(read(&tokens, parts), alice(), "{number}");
        let verified = tokens.read(parts, at(NOW)).expect("good");
        tokens.apply(parts, verified.as_deref());
        assert_eq!((parts.headers.len(), parts.uri.query()), (0, None), "{number}: it is gone from both");
    }
    // Beside another scheme it is one.
    let parts = request(&[("authorization", "Basic x"), ("authorization", &bearer(&one))]);
    assert_eq!(read(&tokens, &parts), alice());
}

#[test]
fn a_place_belongs_to_the_rules_that_name_it() {
    let named = |name: &str| vec![TokenHeader { name: name.into(), prefix: String::new() }];
    let other = "https://other.example";
    let rules = [
        TokenRule { from_headers: named("x-one"), ..rule() },
        TokenRule { from_headers: named("x-two"), issuer: other.into(), ..rule() },
    ];
    let tokens = tokens(&rules);
    let (one, two) = (KNOWN.token("EdDSA", &claims()), KNOWN.token("EdDSA", &claiming("iss", other)));
    assert_eq!(read(&tokens, &request(&[("x-one", &one)])), alice());
    assert_eq!(read(&tokens, &request(&[("x-two", &two)])), Ok(Some(format!("{other}/alice"))));
    assert_eq!(read(&tokens, &request(&[("x-two", &one)])), Err(JWT_ISSUER));
    assert_eq!(read(&tokens, &request(&[("x-one", &two)])), Err(JWT_ISSUER));
    assert_eq!(read(&tokens, &request(&[("x-one", &one), ("x-two", &one)])), Err(JWT_ISSUER));
    assert_eq!(read(&tokens, &request(&[("x-one", &one), ("x-two", &two)])), Err(JWT_SEVERAL));
}

#[test]
fn the_application_sees_what_the_rule_says() {
    let claim = |header: &str, claim: &[&str]| ClaimHeader {
        header: header.into(),
        claim: claim.iter().map(|&name| name.into()).collect(),
    };
    let outputs = TokenRule {
        payload_header: Some("x-payload".into()),
        claim_headers: vec![
            claim("x-user", &["sub"]),
            claim("x-role", &["realm", "role"]),
            claim("x-level", &["level"]),
            claim("x-admin", &["admin"]),
            claim("x-list", &["list"]),
            claim("x-none", &["realm", "none"]),
            claim("x-bad", &["bad"]),
        ],
        ..everywhere()
    };
    let mut said = claiming("realm", json!({"role": "cook"}));
    said["level"] = 7.into();
    said["admin"] = false.into();
    said["list"] = json!(["a"]);
    said["bad"] = "a\r\nx-user: root".into();
    let token = KNOWN.token("EdDSA", &said);
    let payload = token.split('.').nth(1).expect("a payload").to_owned();
    let forged = ["x-payload", "x-user", "X_User", "x-role", "x-level", "x-admin", "x-list", "x-none", "x_bad"];
    for forward in [false, true] {
        let tokens = tokens(&[TokenRule { forward, ..outputs.clone() }]);
        for place in ["header", "query", "cookie"] {
            let uri = if place == "query" { format!("http://cart/a%2Fb?x=%20&t={token}&y") } else { "/a?x".into() };
            let mut parts = asked(&uri, &[("x-other", "stays"), ("cookie", "a=b")]);
            let value = |text: &str| HeaderValue::try_from(text).expect("a value");
            match place {
                "header" => drop(parts.headers.insert("authorization", value(&format!("Bearer {token}")))),
                "cookie" => drop(parts.headers.insert("cookie", value(&format!("a=b; session={token};c=d")))),
                _ => {}
            }
            for name in forged {
                parts.headers.append(name, value("root"));
            }
            let before = parts.clone();
            let verified = tokens.read(&parts, at(NOW)).expect("good");
            tokens.apply(&mut parts, verified.as_deref());
            let seen = |name: &str| parts.headers.get(name).map(|value| value.to_str().expect("text"));
            assert_eq!(seen("x-payload"), Some(payload.as_str()));
            assert_eq!([seen("x-user"), seen("x-role")], [Some("alice"), Some("cook")]);
            assert_eq!([seen("x-level"), seen("x-admin")], [Some("7"), Some("false")]);
            for name in ["x-list", "x-none", "x-bad", "x_bad", "x_user"] {
                assert_eq!(seen(name), None, "{name}");
            }
            assert_eq!(seen("x-other"), Some("stays"));
            let token_stays = format!("{parts:?}").contains(&token);
            assert_eq!(token_stays, forward, "{place}");
            match (place, forward) {
                (_, true) => {
                    assert_eq!((&parts.uri, seen("cookie")), (&before.uri, before.headers["cookie"].to_str().ok()))
                }
                ("query", false) => assert_eq!(parts.uri, "http://cart/a%2Fb?x=%20&y"),
                ("cookie", false) => assert_eq!(seen("cookie"), Some("a=b; c=d")),
                _ => assert_eq!((parts.uri.to_string().as_str(), seen("cookie")), ("/a?x", Some("a=b"))),
            }
        }
        // Nobody proved anything.
        let mut parts = request(&forged.map(|name| (name, "root")));
        parts.headers.insert("x-other", HeaderValue::from_static("stays"));
        tokens.apply(&mut parts, None);
        assert_eq!(parts.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-other"]);
    }
}

#[test]
fn a_refusal_says_no_secret() {
    let mut seen = std::collections::BTreeSet::new();
    let codes = ALL.iter().filter(|code| code.starts_with("JWT_"));
    for code in codes.clone() {
        let (status, headers, why) = Refused(code).answer();
        assert_eq!(status, 401);
        assert_eq!(headers["www-authenticate"], r#"Bearer error="invalid_token""#);
        assert_eq!(headers.len(), 1);
        assert!(seen.insert(why), "{code} says what another does");
    }
    assert_eq!(seen.len(), codes.count());
    let verified = tokens(&[rule()]).read(&bearing(&KNOWN.token("EdDSA", &claims())), at(NOW)).expect("good");
    let token = verified.expect("a token");
    assert!(!format!("{token:?}").contains(&KNOWN.token("EdDSA", &claims())), "the token in a log");
}

//! Tokens that an application would find, spelled so that a hasty reader would not.

use mesh_common::model::traffic::TokenHeader;

use super::*;
use crate::telemetry::reason::*;

/// A request's head, with its query or its headers.
fn written(form: &str) -> Parts {
    match form.split_once(": ") {
        Some((name, value)) => request(&[(name, value)]),
        None => asked(&format!("http://cart/a{form}"), &[]),
    }
}

#[test]
fn any_blank_follows_a_scheme_and_a_semicolon_parts_parameters() {
    let header = |name: &str, prefix: &str| TokenHeader { name: name.into(), prefix: prefix.into() };
    let usual = tokens(&[rule()]);
    let own = tokens(&[TokenRule { from_headers: vec![header("authorization", "Token of ")], ..rule() }]);
    let good = KNOWN.token("EdDSA", &claims());
    let bad = STRANGER.token("EdDSA", &claims());
    for (tokens, form) in [
        (&usual, "authorization: Bearer\tTOKEN"),
        (&usual, "authorization: bearer \t TOKEN"),
        (&usual, "authorization: Bearer\t\tTOKEN"),
        (&own, "authorization: token of\tTOKEN"),
        (&usual, "?a=1;access_token=TOKEN"),
        (&usual, "?access_token=TOKEN;a=1"),
        (&usual, "?a=1;b;access_token=TOKEN;c&d"),
        (&usual, "?access.token=TOKEN"),
        (&usual, "?+access%20token=TOKEN"),
    ] {
        for (token, expected) in [(&good, alice()), (&bad, Err(JWT_SIGNATURE))] {
            assert_eq!(read(tokens, &written(&form.replace("TOKEN", token))), expected, "{form}");
        }
    }
    for (form, expected) in [
        ("authorization: Bearer", Ok(None)),
        ("authorization: Bearerx", Ok(None)),
        ("authorization: Bearer\tx", Err(JWT_MALFORMED)),
        ("authorization: Basic Bearer\tx", Err(JWT_MALFORMED)),
        ("?a=1;access_token", Err(JWT_MALFORMED)),
        ("?a=access_token;b", Ok(None)),
    ] {
        assert_eq!(read(&usual, &written(form)), expected, "{form}");
    }
    let other = KNOWN.token("EdDSA", &claiming("sub", "bob"));
    let two = written(&format!("?access_token={good}&a=1;access_token={other}"));
    assert_eq!(read(&usual, &two), Err(JWT_SEVERAL));
}

#[test]
fn what_is_not_forwarded_goes_and_the_rest_stays_as_it_was() {
    let token = KNOWN.token("EdDSA", &claims());
    let tokens = tokens(&[TokenRule { forward: false, ..rule() }]);
    for (query, left) in [
        ("?a=1;access_token=TOKEN", Some("a=1")),
        ("?access_token=TOKEN;a=1&b", Some("a=1&b")),
        ("?a;b=2&access_token=TOKEN&c;d", Some("a;b=2&c;d")),
        ("?access_token=TOKEN;access_token=TOKEN", None),
    ] {
        let mut parts = written(&query.replace("TOKEN", &token));
        let verified = tokens.read(&parts, at(NOW)).expect("good");
        tokens.apply(&mut parts, verified.as_deref());
        assert_eq!(parts.uri.query(), left, "{query}");
    }
}

//! One token in the usual place.

use super::*;
use crate::telemetry::reason::*;

fn verdict(token: &str) -> Result<Option<String>, &'static str> {
    read(&tokens(&[rule()]), &bearing(token))
}

#[test]
fn every_accepted_algorithm_is_accepted_by_its_key() {
    for algorithm in ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"] {
        assert_eq!(verdict(&KNOWN.token(algorithm, &claims())), alice(), "{algorithm}");
        assert_eq!(verdict(&STRANGER.token(algorithm, &claims())), Err(JWT_SIGNATURE), "{algorithm} of another key");
        let token = KNOWN.token(algorithm, &claims());
        let (signed, _) = token.rsplit_once('.').expect("two dots");
        let forged = signed.replace(&b64(claims().to_string()), &b64(claiming("sub", "bob").to_string()));
        let (_, signature) = token.rsplit_once('.').expect("two dots");
        assert_eq!(verdict(&format!("{forged}.{signature}")), Err(JWT_SIGNATURE), "{algorithm}, claims changed");
    }
}

#[test]
fn an_algorithm_is_never_confused_with_another() {
    let body = claims().to_string();
    let header = |alg: &str| json!({ "alg": alg }).to_string();
    for (signer, says, code) in [
        // One key, another padding or hash.
        ("RS256", "PS256", JWT_SIGNATURE),
        ("PS256", "RS256", JWT_SIGNATURE),
        ("RS256", "RS384", JWT_SIGNATURE),
        ("PS512", "PS384", JWT_SIGNATURE),
        // Another kind of key, another curve.
        ("ES256", "RS256", JWT_SIGNATURE),
        ("RS256", "ES256", JWT_SIGNATURE),
        ("ES256", "ES384", JWT_SIGNATURE),
        ("ES384", "ES256", JWT_SIGNATURE),
        ("EdDSA", "ES256", JWT_SIGNATURE),
        ("ES256", "EdDSA", JWT_SIGNATURE),
        // What is not accepted.
        ("RS256", "none", JWT_ALGORITHM),
        ("RS256", "None", JWT_ALGORITHM),
        ("RS256", "NONE", JWT_ALGORITHM),
        ("RS256", "", JWT_ALGORITHM),
        ("RS256", "rs256", JWT_ALGORITHM),
        ("RS256", "RS256 ", JWT_ALGORITHM),
        ("RS256", "RS1", JWT_ALGORITHM),
        ("RS256", "HS256", JWT_ALGORITHM),
        ("RS256", "HS384", JWT_ALGORITHM),
        ("RS256", "HS512", JWT_ALGORITHM),
        ("ES256", "ES256K", JWT_ALGORITHM),
        ("ES256", "ES512", JWT_ALGORITHM),
        ("EdDSA", "Ed448", JWT_ALGORITHM),
        ("RS256", "RSA-OAEP", JWT_ALGORITHM),
    ] {
        assert_eq!(verdict(&KNOWN.token_of(signer, &header(says), &body)), Err(code), "{signer} that says {says:?}");
        let attack = format!("a request's token signed by {signer} that says {says:?}");
        crate::refused::row("X17", &attack, "401", code, "http/token/tests/signed.rs");
    }
}

#[test]
fn a_public_key_is_no_secret_of_hmac() {
    use aws_lc_rs::hmac;
    // The old attack: what everybody knows, as the secret.
    let key = KNOWN.rsa.public_key().as_ref();
    let jwk = KNOWN.jwks()[0].to_string();
    for secret in [key, jwk.as_bytes(), b"", b"secret"] {
        let signed = format!("{}.{}", b64(r#"{"alg":"HS256","kid":"rsa"}"#), b64(claims().to_string()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
        assert_eq!(verdict(&format!("{signed}.{}", b64(tag.as_ref()))), Err(JWT_ALGORITHM));
        // And when the set itself has the secret.
        let keys = set(&[json!({"kty": "oct", "k": b64(secret), "alg": "HS256"})]);
        let tokens = tokens(&[TokenRule { keys, ..rule() }]);
        assert_eq!(read(&tokens, &bearing(&format!("{signed}.{}", b64(tag.as_ref())))), Err(JWT_ALGORITHM));
    }
}

#[test]
fn a_signature_is_one_or_none() {
    for (algorithm, length) in [("RS256", 256), ("PS256", 256), ("ES256", 64), ("ES384", 96), ("EdDSA", 64)] {
        let token = KNOWN.token(algorithm, &claims());
        let (signed, signature) = token.rsplit_once('.').expect("two dots");
        let good = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
        assert_eq!(good.len(), length, "{algorithm}");
        let half = length / 2;
        let zero_r = [&vec![0; half], &good[half..]].concat();
        let zero_s = [&good[..half], &vec![0; half]].concat();
        let swapped = [&good[half..], &good[..half]].concat();
        let longer = [&good[..], &[0]].concat();
        let before = [&[0], &good[..]].concat();
        for (what, bytes) in [
            ("zero", vec![0; length]),
            ("ones", vec![0xff; length]),
            ("r is zero", zero_r),
            ("s is zero", zero_s),
            ("r and s swapped", swapped),
            ("a byte less", good[..length - 1].to_vec()),
            ("a byte more", longer),
            ("a zero before", before),
            ("half", good[..half].to_vec()),
            ("one byte", vec![0]),
            ("a bit changed", good.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 7)).collect()),
        ] {
            assert_eq!(verdict(&format!("{signed}.{}", b64(bytes))), Err(JWT_SIGNATURE), "{algorithm}: {what}");
        }
        assert_eq!(verdict(&format!("{signed}.")), Err(JWT_MALFORMED), "{algorithm}: empty");
        assert_eq!(verdict(signed), Err(JWT_MALFORMED), "{algorithm}: none");
    }
    // r and s that are the group's order, as if it were zero; and s that is above half of it is as good as the other.
    let order = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let order: Vec<u8> =
        (0..32).map(|at| u8::from_str_radix(&order[2 * at..2 * at + 2], 16).expect("hexadecimal")).collect();
    let signed = format!("{}.{}", b64(r#"{"alg":"ES256"}"#), b64(claims().to_string()));
    for bytes in [[&order[..], &order[..]].concat(), [&order[..], &[1; 32]].concat(), [&[1; 32], &order[..]].concat()] {
        assert_eq!(verdict(&format!("{signed}.{}", b64(bytes))), Err(JWT_SIGNATURE));
    }
    // ASN.1, as certificates have it (RFC 7518, 3.4, wants both numbers alone).
    let asn1 = [&[0x30, 68, 2, 32][..], &[1; 32], &[2, 32], &[1; 32]].concat();
    assert_eq!(verdict(&format!("{signed}.{}", b64(asn1))), Err(JWT_SIGNATURE));
}

#[test]
fn a_token_has_one_spelling() {
    let good = KNOWN.token("ES256", &claims());
    assert_eq!(verdict(&good), alice());
    let parts: Vec<_> = good.split('.').collect();
    let [header, payload, signature] = parts.as_slice() else { panic!("three parts") };
    // 64 bytes end in a sextet of which four bits mean nothing.
    let last = signature.chars().last().expect("a character");
    let bits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = bits.find(last).expect("of the alphabet");
    let other = &bits[at + 1..at + 2];
    let trailing = format!("{header}.{payload}.{}{other}", &signature[..signature.len() - 1]);
    let standard = {
        use base64::engine::general_purpose::STANDARD_NO_PAD;
        // A payload with characters that the alphabets differ in.
        let claims = claiming("name", "\u{3ff}\u{3ff}\u{3fe}").to_string();
        let signed = format!("{header}.{}", STANDARD_NO_PAD.encode(&claims));
        assert!(signed.contains(['+', '/']), "{signed}");
        format!("{signed}.{}", b64(KNOWN.sign("ES256", &signed)))
    };
    for (what, token) in [
        ("bits that mean nothing", trailing),
        ("padding", format!("{header}.{payload}.{signature}==")),
        ("padding within", format!("{header}==.{payload}.{signature}")),
        ("a space within", format!("{header}. {payload}.{signature}")),
        ("a tab", format!("{header}.{payload}\t.{signature}")),
        ("the other alphabet", standard),
        ("percent", format!("{header}.{payload}.{signature}%3D")),
        ("four parts", format!("{good}.AA")),
        ("five parts, as encrypted ones", format!("{header}.AA.AA.AA.{signature}")),
        ("two parts", format!("{header}.{payload}")),
        ("no header", format!(".{payload}.{signature}")),
        ("no payload", format!("{header}..{signature}")),
        ("dots", "..".to_owned()),
        ("a dot more", format!("{good}.")),
        ("a dot before", format!(".{good}")),
        ("truncated payload", format!("{header}.{}.{signature}", &payload[..payload.len() - 2])),
        ("JSON", r#"{"payload":"","signatures":[]}"#.to_owned()),
        ("no token", "abc".to_owned()),
        ("quoted", format!("\"{good}\"")),
    ] {
        assert_eq!(verdict(&token), Err(JWT_MALFORMED), "{what}");
    }
    for cut in 1..good.len() {
        assert!(verdict(&good[..cut]).is_err(), "{cut} bytes of it");
    }
}

#[test]
fn a_header_says_nothing_that_is_not_understood() {
    let body = claims().to_string();
    let key = STRANGER.jwks()[1].clone();
    for (header, expected) in [
        (json!({"alg": "ES256", "typ": "at+jwt", "cty": "x"}), alice()),
        (json!({"alg": "ES256", "crit": ["exp"], "exp": 1}), Err(JWT_MALFORMED)),
        (json!({"alg": "ES256", "crit": []}), Err(JWT_MALFORMED)),
        (json!({"alg": "ES256", "b64": false, "crit": ["b64"]}), Err(JWT_MALFORMED)),
        (json!({"alg": "ES256", "b64": false}), Err(JWT_MALFORMED)),
        (json!({"typ": "JWT"}), Err(JWT_MALFORMED)),
        (json!({"alg": null}), Err(JWT_MALFORMED)),
        (json!({"alg": ["ES256"]}), Err(JWT_MALFORMED)),
        (json!(["ES256"]), Err(JWT_MALFORMED)),
        (json!({"alg": "ES256", "kid": 7}), Err(JWT_MALFORMED)),
        (json!({"alg": "ES256", "kid": "P-256"}), alice()),
        (json!({"alg": "ES256", "kid": "p-256"}), Err(JWT_KEY)),
        (json!({"alg": "ES256", "kid": "P-384"}), Err(JWT_KEY)),
        (json!({"alg": "ES256", "kid": ""}), Err(JWT_KEY)),
        (json!({"alg": "ES256", "kid": "../../dev/null"}), Err(JWT_KEY)),
        (json!({"alg": "ES256", "kid": "x' OR '1'='1"}), Err(JWT_KEY)),
        (json!({"alg": "RS256", "kid": "P-256"}), Err(JWT_KEY)),
    ] {
        assert_eq!(verdict(&KNOWN.token_of("ES256", &header.to_string(), &body)), expected, "{header}");
    }
    // A key that the token brings along is nobody's.
    for header in [
        json!({"alg": "ES256", "jwk": key}),
        json!({"alg": "ES256", "jku": "https://stranger.example/jwks"}),
        json!({"alg": "ES256", "x5u": "https://stranger.example/x5u", "x5c": ["AA=="]}),
    ] {
        assert_eq!(verdict(&STRANGER.token_of("ES256", &header.to_string(), &body)), Err(JWT_SIGNATURE), "{header}");
        assert_eq!(verdict(&KNOWN.token_of("ES256", &header.to_string(), &body)), alice(), "{header}");
    }
    for header in [
        r#"{"alg":"none","alg":"ES256"}"#,
        r#"{"alg":"ES256","alg":"ES256"}"#,
        r#"{"alg":"ES256","\u0061lg":"none"}"#,
        r#"{"alg":"ES256"} x"#,
        r#"{"alg":"ES256""#,
        "",
        "null",
    ] {
        assert_eq!(verdict(&KNOWN.token_of("ES256", header, &body)), Err(JWT_MALFORMED), "{header}");
    }
}

#[test]
fn claims_have_one_meaning() {
    let header = r#"{"alg":"EdDSA"}"#;
    let with = |more: &str| format!(r#"{{"iss":"{ISSUER}","sub":"alice"{more}}}"#);
    for (payload, expected) in [
        (with(""), alice()),
        (with(r#","aud":["a","b"],"x":{"y":[1,{"z":null}]}"#), alice()),
        (with(r#","sub":"bob""#), Err(JWT_MALFORMED)),
        (with(r#","x":{"y":1,"y":2}"#), Err(JWT_MALFORMED)),
        (with(r#","aud":7"#), Err(JWT_MALFORMED)),
        (with(r#","aud":["a",7]"#), Err(JWT_MALFORMED)),
        (with("").replace(r#""alice""#, r#"["alice"]"#), Err(JWT_MALFORMED)),
        (with("").replace(ISSUER, "https://issuer.example/"), Err(JWT_ISSUER)),
        (with("").replace(ISSUER, "HTTPS://issuer.example"), Err(JWT_ISSUER)),
        (with("").replace(ISSUER, ""), Err(JWT_ISSUER)),
        (r#"{"sub":"alice"}"#.to_owned(), Err(JWT_ISSUER)),
        (format!(r#"{{"iss":["{ISSUER}"]}}"#), Err(JWT_MALFORMED)),
        // Nobody, whom `*` does not mean either.
        (format!(r#"{{"iss":"{ISSUER}"}}"#), Ok(Some(String::new()))),
        (format!(r#"{{"iss":"{ISSUER}","sub":""}}"#), Ok(Some(String::new()))),
        ("[]".to_owned(), Err(JWT_MALFORMED)),
        ("\"x\"".to_owned(), Err(JWT_MALFORMED)),
        (String::new(), Err(JWT_MALFORMED)),
        (with("") + " x", Err(JWT_MALFORMED)),
        ("{\"iss\":\"\u{0}\"}".to_owned(), Err(JWT_MALFORMED)),
    ] {
        assert_eq!(verdict(&KNOWN.token_of("EdDSA", header, &payload)), expected, "{payload}");
    }
    let long = |size: usize| verdict(&KNOWN.token("EdDSA", &claiming("x", "x".repeat(size))));
    assert_eq!(long(11_000), alice());
    assert_eq!(long(12_300), Err(JWT_MALFORMED), "more than 16 KiB");
}

#[test]
fn time_counts_with_a_minute_of_tolerance() {
    let at = |name: &str, value: Value| verdict(&KNOWN.token("EdDSA", &claiming(name, value)));
    for (name, value, expected) in [
        ("exp", json!(NOW), alice()),
        ("exp", json!(NOW - 59), alice()),
        ("exp", json!(NOW - 60), Err(JWT_EXPIRED)),
        ("exp", json!(0), Err(JWT_EXPIRED)),
        ("exp", json!(u64::MAX), alice()),
        ("exp", json!(NOW as f64 - 59.5), Err(JWT_EXPIRED)),
        ("exp", json!(NOW as f64 + 0.5), alice()),
        ("exp", json!(1e20), Err(JWT_MALFORMED)),
        ("exp", json!(1e300), Err(JWT_MALFORMED)),
        ("exp", json!(-1), Err(JWT_MALFORMED)),
        ("exp", json!(i64::MIN), Err(JWT_MALFORMED)),
        ("exp", json!(-0.5), Err(JWT_MALFORMED)),
        ("exp", json!((NOW + 600).to_string()), Err(JWT_MALFORMED)),
        ("exp", json!(null), Err(JWT_MALFORMED)),
        ("exp", json!(true), Err(JWT_MALFORMED)),
        ("exp", json!([NOW + 600]), Err(JWT_MALFORMED)),
        ("nbf", json!(NOW + 60), alice()),
        ("nbf", json!(NOW + 61), Err(JWT_NOT_YET_VALID)),
        ("nbf", json!(NOW as f64 + 60.5), Err(JWT_NOT_YET_VALID)),
        ("nbf", json!(u64::MAX), Err(JWT_NOT_YET_VALID)),
        ("nbf", json!("0"), Err(JWT_MALFORMED)),
        ("nbf", json!(-1), Err(JWT_MALFORMED)),
        ("iat", json!(NOW + 60), alice()),
        ("iat", json!(NOW + 61), Err(JWT_NOT_YET_VALID)),
        ("iat", json!("now"), Err(JWT_MALFORMED)),
    ] {
        assert_eq!(at(name, value.clone()), expected, "{name} {value}");
    }
    let mut lasting = claims();
    lasting.as_object_mut().expect("claims").remove("exp");
    assert_eq!(verdict(&KNOWN.token("EdDSA", &lasting)), alice(), "without exp, as in Istio");
    let digits = claims().to_string().replace(&(NOW + 600).to_string(), &"9".repeat(40));
    assert_eq!(verdict(&KNOWN.token_of("EdDSA", r#"{"alg":"EdDSA"}"#, &digits)), Err(JWT_MALFORMED), "40 digits");
}

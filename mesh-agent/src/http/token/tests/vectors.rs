//! What is known to have gone wrong in other verifiers, each once: paddings of RSA, signatures with another spelling,
//! and texts that two readers read in two ways.

use mesh_common::model::KeySet;

use super::*;
use crate::telemetry::reason::*;

fn verdict(token: &str) -> Result<Option<String>, &'static str> {
    read(&tokens(&[rule()]), &bearing(token))
}

/// RFC 7518, 3.3 and 3.5: one padding, one hash, a salt as long as it.
#[test]
fn rsa_has_one_padding() {
    let table: Vec<Vec<&str>> = include_str!("rsa.tsv")
        .lines()
        .filter(|line| !line.starts_with("##"))
        .map(|line| line.split('\t').collect())
        .collect();
    let key = |exponent: &str| {
        let row = table.iter().find(|row| row[0] == "n" && row[1] == exponent).expect("the key");
        json!({"kty": "RSA", "n": row[2], "e": row[3]})
    };
    let [usual, three] = ["65537", "3"].map(|exponent| tokens(&[TokenRule { keys: set(&[key(exponent)]), ..rule() }]));
    let (mut right, mut wrong) = (0, 0);
    for row in table.iter().filter(|row| row[0] != "n") {
        let [what, algorithm, signature, is_right] = row[..] else { panic!("{row:?}") };
        let (tokens, algorithm) = match algorithm.strip_suffix("-3") {
            Some(algorithm) => (&three, algorithm),
            None => (&usual, algorithm),
        };
        let header = b64(json!({ "alg": algorithm }).to_string());
        let payload = b64(format!(r#"{{"iss":"{ISSUER}","sub":"alice"}}"#));
        let found = read(tokens, &bearing(&format!("{header}.{payload}.{signature}")));
        match is_right {
            "ok" => {
                assert_eq!(found, alice(), "{algorithm}: {what}");
                right += 1;
            }
            _ => {
                assert_eq!(found, Err(JWT_SIGNATURE), "{algorithm}: {what}");
                wrong += 1;
            }
        }
    }
    assert_eq!((right, wrong), (2, 28));
}

/// RFC 8032, 5.1.7: S is below the group's order, or each signature has more than one form.
#[test]
fn a_signature_of_ed25519_has_one_form() {
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let token = KNOWN.token("EdDSA", &claims());
    let (signed, signature) = token.rsplit_once('.').expect("two dots");
    let good = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    let mut other = good.clone();
    let mut carry = 0;
    for (byte, order) in other[32..].iter_mut().zip(ORDER) {
        carry += u16::from(*byte) + u16::from(order);
        *byte = (carry & 0xff) as u8;
        carry >>= 8;
    }
    assert_eq!(carry, 0);
    let zero = [&good[..32], &[0; 32]].concat();
    let neutral = [&[1][..], &[0; 63]].concat();
    for (what, bytes) in [("S and the order", other), ("S is zero", zero), ("the neutral point", neutral)] {
        assert_eq!(verdict(&format!("{signed}.{}", b64(bytes))), Err(JWT_SIGNATURE), "{what}");
    }
    assert_eq!(verdict(&token), alice());
}

/// RFC 7518, 3.4: r and s, each as long as the curve's order and below it.
#[test]
fn numbers_of_ecdsa_are_within_the_order() {
    let order = |less: u8| {
        let text = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
        let pairs = (0..32).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hexadecimal"));
        let mut order: Vec<u8> = pairs.collect();
        order[31] -= less;
        order
    };
    let field: Vec<u8> = {
        let text = "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff";
        (0..32).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hexadecimal")).collect()
    };
    let (zero, one, ones) = (vec![0; 32], [&[0; 31][..], &[1]].concat(), vec![0xff; 32]);
    let signed = format!("{}.{}", b64(r#"{"alg":"ES256"}"#), b64(claims().to_string()));
    let numbers = [&zero, &one, &order(1), &order(0), &field, &ones];
    for r in numbers {
        for s in numbers {
            let signature = b64([&r[..], &s[..]].concat());
            assert_eq!(verdict(&format!("{signed}.{signature}")), Err(JWT_SIGNATURE), "{r:x?} {s:x?}");
        }
    }
    // Right, but in the forms of other formats: ASN.1 (RFC 3279), and with the sizes of another curve.
    let token = KNOWN.token("ES256", &claims());
    let (signed, good) = token.rsplit_once('.').expect("two dots");
    let good = URL_SAFE_NO_PAD.decode(good).expect("base64url");
    let number = |part: &[u8]| [&[2, 33, 0][..], part].concat();
    let asn1 = [&[0x30, 70][..], &number(&good[..32]), &number(&good[32..])].concat();
    let padded = [&[0; 16][..], &good[..32], &[0; 16], &good[32..]].concat();
    for (what, bytes) in [("ASN.1", asn1), ("padded to P-384", padded)] {
        assert_eq!(verdict(&format!("{signed}.{}", b64(bytes))), Err(JWT_SIGNATURE), "{what}");
    }
}

#[test]
fn keys_are_for_what_they_say_and_for_what_is_strong_enough() {
    let changed = |number: usize, changes: &[(&str, Value)]| {
        let mut key = KNOWN.jwks()[number].clone();
        for (name, value) in changes {
            key[*name] = value.clone();
        }
        key
    };
    let with = |keys: &[Value], algorithm: &str| {
        let tokens = tokens(&[TokenRule { keys: set(keys), ..rule() }]);
        read(&tokens, &bearing(&KNOWN.token(algorithm, &claims())))
    };
    for (number, algorithm) in [(0, "RS256"), (1, "ES256"), (2, "ES384"), (3, "EdDSA")] {
        for (changes, expected) in [
            (vec![], alice()),
            (vec![("use", json!("sig"))], alice()),
            (vec![("use", json!("enc"))], Err(JWT_KEYS)),
            (vec![("use", json!(""))], Err(JWT_KEYS)),
            (vec![("key_ops", json!(["verify"]))], alice()),
            (vec![("key_ops", json!(["sign", "verify"]))], alice()),
            (vec![("key_ops", json!(["sign"]))], Err(JWT_KEYS)),
            (vec![("key_ops", json!([]))], Err(JWT_KEYS)),
            (vec![("key_ops", json!("verify"))], Err(JWT_KEYS)),
            (vec![("alg", json!(algorithm))], alice()),
            (vec![("alg", json!("HS256"))], Err(JWT_KEYS)),
            (vec![("alg", json!("none"))], Err(JWT_KEYS)),
            (vec![("alg", json!("RSA-OAEP"))], Err(JWT_KEYS)),
            (vec![("kty", json!("oct"))], Err(JWT_KEYS)),
            (vec![("kty", json!(7))], Err(JWT_KEYS)),
        ] {
            assert_eq!(with(&[changed(number, &changes)], algorithm), expected, "{algorithm} {changes:?}");
        }
        // Another key of the set that is for something else does not stand in.
        let other = changed((number + 1) % 4, &[]);
        assert_eq!(with(&[changed(number, &[("use", json!("enc"))]), other], algorithm), Err(JWT_KEY), "{algorithm}");
    }
    for (changes, algorithm) in [
        ([("crv", json!("P-384"))], "ES256"),
        ([("crv", json!("secp256k1"))], "ES256"),
        ([("crv", json!("p-256"))], "ES256"),
        ([("y", json!(b64([0; 31])))], "ES256"),
    ] {
        assert_eq!(with(&[changed(1, &changes)], algorithm), Err(JWT_KEYS), "{changes:?}");
    }
    let nowhere = [("x", json!(b64([0; 32]))), ("y", json!(b64([0; 32])))];
    assert_eq!(with(&[changed(1, &nowhere)], "ES256"), Err(JWT_SIGNATURE), "no point");
    // Half of a modulus, and one that is no product of anything.
    let short = b64([0xff; 128]);
    assert_eq!(with(&[changed(0, &[("n", json!(short))])], "RS256"), Err(JWT_KEYS), "1024 bits");
    for e in ["AQ", "AA", "Ag", "AQAA"] {
        assert_eq!(with(&[changed(0, &[("e", json!(e))])], "RS256"), Err(JWT_KEYS), "exponent {e}");
    }
    // A set of which one member says two things is none.
    let twice = format!(r#"{{"keys":[{{"kty":"oct","kty":"RSA","n":"{}","e":"AQAB"}}]}}"#, b64([0xff; 256]));
    assert!(KeySet::read(&twice).is_err());
}

#[test]
fn texts_are_read_in_one_way_or_not_at_all() {
    let of = |header: &[u8], payload: &[u8]| {
        let signed = format!("{}.{}", b64(header), b64(payload));
        verdict(&format!("{signed}.{}", b64(KNOWN.sign("EdDSA", &signed))))
    };
    let header = br#"{"alg":"EdDSA"}"#;
    let payload = claims().to_string();
    let body = payload.as_bytes();
    let deep = format!(r#"{{"iss":"{ISSUER}","x":{}1{}}}"#, "[".repeat(1000), "]".repeat(1000));
    let escaped = format!(r#"{{"iss":"{ISSUER}","\u0069ss":"x"}}"#);
    let nested = KNOWN.token("EdDSA", &claims());
    for (what, header, payload) in [
        ("a byte order mark", &b"\xef\xbb\xbf{\"alg\":\"EdDSA\"}"[..], body),
        ("UTF-16", b"{\0\"\0a\0l\0g\0\"\0:\0\"\0E\0d\0D\0S\0A\0\"\0}\0", body),
        ("Latin-1", b"{\"alg\":\"EdDSA\",\"x\":\"\xe9\"}", body),
        ("half a surrogate", br#"{"alg":"EdDSA","x":"\ud800"}"#, body),
        ("a comment", b"{\"alg\":\"EdDSA\"/**/}", body),
        ("a comma more", b"{\"alg\":\"EdDSA\",}", body),
        ("quotes of one stroke", b"{'alg':'EdDSA'}", body),
        ("two objects", br#"{"alg":"EdDSA"}{"alg":"EdDSA"}"#, body),
        ("a list of objects", br#"[{"alg":"EdDSA"}]"#, body),
        ("no name", br#"{"":"EdDSA"}"#, body),
        ("a line within", b"{\"alg\":\"Ed\nDSA\"}", body),
        ("a payload of Latin-1", header, b"{\"iss\":\"https://issuer.example\",\"sub\":\"\xe9\"}"),
        ("a payload as deep as a stack", header, deep.as_bytes()),
        ("an issuer twice", header, escaped.as_bytes()),
        ("a token within", br#"{"alg":"EdDSA","cty":"JWT"}"#, nested.as_bytes()),
        ("NaN", header, br#"{"iss":"https://issuer.example","exp":NaN}"#),
        ("hexadecimal", header, br#"{"iss":"https://issuer.example","exp":0xffffffff}"#),
        ("a number with a zero before", header, br#"{"iss":"https://issuer.example","exp":09999999999}"#),
    ] {
        assert_eq!(of(header, payload), Err(JWT_MALFORMED), "{what}");
    }
    assert_eq!(of(b" {\t\"alg\"\r\n: \"EdDSA\" } ", body), alice(), "spaces mean nothing in JSON");
    assert_eq!(of(br#"{"\u0061lg":"Ed\u0044SA"}"#, body), alice(), "nor do escapes");
    assert_eq!(of(br#"{"alg":"EdDSA","typ":"JWE","enc":"A128GCM","zip":"DEF"}"#, body), alice());
    let sized = |size: usize| of(format!(r#"{{"alg":"EdDSA","x":"{}"}}"#, "x".repeat(size)).as_bytes(), body);
    assert_eq!(sized(8_000), alice());
    assert_eq!(sized(13_000), Err(JWT_MALFORMED), "a header of more than 16 KiB");
    for (number, expected) in [
        ("1e10", alice()),
        ("1.9E+9", alice()),
        ("1900000000.5", alice()),
        ("19e8", alice()),
        ("1e9", Err(JWT_EXPIRED)),
        ("-1e10", Err(JWT_MALFORMED)),
        ("1e16", Err(JWT_MALFORMED)),
        ("1e400", Err(JWT_MALFORMED)),
        ("18446744073709551616", Err(JWT_MALFORMED)),
        ("-0", Err(JWT_EXPIRED)),
        ("\"1e10\"", Err(JWT_MALFORMED)),
        ("{}", Err(JWT_MALFORMED)),
        ("[]", Err(JWT_MALFORMED)),
        ("false", Err(JWT_MALFORMED)),
    ] {
        let payload = format!(r#"{{"iss":"{ISSUER}","sub":"alice","exp":{number}}}"#);
        assert_eq!(of(header, payload.as_bytes()), expected, "exp {number}");
    }
}

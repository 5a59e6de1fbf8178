//! What is a token, whose, and until when; what the application sees of it.

mod places;
mod sets;
mod signed;
mod spelled;
mod vectors;

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
        RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
        RsaEncoding, RsaKeyPair,
    },
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Request, request::Parts};
use mesh_common::model::traffic::{Origin, TokenRule};
use serde_json::{Value, json};

use super::*;

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://issuer.example";

/// Who signs in tests.
struct Issuer {
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

static KNOWN: LazyLock<Issuer> = LazyLock::new(Issuer::new);
static STRANGER: LazyLock<Issuer> = LazyLock::new(Issuer::new);

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Issuer {
    fn new() -> Self {
        Self {
            rsa: RsaKeyPair::generate(KeySize::Rsa2048).expect("a key"),
            p256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"),
            p384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).expect("a key"),
            ed: Ed25519KeyPair::generate().expect("a key"),
        }
    }

    fn sign(&self, algorithm: &str, text: &str) -> Vec<u8> {
        let rsa = |encoding: &'static dyn RsaEncoding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(encoding, &SystemRandom::new(), text.as_bytes(), &mut signature).expect("a signature");
            signature
        };
        let ec = |key: &EcdsaKeyPair| {
            let signature = key.sign(&SystemRandom::new(), text.as_bytes()).expect("a signature");
            signature.as_ref().to_vec()
        };
        match algorithm {
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "PS384" => rsa(&RSA_PSS_SHA384),
            "PS512" => rsa(&RSA_PSS_SHA512),
            "ES256" => ec(&self.p256),
            "ES384" => ec(&self.p384),
            "EdDSA" => self.ed.sign(text.as_bytes()).as_ref().to_vec(),
            other => panic!("nobody signs by {other}"),
        }
    }

    /// The four keys, in the order of the fields.
    fn jwks(&self) -> [Value; 4] {
        let ec = |curve: &str, key: &EcdsaKeyPair| {
            let point = &key.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            json!({"kty": "EC", "crv": curve, "x": b64(x), "y": b64(y), "kid": curve})
        };
        let rsa = self.rsa.public_key();
        let n = rsa.modulus().big_endian_without_leading_zero().to_vec();
        let e = rsa.exponent().big_endian_without_leading_zero().to_vec();
        [
            json!({"kty": "RSA", "n": b64(n), "e": b64(e), "kid": "rsa"}),
            ec("P-256", &self.p256),
            ec("P-384", &self.p384),
            json!({"kty": "OKP", "crv": "Ed25519", "x": b64(self.ed.public_key().as_ref()), "kid": "ed"}),
        ]
    }

    /// Signs header and claims as they are.
    fn token_of(&self, by: &str, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", b64(header), b64(claims));
        let signature = b64(self.sign(by, &signed));
        format!("{signed}.{signature}")
    }

    fn token(&self, algorithm: &str, claims: &Value) -> String {
        self.token_of(algorithm, &json!({ "alg": algorithm }).to_string(), &claims.to_string())
    }
}

/// A rule, and a token that is right by it for some minutes.
pub fn right() -> (TokenRule, String) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock");
    (rule(), KNOWN.token("ES256", &claiming("exp", now.as_secs() + 600)))
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "alice", "aud": "shop", "exp": NOW + 600})
}

fn claiming(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = claims();
    claims[name] = value.into();
    claims
}

fn set(keys: &[Value]) -> Option<Arc<str>> {
    Some(json!({ "keys": keys }).to_string().into())
}

fn rule() -> TokenRule {
    TokenRule::new(
        Origin { object: "RequestAuthentication shop/cart".into(), field: "spec.jwtRules[0]".into() },
        ISSUER,
        set(&KNOWN.jwks()),
    )
}

fn tokens(rules: &[TokenRule]) -> Tokens {
    Tokens::new(rules).expect("rules")
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A request for `/`.
fn request(headers: &[(&str, &str)]) -> Parts {
    asked("http://cart/", headers)
}

fn asked(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let request = Request::builder().uri(uri);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.body(()).expect("a request").into_parts().0
}

fn bearing(token: &str) -> Parts {
    request(&[("authorization", &format!("Bearer {token}"))])
}

/// The principal, or why not.
fn read_at(tokens: &Tokens, parts: &Parts, now: u64) -> Result<Option<String>, &'static str> {
    let read = tokens.read(parts, at(now)).map_err(|Refused(code)| code)?;
    Ok(read.map(|verified| verified.token.principal.clone()))
}

fn read(tokens: &Tokens, parts: &Parts) -> Result<Option<String>, &'static str> {
    read_at(tokens, parts, NOW)
}

fn alice() -> Result<Option<String>, &'static str> {
    Ok(Some(format!("{ISSUER}/alice")))
}

//! The public keys of who issues tokens: a JWK Set (RFC 7517, 5). Of a set, only keys count that can verify a signature
//! by an algorithm that is accepted; the others are left out, as RFC 7517 says of keys that a reader does not
//! understand. A symmetric key is never one of ours: whoever can verify by it could also sign.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use super::read_strictly;

/// A JWK Set as text, bytes.
pub const MAX_KEY_SET: usize = 1 << 20;
/// Keys that count in one set. A token without `kid` may have to be tried with each of them.
pub const MAX_KEYS: usize = 32;
/// Of `kid`, bytes.
const MAX_KID: usize = 512;
/// Of RSA's modulus, bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySet {
    pub keys: Vec<PublicKey>,
    /// What was left out, and why, as in `keys[1]: a symmetric key`.
    pub left_out: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    pub id: Option<String>,
    /// `alg`: the one algorithm that the key is for. `None`: all that fit it.
    pub algorithm: Option<String>,
    pub material: KeyMaterial,
}

/// Numbers as they are in a JWK: big-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyMaterial {
    /// Of 2048 to 8192 bits.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// 32 bytes each.
    P256 { x: Vec<u8>, y: Vec<u8> },
    /// 48 bytes each.
    P384 { x: Vec<u8>, y: Vec<u8> },
    /// 32 bytes.
    Ed25519(Vec<u8>),
}

/// Why a set cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    #[error("has {0} bytes; {MAX_KEY_SET} is the most")]
    Size(usize),
    #[error("is no JSON: {0}")]
    Json(String),
    #[error("is no JWK Set: it has no list `keys`")]
    Form,
    #[error("has more than {MAX_KEYS} keys for signatures")]
    Many,
    #[error("has no key that can be used{}", said(.0))]
    Empty(Vec<String>),
}

fn said(left_out: &[String]) -> String {
    if left_out.is_empty() { String::new() } else { format!(": {}", left_out.join(", ")) }
}

impl KeySet {
    pub fn read(text: &str) -> Result<Self, KeySetError> {
        if text.len() > MAX_KEY_SET {
            return Err(KeySetError::Size(text.len()));
        }
        let set = read_strictly(text.as_bytes()).map_err(|error| KeySetError::Json(error.to_string()))?;
        let keys = set.get("keys").and_then(Value::as_array).ok_or(KeySetError::Form)?;
        let mut known = Self::default();
        for (number, key) in keys.iter().enumerate() {
            match PublicKey::read(key) {
                Ok(_) if known.keys.len() == MAX_KEYS => return Err(KeySetError::Many),
                Ok(key) => known.keys.push(key),
                // The sentence is for people: it need not have them all.
                Err(why) if known.left_out.len() < 8 => known.left_out.push(format!("keys[{number}]: {why}")),
                Err(_) => {}
            }
        }
        if known.keys.is_empty() { Err(KeySetError::Empty(known.left_out)) } else { Ok(known) }
    }

    /// The keys that count, with nothing beside what verifies a signature.
    pub fn written(&self) -> String {
        json!({ "keys": self.keys.iter().map(PublicKey::written).collect::<Vec<_>>() }).to_string()
    }
}

impl PublicKey {
    fn read(key: &Value) -> Result<Self, &'static str> {
        let key = key.as_object().ok_or("no object")?;
        let id = text(key, "kid")?.map(str::to_owned);
        if id.as_ref().is_some_and(|id| id.len() > MAX_KID) {
            return Err("a `kid` that is too long");
        }
        if text(key, "use")?.is_some_and(|purpose| purpose != "sig") {
            return Err("not for signatures");
        }
        if let Some(operations) = key.get("key_ops") {
            let operations = operations.as_array().ok_or("`key_ops` is no list")?;
            if !operations.iter().any(|operation| operation == "verify") {
                return Err("not for verifying");
            }
        }
        let material = KeyMaterial::read(key)?;
        let algorithm = text(key, "alg")?.map(str::to_owned);
        if algorithm.as_ref().is_some_and(|named| !material.algorithms().contains(&named.as_str())) {
            return Err("`alg` does not fit the key");
        }
        Ok(Self { id, algorithm, material })
    }

    /// Whether signatures by this algorithm (RFC 7518, 3.1) may be verified with this key.
    pub fn is_for(&self, algorithm: &str) -> bool {
        self.material.algorithms().contains(&algorithm) && self.algorithm.as_ref().is_none_or(|only| only == algorithm)
    }

    fn written(&self) -> Value {
        let text = |bytes: &[u8]| Value::from(URL_SAFE_NO_PAD.encode(bytes));
        let mut key = Map::new();
        let mut say = |name: &str, value: Value| drop(key.insert(name.to_owned(), value));
        match &self.material {
            KeyMaterial::Rsa { n, e } => {
                say("kty", "RSA".into());
                say("n", text(n));
                say("e", text(e));
            }
            KeyMaterial::P256 { x, y } | KeyMaterial::P384 { x, y } => {
                let is_p256 = matches!(self.material, KeyMaterial::P256 { .. });
                say("kty", "EC".into());
                say("crv", if is_p256 { "P-256" } else { "P-384" }.into());
                say("x", text(x));
                say("y", text(y));
            }
            KeyMaterial::Ed25519(x) => {
                say("kty", "OKP".into());
                say("crv", "Ed25519".into());
                say("x", text(x));
            }
        }
        if let Some(id) = &self.id {
            say("kid", id.as_str().into());
        }
        if let Some(algorithm) = &self.algorithm {
            say("alg", algorithm.as_str().into());
        }
        key.into()
    }
}

impl KeyMaterial {
    fn read(key: &Map<String, Value>) -> Result<Self, &'static str> {
        let curve = text(key, "crv")?;
        match (text(key, "kty")?.ok_or("no `kty`")?, curve) {
            ("RSA", _) => {
                let n = bytes(key, "n")?;
                let first = n.iter().position(|byte| *byte != 0).ok_or("`n` is 0")?;
                let n = n[first..].to_vec();
                let bits = n.len() * 8 - n[0].leading_zeros() as usize;
                match () {
                    () if bits < *RSA_BITS.start() => Err("an RSA key of less than 2048 bits"),
                    () if bits > *RSA_BITS.end() => Err("an RSA key of more than 8192 bits"),
                    () => Ok(Self::Rsa { n, e: exponent(bytes(key, "e")?)? }),
                }
            }
            ("EC", Some("P-256")) => Ok(Self::P256 { x: of(32, bytes(key, "x")?)?, y: of(32, bytes(key, "y")?)? }),
            ("EC", Some("P-384")) => Ok(Self::P384 { x: of(48, bytes(key, "x")?)?, y: of(48, bytes(key, "y")?)? }),
            ("OKP", Some("Ed25519")) => Ok(Self::Ed25519(of(32, bytes(key, "x")?)?)),
            ("oct", _) => Err("a symmetric key"),
            ("EC", Some("P-521")) => Err("a key for ES512, which is not accepted"),
            ("EC" | "OKP", _) => Err("a curve that is not accepted"),
            _ => Err("a kind of key that is not accepted"),
        }
    }

    /// Those that a key of this kind can verify; they share none with another kind's.
    pub fn algorithms(&self) -> &'static [&'static str] {
        match self {
            Self::Rsa { .. } => &["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
            Self::P256 { .. } => &["ES256"],
            Self::P384 { .. } => &["ES384"],
            Self::Ed25519(_) => &["EdDSA"],
        }
    }
}

fn text<'a>(key: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, &'static str> {
    key.get(name).map(|value| value.as_str().ok_or("a member that is no text")).transpose()
}

fn bytes(key: &Map<String, Value>, name: &str) -> Result<Vec<u8>, &'static str> {
    let text = text(key, name)?.ok_or("a number of the key is missing")?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| "a number of the key is no base64url")
}

fn of(length: usize, bytes: Vec<u8>) -> Result<Vec<u8>, &'static str> {
    if bytes.len() == length { Ok(bytes) } else { Err("a number of the key has another length than its curve's") }
}

/// Odd, from 3 to 33 bits: 1 would make every text its own signature.
fn exponent(e: Vec<u8>) -> Result<Vec<u8>, &'static str> {
    let e: Vec<u8> = e.into_iter().skip_while(|byte| *byte == 0).collect();
    let value = e.iter().try_fold(0_u64, |value, byte| (value < 1 << 33).then_some((value << 8) | u64::from(*byte)));
    match value {
        Some(value) if value >= 3 && value % 2 == 1 && value < 1 << 33 => Ok(e),
        _ => Err("an exponent that no RSA key has"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rsa(bytes: usize, first: u8, e: &str) -> Value {
        let mut n = vec![0xff; bytes];
        n[0] = first;
        json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode(n), "e": e})
    }

    fn with(mut key: Value, name: &str, value: impl Into<Value>) -> Value {
        key[name] = value.into();
        key
    }

    fn ec(curve: &str, bytes: usize) -> Value {
        let number = URL_SAFE_NO_PAD.encode(vec![7; bytes]);
        json!({"kty": "EC", "crv": curve, "x": number, "y": number, "kid": "one"})
    }

    fn read(keys: &[Value]) -> Result<KeySet, KeySetError> {
        KeySet::read(&json!({ "keys": keys }).to_string())
    }

    #[test]
    fn keys_that_cannot_verify_are_left_out_with_the_reason() {
        for (key, why) in [
            (json!("x"), "no object"),
            (json!({}), "no `kty`"),
            (json!({"kty": "oct", "k": "c2VjcmV0"}), "a symmetric key"),
            (json!({"kty": "lattice"}), "a kind of key that is not accepted"),
            (ec("P-521", 66), "a key for ES512, which is not accepted"),
            (ec("secp256k1", 32), "a curve that is not accepted"),
            (ec("P-256", 33), "a number of the key has another length than its curve's"),
            (ec("P-384", 32), "a number of the key has another length than its curve's"),
            (with(ec("P-256", 32), "x", "AA=="), "a number of the key is no base64url"),
            (with(ec("P-256", 32), "x", 7), "a member that is no text"),
            (with(ec("P-256", 32), "kid", 7), "a member that is no text"),
            (with(ec("P-256", 32), "kid", "k".repeat(513)), "a `kid` that is too long"),
            (with(ec("P-256", 32), "use", "enc"), "not for signatures"),
            (with(ec("P-256", 32), "key_ops", vec!["sign"]), "not for verifying"),
            (with(ec("P-256", 32), "alg", "ES384"), "`alg` does not fit the key"),
            (with(ec("P-256", 32), "alg", "HS256"), "`alg` does not fit the key"),
            (with(rsa(256, 0xff, "AQAB"), "alg", "ES256"), "`alg` does not fit the key"),
            (rsa(256, 0x7f, "AQAB"), "an RSA key of less than 2048 bits"),
            (rsa(257, 0, "AQAB"), ""),
            (rsa(128, 0xff, "AQAB"), "an RSA key of less than 2048 bits"),
            (rsa(1025, 0xff, "AQAB"), "an RSA key of more than 8192 bits"),
            (rsa(256, 0xff, "AQ"), "an exponent that no RSA key has"),
            (rsa(256, 0xff, "AQAA"), "an exponent that no RSA key has"),
            (rsa(256, 0xff, ""), "an exponent that no RSA key has"),
            (rsa(256, 0xff, "AQAAAAE"), ""),
            (rsa(256, 0xff, "AwAAAAAB"), "an exponent that no RSA key has"),
            (rsa(256, 0xff, "AQAAAAAAAAAAAQ"), "an exponent that no RSA key has"),
        ] {
            let expected = if why.is_empty() {
                assert_eq!(read(std::slice::from_ref(&key)).map(|set| set.keys.len()), Ok(1), "{key}");
                continue;
            } else {
                format!("keys[0]: {why}")
            };
            assert_eq!(read(std::slice::from_ref(&key)), Err(KeySetError::Empty(vec![expected.clone()])), "{key}");
            let set = read(&[key, ec("P-256", 32)]).expect("the other key counts");
            assert_eq!((set.keys.len(), set.left_out), (1, vec![expected]));
        }
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for (text, why) in [
            ("", "is no JSON"),
            ("{}", "no list `keys`"),
            ("[]", "no list `keys`"),
            (r#"{"keys": {}}"#, "no list `keys`"),
            (r#"{"keys": []}"#, "no key that can be used"),
            (r#"{"keys": [], "keys": []}"#, "twice"),
        ] {
            let refused = KeySet::read(text).expect_err(text).to_string();
            assert!(refused.contains(why), "{text}: {refused}");
        }
        assert_eq!(KeySet::read(&" ".repeat(MAX_KEY_SET + 1)), Err(KeySetError::Size(MAX_KEY_SET + 1)));
        assert_eq!(read(&vec![ec("P-256", 32); MAX_KEYS]).map(|set| set.keys.len()), Ok(MAX_KEYS));
        assert_eq!(read(&vec![ec("P-256", 32); MAX_KEYS + 1]), Err(KeySetError::Many));
    }

    #[test]
    fn an_algorithm_fits_keys_of_its_own_kind_only() {
        let keys = [
            rsa(256, 0xff, "AQAB"),
            with(rsa(512, 0xff, "AQAB"), "alg", "PS384"),
            with(ec("P-256", 32), "use", "sig"),
            with(ec("P-384", 48), "key_ops", vec!["verify"]),
            with(json!({"kty": "OKP", "crv": "Ed25519"}), "x", URL_SAFE_NO_PAD.encode([9; 32])),
        ];
        let set = read(&keys).expect("keys");
        let fit = |algorithm| set.keys.iter().map(|key| key.is_for(algorithm)).collect::<Vec<_>>();
        assert_eq!(fit("RS256"), [true, false, false, false, false]);
        assert_eq!(fit("PS384"), [true, true, false, false, false]);
        assert_eq!(fit("ES256"), [false, false, true, false, false]);
        assert_eq!(fit("ES384"), [false, false, false, true, false]);
        assert_eq!(fit("EdDSA"), [false, false, false, false, true]);
        for algorithm in ["none", "None", "HS256", "HS512", "ES512", "ES256K", "rs256", "", "RSA-OAEP"] {
            assert_eq!(fit(algorithm), [false; 5], "{algorithm}");
        }
        let again = KeySet::read(&set.written()).expect("as it was written");
        assert_eq!(again.keys, set.keys);
    }
}

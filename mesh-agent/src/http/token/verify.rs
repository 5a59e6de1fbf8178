//! Whether a token is right: its form (RFC 7515, RFC 7519), its time, its audience, its signature (RFC 7518). Nothing
//! of the token chooses how it is verified but `kid` and `alg`, and those only among what the issuer's own keys are
//! for.

use std::{fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderName, HeaderValue};
use jsonwebtoken::{Algorithm, DecodingKey, crypto};
use mesh_common::model::{
    KeyMaterial, KeySet, PublicKey, Token, read_strictly,
    traffic::{ClaimHeader, TokenRule},
};
use serde_json::{Map, Value};

use super::{MAX_TOKEN, Refused, Unreadable, Verified, output_name};
use crate::telemetry::reason;

/// By how much clocks may differ, seconds.
pub const SKEW: u64 = 60;
/// Doubles count whole seconds up to here.
const WHOLE: f64 = 9_007_199_254_740_992.0;

/// How far a rule got with a token that it does not accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Issuer,
    Audience,
    /// The rule has no keys.
    Keys,
    /// None of its keys is meant.
    Key,
    Signature,
}

impl Stage {
    pub fn refused(self) -> Refused {
        Refused(match self {
            Self::Issuer => reason::JWT_ISSUER,
            Self::Audience => reason::JWT_AUDIENCE,
            Self::Keys => reason::JWT_KEYS,
            Self::Key => reason::JWT_KEY,
            Self::Signature => reason::JWT_SIGNATURE,
        })
    }
}

#[derive(Debug)]
pub struct Rule {
    pub issuer: String,
    audiences: Vec<String>,
    keys: Vec<Key>,
    pub payload: Option<HeaderName>,
    pub claims: Vec<(HeaderName, Vec<String>)>,
    delimited: Vec<String>,
    pub forward: bool,
}

struct Key {
    public: PublicKey,
    decoding: DecodingKey,
}

impl Rule {
    pub fn new(number: usize, rule: &TokenRule) -> Result<Self, Unreadable> {
        let TokenRule { origin, issuer, audiences, keys, payload_header, claim_headers, .. } = rule;
        let keys = keys.as_deref().map(KeySet::read).transpose().unwrap_or_else(|why| {
            tracing::error!(rule = origin.object, field = origin.field, %why, "an issuer's tokens are all refused");
            None
        });
        let keys = keys.unwrap_or_default().keys.into_iter();
        let payload = payload_header.as_deref();
        let payload =
            payload.map(|name| output_name(name, || format!("tokens[{number}].payloadHeader"))).transpose()?;
        let claims = claim_headers.iter().enumerate().map(|(at, ClaimHeader { header, claim })| {
            let name = output_name(header, || format!("tokens[{number}].claimHeaders[{at}].header"))?;
            Ok((name, claim.clone()))
        });
        let claims = claims.collect::<Result<_, _>>()?;
        let (issuer, audiences, keys) = (issuer.clone(), audiences.clone(), keys.map(Key::new).collect());
        let (delimited, forward) = (rule.space_delimited.clone(), rule.forward);
        Ok(Self { issuer, audiences, keys, payload, claims, delimited, forward })
    }

    /// Headers whose content is this rule's alone.
    pub fn outputs(&self) -> impl Iterator<Item = &HeaderName> {
        self.payload.iter().chain(self.claims.iter().map(|(name, _)| name))
    }

    /// Of a token of this rule's issuer.
    pub fn accepts(&self, token: &Parsed<'_>) -> Result<(), Stage> {
        let is_ours = |audience: &String| self.audiences.contains(audience);
        if !self.audiences.is_empty() && !token.audiences.iter().any(is_ours) {
            return Err(Stage::Audience);
        }
        if self.keys.is_empty() {
            return Err(Stage::Keys);
        }
        let meant = self.keys.iter().filter(|Key { public, .. }| {
            let same = token.key.as_ref().zip(public.id.as_ref()).is_none_or(|(wanted, id)| wanted == id);
            same && public.is_for(token.algorithm.0)
        });
        let mut stage = Stage::Key;
        for Key { decoding, .. } in meant {
            if crypto::verify(token.signature, token.signed.as_bytes(), decoding, token.algorithm.1) == Ok(true) {
                return Ok(());
            }
            stage = Stage::Signature;
        }
        Err(stage)
    }
}

impl Key {
    fn new(public: PublicKey) -> Self {
        // RFC 5480, 2.2: a point that is not compressed.
        let point = |x: &[u8], y: &[u8]| DecodingKey::from_ec_der(&[&[4], x, y].concat());
        let decoding = match &public.material {
            KeyMaterial::Rsa { n, e } => DecodingKey::from_rsa_raw_components(n, e),
            KeyMaterial::P256 { x, y } | KeyMaterial::P384 { x, y } => point(x, y),
            KeyMaterial::Ed25519(x) => DecodingKey::from_ed_der(x),
        };
        Self { public, decoding }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.public.id).finish_non_exhaustive()
    }
}

/// The accepted ones; there is no other way to one.
fn algorithm(name: &str) -> Option<(&'static str, Algorithm)> {
    Some(match name {
        "RS256" => ("RS256", Algorithm::RS256),
        "RS384" => ("RS384", Algorithm::RS384),
        "RS512" => ("RS512", Algorithm::RS512),
        "PS256" => ("PS256", Algorithm::PS256),
        "PS384" => ("PS384", Algorithm::PS384),
        "PS512" => ("PS512", Algorithm::PS512),
        "ES256" => ("ES256", Algorithm::ES256),
        "ES384" => ("ES384", Algorithm::ES384),
        "EdDSA" => ("EdDSA", Algorithm::EdDSA),
        _ => return None,
    })
}

/// A token that has the form of one. Nothing in it is proven.
pub struct Parsed<'a> {
    algorithm: (&'static str, Algorithm),
    /// `kid`.
    key: Option<String>,
    /// What the signature is over.
    signed: &'a str,
    signature: &'a str,
    payload: HeaderValue,
    pub issuer: String,
    subject: Option<String>,
    audiences: Vec<String>,
    expires: Option<u64>,
    not_before: Option<u64>,
    issued: Option<u64>,
    claims: Map<String, Value>,
}

impl<'a> Parsed<'a> {
    pub fn read(token: &'a str) -> Result<Self, Refused> {
        const MALFORMED: Refused = Refused(reason::JWT_MALFORMED);
        if token.len() > MAX_TOKEN {
            return Err(MALFORMED);
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(MALFORMED)?;
        let (header, payload) = signed.split_once('.').ok_or(MALFORMED)?;
        // The decoder takes one form only: no padding, no bits that mean nothing, no other alphabet. A dot is of none.
        let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| MALFORMED);
        let object = |part: &str| match read_strictly(&bytes(part)?) {
            Ok(Value::Object(object)) => Ok(object),
            _ => Err(MALFORMED),
        };
        let header = object(header)?;
        let claims = object(payload)?;
        if header.contains_key("crit") || header.contains_key("b64") {
            return Err(MALFORMED);
        }
        let named = header.get("alg").and_then(Value::as_str).ok_or(MALFORMED)?;
        let algorithm = algorithm(named).ok_or(Refused(reason::JWT_ALGORITHM))?;
        if bytes(signature)?.is_empty() {
            return Err(MALFORMED);
        }
        let text = |of: &Map<String, Value>, name: &str| match of.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(MALFORMED),
        };
        let audiences = match claims.get("aud") {
            None => Vec::new(),
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(list)) => {
                let texts = list.iter().map(|audience| audience.as_str().map(str::to_owned));
                texts.collect::<Option<_>>().ok_or(MALFORMED)?
            }
            Some(_) => return Err(MALFORMED),
        };
        let time = |name: &str, whole: fn(f64) -> f64| match claims.get(name) {
            None => Ok(None),
            Some(value) => seconds(value, whole).map(Some).ok_or(MALFORMED),
        };
        Ok(Self {
            algorithm,
            key: text(&header, "kid")?,
            signed,
            signature,
            payload: HeaderValue::try_from(payload).map_err(|_| MALFORMED)?,
            issuer: text(&claims, "iss")?.ok_or(Refused(reason::JWT_ISSUER))?,
            subject: text(&claims, "sub")?,
            audiences,
            expires: time("exp", f64::floor)?,
            not_before: time("nbf", f64::ceil)?,
            issued: time("iat", f64::ceil)?,
            claims,
        })
    }

    pub fn in_time(&self, now: u64) -> Result<(), Refused> {
        is_over(self.expires, now)?;
        let later = now.saturating_add(SKEW);
        let tomorrow = self.not_before.is_some_and(|from| from > later) || self.issued.is_some_and(|at| at > later);
        if tomorrow { Err(Refused(reason::JWT_NOT_YET_VALID)) } else { Ok(()) }
    }

    /// To be called when a rule accepts it.
    pub fn verified(self, number: usize, rule: &Rule) -> Verified {
        let Self { issuer, subject, audiences, expires, claims, payload, .. } = self;
        // Without a subject there is nobody whom policies could name.
        let subject = subject.filter(|subject| !subject.is_empty() && !issuer.is_empty());
        let principal = subject.map(|subject| format!("{issuer}/{subject}")).unwrap_or_default();
        let presenter = claims.get("azp").and_then(Value::as_str).map(str::to_owned);
        let token = Token { principal, audiences, presenter, claims, delimited: rule.delimited.clone(), expires };
        Verified { token: Arc::new(token), payload, rule: number }
    }
}

/// NumericDate (RFC 7519, 2), made whole in the direction in which less is valid.
fn seconds(value: &Value, whole: fn(f64) -> f64) -> Option<u64> {
    let Value::Number(number) = value else { return None };
    number.as_u64().or_else(|| {
        let seconds = number.as_f64().filter(|seconds| (0.0..WHOLE).contains(seconds))?;
        Some(whole(seconds) as u64)
    })
}

pub fn is_over(expires: Option<u64>, now: u64) -> Result<(), Refused> {
    let over = expires.is_some_and(|expires| now >= expires.saturating_add(SKEW));
    if over { Err(Refused(reason::JWT_EXPIRED)) } else { Ok(()) }
}

/// A claim as a header says it: a text, a number or a truth value, as in Istio; of others there is no header.
pub fn claim(claims: &Map<String, Value>, path: &[String]) -> Option<HeaderValue> {
    let (first, rest) = path.split_first()?;
    let value = rest.iter().try_fold(claims.get(first)?, |value, name| value.get(name))?;
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(value) => value.to_string(),
        _ => return None,
    };
    HeaderValue::try_from(text).ok().filter(|value| !value.is_empty())
}

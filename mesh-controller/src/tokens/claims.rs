//! What a token says of itself, before anybody has looked at its signature. It may only lead to a refusal: the API is
//! not asked about what it would refuse anyway, and the caller hears which part is wrong.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::ReviewSettings;
use crate::refusal::{Reason, Refusal};

/// Bytes; an honest token has about 1,200.
const SIZE: usize = 16 << 10;
/// Clocks differ: what is over by more than this is over by every clock.
const SKEW: Duration = Duration::from_secs(60);
/// Signatures with a private key, which the API server's keys are.
const ALGORITHMS: [&str; 10] =
    ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA"];

/// What is read of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    pub expires: SystemTime,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
}

#[derive(Deserialize)]
struct Payload {
    sub: String,
    aud: Audiences,
    exp: u64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Kubernetes>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
struct Kubernetes {
    pod: Option<serde_json::Value>,
}

/// Reads a token.
///
/// # Errors
/// If it cannot be an agent's, whoever signed it.
pub fn read(token: &str, settings: &ReviewSettings, now: SystemTime) -> Result<Claims, Refusal> {
    let refused = |reason, why: &str| Err(Refusal::new(reason, why));
    let malformed = || Refusal::new(Reason::TokenMalformed, "it is no ServiceAccount token (a JSON web token)");
    if token.len() > SIZE {
        return Err(malformed());
    }
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(malformed());
    };
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| malformed());
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| malformed())?;
    if !ALGORITHMS.contains(&header.alg.as_str()) || decode(signature)?.is_empty() {
        return refused(Reason::TokenAlgorithm, "it is not signed with a private key of the API server");
    }
    let payload: Payload = serde_json::from_slice(&decode(payload)?).map_err(|_| malformed())?;
    if payload.sub != settings.subject() {
        let why = format!("it is not of ServiceAccount {}/{}", settings.namespace, settings.account);
        return Err(Refusal::new(Reason::TokenAccount, why));
    }
    let is_ours = |audience: &String| *audience == settings.audience;
    if !match &payload.aud {
        Audiences::One(audience) => is_ours(audience),
        Audiences::Many(audiences) => audiences.iter().any(is_ours),
    } {
        return Err(Refusal::new(Reason::TokenAudience, format!("it is not for the audience {}", settings.audience)));
    }
    let expires = UNIX_EPOCH.checked_add(Duration::from_secs(payload.exp)).ok_or_else(malformed)?;
    if expires + SKEW < now {
        return refused(Reason::TokenExpired, "it has expired");
    }
    if payload.kubernetes.is_none_or(|of| of.pod.is_none()) {
        return refused(Reason::TokenUnbound, "it is not bound to a pod");
    }
    Ok(Claims { expires })
}

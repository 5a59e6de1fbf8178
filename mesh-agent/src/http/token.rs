//! JSON Web Tokens of requests to a pod of this node (RFC 7519, 7515): which a request bears, whether it is right, and
//! what of it the application gets. No I/O: keys come with the configuration.
//!
//! As in Istio, but for what could let something pass:
//! - A request may bear one token. The same one in two places is one; two that differ are refused, wherever they are.
//! - A place belongs to the rules that name it: a token of another issuer there is refused.
//! - Of rules of one issuer, one must accept the token.
//! - `exp`, `nbf` and `iat` count with 60 seconds of tolerance. A token without `exp` is accepted, as Istio does.
//! - Every refusal is 401, for the audience too.
//! - `crit` and `b64` (RFC 7515, 4.1.11; RFC 7797) are not understood, so a token that has them is refused. `jwk`,
//!   `jku`, `x5c` and `x5u` are not looked at: keys are those of the configuration.
//! - `kid` chooses among an issuer's keys; a key without one may be meant by any.

mod cache;
mod places;
#[cfg(test)]
pub mod tests;
mod verify;

use std::{sync::Arc, time::SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts};
use mesh_common::model::{
    Token,
    traffic::{MAX_TOKEN_RULES, TokenRule, is_read_as, output_header, token_header},
};

use crate::telemetry::reason;
use cache::Cache;
use places::Places;
pub use verify::SKEW;
use verify::{Parsed, Rule};

/// Of a token, bytes.
pub const MAX_TOKEN: usize = 16 * 1024;

/// The rules of one pod, and the tokens that were right by them.
#[derive(Debug)]
pub struct Tokens {
    rules: Vec<Rule>,
    places: Places,
    cache: Cache,
    /// The rules could not be read: nobody knows what is a token.
    unreadable: bool,
}

/// A token that is right.
#[derive(Clone, Debug)]
pub struct Verified {
    pub token: Arc<Token>,
    /// As it was signed, base64url.
    payload: HeaderValue,
    /// That accepted it.
    rule: usize,
}

/// Why a request is refused: a code of [`reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub &'static str);

/// A rule that no agent can act on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct Unreadable {
    /// As in `tokens[2].payloadHeader`.
    pub field: String,
    pub why: String,
}

impl Tokens {
    /// Keys that cannot be read are no keys: tokens of that issuer are refused with [`reason::JWT_KEYS`].
    pub fn new(rules: &[TokenRule]) -> Result<Self, Unreadable> {
        if rules.len() > MAX_TOKEN_RULES {
            let why = format!("{} rules; {MAX_TOKEN_RULES} is the most", rules.len());
            return Err(Unreadable { field: "tokens".into(), why });
        }
        let places = Places::new(rules)?;
        let rules = rules.iter().enumerate().map(|(number, rule)| Rule::new(number, rule));
        Ok(Self { rules: rules.collect::<Result<_, _>>()?, places, cache: Cache::default(), unreadable: false })
    }

    /// In the place of rules that [`Self::new`] does not read: every request is refused.
    pub fn unreadable() -> Self {
        Self { rules: Vec::new(), places: Places::default(), cache: Cache::default(), unreadable: true }
    }

    /// Nobody looks for tokens, and there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && !self.unreadable
    }

    /// Where some rule looks for tokens.
    pub fn headers(&self) -> impl Iterator<Item = &HeaderName> {
        self.places.headers()
    }

    /// The token that a request bears, if it is right; `None` if it bears none.
    pub fn read(&self, parts: &Parts, now: SystemTime) -> Result<Option<Arc<Verified>>, Refused> {
        if self.unreadable {
            return Err(Refused(reason::JWT_KEYS));
        }
        let Some(found) = self.places.find(parts)? else { return Ok(None) };
        // Before 1970 every token is one of tomorrow.
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if let Some(known) = self.cache.of(&found.text)
            && found.rules & (1 << known.rule) != 0
        {
            verify::is_over(known.token.expires, now)?;
            return Ok(Some(known));
        }
        let parsed = Parsed::read(&found.text)?;
        let issued = self.rules.iter().enumerate();
        let issued = issued.filter(|(number, rule)| found.rules & (1 << number) != 0 && rule.issuer == parsed.issuer);
        parsed.in_time(now)?;
        let mut refused = verify::Stage::Issuer;
        for (number, rule) in issued {
            match rule.accepts(&parsed) {
                Ok(()) => {
                    let verified = Arc::new(parsed.verified(number, rule));
                    self.cache.keep(&found.text, &verified);
                    return Ok(Some(verified));
                }
                // The rule that came nearest says why.
                Err(stage) => refused = refused.max(stage),
            }
        }
        Err(refused.refused())
    }

    /// Makes of a request what the application may see, and what policies are to be asked about: what a client put
    /// where the token's content belongs goes, always; what the token says is put there; the token goes if its rule
    /// says so.
    pub fn apply(&self, parts: &mut Parts, verified: Option<&Verified>) {
        let outputs = || self.rules.iter().flat_map(Rule::outputs);
        let forged = parts.headers.keys().filter(|name| outputs().any(|output| is_read_as(name, output.as_str())));
        let forged: Vec<HeaderName> = forged.cloned().collect();
        let rule = verified.and_then(|verified| self.rules.get(verified.rule).map(|rule| (verified, rule)));
        if rule.is_some_and(|(_, rule)| !rule.forward) {
            self.places.strip(parts);
        }
        forged.iter().for_each(|name| drop(parts.headers.remove(name)));
        if let Some((Verified { token, payload, rule: _ }, rule)) = rule {
            if let Some(name) = &rule.payload {
                parts.headers.insert(name.clone(), payload.clone());
            }
            let values = rule.claims.iter().map(|(name, path)| (name, verify::claim(&token.claims, path)));
            for (name, value) in values.filter_map(|(name, value)| Some((name, value?))) {
                parts.headers.insert(name.clone(), value);
            }
        }
    }
}

fn header_name(name: &str, field: impl FnOnce() -> String) -> Result<HeaderName, Unreadable> {
    token_header(name).map_err(|why| Unreadable { field: field(), why })
}

fn output_name(name: &str, field: impl FnOnce() -> String) -> Result<HeaderName, Unreadable> {
    output_header(name).map_err(|why| Unreadable { field: field(), why })
}

impl Refused {
    /// The answer's status, the headers that belong to it (RFC 6750, 3), and a sentence for its body. None of it says
    /// anything of the token.
    pub fn answer(self) -> (StatusCode, HeaderMap, &'static str) {
        let mut headers = HeaderMap::new();
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(r#"Bearer error="invalid_token""#));
        let why = match self.0 {
            reason::JWT_MALFORMED => "the token is malformed",
            reason::JWT_SEVERAL => "there is more than one token",
            reason::JWT_ALGORITHM => "the token's algorithm is not accepted",
            reason::JWT_ISSUER => "the token's issuer is not accepted here",
            reason::JWT_AUDIENCE => "the token is for another audience",
            reason::JWT_EXPIRED => "the token is over",
            reason::JWT_NOT_YET_VALID => "the token is not valid yet",
            reason::JWT_KEYS => "the token cannot be verified at the moment",
            reason::JWT_KEY => "the token's key is not known",
            _ => "the token's signature is wrong",
        };
        (StatusCode::UNAUTHORIZED, headers, why)
    }
}

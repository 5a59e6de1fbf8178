//! What a JSON Web Token says that was verified (RFC 7519).

use serde_json::{Map, Value};

/// The claims of a token whose signature, issuer, audience and time are right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Token {
    /// `<iss>/<sub>`, as policies name it.
    pub principal: String,
    /// `aud`, a single one as a list of one.
    pub audiences: Vec<String>,
    /// `azp`.
    pub presenter: Option<String>,
    /// All of them.
    pub claims: Map<String, Value>,
    /// Paths, with dots, of those that are lists written as a text with spaces, as the token's rule says.
    pub delimited: Vec<String>,
    /// `exp`, seconds since 1970.
    pub expires: Option<u64>,
}

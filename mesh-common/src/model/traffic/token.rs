//! Which JSON Web Tokens requests to a workload may bear (RequestAuthentication).

use std::sync::Arc;

use http::{HeaderName, header};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Origin;

/// Rules of one pod: agents keep a set of them as the bits of one number.
pub const MAX_TOKEN_RULES: usize = 64;

/// What no rule may read or write: it is about the connection or the message, so a claim there would change what a
/// request is.
const NEVER: [HeaderName; 10] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::TRAILER,
    header::EXPECT,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// By which agents tell an application who its client is, or proxies tell each other. What a token says must not stand
/// there: it would be what the client proved.
pub const CLIENT_HEADERS: [&str; 8] = [
    "x-forwarded-client-cert",
    "x-forwarded-for",
    "forwarded",
    "x-real-ip",
    "x-envoy-external-address",
    "x-envoy-internal",
    "x-envoy-peer-metadata",
    "x-envoy-peer-metadata-id",
];

/// A header that a rule names for what is in a token.
///
/// # Errors
/// Says what is wrong with the name.
pub fn output_header(name: &str) -> Result<HeaderName, String> {
    let name = token_header(name)?;
    if CLIENT_HEADERS.iter().any(|own| is_read_as(&name, own)) {
        return Err(format!("`{name}` says who the client is, which no token does"));
    }
    Ok(name)
}

/// Whether some program takes one header for the other: those behind gateways of the CGI kind (RFC 3875, 4.1.18) do not
/// tell `_` from `-`. `other` is in lower case.
pub fn is_read_as(name: &HeaderName, other: &str) -> bool {
    let one = |byte: u8| if byte == b'_' { b'-' } else { byte };
    name.as_str().bytes().map(one).eq(other.bytes().map(one))
}

/// A header that a rule names, for a token or for what is in one.
///
/// # Errors
/// Says what is wrong with the name.
pub fn token_header(name: &str) -> Result<HeaderName, String> {
    match HeaderName::try_from(name) {
        Ok(known) if NEVER.contains(&known) => Err(format!("`{known}` says what a message is, and nothing of tokens")),
        Ok(known) => Ok(known),
        Err(_) => Err(format!("`{name}` is no header name")),
    }
}

/// One issuer. A request whose token is not right by the rule of its issuer, or of an issuer without a rule, is refused
/// (401); one without a token has no principal, and policies decide about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TokenRule {
    pub origin: Origin,
    /// `iss`, exactly.
    pub issuer: String,
    /// One of them must be among `aud`; none: any will do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
    /// A JWK Set (RFC 7517), JSON; the same text for all pods. `None`: it could not be had, and every token of this
    /// issuer is refused.
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "text", deserialize_with = "shared")]
    pub keys: Option<Arc<str>>,
    /// Where the token is looked for. If all three are empty: `authorization: Bearer`, and the parameter
    /// `access_token`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from_headers: Vec<TokenHeader>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from_params: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub from_cookies: Vec<String>,
    /// A header for the application with the token's payload, base64url. Whatever a client puts there is taken out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_header: Option<String>,
    /// Likewise, with single claims.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claim_headers: Vec<ClaimHeader>,
    /// Paths, with dots, of claims that are lists written as a text with spaces, besides `scope` and `permission`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub space_delimited: Vec<String>,
    /// The application gets the token itself too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forward: bool,
}

impl TokenRule {
    /// A rule that says nothing else: tokens are looked for where they usually are, for any audience, and go no
    /// further.
    pub fn new(origin: Origin, issuer: impl Into<String>, keys: Option<Arc<str>>) -> Self {
        Self {
            origin,
            issuer: issuer.into(),
            audiences: Vec::new(),
            keys,
            from_headers: Vec::new(),
            from_params: Vec::new(),
            from_cookies: Vec::new(),
            payload_header: None,
            claim_headers: Vec::new(),
            space_delimited: Vec::new(),
            forward: false,
        }
    }
}

fn text<S: Serializer>(keys: &Option<Arc<str>>, to: S) -> Result<S::Ok, S::Error> {
    keys.as_deref().serialize(to)
}

fn shared<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Arc<str>>, D::Error> {
    Ok(Option::<String>::deserialize(from)?.map(Arc::from))
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TokenHeader {
    /// In lower case.
    pub name: String,
    /// Before the token, as in `Bearer `; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClaimHeader {
    /// In lower case.
    pub header: String,
    /// From the outermost object inwards.
    pub claim: Vec<String>,
}

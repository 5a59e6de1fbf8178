//! Which JSON Web Tokens requests to a workload may bear (RequestAuthentication).

use serde::{Deserialize, Serialize};

use super::Origin;

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
    /// A JWK Set (RFC 7517), JSON. `None`: it could not be had, and every token of this issuer is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<String>,
    /// Where the token is looked for. If all three are empty: `authorization: Bearer`, and the parameter `access_token`.
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
    /// The application gets the token itself too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forward: bool,
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

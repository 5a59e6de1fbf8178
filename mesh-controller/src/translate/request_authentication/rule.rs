//! One issuer: `spec.jwtRules[]`.

use std::sync::Arc;

use http::{HeaderName, Uri};
use mesh_common::model::{
    KeySet,
    traffic::{ClaimHeader, Millis, Origin, TokenHeader, TokenRule, output_header, token_header},
};
use serde_json::Value;

use super::{Issued, Remote, refused};
use crate::{
    source::Key,
    status::{Extent, Fault},
    translate::fields::Fields,
};

/// Of each list in a rule.
const MOST: usize = 64;
/// How deep a claim may be.
const DEEP: usize = 16;
/// Of `timeout`: as long as it is when nothing is said, and the longest.
const TIMEOUT: Millis = Millis(5_000);
const LONGEST: Millis = Millis(30_000);

/// In the place of rules that cannot be read at all: no token is right where tokens usually are.
pub fn refusing(object: &Key, field: &str) -> Issued {
    let rule = TokenRule::new(Origin { object: object.to_string(), field: field.to_owned() }, "", None);
    Issued { rule, remote: None }
}

pub fn issued(object: &Key, number: usize, path: String, value: Value, faults: &mut Vec<Fault>) -> Issued {
    let field = format!("spec.jwtRules[{number}]");
    let before = faults.len();
    let mut fields = Fields::new(path, value, faults);
    let issuer = fields.text("issuer");
    if issuer.is_none() {
        fields.report("issuer", "is missing");
    }
    let audiences = fields.texts("audiences", MOST);
    let from_headers = list(&mut fields, "fromHeaders", place);
    let from_params = fields.texts("fromParams", MOST);
    let from_cookies = fields.texts("fromCookies", MOST);
    let payload_header = fields.text("outputPayloadToHeader");
    let payload_header =
        payload_header.and_then(|name| header(&mut fields, "outputPayloadToHeader", output_header(&name)));
    let claim_headers = list(&mut fields, "outputClaimToHeaders", claim);
    let forward = fields.take("forwardOriginalToken").unwrap_or(false);
    let space_delimited = fields.texts("spaceDelimitedClaims", MOST);
    let (keys, remote) = keys(&mut fields);
    fields.end();
    let rule = TokenRule {
        origin: Origin { object: object.to_string(), field: field.clone() },
        issuer: issuer.unwrap_or_default(),
        audiences,
        keys,
        from_headers,
        from_params,
        from_cookies,
        payload_header,
        claim_headers,
        space_delimited,
        forward,
    };
    let wrong = faults[before..].iter().any(|fault| fault.extent != Extent::Note);
    if wrong {
        faults.push(refused(&field, "cannot be honoured as written"));
        return Issued { rule: TokenRule { keys: None, ..rule }, remote: None };
    }
    Issued { rule, remote }
}

/// What the keys are, or where.
fn keys(fields: &mut Fields<'_>) -> (Option<Arc<str>>, Option<Remote>) {
    let inline = fields.text("jwks");
    // The older name of the same field.
    let (uri, older) = (fields.text("jwksUri"), fields.text("jwks_uri"));
    let uri = uri.or(older);
    let timeout = fields.some_span("timeout").unwrap_or(TIMEOUT);
    if timeout > LONGEST {
        fields.note("timeout", "is more than 30s; 30s it is");
    }
    match (inline, uri) {
        (Some(inline), uri) => {
            if uri.is_some() {
                fields.note("jwksUri", "stands beside `jwks`, which counts");
            }
            match KeySet::read(&inline) {
                Ok(set) => {
                    if !set.left_out.is_empty() {
                        fields.note("jwks", format_args!("some keys are left out: {}", set.left_out.join(", ")));
                    }
                    (Some(set.written().into()), None)
                }
                Err(why) => {
                    fields.report("jwks", why);
                    (None, None)
                }
            }
        }
        (None, Some(uri)) => match is_uri(&uri) {
            Ok(()) => (None, Some(Remote { uri, timeout: timeout.min(LONGEST) })),
            Err(why) => {
                fields.report("jwksUri", why);
                (None, None)
            }
        },
        (None, None) => {
            fields.report("jwksUri", "is missing, and so is `jwks`; the issuer is not asked where its keys are");
            (None, None)
        }
    }
}

/// http or https with a host, and nothing that says who asks.
pub fn is_uri(text: &str) -> Result<(), &'static str> {
    let uri: Uri = text.parse().map_err(|_| "is no URI")?;
    let authority = uri.authority().ok_or("names no host")?;
    match uri.scheme_str() {
        Some("http" | "https") if authority.as_str().contains('@') => Err("says who asks; no agent of the mesh may"),
        Some("http" | "https") if authority.host().is_empty() => Err("names no host"),
        Some("http" | "https") => Ok(()),
        _ => Err("is neither http nor https"),
    }
}

fn list<T>(fields: &mut Fields<'_>, name: &str, read: fn(&mut Fields<'_>) -> Option<T>) -> Vec<T> {
    let mut said = Vec::new();
    let list = fields.list(name, MOST).into_iter();
    let found = list.filter_map(|(path, value)| {
        let mut entry = Fields::new(path, value, &mut said);
        let found = read(&mut entry);
        entry.end();
        found
    });
    let found = found.collect();
    fields.add(said);
    found
}

fn place(entry: &mut Fields<'_>) -> Option<TokenHeader> {
    let Some(name) = entry.text("name") else {
        entry.report("name", "is missing");
        return None;
    };
    let name = header(entry, "name", token_header(&name));
    let prefix = entry.text("prefix").unwrap_or_default();
    Some(TokenHeader { name: name?, prefix })
}

fn claim(entry: &mut Fields<'_>) -> Option<ClaimHeader> {
    let (name, claim) = (entry.text("header"), entry.text("claim"));
    let (Some(name), Some(claim)) = (name, claim) else {
        entry.report("header", "and `claim` must both be there");
        return None;
    };
    let claim: Vec<_> = claim.split('.').map(str::to_owned).collect();
    if claim.len() > DEEP || claim.iter().any(String::is_empty) {
        entry.report("claim", format_args!("is no path of at most {DEEP} names with dots between them"));
        return None;
    }
    Some(ClaimHeader { header: header(entry, "header", output_header(&name))?, claim })
}

/// In lower case.
fn header(fields: &mut Fields<'_>, field: &str, name: Result<HeaderName, String>) -> Option<String> {
    match name {
        Ok(name) => Some(name.as_str().to_owned()),
        Err(why) => {
            fields.report(field, why);
            None
        }
    }
}

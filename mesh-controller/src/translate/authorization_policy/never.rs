//! Values that fit no request, whatever it is: honoured, and surely not meant.

use mesh_common::model::{PathPattern, StringMatch};

pub fn path(pattern: &PathPattern) -> Option<&'static str> {
    let PathPattern::Text(pattern) = pattern else { return None };
    match pattern {
        StringMatch::Exact(text) | StringMatch::Prefix(text) if !text.starts_with('/') => Some("paths begin with `/`"),
        StringMatch::Exact(text) | StringMatch::Prefix(text) | StringMatch::Suffix(text) => {
            if text.contains(['?', '#']) {
                Some("paths are asked for without their query")
            } else {
                text.contains(|c: char| c.is_ascii_whitespace() || c.is_ascii_control())
                    .then_some("there is a space in it, which is `%20` in a request")
            }
        }
        StringMatch::Presence => None,
    }
}

pub fn method(pattern: &StringMatch) -> Option<&'static str> {
    let text = text(pattern)?;
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'+-.^_`|~".contains(&b);
    if !text.bytes().all(is_token) {
        Some("it is no method")
    } else {
        text.bytes().any(|b| b.is_ascii_lowercase()).then_some("methods are written in upper case")
    }
}

/// Also of server names.
pub fn host(pattern: &StringMatch) -> Option<&'static str> {
    let text = text(pattern)?;
    if text.contains(['/', '@', '?', '#']) || text.contains(char::is_whitespace) {
        Some("it is no host, which is a name or an address, and maybe a port")
    } else {
        (!text.is_ascii()).then_some("hosts are written in Punycode (xn--...)")
    }
}

pub fn request_principal(pattern: &StringMatch) -> Option<&'static str> {
    match pattern {
        StringMatch::Exact(text) if !text.contains('/') => Some("principals of requests are issuer/subject"),
        _ => None,
    }
}

fn text(pattern: &StringMatch) -> Option<&str> {
    match pattern {
        StringMatch::Exact(text) | StringMatch::Prefix(text) | StringMatch::Suffix(text) => Some(text),
        StringMatch::Presence => None,
    }
}

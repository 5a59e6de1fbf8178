//! What of a header may be told. A name decides, in doubt against telling; a value that says itself what it is, too.

pub const REDACTED: &str = "[redacted]";

/// Parts of names of headers with secrets. More than the standard ones have them: x-api-key, x-csrf-token.
const SECRET: [&str; 13] = [
    "authorization",
    "cookie",
    "token",
    "secret",
    "key",
    "passw",
    "session",
    "credential",
    "signature",
    "jwt",
    "assertion",
    "auth-",
    "-auth",
];
/// Names that only look like one of them.
const HARMLESS: [&str; 3] = ["sec-websocket-key", "surrogate-key", "access-control-allow-credentials"];
/// Schemes of RFC 9110, section 11, wherever they stand.
const SCHEMES: [&str; 4] = ["basic ", "bearer ", "digest ", "negotiate "];
/// Names of headers whose values are addresses, by their ends; a query of these may be as secret as the request's own.
const ADDRESSES: [&str; 6] = ["referer", "location", "link", "-path", "-url", "-uri"];

/// The value, or what is told in its place.
pub fn told(name: &str, value: &str, secrets: bool) -> String {
    if secrets {
        return value.to_owned();
    }
    let name = name.to_ascii_lowercase();
    let start = value.trim_start().get(..10).unwrap_or(value.trim_start()).to_ascii_lowercase();
    let is_secret = SECRET.iter().any(|part| name.contains(part)) && !HARMLESS.contains(&name.as_str());
    if is_secret || SCHEMES.iter().any(|scheme| start.starts_with(scheme)) {
        return REDACTED.to_owned();
    }
    match value.split_once('?') {
        Some((address, _)) if ADDRESSES.iter().any(|end| name.ends_with(end)) => format!("{address}?{REDACTED}"),
        _ => value.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_is_not_told() {
        for name in [
            "authorization",
            "Proxy-Authorization",
            "cookie",
            "set-cookie",
            "x-api-key",
            "x-csrf-token",
            "x-amz-security-token",
            "client-secret",
            "x-password",
            "x-session-id",
            "x-auth-request-user",
        ] {
            assert_eq!(told(name, "hunter2", false), REDACTED, "{name}");
            assert_eq!(told(name, "hunter2", true), "hunter2", "{name}");
        }
        assert_eq!(told("x-forwarded", " Bearer abc", false), REDACTED);
        assert_eq!(told("x-b", "bÄsic", false), "bÄsic");
    }

    #[test]
    fn what_is_not_is_told() {
        for (name, value) in [
            ("user-agent", "curl/8.0"),
            ("accept", "*/*; q=0.8?"),
            ("x-request-id", "0b1c"),
            ("sec-websocket-key", "dGhlIHNhbXBsZQ=="),
            ("referer", "https://shop.example/cart"),
        ] {
            assert_eq!(told(name, value, false), value, "{name}");
        }
    }

    #[test]
    fn queries_of_addresses_are_not_told() {
        for name in ["referer", "location", "x-envoy-original-path", "x-original-url"] {
            assert_eq!(told(name, "/a?token=1?2", false), "/a?[redacted]", "{name}");
            assert_eq!(told(name, "/a?token=1?2", true), "/a?token=1?2", "{name}");
        }
    }
}

//! A request's host against the patterns of policies.

use std::borrow::Cow;

use crate::model::StringMatch;

/// A host taken apart. One trailing dot is no part of the name.
pub(crate) struct Host<'a> {
    pub name: &'a str,
    /// With its port if it has one.
    pub whole: Cow<'a, str>,
}

impl<'a> Host<'a> {
    /// `host` is in lower case, an IPv6 address in brackets.
    pub fn new(host: &'a str) -> Self {
        let is_port = |port: &str| port.bytes().all(|b| b.is_ascii_digit());
        // An address without brackets has no port that could be told from it.
        let is_name = |name: &str| !name.contains(':') || name.ends_with(']');
        let (dotted, port) = match host.rsplit_once(':') {
            Some((name, port)) if is_port(port) && is_name(name) => (name, Some(port)),
            _ => (host, None),
        };
        let name = dotted.strip_suffix('.').unwrap_or(dotted);
        let whole = match port {
            None => Cow::Borrowed(name),
            Some(_) if name.len() == dotted.len() => Cow::Borrowed(host),
            Some(port) => Cow::Owned(format!("{name}:{port}")),
        };
        Self { name, whole }
    }

    /// A pattern may name the port or not.
    pub fn fits(&self, want: &StringMatch) -> bool {
        let fits = |want: &StringMatch| want.matches(Some(&self.whole)) || want.matches(Some(self.name));
        match want {
            StringMatch::Exact(text) if is_dotted(text) => fits(&StringMatch::Exact(undotted(text).into_owned())),
            StringMatch::Suffix(text) if is_dotted(text) => fits(&StringMatch::Suffix(undotted(text).into_owned())),
            _ => fits(want),
        }
    }
}

/// The end of a pattern has a trailing dot, which no name has.
fn is_dotted(text: &str) -> bool {
    text.len() > 1 && (text.ends_with('.') || text.contains(".:"))
}

/// A pattern, or the end of one, as hosts are compared.
pub(crate) fn undotted(text: &str) -> Cow<'_, str> {
    if is_dotted(text) { Host::new(text).whole } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_compared_without_its_dot_and_with_or_without_its_port() {
        use StringMatch::{Exact, Prefix, Presence, Suffix};
        let exact = |text: &str| Exact(text.into());
        let (prefix, suffix) = (|text: &str| Prefix(text.into()), |text: &str| Suffix(text.into()));
        for (want, host, fits) in [
            (exact("a.com"), "a.com", true),
            (exact("a.com"), "a.com:80", true),
            (exact("a.com"), "a.com:", true),
            (exact("a.com"), "a.com.", true),
            (exact("a.com"), "a.com.:80", true),
            (exact("a.com"), "a.com..", false),
            (exact("a.com"), "aa.com", false),
            (exact("a.com"), "a.com.evil", false),
            (exact("a.com"), "a.com:80x", false),
            (exact("a.com:80"), "a.com:80", true),
            (exact("a.com:80"), "a.com.:80", true),
            (exact("a.com:80"), "a.com", false),
            (exact("a.com:80"), "a.com:8080", false),
            (exact("a.com."), "a.com", true),
            (exact("a.com."), "a.com:80", true),
            (exact("a.com.:80"), "a.com:80", true),
            (exact("a.com.:80"), "a.com:81", false),
            (exact("[::1]"), "[::1]", true),
            (exact("[::1]"), "[::1]:80", true),
            (exact("[::1]:80"), "[::1]:80", true),
            (exact("[::1]:80"), "[::1]", false),
            (exact("[::1]"), "[::1", false),
            (exact("::1"), "::1", true),
            (exact(":"), "::1", false),
            (exact("[:"), "[::1]", false),
            (exact("10.0.0.1"), "10.0.0.1:8080", true),
            (suffix(".com"), "a.com", true),
            (suffix(".com"), "a.com:80", true),
            (suffix(".com"), "a.com.:80", true),
            (suffix(".com."), "a.com", true),
            (suffix(".com:80"), "a.com:80", true),
            (suffix(".com.:80"), "a.com:80", true),
            (suffix(".com"), "com", false),
            (suffix("."), "a.com", false),
            (suffix("."), "a.com.", false),
            (suffix(":80"), "a.com:80", true),
            (suffix("]"), "[::1]:80", true),
            (prefix("a."), "a.com:80", true),
            (prefix("a.com:"), "a.com:80", true),
            (prefix("a.com:"), "a.com", false),
            (prefix("a.com."), "a.com.", false),
            (prefix("a.com."), "a.com.evil", true),
            (Presence, "a", true),
            (Presence, "", false),
            (Presence, ":80", true),
        ] {
            assert_eq!(Host::new(host).fits(&want), fits, "{want} against {host}");
        }
    }
}

//! Conditions on headers.

use std::borrow::Cow;

use super::{HeaderCondition, both};
use crate::model::{Requested, StringMatch};

impl HeaderCondition {
    pub fn holds(&self, request: &Requested<'_>) -> bool {
        both(&self.values, &self.not_values, |want| self.fits(want, request))
    }

    pub(crate) fn fits(&self, want: &StringMatch, request: &Requested<'_>) -> bool {
        values(&self.name, request, |value| fits(want, value))
    }
}

/// An empty value is there too.
fn fits(want: &StringMatch, value: &str) -> bool {
    *want == StringMatch::Presence || want.matches(Some(value))
}

/// Whether `holds` for one of the values of a header, or for all of them joined.
pub(crate) fn values(name: &str, request: &Requested<'_>, mut holds: impl FnMut(&str) -> bool) -> bool {
    match name {
        "host" | ":authority" => return !request.host.is_empty() && holds(request.host),
        ":method" => return holds(request.method),
        _ => {}
    }
    // What is no text is compared as far as it is: a condition on its beginning or end holds.
    let values = || request.headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
    values().any(|value| holds(&value))
        || (values().nth(1).is_some() && {
            let all: Vec<Cow<'_, str>> = values().collect();
            holds(&all.join(","))
        })
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn each_value_is_asked_and_all_joined() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("x-a", b"one".as_slice()), ("x-a", b"two"), ("x-empty", b""), ("x-raw", b"be\xffend"), ("host", b"other")]
        {
            let value = HeaderValue::from_bytes(value).expect("a value");
            headers.append(HeaderName::from_static(name), value);
        }
        let request = Requested { method: "GET", path: "/", host: "a.com:80", headers: &headers, token: None };
        use StringMatch::{Exact, Prefix, Presence, Suffix};
        for (name, want, holds) in [
            ("x-a", Exact("one".into()), true),
            ("x-a", Exact("two".into()), true),
            ("x-a", Exact("one,two".into()), true),
            ("x-a", Exact("two,one".into()), false),
            ("x-a", Exact("One".into()), false),
            ("X-A", Exact("one".into()), true),
            ("x-a", Prefix("one,".into()), true),
            ("x-a", Suffix("wo".into()), true),
            ("x-a", Presence, true),
            ("x-empty", Presence, true),
            ("x-empty", Exact("one".into()), false),
            ("x-raw", Prefix("be".into()), true),
            ("x-raw", Suffix("end".into()), true),
            ("x-raw", Exact("beend".into()), false),
            ("x-none", Presence, false),
            ("not a name", Presence, false),
            ("host", Exact("a.com:80".into()), true),
            (":authority", Exact("a.com:80".into()), true),
            ("host", Exact("other".into()), false),
            (":method", Exact("GET".into()), true),
            (":method", Exact("get".into()), false),
        ] {
            let yes = HeaderCondition { name: name.into(), values: vec![want.clone()], not_values: vec![] };
            assert_eq!(yes.holds(&request), holds, "{name} {want}");
            let no = HeaderCondition { name: name.into(), values: vec![], not_values: vec![want.clone()] };
            assert_eq!(no.holds(&request), !holds, "{name} not {want}");
        }
        let both = |value: &str, not: &str| HeaderCondition {
            name: "x-a".into(),
            values: vec![Exact("x".into()), Exact(value.into())],
            not_values: vec![Exact(not.into())],
        };
        assert!(both("one", "three").holds(&request));
        assert!(!both("one", "two").holds(&request));
        assert!(!both("three", "four").holds(&request));
    }
}

//! Conditions on headers.

use std::borrow::Cow;

use super::{Fit, HeaderCondition};
use crate::model::{Action, Requested, StringMatch};

impl HeaderCondition {
    /// `action` is that of the rule: it says whether one of several values is enough.
    pub fn holds(&self, action: Action, request: &Requested<'_>) -> bool {
        let fits = |wants, fit| fits(&self.name, wants, request, fit);
        (self.values.is_empty() || fits(&self.values, Fit::of(action))) && !fits(&self.not_values, Fit::of_not(action))
    }
}

/// Whether one of `wants` fits any value of the header, or each has one that fits. A header that is not there fits
/// none.
pub(crate) fn fits(name: &str, wants: &[StringMatch], request: &Requested<'_>, fit: Fit) -> bool {
    // An empty value is there too.
    let one = |value: &str| wants.iter().any(|want| *want == StringMatch::Presence || want.matches(Some(value)));
    if wants.is_empty() {
        return false;
    }
    match fit {
        Fit::Any => values(name, request, one),
        Fit::Sure => values(name, request, |_| true) && !values(name, request, |value| !one(value)),
    }
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
    let joined = |by| values().collect::<Vec<Cow<'_, str>>>().join(by);
    match (name, values().nth(1)) {
        ("cookie", Some(_)) => holds(&joined("; ")),
        (_, Some(_)) => values().any(|value| holds(&value)) || holds(&joined(",")),
        (_, None) => values().any(|value| holds(&value)),
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn one_value_stops_and_all_let_pass() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("x-a", b"one".as_slice()),
            ("x-a", b"two"),
            ("x-b", b"two"),
            ("x-empty", b""),
            ("x-raw", b"be\xffend"),
            ("host", b"other"),
            ("cookie", b"a=1"),
            ("cookie", b"b=2"),
        ] {
            let value = HeaderValue::from_bytes(value).expect("a value");
            headers.append(HeaderName::from_static(name), value);
        }
        let request = Requested { method: "GET", path: "/", host: "a.com:80", headers: &headers, token: None };
        use StringMatch::{Exact, Prefix, Presence, Suffix};
        for (name, want, any, sure) in [
            ("x-a", Exact("one".into()), true, false),
            ("x-a", Exact("two".into()), true, false),
            ("x-a", Exact("one,two".into()), true, false),
            ("x-a", Exact("two,one".into()), false, false),
            ("x-a", Exact("One".into()), false, false),
            ("X-A", Exact("one".into()), true, false),
            ("x-a", Prefix("one,".into()), true, false),
            ("x-a", Suffix("wo".into()), true, false),
            ("x-a", Presence, true, true),
            ("x-b", Exact("two".into()), true, true),
            ("x-empty", Presence, true, true),
            ("x-empty", Exact("one".into()), false, false),
            ("x-raw", Prefix("be".into()), true, true),
            ("x-raw", Suffix("end".into()), true, true),
            ("x-raw", Exact("beend".into()), false, false),
            ("x-none", Presence, false, false),
            ("not a name", Presence, false, false),
            ("host", Exact("a.com:80".into()), true, true),
            (":authority", Exact("a.com:80".into()), true, true),
            ("host", Exact("other".into()), false, false),
            (":method", Exact("GET".into()), true, true),
            (":method", Exact("get".into()), false, false),
            // However its crumbs are parted.
            ("cookie", Exact("a=1; b=2".into()), true, true),
            ("cookie", Prefix("a=1".into()), true, true),
            ("cookie", Exact("a=1".into()), false, false),
            ("cookie", Exact("a=1,b=2".into()), false, false),
        ] {
            let yes = HeaderCondition { name: name.into(), values: vec![want.clone()], not_values: vec![] };
            let no = HeaderCondition { name: name.into(), values: vec![], not_values: vec![want.clone()] };
            assert_eq!(yes.holds(Action::Allow, &request), sure, "ALLOW {name} {want}");
            assert_eq!(no.holds(Action::Allow, &request), !any, "ALLOW {name} not {want}");
            for action in [Action::Deny, Action::Audit] {
                assert_eq!(yes.holds(action, &request), any, "{action:?} {name} {want}");
                assert_eq!(no.holds(action, &request), !sure, "{action:?} {name} not {want}");
            }
        }
        let both = |value: &str, not: &str| HeaderCondition {
            name: "x-a".into(),
            values: vec![Exact("x".into()), Exact(value.into())],
            not_values: vec![Exact(not.into())],
        };
        assert!(both("one", "three").holds(Action::Deny, &request));
        assert!(both("one", "two").holds(Action::Deny, &request), "not all are excepted");
        assert!(!both("three", "four").holds(Action::Deny, &request));
        let each = |values: &[&str]| HeaderCondition {
            name: "x-a".into(),
            values: values.iter().map(|value| Exact((*value).into())).collect(),
            not_values: vec![],
        };
        assert!(!each(&["one", "two"]).holds(Action::Allow, &request), "nor may they say something together");
        assert!(each(&["one", "two", "one,two"]).holds(Action::Allow, &request));
    }
}

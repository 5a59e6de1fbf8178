//! Conditions on the claims of a token.

use serde_json::Value;

use super::{ClaimCondition, both};
use crate::model::{StringMatch, Token};

/// Claims that are always lists written as a text with spaces (RFC 8693, 4.2).
const WORDS: [&str; 2] = ["scope", "permission"];

impl ClaimCondition {
    /// `None`: the request bears no token.
    pub fn holds(&self, token: Option<&Token>) -> bool {
        both(&self.values, &self.not_values, |want| self.fits(want, token))
    }

    pub(crate) fn fits(&self, want: &StringMatch, token: Option<&Token>) -> bool {
        texts(&self.path, token, |text| want.matches(Some(text)))
    }
}

/// Whether `holds` for one of the texts that the claim stands for.
pub(crate) fn texts(path: &[String], token: Option<&Token>, mut holds: impl FnMut(&str) -> bool) -> bool {
    let Some((first, inner)) = path.split_first() else { return false };
    let outer = token.and_then(|token| token.claims.get(first));
    let Some(claim) = inner.iter().try_fold(outer, |value, name| value.map(|value| value.get(name))).flatten() else {
        return false;
    };
    match claim {
        Value::Array(list) => list.iter().any(|element| scalar(element, &mut holds)),
        Value::String(text) if text.contains(' ') && is_list(path, token) => holds(text) || text.split(' ').any(holds),
        _ => scalar(claim, &mut holds),
    }
}

/// Whether a text there is a list with spaces.
fn is_list(path: &[String], token: Option<&Token>) -> bool {
    let always = matches!(path, [name] if WORDS.contains(&name.as_str()));
    let named = |name: &String| name.split('.').eq(path.iter().flat_map(|name| name.split('.')));
    always || token.is_some_and(|token| token.delimited.iter().any(named))
}

fn scalar(value: &Value, holds: &mut impl FnMut(&str) -> bool) -> bool {
    match value {
        Value::String(text) => holds(text),
        Value::Bool(value) => holds(if *value { "true" } else { "false" }),
        Value::Number(number) => holds(&number.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_a_text_or_a_list_of_texts_at_the_end_of_its_path() {
        let claims = json!({
            "iss": "https://a",
            "name": "admin bob",
            "scope": "read write",
            "named": "one two",
            "a.dot": "one two",
            "groups": ["dev", "ops team", ["deep"], {"x": "y"}, null, 7, true],
            "realm": {"role": ["a", "b"], "scope": "read write", "names": "one two", "level": {"n": 3}},
            "verified": true,
            "age": 42,
            "none": null,
            "empty": "",
        });
        let Value::Object(claims) = claims else { unreachable!("an object") };
        let delimited = ["named", "realm.names", "a.dot", "groups"].map(str::to_owned).to_vec();
        let token = Token { claims, delimited, ..Token::default() };
        use StringMatch::{Exact, Prefix, Presence, Suffix};
        let exact = |text: &str| Exact(text.into());
        for (path, want, holds) in [
            (vec!["iss"], exact("https://a"), true),
            (vec!["iss"], Prefix("https:".into()), true),
            (vec!["iss"], Suffix("/a".into()), true),
            (vec!["iss", "x"], Presence, false),
            (vec!["name"], exact("admin bob"), true),
            (vec!["name"], exact("admin"), false),
            (vec!["scope"], exact("read"), true),
            (vec!["scope"], exact("write"), true),
            (vec!["scope"], exact("read write"), true),
            (vec!["scope"], exact("rea"), false),
            (vec!["groups"], exact("dev"), true),
            (vec!["groups"], exact("ops"), false),
            (vec!["groups"], exact("ops team"), true),
            (vec!["groups"], exact("deep"), false),
            (vec!["groups"], exact("7"), true),
            (vec!["groups"], exact("true"), true),
            (vec!["groups", "0"], Presence, false),
            (vec!["groups", "x"], Presence, false),
            (vec!["realm"], Presence, false),
            (vec!["realm", "role"], exact("b"), true),
            (vec!["realm", "role"], exact("c"), false),
            (vec!["realm", "scope"], exact("read"), false),
            (vec!["named"], exact("two"), true),
            (vec!["named"], exact("one two"), true),
            (vec!["named"], exact("thr"), false),
            (vec!["a.dot"], exact("one"), true),
            (vec!["realm", "names"], exact("one"), true),
            (vec!["realm", "level", "n"], exact("3"), true),
            (vec!["realm", "level"], Presence, false),
            (vec!["realm.role"], Presence, false),
            (vec!["verified"], exact("true"), true),
            (vec!["age"], exact("42"), true),
            (vec!["none"], Presence, false),
            (vec!["empty"], Presence, false),
            (vec!["missing"], Presence, false),
            (vec![], Presence, false),
        ] {
            let path: Vec<String> = path.into_iter().map(str::to_owned).collect();
            let yes = ClaimCondition { path: path.clone(), values: vec![want.clone()], not_values: vec![] };
            assert_eq!(yes.holds(Some(&token)), holds, "{path:?} {want}");
            assert!(!yes.holds(None), "{path:?} of no token");
            let no = ClaimCondition { path: path.clone(), values: vec![], not_values: vec![want.clone()] };
            assert_eq!(no.holds(Some(&token)), !holds, "{path:?} not {want}");
            assert!(no.holds(None), "{path:?} of no token");
        }
    }
}

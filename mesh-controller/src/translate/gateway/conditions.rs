//! Conditions that HTTPRoutes and GRPCRoutes share, and how rules are read although a part of them cannot be.

use mesh_common::{
    model::traffic::{HeaderMatch, TextMatch},
    route::Matches,
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{Draft, ITEMS, MATCHES, Match, header_name, pattern, text};
use crate::status::{Fault, read};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeaderSpec {
    #[serde(rename = "type")]
    type_: Option<String>,
    name: String,
    value: String,
}

/// How many conditions the author wrote, whether they can be read or not.
pub fn listed(written: Option<&Value>) -> usize {
    written.and_then(Value::as_array).map_or(0, Vec::len)
}

impl Draft<'_> {
    /// An object's fields. One that is not known is an error; the others are read all the same.
    pub fn fields<'v>(&mut self, field: &str, written: &'v Value, known: &[&str]) -> Option<&'v Map<String, Value>> {
        let object = written.as_object().ok_or_else(|| Fault::new(field, "is no object"));
        let fields = self.take(object)?;
        for key in fields.keys().filter(|key| !known.contains(&key.as_str())) {
            self.errors.push(Fault::new(format!("{field}.{key}"), "is not known"));
        }
        Some(fields)
    }

    /// A list's items; none if it is none, or too long.
    pub fn list<'v>(&mut self, field: &str, written: Option<&'v Value>) -> &'v [Value] {
        let list = match written {
            None | Some(Value::Null) => return &[],
            Some(Value::Array(list)) if list.len() <= ITEMS => return list,
            Some(Value::Array(list)) => {
                Fault::new(field, format_args!("has {} items, {ITEMS} are the most", list.len()))
            }
            Some(_) => Fault::new(field, "is no list"),
        };
        self.errors.push(list);
        &[]
    }
}

/// Every match of a rule, read by `one`. A rule without any has one that says nothing, which takes every request: so
/// has one whose list cannot be read.
pub fn lenient_matches(
    draft: &mut Draft<'_>,
    written: Option<&Value>,
    one: impl Fn(&mut Draft<'_>, &str, &Value) -> Match,
) {
    let field = format!("{}.matches", draft.field);
    let every = [Value::Object(Map::new())];
    let list: &[Value] = match written {
        None | Some(Value::Null) => &every,
        Some(Value::Array(list)) if list.is_empty() => &every,
        Some(Value::Array(list)) if list.len() <= MATCHES => list,
        Some(Value::Array(list)) => {
            let why = format!("has {} items, {MATCHES} are the most", list.len());
            draft.errors.push(Fault::new(&field, why));
            &every
        }
        Some(_) => {
            draft.errors.push(Fault::new(&field, "is no list"));
            &every
        }
    };
    for (i, written) in list.iter().enumerate() {
        let field = format!("{field}[{i}]");
        let mut matched = one(draft, &field, written);
        // What agents cannot compile they must not be told: patterns are bounded there.
        if let Err(error) = Matches::new(std::slice::from_ref(&matched.request)) {
            let inside = error.field.strip_prefix("matches[0].").unwrap_or(&error.field).to_owned();
            draft.errors.push(Fault::new(format!("{field}.{inside}"), error.why));
            without_patterns(&mut matched);
        }
        draft.rule.matches.push(matched);
    }
}

/// The conditions that are no patterns.
fn without_patterns(matched: &mut Match) {
    use mesh_common::model::traffic::PathMatch;
    let is_pattern = |text: &TextMatch| matches!(text, TextMatch::Regex(_));
    let request = &mut matched.request;
    request.path.take_if(|path| matches!(path, PathMatch::Regex(_)));
    request.headers.retain(|header| !is_pattern(&header.value));
    request.query.retain(|query| !is_pattern(&query.value));
}

/// The rest of a rule, whose matches are read already.
pub fn read_rule<T: DeserializeOwned>(draft: &mut Draft<'_>, written: &Value) -> Option<T> {
    let rest = match written {
        Value::Object(fields) if draft.kind.is_http() => {
            let rest = fields.iter().filter(|(key, _)| *key != "matches");
            Value::Object(rest.map(|(key, value)| (key.clone(), value.clone())).collect())
        }
        other => other.clone(),
    };
    let parsed = read(rest).map_err(|fault: Fault| fault.within(&draft.field));
    draft.take(parsed)
}

/// Of equal names the first counts (the specification asks for that).
pub fn header_matches(draft: &mut Draft<'_>, field: &str, written: Option<&Value>) -> Vec<HeaderMatch> {
    let field = format!("{field}.headers");
    let mut headers: Vec<HeaderMatch> = Vec::new();
    for (i, value) in draft.list(&field, written).iter().enumerate() {
        let field = format!("{field}[{i}]");
        let Some(header) = draft.take(header(&field, value)) else { continue };
        if headers.iter().any(|other| other.name == header.name) {
            draft.notes.push(Fault::new(field, "stands twice; the first counts"));
        } else {
            headers.push(header);
        }
    }
    headers
}

fn header(field: &str, value: &Value) -> Result<HeaderMatch, Fault> {
    let HeaderSpec { type_, name, value } = read(value.clone()).map_err(|fault| fault.within(field))?;
    let name = header_name(&format!("{field}.name"), &name)?;
    let field_value = format!("{field}.value");
    let value = match type_.as_deref().unwrap_or("Exact") {
        "Exact" => TextMatch::Exact(text(&field_value, &value, 4096)?),
        "RegularExpression" => TextMatch::Regex(pattern(&field_value, &value)?),
        other => {
            let why = format!("`{other}` is neither Exact nor RegularExpression");
            return Err(Fault::new(format!("{field}.type"), why));
        }
    };
    Ok(HeaderMatch { name, value, not: false })
}

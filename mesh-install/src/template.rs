//! Objects with places for values: `${path}` alone is the value itself, `${path}` within a text its text, and
//! `{"$when": path, "$then": x}` is x or nothing. Two readers: one puts values in, `yaml.rs` writes a chart's template.

use serde_json::{Map, Value};

use crate::values::Values;

pub const WHEN: &str = "$when";
pub const THEN: &str = "$then";

#[derive(Clone, Debug, PartialEq)]
pub enum Template {
    /// As it is.
    Literal(Value),
    /// The value at this path.
    At(String),
    Text(Vec<Piece>),
    /// In the order of the keys.
    Object(Vec<(String, Template)>),
    List(Vec<Template>),
    When(String, Box<Template>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Literal(String),
    At(String),
}

impl Template {
    pub fn new(value: &Value) -> Self {
        match value {
            Value::String(text) => Self::text(text),
            Value::Array(items) => Self::List(items.iter().map(Self::new).collect()),
            Value::Object(entries) => match (entries.get(WHEN).and_then(Value::as_str), entries.get(THEN)) {
                (Some(path), Some(then)) => Self::When(path.to_owned(), Box::new(Self::new(then))),
                _ => Self::Object(entries.iter().map(|(key, value)| (key.clone(), Self::new(value))).collect()),
            },
            other => Self::Literal(other.clone()),
        }
    }

    /// Without places: a text with `${` is what it says.
    pub fn literal(value: &Value) -> Self {
        match value {
            Value::Array(items) => Self::List(items.iter().map(Self::literal).collect()),
            Value::Object(entries) => {
                Self::Object(entries.iter().map(|(key, value)| (key.clone(), Self::literal(value))).collect())
            }
            other => Self::Literal(other.clone()),
        }
    }

    fn text(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, (path, after))) =
            rest.split_once("${").and_then(|(before, after)| Some((before, after.split_once('}')?)))
        {
            if !before.is_empty() {
                pieces.push(Piece::Literal(before.to_owned()));
            }
            pieces.push(Piece::At(path.to_owned()));
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Literal(rest.to_owned()));
        }
        match pieces.as_slice() {
            [Piece::At(path)] => Self::At(path.clone()),
            [] | [Piece::Literal(_)] => Self::Literal(text.into()),
            _ => Self::Text(pieces),
        }
    }

    /// The same with other literal texts.
    pub fn with_literals(&self, change: &impl Fn(&str) -> String) -> Self {
        let piece = |piece: &Piece| match piece {
            Piece::Literal(text) => Piece::Literal(change(text)),
            Piece::At(path) => Piece::At(path.clone()),
        };
        match self {
            Self::Literal(Value::String(text)) => Self::Literal(change(text).into()),
            Self::Literal(_) | Self::At(_) => self.clone(),
            Self::Text(pieces) => Self::Text(pieces.iter().map(piece).collect()),
            Self::Object(entries) => {
                let entries = entries.iter().map(|(key, value)| (key.clone(), value.with_literals(change)));
                Self::Object(entries.collect())
            }
            Self::List(items) => Self::List(items.iter().map(|item| item.with_literals(change)).collect()),
            Self::When(path, then) => Self::When(path.clone(), Box::new(then.with_literals(change))),
        }
    }

    /// The object with these values; `None` where a condition says so.
    pub fn evaluate(&self, values: &Values) -> Option<Value> {
        Some(match self {
            Self::Literal(value) => value.clone(),
            Self::At(path) => values.at(path).clone(),
            Self::Text(pieces) => pieces.iter().map(|piece| piece.evaluate(values)).collect::<String>().into(),
            Self::Object(entries) => {
                let entries = entries.iter().filter_map(|(key, value)| Some((key.clone(), value.evaluate(values)?)));
                Value::Object(entries.collect::<Map<_, _>>())
            }
            Self::List(items) => items.iter().filter_map(|item| item.evaluate(values)).collect(),
            Self::When(path, then) if is_true(values.at(path)) => return then.evaluate(values),
            Self::When(..) => return None,
        })
    }

    /// Every path that is named, and whether it stands within a text.
    #[cfg(test)]
    pub fn paths(&self) -> Vec<(&str, bool)> {
        match self {
            Self::Literal(_) => Vec::new(),
            Self::At(path) => vec![(path, false)],
            Self::Text(pieces) => {
                fn path(piece: &Piece) -> Option<(&str, bool)> {
                    match piece {
                        Piece::At(path) => Some((path, true)),
                        Piece::Literal(_) => None,
                    }
                }
                pieces.iter().filter_map(path).collect()
            }
            Self::Object(entries) => entries.iter().flat_map(|(_, value)| value.paths()).collect(),
            Self::List(items) => items.iter().flat_map(Self::paths).collect(),
            Self::When(path, then) => [(path.as_str(), false)].into_iter().chain(then.paths()).collect(),
        }
    }
}

impl Piece {
    fn evaluate(&self, values: &Values) -> String {
        match self {
            Self::Literal(text) => text.clone(),
            Self::At(path) => match values.at(path) {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            },
        }
    }
}

/// As Helm's `if` has it.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is) => *is,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(entries) => !entries.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_come_where_their_paths_stand() {
        let mut values = Values::default();
        values.set("metrics.enabled=false").unwrap();
        let template = json!({
            "replicas": "${controller.replicas}",
            "address": "https://x.${namespace}.svc:${controller.replicas}",
            "args": ["a", { WHEN: "metrics.enabled", THEN: "b" }, { WHEN: "nodeTaint", THEN: "c" }],
            "gone": { WHEN: "caSecret", THEN: 1 },
        });
        assert_eq!(
            Template::new(&template).evaluate(&values),
            Some(json!({ "replicas": 2, "address": "https://x.nodemesh-system.svc:2", "args": ["a", "c"] }))
        );
    }
}

//! Conditions on requests: all of one entry must hold, and one of its methods. It is one condition, however many
//! methods it has: each is told to every pod that it is about.

use mesh_common::{
    model::traffic::{HeaderMatch, PathMatch, RequestMatch, TextMatch},
    route::{Matches, path::written},
};
use serde_json::Value;

use crate::{status::Fault, translate::fields::Fields};

const METHODS: usize = 16;
const HEADERS: usize = 16;
const TEXT: usize = 4096;

/// `None` if one cannot be read.
pub fn conditions(path: String, value: Value, faults: &mut Vec<Fault>) -> Option<RequestMatch> {
    let before = faults.len();
    let entry = path.clone();
    let mut fields = Fields::new(path, value, faults);
    let of_path = fields.within("path").and_then(|inner| text(inner, &["exact", "prefix", "regex"]));
    let methods = fields.texts("methods", METHODS);
    if let Some(wrong) = methods.iter().position(|m| m.len() > 32 || !m.bytes().all(|b| b.is_ascii_uppercase())) {
        fields.report(&format!("methods[{wrong}]"), "is not a method (in capitals)");
    }
    let list = fields.list("headers", HEADERS);
    fields.end();
    let mut headers = Vec::new();
    for (path, value) in list {
        let mut fields = Fields::new(path, value, faults);
        let name = fields.text("name").map(|name| name.to_ascii_lowercase());
        let good = |name: &String| name.len() <= 256 && name.parse::<http::HeaderName>().is_ok();
        let name = name.filter(good);
        if name.is_none() {
            fields.report("name", "is not the name of a header");
        }
        let value = text(fields, &["exact", "prefix", "regex", "present"]);
        headers.extend(name.zip(value).map(|(name, value)| HeaderMatch { name, value, not: false }));
    }
    if faults.len() > before {
        return None;
    }
    let of_path = of_path.map(|text| match text {
        TextMatch::Exact(text) => PathMatch::Exact(written(&text)),
        TextMatch::Prefix(text) => PathMatch::Prefix(written(&text)),
        TextMatch::Regex(text) => PathMatch::Regex(text),
        TextMatch::Any => PathMatch::Prefix("/".to_owned()),
    });
    let method = match methods.as_slice() {
        [] => None,
        [one] => Some(TextMatch::Exact(one.clone())),
        // They are capitals and nothing else.
        several => Some(TextMatch::Regex(several.join("|"))),
    };
    let condition = RequestMatch { path: of_path, method, headers, ..RequestMatch::default() };
    if let Err(error) = Matches::new(std::slice::from_ref(&condition)) {
        let inner = error.field.split_once("].").map_or("", |(_, inner)| inner);
        faults.push(Fault::new(inner, error.why).within(&entry));
        return None;
    }
    Some(condition)
}

/// Exactly one of these ways to say it.
fn text(mut fields: Fields<'_>, ways: &[&str]) -> Option<TextMatch> {
    let mut found = None;
    for way in ways {
        if !fields.has(way) {
            continue;
        }
        let one = match *way {
            "present" => fields.take::<bool>(way).filter(|yes| *yes).map(|_| TextMatch::Any),
            "exact" => fields.take(way).map(TextMatch::Exact),
            "prefix" => fields.take(way).map(TextMatch::Prefix),
            _ => fields.take(way).map(TextMatch::Regex),
        };
        let size = match &one {
            Some(TextMatch::Exact(text) | TextMatch::Prefix(text) | TextMatch::Regex(text)) => text.len(),
            _ => 0,
        };
        if one.is_none() || found.is_some() || size > TEXT {
            fields.report(way, "is a second way to say it, too long, or says nothing");
        }
        found = one;
    }
    if found.is_none() {
        fields.report(ways[0], format_args!("is missing, and so are the others of {}", ways.join(", ")));
    }
    fields.end();
    found
}

//! Conditions of HTTPRoutes. Each is read for itself, so that one that cannot be read takes no other with it.

use mesh_common::{
    model::traffic::{PathMatch, QueryMatch, TextMatch},
    route::path::written,
};
use serde::Deserialize;
use serde_json::Value;

use super::super::gateway::{Draft, LONGEST, Match, RANK_EXACT, RANK_REGEX, header_matches, listed, pattern, text};
use crate::status::{Fault, read};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PathSpec {
    #[serde(rename = "type")]
    type_: Option<String>,
    value: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuerySpec {
    #[serde(rename = "type")]
    type_: Option<String>,
    name: String,
    value: String,
}

const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// One match; what cannot be read of it is among the draft's errors.
pub fn one(draft: &mut Draft<'_>, field: &str, written: &Value) -> Match {
    let mut matched = Match::default();
    let Match { rank, request } = &mut matched;
    request.path = Some(PathMatch::Elements("/".into()));
    rank[1] = 1;
    let Some(fields) = draft.fields(field, written, &["path", "headers", "queryParams", "method"]) else {
        return matched;
    };
    if let Some(value) = fields.get("path").filter(|value| !value.is_null()) {
        let read = path(&format!("{field}.path"), value);
        if let Some((class, length, path)) = draft.take(read) {
            (rank[0], rank[1]) = (class, length);
            request.path = Some(path);
        }
    }
    if let Some(value) = fields.get("method").filter(|value| !value.is_null()) {
        rank[2] = 1;
        let method = value.as_str().filter(|method| METHODS.contains(method));
        let wrong = || Fault::new(format!("{field}.method"), format_args!("{value} is no method"));
        request.method = draft.take(method.ok_or_else(wrong)).map(|method| TextMatch::Exact(method.to_owned()));
    }
    request.headers = header_matches(draft, field, fields.get("headers"));
    rank[3] = listed(fields.get("headers"));
    let query_field = format!("{field}.queryParams");
    for (i, value) in draft.list(&query_field, fields.get("queryParams")).iter().enumerate() {
        let field = format!("{query_field}[{i}]");
        if let Some(query) = draft.take(query(&field, value)) {
            if request.query.iter().any(|other| other.name == query.name) {
                draft.notes.push(Fault::new(field, "stands twice; the first counts"));
            } else {
                request.query.push(query);
            }
        }
    }
    rank[4] = listed(fields.get("queryParams"));
    matched
}

fn path(field: &str, value: &Value) -> Result<(usize, usize, PathMatch), Fault> {
    let PathSpec { type_, value } = read(value.clone()).map_err(|fault| fault.within(field))?;
    let value = value.unwrap_or_else(|| "/".to_owned());
    let field_value = format!("{field}.value");
    let path = |value: &str| {
        let value = text(&field_value, value, LONGEST)?;
        let wrong = |why: &str| Err(Fault::new(&field_value, format_args!("`{value}` {why}")));
        let is_char = |b: u8| b.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@%".contains(&b);
        if !value.starts_with('/') {
            return wrong("does not begin with a slash");
        }
        if !value.bytes().all(is_char) {
            return wrong("has characters that no path has");
        }
        let lower = value.to_ascii_lowercase();
        // A request's path is never so: agents see it normalised.
        let odd = ["//", "/./", "/../", "%2f"].iter().any(|part| lower.contains(part));
        if odd || value.ends_with("/.") || value.ends_with("/..") {
            return wrong("has `//`, `/./`, `/../` or `%2f`");
        }
        Ok(written(&value))
    };
    Ok(match type_.as_deref().unwrap_or("PathPrefix") {
        "Exact" => (RANK_EXACT, 0, PathMatch::Exact(path(&value)?)),
        "PathPrefix" => {
            let value = path(&value)?;
            let value = if value == "/" { value } else { value.trim_end_matches('/').to_owned() };
            (0, value.len(), PathMatch::Elements(value))
        }
        "RegularExpression" => (RANK_REGEX, value.len(), PathMatch::Regex(pattern(&field_value, &value)?)),
        other => {
            let why = format!("`{other}` is none of Exact, PathPrefix, RegularExpression");
            return Err(Fault::new(format!("{field}.type"), why));
        }
    })
}

fn query(field: &str, value: &Value) -> Result<QueryMatch, Fault> {
    let QuerySpec { type_, name, value } = read(value.clone()).map_err(|fault| fault.within(field))?;
    let name = text(&format!("{field}.name"), &name, 256)?;
    let field_value = format!("{field}.value");
    let value = match type_.as_deref().unwrap_or("Exact") {
        "Exact" => TextMatch::Exact(text(&field_value, &value, LONGEST)?),
        "RegularExpression" => TextMatch::Regex(pattern(&field_value, &value)?),
        other => {
            let why = format!("`{other}` is neither Exact nor RegularExpression");
            return Err(Fault::new(format!("{field}.type"), why));
        }
    };
    Ok(QueryMatch { name, value })
}

//! `spec.tracing[]`.

use std::collections::BTreeMap;

use http::HeaderName;
use mesh_common::model::{telemetry::Tag, traffic::Percent};
use serde_json::Value;

use super::{Named, Purpose, Sides, providers, sides};
use crate::{status::Fault, translate::fields::Fields};

/// What one entry may add to each span, and how long names and values may be.
const TAGS: usize = 32;
const LONGEST: usize = 256;
/// Headers of which a span would give secrets away.
const SECRET: [&str; 4] = ["authorization", "proxy-authorization", "cookie", "set-cookie"];

/// What is said beats what wider objects and earlier entries say; what is `None` leaves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracing {
    pub sides: Sides,
    pub provider: Option<Named>,
    pub disabled: Option<bool>,
    pub sampled: Option<Percent>,
    pub tags: Option<BTreeMap<String, Tag>>,
}

pub fn entry(path: String, value: Value, named: &mut Vec<Named>, faults: &mut Vec<Fault>) -> Option<Tracing> {
    let mut fields = Fields::new(path, value, faults);
    let sides = sides(&mut fields);
    let mut list = providers(&mut fields, Purpose::Tracing, named);
    if list.len() > 1 {
        fields.report("providers", "has several; spans go to the first");
    }
    let sampled = fields.percent("randomSamplingPercentage");
    let disabled = fields.take("disableSpanReporting");
    if fields.take::<bool>("useRequestIdForTraceSampling").is_some() {
        fields.note("useRequestIdForTraceSampling", "has no meaning here: whether a trace is sampled its headers say");
    }
    if fields.take("enableIstioTags") == Some(false) {
        fields.report("enableIstioTags", "is not honoured: who spoke to whom is in every span");
    }
    if fields.take("disableContextPropagation") == Some(true) {
        fields.report("disableContextPropagation", "is not honoured: what came of a trace is passed on");
    }
    let has_tags = fields.has("customTags");
    let tags: BTreeMap<String, Value> = fields.take("customTags").unwrap_or_default();
    let tags_path = fields.path("customTags");
    fields.end();
    let tags = has_tags.then(|| custom_tags(&tags_path, tags, faults));
    let provider = if list.is_empty() { None } else { Some(list.remove(0)) };
    Some(Tracing { sides: sides?, provider, disabled, sampled, tags })
}

fn custom_tags(path: &str, given: BTreeMap<String, Value>, faults: &mut Vec<Fault>) -> BTreeMap<String, Tag> {
    let mut tags = BTreeMap::new();
    for (name, value) in given {
        // Names come from the author: those that are no names are quoted in part.
        let field = format!("{path}.{}", name.chars().take(64).collect::<String>());
        let mut refuse = |why: &str| faults.push(Fault::new(field.as_str(), format_args!("{why}; it is left out")));
        if name.is_empty() || name.len() > LONGEST || name.chars().any(char::is_control) {
            refuse("is not the name of an attribute");
        } else if tags.len() == TAGS {
            refuse("is one more than the most that a span has");
        } else {
            tags.extend(tag(field, value, faults).map(|tag| (name, tag)));
        }
    }
    tags
}

fn tag(path: String, value: Value, faults: &mut Vec<Fault>) -> Option<Tag> {
    let mut fields = Fields::new(path, value, faults);
    let before = fields.said();
    let (literal, header) = (fields.value("literal"), fields.value("header"));
    for (name, why) in [
        ("environment", "an agent has not the environment of the applications; the tag is left out"),
        ("formatter", "formats of Envoy's log are not read; the tag is left out"),
    ] {
        if fields.value(name).is_some() {
            fields.report(name, why);
        }
    }
    let path = |name: &str| fields.path(name);
    let (literal_path, header_path) = (path("literal"), path("header"));
    if fields.said() == before && literal.is_some() == header.is_some() {
        fields.report("literal", "one of `literal` and `header` must stand here; the tag is left out");
    }
    let readable = fields.said() == before;
    fields.end();
    if !readable {
        return None;
    }
    match (literal, header) {
        (Some(literal), None) => text(literal_path, literal, "value", faults).map(Tag::Literal),
        (None, Some(header)) => header_tag(header_path, header, faults),
        _ => None,
    }
}

fn text(path: String, value: Value, name: &str, faults: &mut Vec<Fault>) -> Option<String> {
    let mut fields = Fields::new(path, value, faults);
    let found = fields.text(name).filter(|text| text.len() <= LONGEST);
    if found.is_none() {
        fields.report(name, format_args!("is no text of 1 to {LONGEST} bytes; the tag is left out"));
    }
    fields.end();
    found
}

fn header_tag(path: String, value: Value, faults: &mut Vec<Fault>) -> Option<Tag> {
    let mut fields = Fields::new(path, value, faults);
    let default = fields.text("defaultValue");
    if default.as_ref().is_some_and(|text| text.len() > LONGEST) {
        fields.report("defaultValue", format_args!("has more than {LONGEST} bytes; the tag is left out"));
        fields.end();
        return None;
    }
    let name = fields.text("name").and_then(|name| HeaderName::try_from(name).ok());
    match &name {
        None => fields.report("name", "is not the name of a header; the tag is left out"),
        Some(name) if SECRET.contains(&name.as_str()) => {
            fields.report("name", "is a header that holds secrets, which no span tells; the tag is left out");
            fields.end();
            return None;
        }
        Some(_) => {}
    }
    fields.end();
    Some(Tag::Header { name: name?.as_str().to_owned(), default })
}

//! The fields of an object of a kind that users write, taken out one by one. What is missing or null is absent; what
//! does not fit its type is reported and absent; what nobody has asked for when it [ends](Fields::end) is unknown and
//! reported. So one bad field takes nothing with it, and its reader decides what stands for it.

use std::ops::RangeInclusive;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_common::model::traffic::{Clients, Millis, Percent};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Labels, span};
use crate::{
    names,
    source::Custom,
    status::{Extent, Fault, read},
};

/// Labels that are asked for at one place.
const LABELS: usize = 64;
/// Namespaces that an object is exported to.
const EXPORTS: usize = 256;

pub struct Fields<'f> {
    path: String,
    map: Map<String, Value>,
    faults: &'f mut Vec<Fault>,
}

impl<'f> Fields<'f> {
    /// Those of the value at `path`; of one that is no object: none, and it is reported.
    pub fn new(path: impl Into<String>, value: Value, faults: &'f mut Vec<Fault>) -> Self {
        let path = path.into();
        let map = match value {
            Value::Object(map) => map,
            Value::Null => Map::new(),
            _ => {
                faults.push(Fault::new(path.as_str(), "is not an object; it is not honoured"));
                Map::new()
            }
        };
        Self { path, map, faults }
    }

    /// Those of an object's spec; what is wrong outside of it is reported.
    pub fn of_spec(object: &Custom, faults: &'f mut Vec<Fault>) -> Self {
        faults.extend(object.fault.iter().cloned());
        if object.spec.is_null() {
            faults.push(Fault::new("spec", "is missing"));
        }
        Self::new("spec", object.spec.clone(), faults)
    }

    pub fn path(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// Says something of a field.
    pub fn report(&mut self, name: &str, why: impl std::fmt::Display) {
        let field = self.path(name);
        self.faults.push(Fault::new(field, why));
    }

    /// Says something of a field that is honoured all the same.
    pub fn note(&mut self, name: &str, why: impl std::fmt::Display) {
        let field = self.path(name);
        self.faults.push(Fault::new(field, why).of_extent(Extent::Note));
    }

    /// How much was said so far: more later means that something was not readable.
    pub fn said(&self) -> usize {
        self.faults.len()
    }

    /// Adds what was found elsewhere.
    pub fn add(&mut self, faults: impl IntoIterator<Item = Fault>) {
        self.faults.extend(faults);
    }

    /// Whether it is there, and not null.
    pub fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    pub fn value(&mut self, name: &str) -> Option<Value> {
        self.map.remove(name).filter(|value| !value.is_null())
    }

    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let value = self.value(name)?;
        let path = self.path(name);
        read(value).map_err(|fault: Fault| self.faults.push(not_honoured(fault.within(&path)))).ok()
    }

    /// A text that is not empty.
    pub fn text(&mut self, name: &str) -> Option<String> {
        self.take::<String>(name).filter(|text| !text.is_empty())
    }

    /// The fields of an object in this one.
    pub fn within(&mut self, name: &str) -> Option<Fields<'_>> {
        let value = self.value(name)?;
        let path = self.path(name);
        Some(Fields::new(path, value, self.faults))
    }

    /// The entries of a list with their paths; those beyond `most` are left out and reported.
    pub fn list(&mut self, name: &str, most: usize) -> Vec<(String, Value)> {
        let path = self.path(name);
        let mut list = self.take::<Vec<Value>>(name).unwrap_or_default();
        if list.len() > most {
            let why = format!("has {} entries, at most {most} are read; the others are left out", list.len());
            self.faults.push(Fault::new(path.as_str(), why));
            list.truncate(most);
        }
        list.into_iter().enumerate().map(|(i, value)| (format!("{path}[{i}]"), value)).collect()
    }

    /// The same, of texts.
    pub fn texts(&mut self, name: &str, most: usize) -> Vec<String> {
        let list = self.list(name, most).into_iter();
        list.filter_map(|(path, value)| match value {
            Value::String(text) if !text.is_empty() => Some(text),
            _ => {
                self.faults.push(Fault::new(path, "is not a text, or empty; it is left out"));
                None
            }
        })
        .collect()
    }

    /// A number within bounds.
    pub fn number(&mut self, name: &str, bounds: RangeInclusive<u32>) -> Option<u32> {
        let number: i64 = self.take(name)?;
        let (low, high) = (*bounds.start(), *bounds.end());
        let found = u32::try_from(number).ok().filter(|number| bounds.contains(number));
        if found.is_none() {
            self.report(name, format_args!("{number} is not from {low} to {high}; it is not honoured"));
        }
        found
    }

    /// A bound of which 0 says that there is none.
    pub fn bound(&mut self, name: &str) -> Option<u32> {
        self.number(name, 0..=u32::MAX).filter(|number| *number != 0)
    }

    /// From 0 to 100, also with a fraction.
    pub fn percent(&mut self, name: &str) -> Option<Percent> {
        let percent: f64 = self.take(name)?;
        if (0.0..=100.0).contains(&percent) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to a million")]
            return Some(Percent((percent * 10_000.0).round() as u32));
        }
        self.report(name, format_args!("{percent} is not from 0 to 100; it is not honoured"));
        None
    }

    /// A time span; 0 only where that is said.
    pub fn span(&mut self, name: &str) -> Option<Millis> {
        let text: String = self.take(name)?;
        span::parse(&text).map_err(|why| self.report(name, format_args!("{why}; it is not honoured"))).ok()
    }

    /// A time span that is more than nothing.
    pub fn some_span(&mut self, name: &str) -> Option<Millis> {
        let found = self.span(name)?;
        if found == Millis(0) {
            self.report(name, "must be 1ms at least; it is not honoured");
        }
        Some(found).filter(|found| *found != Millis(0))
    }

    /// Labels that are asked for.
    ///
    /// # Errors
    /// If they cannot be read: that they are none would select everything. It is reported already.
    pub fn labels(&mut self, name: &str) -> Result<Labels, Refused> {
        if !self.has(name) {
            return Ok(Labels::new());
        }
        let labels: Labels = self.take(name).ok_or(Refused)?;
        if labels.len() > LABELS {
            self.report(name, format_args!("has {} labels, more than {LABELS}", labels.len()));
            return Err(Refused);
        }
        Ok(labels)
    }

    /// `exportTo`: an entry that means nothing is left out; of a list that cannot be read, or has nothing else, only
    /// the own namespace remains.
    pub fn export_to(&mut self, metadata: &ObjectMeta) -> Clients {
        const NAME: &str = "exportTo";
        let own = metadata.namespace.clone().unwrap_or_default();
        if self.map.get(NAME).is_none_or(|value| value.is_null() || value.as_array().is_some_and(Vec::is_empty)) {
            self.map.remove(NAME);
            return Clients::Everybody;
        }
        let list = self.texts(NAME, EXPORTS);
        if list.iter().any(|text| text == "*") {
            return Clients::Everybody;
        }
        let mut namespaces = std::collections::BTreeSet::new();
        for (i, text) in list.into_iter().enumerate() {
            match text.as_str() {
                "." => {
                    namespaces.insert(own.clone());
                }
                "~" => {}
                name => match names::label(name) {
                    Ok(()) => {
                        namespaces.insert(text);
                    }
                    Err(why) => self.report(&format!("{NAME}[{i}]"), format_args!("{why}; it is left out")),
                },
            }
        }
        if namespaces.is_empty() {
            namespaces.insert(own);
        }
        Clients::Namespaces(namespaces)
    }

    /// Whether nothing is left but these.
    pub fn is_known(&self, names: &[&str]) -> bool {
        self.map.iter().all(|(name, value)| value.is_null() || names.contains(&name.as_str()))
    }

    /// A field that is known and has no meaning here.
    pub fn idle(&mut self, name: &str, why: &str) {
        if self.value(name).is_some_and(|value| !is_nothing(&value)) {
            self.report(name, why);
        }
    }

    /// Reports what nobody asked for.
    pub fn end(self) {
        self.leave("is not a known field; it is not honoured");
    }

    /// The same, of an object of which little is read: `why` is said of the rest.
    pub fn leave(self, why: &str) {
        let Self { path, map, faults } = self;
        let unknown = map.into_iter().filter(|(_, value)| !value.is_null());
        faults.extend(unknown.map(|(name, _)| {
            // Names come from the author: those that are no names are quoted in part.
            let name: String = name.chars().take(64).collect();
            Fault::new(format!("{path}.{name}"), why)
        }));
    }
}

/// Something cannot be read, and that is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused;

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
    }
}

fn not_honoured(fault: Fault) -> Fault {
    Fault { why: format!("{}; it is not honoured", fault.why), ..fault }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// An object of any kind, as YAML.
    pub fn custom(text: &str) -> Custom {
        let mut value: Value = serde_yaml_ng::from_str(text).expect("YAML");
        let metadata = serde_json::from_value(value["metadata"].take()).expect("metadata");
        Custom { metadata, spec: value["spec"].take(), fault: None }
    }

    /// The faults as they are told.
    pub fn said(faults: Vec<Fault>) -> Vec<String> {
        faults.into_iter().map(|fault| format!("{}: {}", fault.field, fault.why)).collect()
    }

    /// Values that a careless or hostile author may write: nothing but a report may come of them.
    pub fn any_json() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let texts =
            prop_oneof!["[a-zA-Z0-9.*/:]{0,12}", "(SIMPLE|MUTUAL|STATIC|DNS|HTTP|30s|10.0.0.1|a.b.c|\\*|1h)", ".{0,8}"];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-5_i64..70_000).prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            texts.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            let list = proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from);
            let map = proptest::collection::btree_map("[a-zA-Z]{1,8}", inner, 0..5);
            prop_oneof![list, map.prop_map(|map| Value::Object(map.into_iter().collect()))]
        })
    }

    /// One place of `spec` after another with `value` in it.
    pub fn broken(spec: &Value, value: &Value) -> Vec<Value> {
        let mut all = vec![value.clone()];
        match spec {
            Value::Object(map) => {
                for (key, inner) in map {
                    for broken in broken(inner, value) {
                        let mut copy = map.clone();
                        copy.insert(key.clone(), broken);
                        all.push(Value::Object(copy));
                    }
                }
            }
            Value::Array(list) => {
                for (i, inner) in list.iter().enumerate() {
                    for broken in broken(inner, value) {
                        let mut copy = list.clone();
                        copy[i] = broken;
                        all.push(Value::Array(copy));
                    }
                }
            }
            _ => {}
        }
        all
    }
}

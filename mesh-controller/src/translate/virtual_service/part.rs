//! Reads an object field by field, so that each fault is found and named, and what is left can be judged.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::status::{Fault, read};

/// A part of an object: its fields are taken one by one, and what is left over is unknown.
pub struct Part {
    pub path: String,
    fields: Map<String, Value>,
}

/// What was found wrong in one rule.
#[derive(Default)]
pub struct Found {
    /// Something of what the rule asks for, or of where it sends, cannot be honoured.
    broken: Vec<Fault>,
    /// Something beside that: it is left out.
    lacking: Vec<Fault>,
}

impl Part {
    pub fn new(path: impl Into<String>, value: Value) -> Result<Self, Fault> {
        let path = path.into();
        match value {
            Value::Object(fields) => Ok(Self { path, fields }),
            other => Err(Fault::new(path, format_args!("{} is not an object", short(&other)))),
        }
    }

    pub fn field(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// `None` if it is not there, or null.
    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Fault> {
        match self.fields.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => read(value).map(Some).map_err(|fault| fault.within(&self.field(name))),
        }
    }

    /// A list, of which at most so many are taken.
    pub fn list<T: DeserializeOwned>(&mut self, name: &str, most: usize) -> Result<Vec<T>, Fault> {
        let given = self.fields.get(name).and_then(Value::as_array).map_or(0, Vec::len);
        if given > most {
            self.fields.remove(name);
            return Err(Fault::new(self.field(name), format_args!("{given} are too many (at most {most})")));
        }
        Ok(self.take(name)?.unwrap_or_default())
    }

    /// A part within, if it is there.
    pub fn part(&mut self, name: &str) -> Result<Option<Self>, Fault> {
        self.take(name)?.map(|value| Self::new(self.field(name), value)).transpose()
    }

    /// Fields that nobody took.
    pub fn unknown(self) -> impl Iterator<Item = Fault> {
        let Self { path, fields } = self;
        fields.into_iter().map(move |(name, _)| Fault::new(format!("{path}.{name}"), "is not a field that is known"))
    }
}

impl Found {
    /// Without it the rule would mean something else.
    pub fn must<T>(&mut self, read: Result<T, Fault>) -> Option<T> {
        read.map_err(|fault| self.broken.push(fault)).ok()
    }

    /// Without it the rule sends the same requests to the same places.
    pub fn may<T>(&mut self, read: Result<T, Fault>) -> Option<T> {
        read.map_err(|fault| self.lacking.push(fault)).ok()
    }

    pub fn broken(&mut self, fault: Fault) {
        self.broken.push(fault);
    }

    pub fn lacking(&mut self, fault: Fault) {
        self.lacking.push(fault);
    }

    pub fn is_broken(&self) -> bool {
        !self.broken.is_empty()
    }

    /// As they are told, in the order in which they were found. `instead` says what becomes of a broken rule.
    pub fn told(self, instead: &str) -> impl Iterator<Item = Fault> {
        let said = |fault: Fault, then: &str| Fault { why: format!("{}; {then}", fault.why), ..fault };
        let broken: Vec<_> = self.broken.into_iter().map(|fault| said(fault, instead)).collect();
        broken.into_iter().chain(self.lacking.into_iter().map(move |fault| said(fault, "it is left out")))
    }
}

/// A value in few words.
pub fn short(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        other => other.to_string().chars().take(64).collect(),
    }
}

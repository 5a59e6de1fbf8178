//! What could not be honoured, said so that its author finds it: file, object, field, why.

pub mod conditions;
pub mod parents;

use std::fmt;

/// One thing of the configuration that is not honoured as it was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Relative to the source's folder; empty if it is no file's fault.
    pub file: String,
    /// As in `Pod shop/cart`; empty if the whole file is concerned.
    pub object: String,
    /// As in `spec.rules[0].from[1].source.ipBlocks[0]`; empty if the whole object is concerned.
    pub field: String,
    pub why: String,
    pub extent: Extent,
}

/// How much of an object a problem takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    /// All of it is honoured: something to know.
    Note,
    /// The rest of the object is honoured.
    #[default]
    Part,
    /// Nothing of it is honoured as written: it stands for what refuses.
    Whole,
    /// Another object holds in its place.
    Conflict,
}

/// A [`Problem`] seen from inside one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the field inside the object; empty: the object as a whole.
    pub field: String,
    pub why: String,
    pub extent: Extent,
}

impl Problem {
    pub fn of_file(file: &str, why: impl fmt::Display) -> Self {
        Self {
            file: file.to_owned(),
            object: String::new(),
            field: String::new(),
            why: why.to_string(),
            extent: Extent::Part,
        }
    }
}

impl fmt::Display for Problem {
    /// `file: object: field: why`, without the parts that are empty.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [&self.file, &self.object, &self.field] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.why)
    }
}

impl Fault {
    pub fn new(field: impl Into<String>, why: impl fmt::Display) -> Self {
        Self { field: field.into(), why: why.to_string(), extent: Extent::Part }
    }

    pub fn of_extent(self, extent: Extent) -> Self {
        Self { extent, ..self }
    }

    /// The same fault, seen from an object that holds this one in `parent`.
    pub fn within(mut self, parent: &str) -> Self {
        self.field = match self.field.as_str() {
            "" | "." => parent.to_owned(),
            field if field.starts_with('[') => format!("{parent}{field}"),
            field => format!("{parent}.{field}"),
        };
        self
    }
}

/// Reads a value into its type; the fault names the field that does not fit.
pub fn read<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> Result<T, Fault> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        Fault::new(if path == "." { String::new() } else { path }, e.into_inner())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_only_what_it_knows() {
        let mut problem = Problem::of_file("a.yaml", "is not YAML");
        assert_eq!(problem.to_string(), "a.yaml: is not YAML");
        problem.object = "Pod shop/cart".into();
        problem.field = "status.podIP".into();
        assert_eq!(problem.to_string(), "a.yaml: Pod shop/cart: status.podIP: is not YAML");
    }
}

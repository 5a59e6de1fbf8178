//! What went wrong, in the words of CNI: a code that runtimes act on, and sentences for people.

use std::fmt;

use serde_json::{Value, json};

use super::call::{LATEST, VERSIONS};
use crate::pods::JoinError;

// SPEC.md, "Error": those below 100 mean the same for every plugin.
const INCOMPATIBLE_VERSION: u32 = 1;
const INVALID_ENVIRONMENT: u32 = 4;
const INPUT: u32 = 5;
const DECODE: u32 = 6;
const INVALID_CONFIGURATION: u32 = 7;
const TRY_AGAIN_LATER: u32 = 11;
const UNAVAILABLE: u32 = 50;
/// Of our own: the agent refuses, and will not change its mind by itself.
const REFUSED: u32 = 100;

/// One error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub code: u32,
    /// What is wrong; names the field.
    pub message: String,
    /// What follows from it, or why.
    pub details: String,
}

impl Problem {
    fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: String::new() }
    }

    pub fn version(version: &str) -> Self {
        let message = format!("cniVersion: {version} is none of {}", VERSIONS.join(", "));
        Self::new(INCOMPATIBLE_VERSION, message)
    }

    pub fn environment(message: impl Into<String>) -> Self {
        Self::new(INVALID_ENVIRONMENT, message)
    }

    pub fn input(message: impl Into<String>) -> Self {
        Self::new(INPUT, message)
    }

    pub fn decode(message: impl Into<String>) -> Self {
        Self::new(DECODE, message)
    }

    pub fn configuration(message: impl Into<String>) -> Self {
        Self::new(INVALID_CONFIGURATION, message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(UNAVAILABLE, message)
    }

    /// What the agent says, or that it says nothing.
    pub fn of(error: JoinError) -> Self {
        let code = if let JoinError::Refused(_) = error { REFUSED } else { TRY_AGAIN_LATER };
        Self::new(code, format!("{:#}", anyhow::Error::from(error)))
    }

    pub fn because(self, why: &str) -> Self {
        Self { details: why.to_owned(), ..self }
    }

    /// For standard output. The version is that of the configuration, if it can be read.
    pub fn json(&self, configuration: &[u8]) -> Value {
        let read = serde_json::from_slice::<Value>(configuration).unwrap_or_default();
        let version = read["cniVersion"].as_str().filter(|version| VERSIONS.contains(version)).unwrap_or(LATEST);
        let mut json =
            json!({ "cniVersion": version, "code": self.code, "msg": format!("nodemesh: {}", self.message) });
        if !self.details.is_empty() {
            json["details"] = self.details.clone().into();
        }
        json
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

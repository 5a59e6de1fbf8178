//! Rules of traffic to one service, ready to be asked.

use mesh_common::model::traffic::Traffic;

/// The rules of one service.
#[derive(Debug)]
pub struct Rules {
    traffic: Traffic,
}

/// Why rules cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RulesError {
    /// As in `routes[0].value.http[3].matches[0].path.regex`.
    pub field: String,
    pub why: String,
}

impl Rules {
    /// # Errors
    /// If a pattern is none, or too large.
    pub fn new(traffic: Traffic) -> Result<Self, RulesError> {
        Ok(Self { traffic })
    }

    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }
}

impl PartialEq for Rules {
    fn eq(&self, other: &Self) -> bool {
        self.traffic == other.traffic
    }
}

impl Clone for Rules {
    fn clone(&self) -> Self {
        Self { traffic: self.traffic.clone() }
    }
}

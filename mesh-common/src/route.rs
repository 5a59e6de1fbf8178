//! Which route takes a request, and what a route does to requests and answers: pure functions over the types of `http`.
//! Opens nothing, waits for nothing, and draws no numbers: chance is passed in.
//!
//! What users wrote is compiled once (`new`, whose error names the field), then asked for every request.

mod choose;
mod condition;
mod cors;
mod effort;
mod fault;
mod headers;
mod index;
pub mod path;
mod plan;
mod redirect;
mod retry;
mod rewrite;
mod text;

use std::{collections::BTreeSet, fmt};

pub use choose::choose;
pub use condition::{Matched, Matches, Request};
pub use cors::{CrossOrigin, PermittedOrigin};
pub use effort::{Effort, TooMuch};
pub use fault::{Aborted, Befalls, decide, grpc_answer, grpc_of, is_grpc};
pub use headers::{Changes, Edit, RequestEdit};
pub use plan::{Plan, Planned, check};
pub use redirect::{Redirecting, direct_response};
pub use retry::{Outcome, backoff, grpc_status, retry_on};
pub use rewrite::{NewPath, NoPath, Rewriting};

use crate::model::traffic::HttpRoute;
use condition::Condition;
use index::Index;
use text::Patterns;

/// Something in a rule that cannot be honoured.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct RouteError {
    /// From the list that was compiled, as in `http[3].matches[0].path.regex`.
    pub field: String,
    pub why: String,
}

/// The routes of a service for one group of clients.
#[derive(Debug)]
pub struct Router {
    /// Of all routes one after the other: the lowest that holds decides.
    entries: Vec<Entry>,
    index: Index,
    /// That an entry may match; none: any.
    ports: Option<BTreeSet<u16>>,
}

#[derive(Debug)]
struct Entry {
    route: usize,
    condition: Condition,
}

/// The route that takes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// In the list that the router was made of.
    pub route: usize,
    /// For [`crate::model::traffic::PathRewrite::Matched`].
    pub matched: Matched,
}

impl RouteError {
    pub(crate) fn new(field: impl Into<String>, why: impl fmt::Display) -> Self {
        Self { field: field.into(), why: why.to_string() }
    }

    /// The same error, seen from further out.
    #[must_use]
    pub fn within(mut self, outer: impl fmt::Display) -> Self {
        self.field = match self.field.is_empty() {
            true => outer.to_string(),
            false => format!("{outer}.{}", self.field),
        };
        self
    }
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.why)
    }
}

impl Router {
    pub fn new(routes: &[HttpRoute]) -> Result<Self, RouteError> {
        let mut patterns = Patterns::default();
        let mut entries = Vec::new();
        for (number, route) in routes.iter().enumerate() {
            let named = |error: RouteError| error.within(format_args!("http[{number}]"));
            for condition in condition::compiled(&route.matches, &mut patterns).map_err(named)? {
                entries.push(Entry { route: number, condition });
            }
            if route.matches.is_empty() {
                entries.push(Entry { route: number, condition: Condition::default() });
            }
        }
        let index = Index::new(entries.iter().map(|entry| &entry.condition));
        let ports = entries.iter().map(|entry| entry.condition.port()).collect();
        Ok(Self { entries, index, ports })
    }

    /// The first route that matches.
    ///
    /// # Errors
    /// If the patterns, with those that were asked by the same effort before, would have to read too much.
    pub fn find(&self, request: &Request<'_>, effort: &Effort) -> Result<Option<Found>, TooMuch> {
        let holds = |place| self.entries[place as usize].condition.holds(request, effort);
        let found = self.index.lowest(request.path.as_bytes(), request.headers, effort, holds);
        effort.so(found.map(|(place, matched)| Found { route: self.entries[place as usize].route, matched }))
    }

    /// Whether some route may match on this port: if none does, requests are passed on unrouted, otherwise a request
    /// that no route matches is answered with 404.
    pub fn concerns(&self, port: u16) -> bool {
        self.ports.as_ref().is_none_or(|ports| ports.contains(&port))
    }
}

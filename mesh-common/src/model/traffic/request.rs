//! Conditions on requests.

use serde::{Deserialize, Serialize};

use super::Labels;

/// All that is said must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RequestMatch {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// Upper and lower case are one in the path.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ignore_path_case: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<TextMatch>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<TextMatch>,
    /// Of `Host` or `:authority`, with its port or without, whichever fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<TextMatch>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<QueryMatch>,
    /// Of the service, that was dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub source_labels: Labels,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_namespace: Option<String>,
}

/// A condition on the path, without its query.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    Exact(String),
    /// The path's beginning, wherever it ends.
    Prefix(String),
    /// Whole elements of the path (Gateway API's `PathPrefix`): `/a` has `/a`, `/a/` and `/a/b`, not `/ab`. Without a
    /// slash at its end, but for `/` itself.
    Elements(String),
    /// All of the path (RE2).
    Regex(String),
}

/// A condition on a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TextMatch {
    Exact(String),
    Prefix(String),
    /// All of the text (RE2).
    Regex(String),
    /// Whatever it is.
    Any,
}

/// A header must be there with such a value; one that is repeated has its values joined with `,`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HeaderMatch {
    /// In lower case.
    pub name: String,
    pub value: TextMatch,
    /// It must not be; it may be missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not: bool,
}

/// A query parameter must be there with such a value, decoded; of one that is repeated the first counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct QueryMatch {
    pub name: String,
    pub value: TextMatch,
}

//! Conditions that only a request can answer.

use std::net::IpAddr;

use http::HeaderMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Action, StringMatch, covers};
use crate::model::{Connection, Passing, Requested};

/// As in [`super::Match`]: the kinds are AND-ed, the values of one kind OR-ed, a `not_` kind holds if none of its values
/// does. A request without the attribute meets no condition on it, and every `not_` condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct HttpMatch {
    /// In lower case. One without a port is that host at any port.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_hosts: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_methods: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathPattern>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_paths: Vec<PathPattern>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub request_principals: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_request_principals: Vec<StringMatch>,
    /// Who asked, by address. Nobody before this mesh is believed about it, so it is the connection's own client.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remote_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_remote_ips: Vec<IpNet>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_audiences: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub presenters: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_presenters: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderCondition>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimCondition>,
    /// Of TLS of the application's own, in lower case; a request has none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub server_names: Vec<StringMatch>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_server_names: Vec<StringMatch>,
}

/// A path, without its query. Upper and lower case differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathPattern {
    Text(StringMatch),
    /// `{*}` stands for one segment that is not empty, `{**}` for any number of them, at the end of the pattern only
    /// followed by fixed ones, as in Envoy's URI templates.
    Template(String),
}

/// Each value of a header is asked, and all of them joined with `,` besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct HeaderCondition {
    /// In lower case.
    pub name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<StringMatch>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_values: Vec<StringMatch>,
}

/// Each element of a list is asked, and of a text with spaces each word besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ClaimCondition {
    /// From the outermost object inwards, as in `request.auth.claims[realm][role]`.
    pub path: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<StringMatch>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_values: Vec<StringMatch>,
}

impl HttpMatch {
    pub fn asks_server_name(&self) -> bool {
        !self.server_names.is_empty() || !self.not_server_names.is_empty()
    }

    /// There are conditions that are not about the server name.
    pub fn asks_requests(&self) -> bool {
        let others = Self { server_names: Vec::new(), not_server_names: Vec::new(), ..self.clone() };
        others != Self::default()
    }

    pub fn matches(&self, action: Action, connection: &Connection, passing: &Passing<'_>) -> bool {
        match passing {
            Passing::Open => action == Action::Allow,
            Passing::Bytes { server_name } => {
                self.server_name(*server_name) && (!self.asks_requests() || action == Action::Deny)
            }
            Passing::Request(request) => self.server_name(None) && self.request(connection, request),
        }
    }

    fn server_name(&self, name: Option<&str>) -> bool {
        both(&self.server_names, &self.not_server_names, |want| want.matches(name))
    }

    fn request(&self, connection: &Connection, request: &Requested<'_>) -> bool {
        let Requested { method, path, host, headers, token } = *request;
        let source = connection.source_ip.to_canonical();
        let net = |net: &IpNet, ip: IpAddr| covers(net, ip);
        both(&self.hosts, &self.not_hosts, |want| is_host(want, host))
            && both(&self.methods, &self.not_methods, |want| want.matches(Some(method)))
            && both(&self.paths, &self.not_paths, |want| want.matches(path))
            && both(&self.remote_ips, &self.not_remote_ips, |want| net(want, source))
            && both(&self.request_principals, &self.not_request_principals, |want| {
                want.matches(token.map(|token| token.principal.as_str()))
            })
            && both(&self.audiences, &self.not_audiences, |want| {
                token.is_some_and(|token| token.audiences.iter().any(|audience| want.matches(Some(audience))))
            })
            && both(&self.presenters, &self.not_presenters, |want| {
                want.matches(token.and_then(|token| token.presenter.as_deref()))
            })
            && self.headers.iter().all(|condition| condition.holds(headers))
            && self.claims.iter().all(|condition| condition.holds(token.map(|token| &token.claims)))
    }
}

fn both<T>(yes: &[T], no: &[T], fits: impl Fn(&T) -> bool) -> bool {
    (yes.is_empty() || yes.iter().any(&fits)) && !no.iter().any(&fits)
}

/// With its port, or without if the pattern names none.
fn is_host(want: &StringMatch, host: &str) -> bool {
    let bare = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map(|(bare, _)| bare);
    want.matches(Some(host)) || bare.is_some_and(|bare| want.matches(Some(bare)))
}

impl PathPattern {
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Text(text) => text.matches(Some(path)),
            Self::Template(template) => is_template(template, path),
        }
    }
}

fn is_template(template: &str, path: &str) -> bool {
    fn fits(template: &[&str], path: &[&str]) -> bool {
        match template.split_first() {
            None => path.is_empty(),
            Some((&"{**}", rest)) => (0..=path.len()).any(|taken| fits(rest, &path[taken..])),
            Some((&"{*}", rest)) => path.split_first().is_some_and(|(one, path)| !one.is_empty() && fits(rest, path)),
            Some((want, rest)) => path.split_first().is_some_and(|(one, path)| one == want && fits(rest, path)),
        }
    }
    let template: Vec<_> = template.split('/').collect();
    fits(&template, &path.split('/').collect::<Vec<_>>())
}

impl HeaderCondition {
    pub fn holds(&self, headers: &HeaderMap) -> bool {
        // What is no text is compared as far as it is: a condition on its beginning or end holds.
        let values = || headers.get_all(&self.name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        let joined = (values().count() > 1).then(|| values().collect::<Vec<_>>().join(","));
        both(&self.values, &self.not_values, |want| {
            values().any(|value| want.matches(Some(&value)))
                || joined.as_deref().is_some_and(|all| want.matches(Some(all)))
        })
    }
}

impl ClaimCondition {
    pub fn holds(&self, claims: Option<&serde_json::Map<String, Value>>) -> bool {
        let mut path = self.path.iter();
        let first = path.next().and_then(|name| claims?.get(name));
        let claim = path.try_fold(first, |value, name| value.map(|value| value.get(name))).flatten();
        both(&self.values, &self.not_values, |want| claim.is_some_and(|claim| is_claim(want, claim)))
    }
}

fn is_claim(want: &StringMatch, claim: &Value) -> bool {
    match claim {
        Value::String(text) => want.matches(Some(text)) || text.split(' ').any(|word| want.matches(Some(word))),
        Value::Bool(value) => want.matches(Some(if *value { "true" } else { "false" })),
        Value::Number(number) => want.matches(Some(&number.to_string())),
        Value::Array(list) => list.iter().any(|element| !element.is_array() && is_claim(want, element)),
        Value::Null | Value::Object(_) => false,
    }
}

//! Conditions that only a request can answer, as Istio's reference of AuthorizationPolicy has them. Where that leaves a
//! choice:
//!
//! - The remote IP is the connection's own client: `x-forwarded-for` is never believed.
//! - A missing attribute meets no condition, and every `not_` condition.
//! - Methods and paths: upper and lower case differ. Paths are without query, as they are passed on.
//! - Hosts: upper and lower case are one, one trailing dot is no part of the name, and a pattern without port fits the
//!   host at any port.
//! - Where an attribute has several values, or a text several readings, it depends on what follows from a condition.
//!   What lets a request pass (a positive condition of ALLOW, a `not_` one of DENY) must hold of all of them, so that
//!   nobody passes by one beside which the application reads another; what stops it (a positive one of DENY, a `not_`
//!   one of ALLOW) of any. AUDIT tells what DENY would refuse. See [`Fit`].
//! - Headers: the values are those of each line, and all of them joined with `,`; what is no UTF-8 is compared lossily.
//!   `*` holds for an empty one too. `cookie` has one value, its lines joined with `; ` (RFC 9113, 8.2.3), since
//!   clients of HTTP/2 part it as they like. `host` and `:authority` are the request's host, `:method` is its method,
//!   in every version of HTTP.
//! - Request principals: `<issuer>/<subject>` can be read in two ways if a subject has a `/`. Where a condition lets
//!   pass, the last `/` of a pattern parts the issuer from the subject, so that nobody gets another issuer's name by
//!   such a subject; a subject with `/` is named by its claims there. Where it stops, the text alone counts.
//! - Server names: what begins as TLS and cannot be read could ask for any ([`Passing::Unnamed`]); what does not begin
//!   as TLS has none, also if it turns to TLS later.
//! - Claims: of lists each element is asked; of the texts `scope` and `permission`, and of those that the token's rule
//!   names (`spaceDelimitedClaims`), each word besides the whole.

mod claim;
mod header;
mod host;
mod principal;
mod template;

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub(crate) use claim::texts as claim_texts;
pub(crate) use header::{fits as fits_header, values as header_values};
pub(crate) use host::{Host, undotted};
pub(crate) use principal::fits as fits_principal;
pub(crate) use template::Template;

use super::{Action, StringMatch, covers};
use crate::model::{Connection, Passing, Requested};

/// How much of an attribute must fit a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// One value, in one reading.
    Any,
    /// Each value, and nothing else may be meant.
    Sure,
}

impl Fit {
    /// Of a positive condition in a rule of this action.
    pub fn of(action: Action) -> Self {
        match action {
            Action::Allow => Self::Sure,
            Action::Deny | Action::Audit => Self::Any,
        }
    }

    /// Of the `not_` condition beside it.
    pub fn of_not(action: Action) -> Self {
        match Self::of(action) {
            Self::Sure => Self::Any,
            Self::Any => Self::Sure,
        }
    }
}

/// As in [`super::Match`]: the kinds are AND-ed, the values of one kind OR-ed, a `not_` kind holds if none of its
/// values does. A request without the attribute meets no condition on it, and every `not_` condition.
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
    /// As Envoy's URI templates: `{*}` stands for one segment that is not empty, `{**}` for any text, an empty one and
    /// one with `/` too. Fixed text may follow either; behind `{**}` there is nothing else.
    Template(String),
}

/// Each value of a header is asked, and all of them joined with `,` besides (those of `cookie` joined with `; ` alone).
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

/// Each element of a list is asked. Numbers, `true` and `false` are compared as JSON writes them.
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
        let Self {
            hosts,
            not_hosts,
            methods,
            not_methods,
            paths,
            not_paths,
            request_principals,
            not_request_principals,
            remote_ips,
            not_remote_ips,
            audiences,
            not_audiences,
            presenters,
            not_presenters,
            headers,
            claims,
            server_names: _,
            not_server_names: _,
        } = self;
        let texts = [
            hosts,
            not_hosts,
            methods,
            not_methods,
            request_principals,
            not_request_principals,
            audiences,
            not_audiences,
            presenters,
            not_presenters,
        ];
        texts.iter().any(|list| !list.is_empty())
            || [paths, not_paths].iter().any(|list| !list.is_empty())
            || [remote_ips, not_remote_ips].iter().any(|list| !list.is_empty())
            || !headers.is_empty()
            || !claims.is_empty()
    }

    pub fn matches(&self, action: Action, connection: &Connection, passing: &Passing<'_>) -> bool {
        match passing {
            Passing::Open => action == Action::Allow,
            Passing::Bytes { server_name } => {
                self.server_name(*server_name) && (!self.asks_requests() || action == Action::Deny)
            }
            Passing::Unnamed => {
                (action != Action::Allow || !self.asks_server_name())
                    && (action == Action::Deny || !self.asks_requests())
            }
            Passing::Request(request) => self.server_name(None) && self.request(action, connection, request),
        }
    }

    fn server_name(&self, name: Option<&str>) -> bool {
        both(&self.server_names, &self.not_server_names, |want| want.matches(name))
    }

    fn request(&self, action: Action, connection: &Connection, request: &Requested<'_>) -> bool {
        let Requested { method, path, host, headers: _, token } = *request;
        let source = connection.source_ip.to_canonical();
        let net = |net: &IpNet, ip: IpAddr| covers(net, ip);
        both(&self.methods, &self.not_methods, |want| want.matches(Some(method)))
            && both(&self.paths, &self.not_paths, |want| want.matches(path))
            && ((self.hosts.is_empty() && self.not_hosts.is_empty()) || {
                let host = Host::new(host);
                both(&self.hosts, &self.not_hosts, |want| host.fits(want))
            })
            && both(&self.remote_ips, &self.not_remote_ips, |want| net(want, source))
            && (self.request_principals.is_empty() || fits_principal(&self.request_principals, token, Fit::of(action)))
            && !fits_principal(&self.not_request_principals, token, Fit::of_not(action))
            && both(&self.audiences, &self.not_audiences, |want| {
                token.is_some_and(|token| token.audiences.iter().any(|audience| want.matches(Some(audience))))
            })
            && both(&self.presenters, &self.not_presenters, |want| {
                want.matches(token.and_then(|token| token.presenter.as_deref()))
            })
            && self.headers.iter().all(|condition| condition.holds(action, request))
            && self.claims.iter().all(|condition| condition.holds(token))
    }
}

pub(crate) fn both<T>(yes: &[T], no: &[T], fits: impl Fn(&T) -> bool) -> bool {
    (yes.is_empty() || yes.iter().any(&fits)) && !no.iter().any(&fits)
}

impl PathPattern {
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Text(text) => text.matches(Some(path)),
            Self::Template(template) => Template::new(template).fits(path),
        }
    }
}

/// As users write it.
impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => text.fmt(f),
            Self::Template(template) => f.write_str(template),
        }
    }
}

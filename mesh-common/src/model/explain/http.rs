//! The conditions that only a request can answer. What a request has is shown, but for secrets.

use std::fmt;

use super::{Conditions, ConsideredCondition, Place, nets};
use crate::model::{
    Action, Connection, HttpMatch, Passing, Requested, StringMatch,
    http_policy::{Fit, Host, claim_texts, fits_header, fits_principal, header_values},
};

/// Stands where a request's attribute would.
const NO_REQUEST: &str = "no request";
/// Stands where the name in a hello of TLS would.
const UNREAD: &str = "a hello that could not be read";
const SECRET: &str = "(set)";

/// Below `from`.
pub(super) fn is_source(http: &HttpMatch) -> bool {
    !http.request_principals.is_empty()
        || !http.not_request_principals.is_empty()
        || !http.remote_ips.is_empty()
        || !http.not_remote_ips.is_empty()
}

/// Below `to`.
pub(super) fn is_operation(http: &HttpMatch) -> bool {
    !http.hosts.is_empty()
        || !http.not_hosts.is_empty()
        || !http.methods.is_empty()
        || !http.not_methods.is_empty()
        || !http.paths.is_empty()
        || !http.not_paths.is_empty()
}

/// Whether a header's value is to be kept from people.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    [
        "authorization",
        "cookie",
        "token",
        "secret",
        "password",
        "credential",
        "session",
        "signature",
        "api-key",
        "apikey",
    ]
    .iter()
    .any(|word| name.contains(word))
}

impl Conditions {
    pub(super) fn http(&mut self, http: &HttpMatch, action: Action, connection: &Connection, passing: &Passing<'_>) {
        let before = self.conditions.len();
        let server_name = match *passing {
            Passing::Bytes { server_name } => server_name,
            Passing::Open | Passing::Unnamed | Passing::Request(_) => None,
        };
        self.request(http, action, connection, passing);
        let asked = self.conditions.len();
        self.always(
            "connection.sni",
            &http.server_names,
            &http.not_server_names,
            server_name.unwrap_or_default(),
            |want| want.matches(server_name),
        );
        // Of what is no request, the action says what an open question counts as.
        let open = match passing {
            Passing::Open => Some((before, action == Action::Allow)),
            Passing::Bytes { .. } | Passing::Unnamed => Some((before, action == Action::Deny)),
            Passing::Request(_) => None,
        };
        if let Some((from, holds)) = open {
            let to = if matches!(passing, Passing::Open) { self.conditions.len() } else { asked };
            for condition in &mut self.conditions[from..to] {
                NO_REQUEST.clone_into(&mut condition.actual);
                condition.holds = holds;
            }
        }
        if matches!(passing, Passing::Unnamed) {
            for condition in &mut self.conditions[asked..] {
                UNREAD.clone_into(&mut condition.actual);
                condition.holds = action != Action::Allow;
            }
        }
        if self.conditions.len() == before && !http.matches(action, connection, passing) {
            self.conditions.push(ConsideredCondition {
                field: "(HTTP conditions)".to_owned(),
                values: vec!["of a request".to_owned()],
                actual: NO_REQUEST.to_owned(),
                holds: false,
            });
        }
    }

    /// All but the server name, against a request; against none, what stands in its place is put in later.
    fn request(&mut self, http: &HttpMatch, action: Action, connection: &Connection, passing: &Passing<'_>) {
        let HttpMatch {
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
        } = http;
        let nothing = ::http::HeaderMap::new();
        let none = Requested { method: "", path: "", host: "", headers: &nothing, token: None };
        let request = match passing {
            Passing::Request(request) => request,
            Passing::Open | Passing::Bytes { .. } | Passing::Unnamed => &none,
        };
        let Requested { method, path, host, headers: _, token } = *request;

        let principal = token.map_or("", |token| token.principal.as_str());
        let name = ["requestPrincipals", "notRequestPrincipals", "request.auth.principal"];
        let fits = |wants: &[StringMatch], fit| fits_principal(wants, token, fit);
        self.sided(action, name, request_principals, not_request_principals, principal, fits);
        let source = connection.source_ip.to_canonical();
        let name = ["remoteIpBlocks", "notRemoteIpBlocks", "remote.ip"];
        let (yes, no) = (nets(remote_ips), nets(not_remote_ips));
        self.both(name, &yes, &no, &source.to_string(), |net| net.covers(source));

        let place = std::mem::replace(&mut self.place, Place { when: false });
        let own = Host::new(host);
        self.both(["hosts", "notHosts", ""], hosts, not_hosts, host, |want| own.fits(want));
        self.both(["methods", "notMethods", ""], methods, not_methods, method, |want| want.matches(Some(method)));
        self.both(["paths", "notPaths", ""], paths, not_paths, path, |want| want.matches(path));
        self.place = place;

        let has = token.map_or_else(String::new, |token| token.audiences.join(", "));
        self.always("request.auth.audiences", audiences, not_audiences, &has, |want| {
            token.is_some_and(|token| token.audiences.iter().any(|audience| want.matches(Some(audience))))
        });
        let presenter = token.and_then(|token| token.presenter.as_deref());
        self.always("request.auth.presenter", presenters, not_presenters, presenter.unwrap_or_default(), |want| {
            want.matches(presenter)
        });
        for condition in headers {
            let mut has = Vec::new();
            header_values(&condition.name, request, |value| {
                has.push(value.to_owned());
                false
            });
            // The last of several is all of them joined.
            let has = has.pop();
            let actual = match has {
                Some(_) if is_secret(&condition.name) => SECRET.to_owned(),
                has => has.unwrap_or_default(),
            };
            let key = format!("request.headers[{}]", condition.name);
            let fits = |wants: &[StringMatch], fit| fits_header(&condition.name, wants, request, fit);
            let place = std::mem::replace(&mut self.place, Place { when: true });
            self.sided(action, ["", "", &key], &condition.values, &condition.not_values, &actual, fits);
            self.place = place;
        }
        for condition in claims {
            let mut has = Vec::new();
            claim_texts(&condition.path, token, |text| {
                has.push(text.to_owned());
                false
            });
            let key = format!("request.auth.claims[{}]", condition.path.join("]["));
            self.always(&key, &condition.values, &condition.not_values, &has.join(", "), |want| {
                condition.fits(want, token)
            });
        }
    }

    /// As [`Self::both`], where the rule's action says how much must fit.
    fn sided(
        &mut self,
        action: Action,
        [field, not_field, key]: [&str; 3],
        yes: &[StringMatch],
        no: &[StringMatch],
        actual: &str,
        fits: impl Fn(&[StringMatch], Fit) -> bool,
    ) {
        for (list, not, fit) in [(yes, false, Fit::of(action)), (no, true, Fit::of_not(action))] {
            if !list.is_empty() {
                self.conditions.push(ConsideredCondition {
                    field: self.place.field(field, not_field, key, not),
                    values: list.iter().map(ToString::to_string).collect(),
                    actual: actual.to_owned(),
                    holds: fits(list, fit) != not,
                });
            }
        }
    }

    /// Only `when` can name it.
    fn always<T: fmt::Display>(&mut self, key: &str, yes: &[T], no: &[T], actual: &str, fits: impl Fn(&T) -> bool) {
        let place = std::mem::replace(&mut self.place, Place { when: true });
        self.both(["", "", key], yes, no, actual, fits);
        self.place = place;
    }
}

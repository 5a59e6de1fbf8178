//! Decisions about connections and requests of which not everything was recorded. A condition on what is not known
//! holds or does not; it is assumed to do the one, then the other, and where both lead to the same, the decision is
//! known all the same. With full knowledge the answer is that of [`authorize`](crate::model::authorize); a test holds
//! it to that.

mod assumed;
mod token;

pub use assumed::{Assumed, Attribute, Guess, Outcomes, TokenPart, outcomes};

use http::HeaderMap;

use crate::model::{
    Action, Clause, Connection, Denied, HeaderCondition, HttpMatch, Match, Passing, PathPattern, Permit, Policy,
    PolicyName, Requested, Rule, StringMatch, Token, covers, http_policy::Host,
};

/// What is known of a connection and of what it carried.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub connection: &'a Connection,
    pub carried: Carried<'a>,
}

#[derive(Clone, Copy, Debug)]
pub enum Carried<'a> {
    /// No requests. `None`: it is not known whether there was a server name; of what nobody looked into there was none
    /// that policies could ask for.
    Bytes {
        server_name: Option<Option<&'a str>>,
    },
    Request(Seen<'a>),
}

/// One request; `None`: not known.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub method: Option<&'a str>,
    /// Without its query.
    pub path: Option<&'a str>,
    /// In lower case.
    pub host: Option<&'a str>,
    pub headers: Option<&'a HeaderMap>,
    pub bearer: Bearer<'a>,
}

/// Which verified token a request bore.
#[derive(Clone, Copy, Debug)]
pub enum Bearer<'a> {
    /// Nobody knows whether there was one. `anew`: of several questions about one request this one is about other rules
    /// for tokens, so that what is assumed of the token elsewhere says nothing here.
    Unknown {
        anew: bool,
    },
    /// One with this `<issuer>/<subject>`, of one of these issuers.
    Principal {
        principal: &'a str,
        issuers: &'a [&'a str],
    },
    Exactly(Option<&'a Token>),
}

/// `Err`: it depends on this.
type Maybe<T> = Result<T, Guess>;

impl Seen<'_> {
    /// A request of which nothing is known.
    pub const NOTHING: Self =
        Self { method: None, path: None, host: None, headers: None, bearer: Bearer::Unknown { anew: false } };
}

/// As [`authorize`](crate::model::authorize), as far as it is known under what is assumed. Of several rules that lead
/// to the same, the first that is known to match is named.
pub fn decide<'a>(
    policies: impl Iterator<Item = &'a Policy> + Clone,
    unknown: Option<&PolicyName>,
    known: &Known<'_>,
    assumed: &Assumed,
) -> Maybe<Result<Permit, Denied>> {
    if let Some(name) = unknown {
        return Ok(Err(Denied::unknown(name)));
    }
    let with = |action| policies.clone().filter(move |policy| policy.is_enforced() && policy.action == action);
    let asking = Asking { known, assumed };
    let mut denies = Ok(());
    for policy in with(Action::Deny) {
        match asking.policy(policy) {
            Ok(Some(rule)) => return Ok(Err(Denied::by(policy, rule))),
            Ok(None) => {}
            Err(guess) => denies = denies.and(Err(guess)),
        }
    }
    let mut allows = Ok(());
    for policy in with(Action::Allow) {
        match asking.policy(policy) {
            Ok(Some(rule)) => return denies.map(|()| Ok(Permit::by(policy, rule))),
            Ok(None) => {}
            Err(guess) => allows = allows.and(Err(guess)),
        }
    }
    allows?;
    match with(Action::Allow).next() {
        // Denied in any case.
        Some(first) => Ok(Err(Denied::no_allow(&first.name))),
        None => denies.map(|()| Ok(Permit::without_policy())),
    }
}

/// One that does not hold is enough, whatever the others are.
fn all(conditions: impl IntoIterator<Item = Maybe<bool>>) -> Maybe<bool> {
    let mut open = Ok(true);
    for condition in conditions {
        match condition {
            Ok(false) => return Ok(false),
            Ok(true) => {}
            Err(guess) => open = open.and(Err(guess)),
        }
    }
    open
}

/// One that holds is enough, whatever the others are.
fn any(conditions: impl IntoIterator<Item = Maybe<bool>>) -> Maybe<bool> {
    all(conditions.into_iter().map(|condition| condition.map(|holds| !holds))).map(|none| !none)
}

fn both<T>(yes: &[T], no: &[T], fits: impl Fn(&T) -> Maybe<bool>) -> Maybe<bool> {
    let some = if yes.is_empty() { Ok(true) } else { any(yes.iter().map(&fits)) };
    all([some, any(no.iter().map(&fits)).map(|fits| !fits)])
}

#[derive(Clone, Copy)]
struct Asking<'a> {
    known: &'a Known<'a>,
    assumed: &'a Assumed,
}

impl Asking<'_> {
    /// The first rule that is known to match.
    fn policy(&self, policy: &Policy) -> Maybe<Option<usize>> {
        let mut open = Ok(None);
        for (number, rule) in policy.rules.iter().enumerate() {
            match self.rule(rule, policy.action) {
                Ok(true) => return Ok(Some(number)),
                Ok(false) => {}
                Err(guess) => open = open.and(Err(guess)),
            }
        }
        open
    }

    fn rule(&self, rule: &Rule, action: Action) -> Maybe<bool> {
        all(rule.clauses.iter().map(|clause| self.clause(clause, action)))
    }

    fn clause(&self, clause: &Clause, action: Action) -> Maybe<bool> {
        if clause.matches.is_empty() {
            return Ok(true);
        }
        any(clause.matches.iter().map(|m| self.one(m, action)))
    }

    fn one(&self, m: &Match, action: Action) -> Maybe<bool> {
        // Open, its conditions on requests hold for ALLOW: what is left are those on the connection.
        if !m.matches(Action::Allow, self.known.connection, &Passing::Open) {
            return Ok(false);
        }
        m.http.as_deref().map_or(Ok(true), |http| self.http(http, action))
    }

    fn http(&self, http: &HttpMatch, action: Action) -> Maybe<bool> {
        let name = |name: Option<Option<&str>>| {
            both(&http.server_names, &http.not_server_names, |want| match name {
                Some(name) => Ok(want.matches(name)),
                None => self.text(Attribute::ServerName, want),
            })
        };
        match &self.known.carried {
            Carried::Bytes { .. } if http.asks_requests() && action != Action::Deny => Ok(false),
            Carried::Bytes { server_name } => name(*server_name),
            Carried::Request(seen) => all([name(Some(None)), self.request(http, action, seen)]),
        }
    }

    fn request(&self, http: &HttpMatch, action: Action, seen: &Seen<'_>) -> Maybe<bool> {
        let source = self.known.connection.source_ip.to_canonical();
        all([
            both(&http.remote_ips, &http.not_remote_ips, |net| Ok(covers(net, source))),
            both(&http.methods, &http.not_methods, |want| match seen.method {
                Some(method) => Ok(want.matches(Some(method))),
                None => self.text(Attribute::Method, want),
            }),
            both(&http.paths, &http.not_paths, |want| match seen.path {
                Some(path) => Ok(want.matches(path)),
                None => self.guess(Attribute::Path, want.clone()),
            }),
            both(&http.hosts, &http.not_hosts, |want| match seen.host {
                Some(host) => Ok(Host::new(host).fits(want)),
                None => self.text(Attribute::Host, want),
            }),
            all(http.headers.iter().map(|condition| self.header(condition, action, seen))),
            self.token(http, action, seen.bearer),
        ])
    }

    /// One that was not recorded is taken to have one value.
    fn header(&self, condition: &HeaderCondition, action: Action, seen: &Seen<'_>) -> Maybe<bool> {
        let is_known = match condition.name.as_str() {
            "host" | ":authority" => seen.host.is_some(),
            ":method" => seen.method.is_some(),
            _ => seen.headers.is_some(),
        };
        if !is_known {
            let header = || Attribute::Header(condition.name.clone());
            let attribute = || if condition.name == ":method" { Attribute::Method } else { header() };
            return both(&condition.values, &condition.not_values, |want| self.text(attribute(), want));
        }
        let none = HeaderMap::new();
        let request = Requested {
            method: seen.method.unwrap_or_default(),
            path: seen.path.unwrap_or_default(),
            host: seen.host.unwrap_or_default(),
            headers: seen.headers.unwrap_or(&none),
            token: None,
        };
        Ok(condition.holds(action, &request))
    }

    fn text(&self, attribute: Attribute, want: &StringMatch) -> Maybe<bool> {
        self.guess(attribute, PathPattern::Text(want.clone()))
    }

    fn guess(&self, attribute: Attribute, pattern: PathPattern) -> Maybe<bool> {
        self.assumed.answer(&attribute, &pattern).ok_or(Guess { attribute, pattern })
    }
}

//! What a change of policies means for one recorded connection or request. The recorded facts are put to the compiled
//! policies before and after, at once: what is not known is the same for both.

use std::sync::Arc;

use mesh_common::{
    authz::partial::{Assumed, Attribute, Bearer, Carried, Guess, Known, Seen, TokenPart, decide, outcomes},
    model::{Connection, Denied, Match, PathPattern, Permit, Policy, Reason, StringMatch, traffic::Protocol},
    route::path::readings,
};

use super::compiled::Target;

/// So many cases of what is not known are looked at.
const CASES: usize = 1024;
/// Why a request is refused whose token is not right.
pub const TOKEN: &str = "JWT";
const AMBIGUOUS: &str = "PATH_AMBIGUOUS";

/// What was recorded at the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    pub connection: Connection,
    /// `None`: of a connection, of which it is not known what it carried.
    pub request: Option<RecordedRequest>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedRequest {
    pub method: String,
    pub path: String,
    /// In lower case.
    pub host: String,
    /// Of the token that was verified.
    pub principal: Option<String>,
    /// It was refused for its token.
    pub token_refused: bool,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    Unchanged,
    NewlyDenied,
    NewlyAllowed,
    /// It depends on what was not recorded.
    Unknown,
}

/// A decision in words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Said {
    pub permitted: bool,
    /// A stable code; empty if permitted.
    pub reason: String,
    /// `namespace/name`; empty: none.
    pub policy: String,
    /// From 0; `None`: no rule of it matched.
    pub rule: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    pub effect: Effect,
    /// `None` if it is not known.
    pub before: Option<Said>,
    pub after: Option<Said>,
    /// What it depends on, if that is unknown; sorted.
    pub needs: Vec<String>,
}

/// Both together, and how they differ.
#[derive(Clone, Debug)]
struct Case {
    before: Said,
    after: Said,
}

impl Case {
    fn effect(&self) -> Effect {
        match (self.before.permitted, self.after.permitted) {
            (true, false) => Effect::NewlyDenied,
            (false, true) => Effect::NewlyAllowed,
            _ => Effect::Unchanged,
        }
    }
}

/// Cases are the same if they have the same effect.
impl PartialEq for Case {
    fn eq(&self, other: &Self) -> bool {
        self.effect() == other.effect()
    }
}

/// Judges one record.
pub fn judge(before: &Target<'_>, after: &Target<'_>, recorded: &Recorded) -> Judged {
    if before.decides_like(after) {
        return Judged { effect: Effect::Unchanged, before: None, after: None, needs: Vec::new() };
    }
    let anew = !before.takes_tokens_like(after);
    let sides = [Side::new(before, recorded, false), Side::new(after, recorded, anew)];
    let found = outcomes(CASES, |assumed| {
        let [before, after] = &sides;
        match (before.said(assumed), after.said(assumed)) {
            (Ok(before), Ok(after)) => Ok(Case { before, after }),
            (Err(guess), _) | (_, Err(guess)) => Err(guess),
        }
    });
    match found.all.as_slice() {
        [case] if !found.cut => {
            let (before, after) = (Some(case.before.clone()), Some(case.after.clone()));
            Judged { effect: case.effect(), before, after, needs: Vec::new() }
        }
        _ => {
            let mut needs: Vec<_> = found.depends_on.iter().map(ToString::to_string).collect();
            needs.dedup();
            Judged { effect: Effect::Unknown, before: None, after: None, needs }
        }
    }
}

/// One configuration, and what of the record it looks at.
struct Side<'a> {
    target: &'a Target<'a>,
    recorded: &'a Recorded,
    issuers: Vec<&'a str>,
    /// Its rules for tokens are not those by which the recorded token was verified.
    anew: bool,
    reads: bool,
    protocol: Protocol,
}

impl<'a> Side<'a> {
    fn new(target: &'a Target<'a>, recorded: &'a Recorded, anew: bool) -> Self {
        let (inbound, port) = (target.inbound(), recorded.connection.destination.port());
        Self {
            recorded,
            issuers: inbound.tokens.iter().map(|rule| rule.issuer.as_str()).collect(),
            anew,
            reads: target.reads(port),
            protocol: inbound.protocol(port),
            target,
        }
    }

    fn conditions(&self) -> impl Iterator<Item = &Match> {
        let rules = self.target.policies.iter().flat_map(|policy| &policy.rules);
        rules.flat_map(|rule| &rule.clauses).flat_map(|clause| &clause.matches)
    }

    fn said(&self, assumed: &Assumed) -> Result<Said, Guess> {
        let server_name = Some(None);
        if !self.reads {
            return self.asked(Carried::Bytes { server_name }, assumed);
        }
        let Some(request) = &self.recorded.request else {
            let speaks_bytes = matches!(self.protocol, Protocol::Tcp | Protocol::Tls);
            if speaks_bytes || !holds(assumed, Attribute::Requests)? {
                return self.asked(Carried::Bytes { server_name: None }, assumed);
            }
            return self.of_request(Seen { bearer: self.unknown_bearer(), ..Seen::NOTHING }, assumed);
        };
        let bearer = match &request.principal {
            _ if self.target.inbound().tokens.is_empty() => Bearer::Exactly(None),
            _ if self.anew || request.token_refused => self.unknown_bearer(),
            Some(principal) => Bearer::Principal { principal, issuers: &self.issuers },
            None => Bearer::Exactly(None),
        };
        let RecordedRequest { method, path, host, principal: _, token_refused: _ } = request;
        let seen = Seen { method: Some(method), path: Some(path), host: Some(host), headers: None, bearer };
        self.of_request(seen, assumed)
    }

    fn unknown_bearer(&self) -> Bearer<'static> {
        match self.target.inbound().tokens.is_empty() {
            true => Bearer::Exactly(None),
            false => Bearer::Unknown { anew: self.anew },
        }
    }

    /// As the agent does with a request: its token, its path, then its policies.
    fn of_request(&self, seen: Seen<'_>, assumed: &Assumed) -> Result<Said, Guess> {
        if !self.target.inbound().tokens.is_empty() {
            let wrong = match &self.recorded.request {
                Some(request) if !self.anew => request.token_refused,
                _ => holds(assumed, Attribute::Token { anew: self.anew, what: TokenPart::Wrong })?,
            };
            if wrong {
                return Ok(Said::refused(TOKEN));
            }
        }
        let said = self.asked(Carried::Request(seen), assumed)?;
        let paths = |m: &Match| m.http.as_deref().is_some_and(|h| !h.paths.is_empty() || !h.not_paths.is_empty());
        let Some(path) = seen.path.filter(|_| said.permitted && self.conditions().any(paths)) else { return Ok(said) };
        let Ok(others) = readings(path) else { return Ok(Said::refused(AMBIGUOUS)) };
        let mut open = Ok(said);
        for other in &others {
            match self.asked(Carried::Request(Seen { path: Some(other), ..seen }), assumed) {
                Ok(said) if said.permitted => {}
                Ok(said) => return Ok(said),
                Err(guess) => open = open.and(Err(guess)),
            }
        }
        open
    }

    fn asked(&self, carried: Carried<'_>, assumed: &Assumed) -> Result<Said, Guess> {
        let known = Known { connection: &self.recorded.connection, carried };
        let policies = self.target.policies.iter().map(|policy: &Arc<Policy>| &**policy);
        decide(policies, self.target.unknown, &known, assumed).map(|outcome| Said::of(outcome, self.target))
    }
}

/// Of what is or is not.
fn holds(assumed: &Assumed, attribute: Attribute) -> Result<bool, Guess> {
    let pattern = PathPattern::Text(StringMatch::Presence);
    assumed.answer(&attribute, &pattern).ok_or(Guess { attribute, pattern })
}

impl Said {
    fn refused(reason: &str) -> Self {
        Self { permitted: false, reason: reason.to_owned(), policy: String::new(), rule: None }
    }

    fn of(outcome: Result<Permit, Denied>, target: &Target<'_>) -> Self {
        let text = |name: Option<&mesh_common::model::PolicyName>| name.map(ToString::to_string).unwrap_or_default();
        match outcome {
            Ok(permit) => {
                Self { permitted: true, reason: String::new(), policy: text(permit.policy()), rule: permit.rule() }
            }
            Err(denied) => {
                let strict = target.local.and_then(|local| local.strict_by.as_ref());
                // By the name that the user gave it.
                let user = strict.filter(|_| denied.reason == Reason::PlaintextStrict);
                let policy = text(user.or(denied.policy.as_ref()));
                Self { permitted: false, reason: denied.reason.code().to_owned(), policy, rule: denied.rule }
            }
        }
    }
}

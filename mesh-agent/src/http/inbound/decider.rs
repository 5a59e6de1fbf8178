//! Who may ask a pod for what: the policies that apply to it and the tokens that it takes, as one configuration says.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use http::{HeaderMap, request::Parts};
use mesh_common::{
    model::{
        Asked, Connection, Decision, Denied, LocalPod, Observation, Passed, Passing, Permit, PolicyName, Reason,
        RequestFacts, Requested, Token,
    },
    route::path::{PathFault, readings},
};

use super::{
    super::token::{Refused, Tokens, Verified},
    told::Decided,
};
use crate::{
    state::{Applicable, Snapshot},
    telemetry::{Flow, reason},
};

/// Those of the pods of this node.
#[derive(Debug, Default)]
pub struct Deciders(Mutex<HashMap<String, Known>>);

#[derive(Debug)]
struct Known {
    /// The newest configuration that says what the decider was made of.
    generation: u64,
    decider: Arc<Decider>,
}

#[derive(Debug)]
pub struct Decider {
    generation: u64,
    uid: String,
    /// That said which tokens it takes.
    pod: Option<Arc<LocalPod>>,
    tokens: Arc<Tokens>,
    /// `None`: nobody knows what applies, and nothing is permitted.
    applicable: Option<Arc<Applicable>>,
    strict_by: Option<PolicyName>,
    decided: Decided,
}

/// Why a request may not go on.
#[derive(Clone, Debug)]
pub enum Unauthorized {
    Token(Refused),
    /// It could be read in ways that nobody can decide about.
    Path(PathFault),
    Denied(Box<Decision>),
}

/// What became of a request's head.
#[derive(Debug)]
pub struct Judged {
    /// As it is passed on.
    pub facts: RequestFacts,
    pub outcome: Result<Approved, Unauthorized>,
}

/// A request that may go on.
#[derive(Debug)]
pub struct Approved {
    permit: Permit,
    /// Somebody should hear of these.
    pub observations: Vec<Observation>,
}

impl Unauthorized {
    /// A stable one.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Token(refused) => refused.0,
            Self::Path(_) => reason::PATH_AMBIGUOUS,
            Self::Denied(decision) => {
                decision.outcome.as_ref().err().map_or(reason::INTERNAL, |denied| denied.reason.code())
            }
        }
    }

    /// Says so in the request's record.
    pub fn tell(&self, flow: &mut Flow) {
        match self {
            Self::Token(refused) => flow.dropped(refused.0, refused.answer().2),
            Self::Path(fault) => flow.dropped(reason::PATH_AMBIGUOUS, fault),
            Self::Denied(decision) => flow.decided(decision),
        }
    }
}

impl Deciders {
    /// That of the pod with this key and uid, as `snapshot` has it. While it says the same it is the same one. An older
    /// configuration than the newest that was asked for changes nothing any more.
    pub fn of_pod(&self, key: &str, uid: &str, snapshot: &Arc<Snapshot>) -> Arc<Decider> {
        let generation = snapshot.generation();
        let earlier = {
            let mut pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match pods.get_mut(key) {
                Some(known) if known.generation >= generation => return Arc::clone(&known.decider),
                Some(known) if known.decider.is_of(snapshot) => {
                    known.generation = generation;
                    return Arc::clone(&known.decider);
                }
                known => known.map(|known| Arc::clone(&known.decider)),
            }
        };
        // Reading keys takes its time, in which others go on.
        let decider = Arc::new(Decider::new(uid, snapshot, earlier.as_deref()));
        let mut pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match pods.get(key) {
            Some(newer) if newer.generation >= generation => return Arc::clone(&newer.decider),
            // Of a pod that is gone nobody would take it out again.
            _ if decider.pod.is_none() => {}
            _ => drop(pods.insert(key.to_owned(), Known { generation, decider: Arc::clone(&decider) })),
        }
        decider
    }

    /// The pod is gone.
    pub fn forget(&self, key: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

impl Decider {
    /// That of a pod of this node. What `earlier` has verified and still counts is known to it.
    pub fn new(uid: &str, snapshot: &Snapshot, earlier: Option<&Self>) -> Self {
        let pod = snapshot.local_pod_by_uid(uid).cloned();
        let tokens = match (earlier, &pod) {
            // With what it has verified; or the pod is about to go.
            (Some(earlier), pod) if pod.as_ref().is_none_or(|pod| earlier.takes_tokens_of(pod)) => {
                Arc::clone(&earlier.tokens)
            }
            (_, Some(pod)) if pod.inbound.unreadable => Arc::new(Tokens::unreadable()),
            (_, Some(pod)) => Arc::new(Tokens::new(&pod.inbound.tokens).unwrap_or_else(|error| {
                // The controller reads them in the same way, so there is none.
                tracing::error!(uid, %error, "no token can be read; every request is refused");
                Tokens::unreadable()
            })),
            (_, None) => Arc::new(Tokens::unreadable()),
        };
        let applicable = snapshot.known_policies_of(uid);
        let decided = {
            let asked = applicable.as_deref();
            let named = asked.into_iter().flat_map(|asked| &asked.headers).chain(tokens.headers());
            let asks = |what: fn(&Applicable) -> bool| asked.is_some_and(what);
            Decided::new(named, asks(|of| of.asks_paths), asks(|of| of.asks_methods), asks(|of| of.asks_hosts))
        };
        Self {
            generation: snapshot.generation(),
            uid: uid.to_owned(),
            decided,
            tokens,
            applicable,
            strict_by: snapshot.strict_by(uid).cloned(),
            pod,
        }
    }

    fn takes_tokens_of(&self, pod: &Arc<LocalPod>) -> bool {
        let own = self.pod.as_ref();
        own.is_some_and(|own| Arc::ptr_eq(own, pod) || own.inbound.judges_tokens_as(&pod.inbound))
    }

    /// The configuration says what this was made of.
    fn is_of(&self, snapshot: &Snapshot) -> bool {
        let same_policies = match (&self.applicable, snapshot.known_policies_of(&self.uid)) {
            (Some(own), Some(now)) => Arc::ptr_eq(own, &now) || own.is_like(&now),
            (own, now) => own.is_none() && now.is_none(),
        };
        same_policies
            && snapshot.local_pod_by_uid(&self.uid).is_some_and(|pod| self.takes_tokens_of(pod))
            && snapshot.strict_by(&self.uid) == self.strict_by.as_ref()
    }

    /// There is something to decide by request.
    pub fn is_asked(&self) -> bool {
        self.applicable.as_ref().is_none_or(|applicable| applicable.asks) || !self.tokens.is_empty()
    }

    /// Makes of a request's head what the application may see, and decides about that. `authority` is whom it asks for.
    pub fn judge(&self, connection: &Connection, parts: &mut Parts, authority: &str) -> Judged {
        let host = authority.to_ascii_lowercase();
        let verified = self.verify(parts);
        let token: Option<Arc<Token>> = verified.as_ref().ok().cloned().flatten();
        let request = Requested {
            method: parts.method.as_str(),
            path: parts.uri.path(),
            host: &host,
            headers: &parts.headers,
            token: token.as_deref(),
        };
        let outcome = verified.and_then(|_| self.decide(connection, &request, token.as_ref()));
        Judged { facts: self.facts(&request, token.as_ref()), outcome }
    }

    /// Reads the request's token, and makes of its head what the application may see.
    fn verify(&self, parts: &mut Parts) -> Result<Option<Arc<Token>>, Unauthorized> {
        self.decided.settle(&mut parts.headers);
        if self.tokens.is_empty() {
            return Ok(None);
        }
        let verified: Option<Arc<Verified>> =
            self.tokens.read(parts, SystemTime::now()).map_err(Unauthorized::Token)?;
        self.tokens.apply(parts, verified.as_deref());
        Ok(verified.map(|verified| Arc::clone(&verified.token)))
    }

    /// Decides on a request in the form in which it is passed on. What others could read as another path, they must be
    /// permitted too.
    fn decide(
        &self,
        connection: &Connection,
        request: &Requested<'_>,
        token: Option<&Arc<Token>>,
    ) -> Result<Approved, Unauthorized> {
        let refused = |request: &Requested<'_>, denied, observations| {
            let facts = Arc::new(self.facts(request, token));
            Unauthorized::Denied(Box::new(self.decision(connection, facts, Err(denied), observations)))
        };
        let Some(applicable) = &self.applicable else {
            return Err(refused(request, Denied::without_policy(Reason::PolicyUnknown), Vec::new()));
        };
        let ask = |request: &Requested<'_>| applicable.authorize(connection, &Passing::Request(request));
        let outcome = ask(request);
        let observations = applicable.observe(&outcome, connection, &Passing::Request(request));
        let permit = match outcome {
            Ok(permit) => permit,
            Err(denied) => return Err(refused(request, denied, observations)),
        };
        if applicable.asks_paths {
            for path in readings(request.path).map_err(Unauthorized::Path)? {
                let read = Requested { path: &path, ..*request };
                ask(&read).map_err(|denied| refused(&read, denied, Vec::new()))?;
            }
        }
        Ok(Approved { permit, observations })
    }

    /// What is kept of a request in its record.
    fn facts(&self, request: &Requested<'_>, token: Option<&Arc<Token>>) -> RequestFacts {
        let Requested { method, path, host, headers, token: _ } = *request;
        let mut kept = HeaderMap::new();
        for name in self.applicable.iter().flat_map(|applicable| &applicable.headers) {
            for value in headers.get_all(name) {
                kept.append(name, value.clone());
            }
        }
        RequestFacts {
            method: method.to_owned(),
            path: path.to_owned(),
            host: host.to_owned(),
            headers: kept,
            token: token.cloned(),
        }
    }

    /// With all that explains it.
    pub fn approval(&self, connection: &Connection, facts: Arc<RequestFacts>, approved: Approved) -> Decision {
        self.decision(connection, facts, Ok(approved.permit), approved.observations)
    }

    fn decision(
        &self,
        connection: &Connection,
        facts: Arc<RequestFacts>,
        outcome: Result<Permit, Denied>,
        observations: Vec<Observation>,
    ) -> Decision {
        let asked = Asked {
            policies: self.applicable.as_ref().map(|applicable| Arc::clone(&applicable.policies)).unwrap_or_default(),
            unknown: self.applicable.as_ref().and_then(|applicable| applicable.unknown.clone()),
            strict_by: self.strict_by.clone(),
            connection: connection.clone(),
            passed: Passed::Request(facts),
        };
        asked.decided(outcome, observations, self.generation)
    }
}

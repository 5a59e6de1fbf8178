//! Who may ask a pod for what: the policies that apply to it and the tokens that it takes, as one configuration says.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use http::{HeaderMap, request::Parts};
use mesh_common::{
    model::{
        Asked, Connection, Decision, Denied, Observation, Passed, Passing, Permit, PolicyName, RequestFacts, Requested,
        Token,
    },
    route::path::{PathFault, readings},
};

use super::{
    super::token::{Refused, Tokens, Verified},
    told::Decided,
};
use crate::state::{Applicable, Snapshot};

/// Those of the pods of this node.
#[derive(Debug, Default)]
pub struct Deciders(Mutex<HashMap<String, Arc<Decider>>>);

#[derive(Debug)]
pub struct Decider {
    /// As in it everything here is.
    snapshot: Arc<Snapshot>,
    uid: String,
    tokens: Arc<Tokens>,
    applicable: Arc<Applicable>,
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

impl Deciders {
    /// That of the pod with this key and uid, as `snapshot` has it. While it says the same it is the same one. An older
    /// configuration than the newest that was asked for changes nothing any more.
    pub fn of_pod(&self, key: &str, uid: &str, snapshot: &Arc<Snapshot>) -> Arc<Decider> {
        let mut pods = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = pods.get(key);
        if let Some(known) = known.filter(|known| known.is_newer(snapshot) || known.says_the_same(snapshot)) {
            return Arc::clone(known);
        }
        let decider = Arc::new(Decider::new(uid, snapshot, known.map(|known| &**known)));
        pods.insert(key.to_owned(), Arc::clone(&decider));
        decider
    }

    /// The pod is gone.
    pub fn forget(&self, key: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

impl Decider {
    fn new(uid: &str, snapshot: &Arc<Snapshot>, earlier: Option<&Self>) -> Self {
        let inbound = snapshot.inbound(uid);
        let tokens = match earlier.filter(|earlier| earlier.snapshot.inbound(uid).tokens == inbound.tokens) {
            // With what it has verified.
            Some(earlier) => Arc::clone(&earlier.tokens),
            None => Arc::new(Tokens::new(&inbound.tokens).unwrap_or_else(|error| {
                // The controller reads them in the same way, so there is none.
                tracing::error!(uid, %error, "no token can be read; every request is refused");
                Tokens::unreadable()
            })),
        };
        let applicable = snapshot.workload(uid).map(|workload| snapshot.policies_of(workload)).unwrap_or_default();
        let named = applicable.headers.iter().chain(tokens.headers());
        Self {
            uid: uid.to_owned(),
            decided: Decided::new(named, applicable.asks_paths, applicable.asks_methods, applicable.asks_hosts),
            tokens,
            applicable,
            strict_by: snapshot.strict_by(uid).cloned(),
            snapshot: Arc::clone(snapshot),
        }
    }

    fn is_newer(&self, than: &Snapshot) -> bool {
        self.snapshot.generation() >= than.generation()
    }

    fn says_the_same(&self, other: &Snapshot) -> bool {
        other.decides_like(&self.snapshot, &self.uid, None) && other.has_inbound_of(&self.snapshot, &self.uid)
    }

    /// There is something to decide by request.
    pub fn is_asked(&self) -> bool {
        self.applicable.asks || !self.tokens.is_empty()
    }

    /// Reads the request's token, and makes of its head what the application may see.
    pub fn verify(&self, parts: &mut Parts) -> Result<Option<Arc<Token>>, Unauthorized> {
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
    /// permitted too. The decision is there if somebody should hear of it: of a refusal, of an audit, of a dry run.
    pub fn decide(
        &self,
        connection: &Connection,
        request: &Requested<'_>,
        token: Option<&Arc<Token>>,
    ) -> Result<Option<Decision>, Unauthorized> {
        let ask = |request: &Requested<'_>| self.applicable.authorize(connection, &Passing::Request(request));
        let decision = |request: &Requested<'_>, outcome, observations| {
            self.decision(connection, Arc::new(self.facts(request, token)), outcome, observations)
        };
        let refused = |request: &Requested<'_>, denied, observations| {
            Unauthorized::Denied(Box::new(decision(request, Err(denied), observations)))
        };
        let outcome = ask(request);
        let observations = self.applicable.observe(&outcome, connection, &Passing::Request(request));
        let permit = match outcome {
            Ok(permit) => permit,
            Err(denied) => return Err(refused(request, denied, observations)),
        };
        if self.applicable.asks_paths {
            for path in readings(request.path).map_err(Unauthorized::Path)? {
                let read = Requested { path: &path, ..*request };
                ask(&read).map_err(|denied| refused(&read, denied, Vec::new()))?;
            }
        }
        Ok((!observations.is_empty()).then(|| decision(request, Ok(permit), observations)))
    }

    /// What is kept of a request while it is under way, and in its record.
    pub fn facts(&self, request: &Requested<'_>, token: Option<&Arc<Token>>) -> RequestFacts {
        let Requested { method, path, host, headers, token: _ } = *request;
        let mut kept = HeaderMap::new();
        for name in &self.applicable.headers {
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
    fn decision(
        &self,
        connection: &Connection,
        facts: Arc<RequestFacts>,
        outcome: Result<Permit, Denied>,
        observations: Vec<Observation>,
    ) -> Decision {
        let asked = Asked {
            policies: Arc::clone(&self.applicable.policies),
            unknown: self.applicable.unknown.clone(),
            strict_by: self.strict_by.clone(),
            connection: connection.clone(),
            passed: Passed::Request(facts),
        };
        asked.decided(outcome, observations, self.snapshot.generation())
    }

    /// As [`Self::decide`], for a request that was permitted before.
    pub fn decide_again(&self, connection: &Connection, facts: &Arc<RequestFacts>) -> Result<(), Box<Decision>> {
        match self.decide(connection, &facts.requested(), facts.token.as_ref()) {
            Ok(_) | Err(Unauthorized::Token(_) | Unauthorized::Path(_)) => Ok(()),
            Err(Unauthorized::Denied(decision)) => Err(decision),
        }
    }
}

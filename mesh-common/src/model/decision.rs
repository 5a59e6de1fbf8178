//! A decision with all that is needed to explain it later, exactly as it was made.

use std::sync::Arc;

use super::{
    Connection, Considered, Denied, Observation, Passing, Permit, Policy, PolicyName, Reason, RequestFacts, authorize,
    explain, observe,
};

/// What was asked. It shares the policies, so keeping it costs pointers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Those that apply to the destination, in a stable order.
    pub policies: Vec<Arc<Policy>>,
    /// The first that applies and is not known.
    pub unknown: Option<PolicyName>,
    /// The PeerAuthentication behind STRICT, whose policy has a name that tells a user nothing.
    pub strict_by: Option<PolicyName>,
    pub connection: Connection,
    pub passed: Passed,
}

/// What is kept of what passed, as [`Passing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passed {
    Open,
    Bytes { server_name: Option<String> },
    Request(Arc<RequestFacts>),
}

impl Passed {
    /// Bytes of which nothing more is known.
    pub const BYTES: Self = Self::Bytes { server_name: None };
}

/// What was answered.
#[derive(Clone, Debug)]
pub struct Decision {
    pub outcome: Result<Permit, Denied>,
    pub observations: Vec<Observation>,
    /// `None` where no policy applies, or it is not known yet which do.
    pub asked: Option<Arc<Asked>>,
    /// The configuration's.
    pub generation: u64,
}

impl Asked {
    fn policies(&self) -> impl Iterator<Item = &Policy> + Clone {
        self.policies.iter().map(|policy| &**policy)
    }

    fn with<R>(&self, ask: impl FnOnce(&Passing<'_>) -> R) -> R {
        match &self.passed {
            Passed::Open => ask(&Passing::Open),
            Passed::Bytes { server_name } => ask(&Passing::Bytes { server_name: server_name.as_deref() }),
            Passed::Request(facts) => ask(&Passing::Request(&facts.requested())),
        }
    }

    /// As [`authorize`]; STRICT is named as the user named it.
    pub fn outcome(&self) -> Result<Permit, Denied> {
        self.with(|passing| authorize(self.policies(), self.unknown.as_ref(), &self.connection, passing)).map_err(
            |mut denied| {
                if denied.reason == Reason::PlaintextStrict && self.strict_by.is_some() {
                    denied.policy.clone_from(&self.strict_by);
                }
                denied
            },
        )
    }

    pub fn observations(&self, outcome: &Result<Permit, Denied>) -> Vec<Observation> {
        self.with(|passing| observe(self.policies(), outcome, &self.connection, passing))
    }

    /// As [`explain`]; STRICT is named as the user named it.
    pub fn explain(&self) -> Vec<Considered> {
        let mut all = self.with(|passing| explain(self.policies(), self.unknown.as_ref(), &self.connection, passing));
        for considered in all.iter_mut().filter(|c| c.known.is_some_and(|known| known.strict)) {
            if let Some(name) = &self.strict_by {
                considered.name = name.clone();
            }
        }
        all
    }

    /// Decides. `generation` is the configuration's.
    pub fn decide(self, generation: u64) -> Decision {
        let outcome = self.outcome();
        let observations = self.observations(&outcome);
        let asked = (!self.policies.is_empty() || self.unknown.is_some()).then(|| Arc::new(self));
        Decision { outcome, observations, asked, generation }
    }
}

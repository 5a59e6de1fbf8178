//! A decision with all that is needed to explain it later, exactly as it was made.

use std::sync::Arc;

use super::{
    Connection, Considered, Denied, Observation, Passing, Permit, Policy, PolicyName, Reason, RequestFacts, explain,
};

/// What was asked. It shares the policies, so keeping it costs pointers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Those that apply to the destination, in a stable order.
    pub policies: Arc<[Arc<Policy>]>,
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
    Unnamed,
    Request(Arc<RequestFacts>),
}

impl Passed {
    /// Bytes of which nothing more is known.
    pub const BYTES: Self = Self::Bytes { server_name: None };

    /// In the form in which policies are asked.
    pub fn with<R>(&self, ask: impl FnOnce(&Passing<'_>) -> R) -> R {
        match self {
            Self::Open => ask(&Passing::Open),
            Self::Bytes { server_name } => ask(&Passing::Bytes { server_name: server_name.as_deref() }),
            Self::Unnamed => ask(&Passing::Unnamed),
            Self::Request(facts) => ask(&Passing::Request(&facts.requested())),
        }
    }
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

    /// As [`explain`]; STRICT is named as the user named it.
    pub fn explain(&self) -> Vec<Considered> {
        let mut all =
            self.passed.with(|passing| explain(self.policies(), self.unknown.as_ref(), &self.connection, passing));
        for considered in all.iter_mut().filter(|c| c.known.is_some_and(|known| known.strict)) {
            if let Some(name) = &self.strict_by {
                considered.name = name.clone();
            }
        }
        all
    }

    /// What was answered, by [`authorize`](super::authorize) or who answers as it does. STRICT is named as the user
    /// named it. `generation` is the configuration's.
    pub fn decided(self, outcome: Result<Permit, Denied>, observations: Vec<Observation>, generation: u64) -> Decision {
        let outcome = outcome.map_err(|mut denied| {
            if denied.reason == Reason::PlaintextStrict && self.strict_by.is_some() {
                denied.policy.clone_from(&self.strict_by);
            }
            denied
        });
        let asked = (!self.policies.is_empty() || self.unknown.is_some()).then(|| Arc::new(self));
        Decision { outcome, observations, asked, generation }
    }
}

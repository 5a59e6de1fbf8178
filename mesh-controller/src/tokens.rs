//! Who calls: an agent proves its node by a join token (`nm1.…`, made by hand) or by the ServiceAccount token that the
//! kubelet gives its pod. Without such proof nothing is said, and if proof cannot be checked there is none.

mod claims;
mod join;
mod living;
mod review;
#[cfg(test)]
mod tests;

pub use join::{Tokens, hex, write_private};
pub use review::{ReviewSettings, Reviews};

use std::time::{Duration, Instant};

use aws_lc_rs::digest;

use crate::refusal::Refusal;

/// SHA-256 of a token, which itself is not kept.
pub type Hash = [u8; digest::SHA256_OUTPUT_LEN];

/// How callers prove themselves. Clones share what they know.
#[derive(Clone, Debug)]
pub enum Authenticator {
    Join(Tokens),
    Kubernetes(Reviews),
}

/// An agent that proved which node it is of.
#[derive(Clone, PartialEq, Eq)]
pub struct Caller {
    node: String,
    proof: Proof,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    Join(Hash),
    Pod(AgentPod),
}

/// The agent's pod and account, as the API named them when it was asked about the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPod {
    name: String,
    uid: String,
    account_uid: String,
    proven: Instant,
}

/// How often a live connection's join token is looked at again.
const JOIN_CHECK: Duration = Duration::from_secs(10);

impl Authenticator {
    /// How often it is to be looked whether the caller of a live connection still counts.
    pub fn check_interval(&self) -> Duration {
        match self {
            Self::Join(_) => JOIN_CHECK,
            Self::Kubernetes(reviews) => reviews.check_interval(),
        }
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// If it is nobody's, or that cannot be found out now.
    pub async fn verify(&self, token: &str) -> Result<Caller, Refusal> {
        match self {
            Self::Join(tokens) => tokens.verify(token),
            Self::Kubernetes(reviews) => reviews.verify(token).await,
        }
    }

    /// That what a caller proved still holds, for a stream that goes on. A join token must still be the node's. With
    /// Kubernetes the pod and the account must still be there; the token itself may have expired meanwhile: kubelet
    /// replaces it every hour, and to end every stream for that would prove nothing that the pod's life does not. While
    /// the API is out of reach what was known last holds.
    ///
    /// # Errors
    /// If it does not.
    pub fn still(&self, caller: &Caller) -> Result<(), Refusal> {
        match (self, &caller.proof) {
            (Self::Join(tokens), Proof::Join(hash)) => tokens.still(&caller.node, hash),
            (Self::Kubernetes(reviews), Proof::Pod(pod)) => reviews.still(pod),
            // A caller was made by the one authenticator that there is.
            (Self::Join(_), Proof::Pod(_)) | (Self::Kubernetes(_), Proof::Join(_)) => {
                Err(Refusal::new(crate::refusal::Reason::TokenGone, "the caller was let in by other means"))
            }
        }
    }
}

impl Caller {
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The agent's pod; `None`: it came with a join token.
    pub fn pod(&self) -> Option<&str> {
        match &self.proof {
            Proof::Pod(pod) => Some(&pod.name),
            Proof::Join(_) => None,
        }
    }
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller").field("node", &self.node).field("pod", &self.pod()).finish_non_exhaustive()
    }
}

fn hash(token: &str) -> Hash {
    let mut hash = [0; digest::SHA256_OUTPUT_LEN];
    hash.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    hash
}

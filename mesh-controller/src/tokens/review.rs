//! ServiceAccount tokens, as the kubelet projects them into an agent's pod. The API server judges them (TokenReview); a
//! good one must be of the agents' account, made for us, and bound to a pod, whose node is the caller's.
//!
//! What the API said holds for a while (`--token-check`) and never longer than the token. Callers that come with the
//! same token meanwhile wait for one review. Without the API nobody new is let in.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo},
    core::v1::Pod,
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::{OnceCell, Semaphore},
    task::AbortHandle,
    time::{Instant, timeout},
};

use super::{AgentPod, Caller, Hash, Proof, claims, hash, living::Living};
use crate::refusal::{Reason, Refusal};

/// Answers that are kept.
const KEPT: usize = 8192;
/// Reviews with the API at the same time.
const REVIEWS: usize = 32;
/// For one review, waiting for its turn included.
const PATIENCE: Duration = Duration::from_secs(5);

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Whose tokens count.
#[derive(Clone, Debug)]
pub struct ReviewSettings {
    /// The mesh's own.
    pub namespace: String,
    /// The agents' ServiceAccount in it.
    pub account: String,
    pub audience: String,
    /// How long an answer of the API holds, and how often a live connection's caller is looked at.
    pub holds: Duration,
}

/// Asks the API. Clones share what it said.
#[derive(Clone)]
pub struct Reviews {
    inner: Arc<Inner>,
}

struct Inner {
    client: Client,
    settings: ReviewSettings,
    living: Living,
    watching: AbortHandle,
    turns: Semaphore,
    kept: Mutex<HashMap<Hash, Arc<Answer>>>,
}

/// What the API said of one token, once it did.
#[derive(Default)]
struct Answer {
    said: OnceCell<Said>,
}

struct Said {
    outcome: Result<Caller, Refusal>,
    until: Instant,
}

impl ReviewSettings {
    /// The agents' account as tokens and reviews name it.
    pub fn subject(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.account)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

impl std::fmt::Debug for Reviews {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reviews").field("settings", &self.inner.settings).finish_non_exhaustive()
    }
}

impl Reviews {
    /// Needs a runtime, on which it watches the agents' pods as long as it lives.
    pub fn check_interval(&self) -> Duration {
        self.inner.settings.holds
    }

    pub fn new(client: Client, settings: ReviewSettings) -> Self {
        let living = Living::default();
        let watching = tokio::spawn(living.clone().watch(client.clone(), settings.clone())).abort_handle();
        let (turns, kept) = (Semaphore::new(REVIEWS), Mutex::default());
        Self { inner: Arc::new(Inner { client, settings, living, watching, turns, kept }) }
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// If it is no agent's, or the API cannot be asked.
    pub async fn verify(&self, token: &str) -> Result<Caller, Refusal> {
        let claims = claims::read(token, &self.inner.settings, SystemTime::now())?;
        let key = hash(token);
        let answer = self.inner.answer(key);
        // Should the caller that asks give up, the next one asks.
        let said = answer.said.get_or_init(|| self.inner.ask(token, &claims)).await;
        if matches!(&said.outcome, Err(refusal) if refusal.reason == Reason::TokenUnchecked) {
            self.inner.forget(&key, &answer);
        }
        let caller = said.outcome.clone()?;
        // The watch may know by now what an answer that still holds does not.
        if let Proof::Pod(pod) = &caller.proof {
            self.still(pod)?;
        }
        Ok(caller)
    }

    /// That the pod which proved itself is still there, as far as is known.
    ///
    /// # Errors
    /// If it, or its account, is gone.
    pub fn still(&self, pod: &AgentPod) -> Result<(), Refusal> {
        match self.inner.living.gone(pod) {
            Some(what) => Err(Refusal::new(Reason::TokenGone, format!("the agent's {what} is gone"))),
            None => Ok(()),
        }
    }
}

impl Inner {
    /// The answer to this token, to be waited for or asked for.
    fn answer(&self, key: Hash) -> Arc<Answer> {
        let mut kept = self.lock();
        let now = Instant::now();
        if kept.len() >= KEPT {
            kept.retain(|_, answer| !answer.is_over(now));
        }
        // Full of what holds still: some of it is asked for again.
        if kept.len() >= KEPT
            && let Some(any) = kept.keys().next().copied()
        {
            kept.remove(&any);
        }
        let answer = kept.entry(key).or_default();
        if answer.is_over(now) {
            *answer = Arc::default();
        }
        answer.clone()
    }

    fn forget(&self, key: &Hash, answer: &Arc<Answer>) {
        let mut kept = self.lock();
        if kept.get(key).is_some_and(|kept| Arc::ptr_eq(kept, answer)) {
            kept.remove(key);
        }
    }

    async fn ask(&self, token: &str, claims: &claims::Claims) -> Said {
        let review = async {
            let _turn = self.turns.acquire().await.map_err(unchecked)?;
            self.review(token).await
        };
        let late = |_| Err(unchecked(format!("no answer within {PATIENCE:?}")));
        let outcome = timeout(PATIENCE, review).await.unwrap_or_else(late);
        let left = claims.expires.duration_since(SystemTime::now()).unwrap_or_default();
        Said { outcome, until: Instant::now() + self.settings.holds.min(left) }
    }

    async fn review(&self, token: &str) -> Result<Caller, Refusal> {
        let spec = TokenReviewSpec { token: token.to_owned(), audiences: Some(vec![self.settings.audience.clone()]) };
        let review = TokenReview { spec, ..Default::default() };
        let reviews: Api<TokenReview> = Api::all(self.client.clone());
        let review = reviews.create(&PostParams::default(), &review).await.map_err(unchecked)?;
        let proven = judge(&self.settings, review.status.unwrap_or_default())?;
        let node = match proven.node {
            Some(node) => node,
            None => self.node_of(&proven.pod).await?,
        };
        Ok(Caller { node, proof: Proof::Pod(proven.pod) })
    }

    /// API servers before 1.30 do not say the node.
    async fn node_of(&self, pod: &AgentPod) -> Result<String, Refusal> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.settings.namespace);
        let found = pods.get_opt(&pod.name).await.map_err(unchecked)?;
        let found = found.filter(|found| found.metadata.uid.as_ref() == Some(&pod.uid));
        let node = found.and_then(|found| found.spec?.node_name).filter(|node| !node.is_empty());
        node.ok_or_else(|| Refusal::new(Reason::TokenNode, format!("its pod {} is on no node", pod.name)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Hash, Arc<Answer>>> {
        // Nothing panics while it holds this lock, and nothing waits.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answer {
    fn is_over(&self, now: Instant) -> bool {
        self.said.get().is_some_and(|said| said.until <= now)
    }
}

/// What a good review proves.
#[derive(Debug)]
pub struct Proven {
    pod: AgentPod,
    node: Option<String>,
}

/// Reads the API's answer, field by field: whatever is missing is a no.
pub fn judge(settings: &ReviewSettings, status: TokenReviewStatus) -> Result<Proven, Refusal> {
    let TokenReviewStatus { audiences, authenticated, error, user } = status;
    let refused = |reason, why: String| Err(Refusal::new(reason, why));
    if authenticated != Some(true) {
        let why = error.unwrap_or_else(|| "not authenticated".to_owned());
        return refused(Reason::TokenRejected, format!("the API refuses it: {why}"));
    }
    // An authenticator that does not know audiences names none, and would let any token pass.
    if !audiences.unwrap_or_default().contains(&settings.audience) {
        return refused(Reason::TokenAudience, format!("it is not for the audience {}", settings.audience));
    }
    let UserInfo { extra, groups: _, uid, username } = user.unwrap_or_default();
    if username != Some(settings.subject()) {
        return refused(
            Reason::TokenAccount,
            format!("it is not of ServiceAccount {}/{}", settings.namespace, settings.account),
        );
    }
    let extra = extra.unwrap_or_default();
    let (Some(name), Some(pod_uid)) = (only(&extra, POD_NAME), only(&extra, POD_UID)) else {
        return refused(Reason::TokenUnbound, "it is not bound to a pod".to_owned());
    };
    let Some(account_uid) = uid.filter(|uid| !uid.is_empty()) else {
        return refused(Reason::TokenRejected, "the API does not say which account it is of".to_owned());
    };
    let pod = AgentPod { name, uid: pod_uid, account_uid, proven: std::time::Instant::now() };
    Ok(Proven { pod, node: only(&extra, NODE_NAME) })
}

fn only(extra: &BTreeMap<String, Vec<String>>, key: &str) -> Option<String> {
    match extra.get(key)?.as_slice() {
        [value] if !value.is_empty() => Some(value.clone()),
        _ => None,
    }
}

fn unchecked(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(Reason::TokenUnchecked, format!("the token cannot be checked now: the Kubernetes API: {error}"))
}

#[cfg(test)]
mod tests;

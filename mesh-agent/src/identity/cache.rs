//! The certificates of the identities that live on this node: wanted ones are fetched before anybody asks.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use mesh_common::model::{Identity, Validity};
use rustls::{
    RootCertStore,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    sync::{Semaphore, watch},
    task::AbortHandle,
    time::timeout,
};

use super::{
    Signer,
    certificate::{Certificate, ChainError},
    renew::{FetchError, Renewal, State},
    trust::Trust,
};
use crate::telemetry::audit::Stream;

/// How certificates are fetched.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The roots to trust, for our own chains and for peers'. Without them those at the end of each received chain
    /// are: the signer authenticated the authority.
    pub roots: Option<Arc<RootCertStore>>,
    /// The delay after the first failure; doubles with each further one.
    pub first_retry: Duration,
    pub last_retry: Duration,
    /// For one request to the authority.
    pub request_timeout: Duration,
    /// Requests with the authority at the same time.
    pub concurrent_requests: usize,
    /// Where it is told what came of them.
    pub audit: Stream,
}

/// Every identity of this node and its certificate. One value for the whole agent.
pub struct Certificates {
    signer: Arc<dyn Signer>,
    settings: Arc<Settings>,
    turns: Arc<Semaphore>,
    trust: Trust,
    kept: Mutex<BTreeMap<Identity, Kept>>,
}

/// One line of [`Certificates::list`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateState {
    pub identity: Identity,
    /// Lower-case hex; empty, as the times are absent, while there has been no certificate yet.
    pub serial: String,
    pub not_before: Option<SystemTime>,
    pub not_after: Option<SystemTime>,
    /// The text of a [`Validity`].
    pub state: String,
}

/// Why there is no certificate for an identity.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("no pod of this node has the identity `{0}`")]
    NotKept(Identity),
    #[error("no certificate for `{identity}`: {source}")]
    Refused { identity: Identity, source: Arc<FetchError> },
    #[error("no certificate for `{identity}` within {waited:?}{}", .last.as_ref().map(|e| format!(": {e}")).unwrap_or_default())]
    Timeout { identity: Identity, waited: Duration, last: Option<Arc<FetchError>> },
}

struct Kept {
    state: watch::Receiver<State>,
    renewal: AbortHandle,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            roots: None,
            first_retry: Duration::from_millis(100),
            last_retry: Duration::from_secs(15),
            request_timeout: Duration::from_secs(20),
            concurrent_requests: 32,
            audit: Stream::default(),
        }
    }
}

impl From<Stream> for Settings {
    fn from(audit: Stream) -> Self {
        Self { audit, ..Self::default() }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.renewal.abort();
    }
}

impl Certificates {
    pub fn new(signer: Arc<dyn Signer>, settings: Settings) -> Arc<Self> {
        let turns = Arc::new(Semaphore::new(settings.concurrent_requests.max(1)));
        Arc::new(Self { signer, settings: Arc::new(settings), turns, trust: Trust::default(), kept: Mutex::default() })
    }

    /// Whose signatures count, for the controller to say.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Makes `wanted` the identities to hold certificates for: starts to fetch the new ones, forgets the others and
    /// their keys. Must be called inside a tokio runtime, on which the fetching goes on.
    pub fn keep(&self, wanted: BTreeSet<Identity>) {
        let mut kept = self.lock();
        kept.retain(|identity, _| wanted.contains(identity));
        for identity in wanted {
            kept.entry(identity.clone()).or_insert_with(|| self.start(identity, None));
        }
    }

    /// The certificates that can be used now, with their keys.
    pub fn held(&self) -> Vec<Arc<Certificate>> {
        self.lock().values().filter_map(|kept| kept.state.borrow().valid().cloned()).collect()
    }

    /// Takes a certificate and its key (PKCS#8) from an earlier agent of this node; it is checked like one that the
    /// authority sent. To be called inside a tokio runtime.
    pub fn adopt(&self, identity: Identity, chain: &[String], key: Vec<u8>) -> Result<(), ChainError> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
        let certificate =
            Certificate::trusting(&identity, key, chain, self.settings.roots.clone(), &self.trust, SystemTime::now())?;
        let kept = self.start(identity.clone(), Some(Arc::new(certificate)));
        self.lock().insert(identity, kept);
        Ok(())
    }

    /// The certificate to use now: the newest one, never an expired one.
    pub fn current(&self, identity: &Identity) -> Option<Arc<Certificate>> {
        self.lock().get(identity)?.state.borrow().valid().cloned()
    }

    /// As [`Certificates::current`], but gives the first fetch up to `patience`. Fails at once if the identity is not
    /// kept or the authority refused it.
    pub async fn wait(&self, identity: &Identity, patience: Duration) -> Result<Arc<Certificate>, CertificateError> {
        let not_kept = || CertificateError::NotKept(identity.clone());
        let mut state = self.lock().get(identity).ok_or_else(not_kept)?.state.clone();
        let settled = |state: &State| state.valid().is_some() || state.failure.as_ref().is_some_and(|f| !f.retryable());
        // Owned at once: a borrow of the channel must not outlive the await.
        let outcome = timeout(patience, state.wait_for(settled)).await.map(|change| change.map(|state| state.clone()));
        match outcome {
            Ok(Err(_)) => Err(not_kept()),
            Ok(Ok(State { certificate, failure })) => match (certificate, failure) {
                (Some(certificate), _) if !certificate.expired(SystemTime::now()) => Ok(certificate),
                (_, Some(source)) => Err(CertificateError::Refused { identity: identity.clone(), source }),
                (_, None) => Err(not_kept()),
            },
            Err(_) => {
                let last = state.borrow().failure.clone();
                Err(CertificateError::Timeout { identity: identity.clone(), waited: patience, last })
            }
        }
    }

    /// Every kept identity, in order.
    pub fn list(&self) -> Vec<CertificateState> {
        self.lock().iter().map(|(identity, kept)| describe(identity, &kept.state.borrow())).collect()
    }

    fn start(&self, identity: Identity, certificate: Option<Arc<Certificate>>) -> Kept {
        let (sender, state) = watch::channel(State { certificate, failure: None });
        let renewal = Renewal {
            identity,
            signer: self.signer.clone(),
            settings: self.settings.clone(),
            turns: self.turns.clone(),
            trust: self.trust.clone(),
            state: sender,
        };
        Kept { state, renewal: tokio::spawn(renewal.run()).abort_handle() }
    }

    /// Nothing that holds the lock can panic half way through a change.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Identity, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lock().keys().map(Identity::to_string)).finish()
    }
}

fn describe(identity: &Identity, state: &State) -> CertificateState {
    let validity = match (&state.certificate, state.valid(), &state.failure) {
        (_, Some(_), None) => Validity::Valid,
        (_, Some(_), Some(failure)) => Validity::NotRenewed(failure),
        (Some(_), None, failure) => Validity::Expired(failure.as_ref()),
        (None, None, None) => Validity::Fetching,
        (None, None, Some(failure)) => Validity::Failed(failure),
    };
    let certificate = state.certificate.as_deref();
    CertificateState {
        identity: identity.clone(),
        serial: certificate.map(|c| c.serial().to_string()).unwrap_or_default(),
        not_before: certificate.map(Certificate::not_before),
        not_after: certificate.map(Certificate::not_after),
        state: validity.to_string(),
    }
}

//! The life of one identity's certificate: fetch, wait for half of its life, fetch again, back off on failure.

use std::{
    error::Error as _,
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_common::model::Identity;
use tokio::{
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

use super::{
    ChainError, SignError, Signer, cache::Settings, certificate::Certificate, key::PendingKey, provider, trust::Trust,
};
use crate::telemetry::audit;

/// A sleep by the monotonic clock misses a change of the wall clock, by which certificates expire; so it is cut.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);

/// What is known of one identity at one moment.
#[derive(Clone, Default)]
pub struct State {
    pub certificate: Option<Arc<Certificate>>,
    /// Of the latest attempt, if it failed.
    pub failure: Option<Arc<FetchError>>,
}

/// Why an attempt to get a certificate failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("no key could be made: {0}")]
    Key(#[from] rcgen::Error),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error("the certificate authority sent an unusable chain: {}", with_source(.0))]
    Chain(#[from] ChainError),
    #[error("the certificate authority did not answer within {0:?}")]
    Timeout(Duration),
}

/// Keeps one identity's [`State`] up to date until it is dropped.
pub struct Renewal {
    pub identity: Identity,
    pub signer: Arc<dyn Signer>,
    pub settings: Arc<Settings>,
    /// Bounds how many requests are with the authority at once, over all identities.
    pub turns: Arc<Semaphore>,
    pub trust: Trust,
    pub state: watch::Sender<State>,
}

impl State {
    /// The certificate, if it can be used now.
    pub fn valid(&self) -> Option<&Arc<Certificate>> {
        self.certificate.as_ref().filter(|certificate| !certificate.expired(SystemTime::now()))
    }
}

impl FetchError {
    pub fn retryable(&self) -> bool {
        match self {
            Self::Sign(error) => error.retryable(),
            Self::Key(_) | Self::Chain(_) | Self::Timeout(_) => true,
        }
    }

    /// The authority asked not to be asked before.
    fn retry_after(&self) -> Duration {
        match self {
            Self::Sign(error) => error.retry_after(),
            Self::Key(_) | Self::Chain(_) | Self::Timeout(_) => Duration::ZERO,
        }
    }
}

impl Renewal {
    pub async fn run(self) {
        let mut failures = 0;
        let held = self.state.borrow().valid().cloned();
        if let Some(certificate) = held {
            rest(&certificate, half_life(&certificate, SystemTime::now())).await;
        }
        loop {
            match self.fetch().await {
                Ok(certificate) => {
                    failures = 0;
                    let renew_at = half_life(&certificate, SystemTime::now());
                    tracing::debug!(identity = %self.identity, serial = certificate.serial(), "certificate received");
                    let certificate = Arc::new(certificate);
                    let (serial, not_after) = (certificate.serial().to_string(), certificate.not_after());
                    self.settings.audit.tell(audit::certificate(&self.identity, &serial, not_after, self.holds_one()));
                    self.state.send_replace(State { certificate: Some(certificate.clone()), failure: None });
                    rest(&certificate, renew_at).await;
                }
                Err(error) => {
                    tracing::warn!(identity = %self.identity, %error, attempt = failures + 1, "no certificate");
                    let refused = matches!(&error, FetchError::Sign(error) if !error.retryable());
                    self.settings.audit.tell(audit::no_certificate(&self.identity, refused, &error, self.holds_one()));
                    let asked = error.retry_after().mul_f64(1.0 + random());
                    // What there is stays in use until it expires.
                    self.state.send_modify(|state| state.failure = Some(Arc::new(error)));
                    sleep(backoff(&self.settings, failures, random()).max(asked)).await;
                    failures = failures.saturating_add(1);
                }
            }
        }
    }

    /// What comes takes the place of another one.
    fn holds_one(&self) -> bool {
        self.state.borrow().certificate.is_some()
    }

    async fn fetch(&self) -> Result<Certificate, FetchError> {
        let _turn = self.turns.acquire().await.expect("the semaphore is never closed");
        let (key, csr) = PendingKey::generate(&self.identity)?;
        let chain = timeout(self.settings.request_timeout, self.signer.sign(&self.identity, csr))
            .await
            .map_err(|_| FetchError::Timeout(self.settings.request_timeout))??;
        let roots = self.settings.roots.clone();
        Ok(Certificate::trusting(&self.identity, key.into_der(), &chain, roots, &self.trust, SystemTime::now())?)
    }
}

/// Half of what is left at receipt, give or take a tenth, so that a node's certificates do not all renew at once.
fn half_life(certificate: &Certificate, now: SystemTime) -> SystemTime {
    let left = certificate.not_after().duration_since(now).unwrap_or_default();
    now + left.mul_f64(0.45 + 0.1 * random())
}

/// Until it is time to renew, or peers would refuse the certificate.
async fn rest(certificate: &Certificate, renew_at: SystemTime) {
    tokio::select! {
        () = sleep_until(renew_at) => {}
        () = certificate.distrusted() => {
            tracing::info!(identity = %certificate.identity(), "its root is no longer trusted: another certificate is asked for");
        }
    }
}

async fn sleep_until(time: SystemTime) {
    while let Ok(left) = time.duration_since(SystemTime::now()) {
        if left.is_zero() {
            return;
        }
        sleep(left.min(LONGEST_SLEEP)).await;
    }
}

/// Doubles from the first delay to the cap; `random` in 0..1 takes off up to half.
fn backoff(settings: &Settings, failures: u32, random: f64) -> Duration {
    let full = settings.first_retry.saturating_mul(2u32.saturating_pow(failures)).min(settings.last_retry);
    full.mul_f64(1.0 - 0.5 * random)
}

/// Uniform in 0..1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    match provider().secure_random.fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
        // Only spreads load, so that a fixed value is no danger.
        Err(_) => 0.5,
    }
}

fn with_source(error: &ChainError) -> String {
    match error.source() {
        // Variants that print their source already end in it.
        Some(source) if !error.to_string().ends_with(&source.to_string()) => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_the_cap() {
        let settings = Settings::default();
        let delays: Vec<_> = (0..10).map(|n| backoff(&settings, n, 0.0).as_millis()).collect();
        assert_eq!(delays, [100, 200, 400, 800, 1600, 3200, 6400, 12800, 15000, 15000]);
        assert_eq!(backoff(&settings, u32::MAX, 0.0).as_millis(), 15000);
        assert_eq!(backoff(&settings, 0, 1.0).as_millis(), 50);
    }

    #[test]
    fn random_stays_in_range() {
        assert!((0..1000).map(|_| random()).all(|r| (0.0..1.0).contains(&r)));
    }
}

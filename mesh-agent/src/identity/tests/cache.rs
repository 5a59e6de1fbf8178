//! Fetching ahead, retrying, renewing and forgetting.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use mesh_common::model::Validity;
use tokio::time::{Instant, sleep};

use crate::identity::{
    Certificates, Identity, SignError, Signer, Signing,
    cache::{CertificateError, Settings},
    pki,
};

/// Signs for `life` (ms), after `failures` refusals to answer, unless `denies`.
struct TestSigner {
    authority: pki::Authority,
    life: AtomicU64,
    failures: AtomicUsize,
    denies: AtomicBool,
    calls: AtomicUsize,
}

impl Signer for TestSigner {
    fn sign<'a>(&'a self, identity: &'a Identity, csr_pem: String) -> Signing<'a> {
        Box::pin(async move {
            self.calls.fetch_add(1, Ordering::SeqCst);
            if self.denies.load(Ordering::SeqCst) {
                return Err(SignError::refused("no pod of that account on this node"));
            }
            if self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
                return Err(SignError::unavailable("connection refused"));
            }
            let mut params = self.authority.leaf(identity);
            self.authority.valid(&mut params, Duration::from_millis(self.life.load(Ordering::SeqCst)));
            Ok(self.authority.sign(&csr_pem, params))
        })
    }
}

fn signer() -> Arc<TestSigner> {
    Arc::new(TestSigner {
        authority: pki::Authority::new("root"),
        life: AtomicU64::new(3_600_000),
        failures: AtomicUsize::new(0),
        denies: AtomicBool::new(false),
        calls: AtomicUsize::new(0),
    })
}

fn certificates(signer: &Arc<TestSigner>) -> Arc<Certificates> {
    let settings = Settings { last_retry: Duration::from_millis(200), ..Settings::default() };
    Certificates::new(signer.clone(), settings)
}

fn only(identity: &Identity) -> BTreeSet<Identity> {
    BTreeSet::from([identity.clone()])
}

const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn wanted_ones_come_and_unwanted_ones_go() {
    let (signer, cart) = (signer(), pki::identity("shop", "cart"));
    let certificates = certificates(&signer);
    assert!(matches!(certificates.wait(&cart, PATIENCE).await, Err(CertificateError::NotKept(_))));

    certificates.keep(only(&cart));
    assert_eq!(certificates.list()[0].state, "fetching");
    assert_eq!(*certificates.wait(&cart, PATIENCE).await.expect("signed").identity(), cart);
    assert!(certificates.current(&cart).is_some());
    let listed = certificates.list();
    assert_eq!((listed.len(), listed[0].state.as_str(), listed[0].serial.as_str()), (1, "valid", "1234"));
    assert!(Validity::is_valid(&listed[0].state), "meshctl takes it for valid");

    certificates.keep(only(&cart));
    sleep(Duration::from_millis(50)).await;
    assert_eq!(signer.calls.load(Ordering::SeqCst), 1, "kept ones are not fetched again");

    certificates.keep(BTreeSet::new());
    assert!(certificates.current(&cart).is_none() && certificates.list().is_empty());
}

#[tokio::test]
async fn an_authority_that_is_away_is_asked_again() {
    let (signer, cart) = (signer(), pki::identity("shop", "cart"));
    signer.failures.store(2, Ordering::SeqCst);
    let certificates = certificates(&signer);
    certificates.keep(only(&cart));
    certificates.wait(&cart, PATIENCE).await.expect("the third attempt");
    assert_eq!(signer.calls.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_wait_ends_with_the_latest_reason() {
    let (signer, cart) = (signer(), pki::identity("shop", "cart"));
    signer.failures.store(usize::MAX, Ordering::SeqCst);
    let certificates = certificates(&signer);
    certificates.keep(only(&cart));
    let error = certificates.wait(&cart, Duration::from_millis(200)).await.expect_err("nothing is signed");
    assert!(matches!(error, CertificateError::Timeout { .. }), "{error}");
    assert!(error.to_string().contains("connection refused"), "{error}");
    assert!(certificates.list()[0].state.starts_with("failed: "));
}

#[tokio::test]
async fn a_refusal_is_told_at_once() {
    let (signer, cart) = (signer(), pki::identity("shop", "cart"));
    signer.denies.store(true, Ordering::SeqCst);
    let certificates = certificates(&signer);
    certificates.keep(only(&cart));
    let begun = Instant::now();
    let error = certificates.wait(&cart, PATIENCE).await.expect_err("refused");
    assert!(matches!(error, CertificateError::Refused { .. }), "{error}");
    assert!(begun.elapsed() < PATIENCE / 2);
}

#[tokio::test]
async fn renewed_at_half_life_and_kept_while_renewal_fails() {
    let (signer, cart) = (signer(), pki::identity("shop", "cart"));
    signer.life.store(3_000, Ordering::SeqCst);
    let certificates = certificates(&signer);
    certificates.keep(only(&cart));
    let first = certificates.wait(&cart, PATIENCE).await.expect("signed");
    let begun = SystemTime::now();
    signer.failures.store(usize::MAX, Ordering::SeqCst);

    while !certificates.list()[0].state.starts_with("valid, not renewed: ") {
        assert!(begun.elapsed().expect("later") < PATIENCE, "no renewal: {:?}", certificates.list());
        sleep(Duration::from_millis(20)).await;
    }
    assert!(SystemTime::now() < first.not_after(), "renewal began too late");
    let current = certificates.current(&cart).expect("still valid");
    assert_eq!(current.serial(), first.serial());

    while certificates.current(&cart).is_some() {
        sleep(Duration::from_millis(20)).await;
    }
    assert!(SystemTime::now() >= first.not_after(), "dropped before its time");
    assert!(certificates.list()[0].state.starts_with("expired: "), "{:?}", certificates.list());

    signer.life.store(3_600_000, Ordering::SeqCst);
    signer.failures.store(0, Ordering::SeqCst);
    let renewed = certificates.wait(&cart, PATIENCE).await.expect("renewed");
    assert_ne!(renewed.serial(), first.serial());
}

#[tokio::test]
async fn a_successor_takes_certificates_with_their_keys() {
    let (signer, cart) = (signer(), pki::identity("shop", "cart"));
    let old = certificates(&signer);
    old.keep(only(&cart));
    let first = old.wait(&cart, PATIENCE).await.expect("signed");

    let new = certificates(&signer);
    for certificate in old.held() {
        let (chain, key) = certificate.secrets();
        new.adopt(certificate.identity().clone(), chain, key.to_vec()).expect("as good as new");
    }
    new.keep(only(&cart));
    let adopted = new.current(&cart).expect("at once");
    assert_eq!((adopted.serial(), adopted.not_after()), (first.serial(), first.not_after()));
    assert_eq!(signer.calls.load(Ordering::SeqCst), 1, "nobody was asked again");

    // It is checked like any other: another pod's key does not fit.
    let other = signer.authority.certificate(&pki::identity("shop", "web"));
    assert!(new.adopt(cart.clone(), other.secrets().0, other.secrets().1.to_vec()).is_err());
    assert!(new.adopt(cart, first.secrets().0, other.secrets().1.to_vec()).is_err());
}

//! Roots that come and go while the agent works.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use mesh_common::model::TrustBundle;
use tokio::time::{Instant, sleep, timeout};

use crate::identity::{
    Certificate, Certificates, Identity, SignError, Signer, Signing, Trust,
    cache::Settings,
    pki::{Authority, bundle, identity, pending},
};

/// Signs with the newest of its authorities; before that, says to come later as often as it is told.
struct Rotating {
    authority: Mutex<Arc<Authority>>,
    later: AtomicUsize,
}

impl Signer for Rotating {
    fn sign<'a>(&'a self, identity: &'a Identity, csr_pem: String) -> Signing<'a> {
        Box::pin(async move {
            if self.later.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
                return Err(SignError::unavailable("too much").after(Duration::from_millis(700)));
            }
            let authority = self.authority.lock().expect("no panic").clone();
            Ok(authority.sign(&csr_pem, authority.leaf(identity)))
        })
    }
}

#[tokio::test]
async fn roots_that_are_said_count_at_once_for_what_is_there() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let (trust, cart) = (Trust::default(), identity("shop", "cart"));
    let (key, csr) = pending(&cart);
    let chain = old.sign(&csr, old.leaf(&cart));
    let take = |key, trust: &Trust| Certificate::trusting(&cart, key, &chain, None, trust, SystemTime::now());
    let certificate = take(key.clone_key(), &trust).expect("its own roots count, since nobody says otherwise");
    let mut distrusted = Box::pin(certificate.distrusted());
    let soon = Duration::from_millis(50);

    trust.say([&TrustBundle { trust_domain: "other.domain".into(), ..bundle(&[&new]) }]);
    trust.say([&bundle(&[&old])]);
    trust.say([&bundle(&[&old, &new])]);
    assert!(timeout(soon, &mut distrusted).await.is_err(), "its root is still there");
    trust.say([&bundle(&[&new])]);
    timeout(soon, distrusted).await.expect("its root has gone");
    // And such a chain is not taken any more.
    assert!(take(key, &trust).expect_err("refused").to_string().contains("UnknownIssuer"));
}

#[tokio::test]
async fn a_certificate_whose_root_goes_is_replaced_at_once() {
    let (old, new) = (Arc::new(Authority::new("old")), Arc::new(Authority::new("new")));
    let signer = Arc::new(Rotating { authority: Mutex::new(old.clone()), later: AtomicUsize::new(0) });
    let certificates = Certificates::new(signer.clone(), Settings::default());
    let cart = identity("shop", "cart");
    certificates.keep([cart.clone()].into());
    let first = certificates.wait(&cart, Duration::from_secs(5)).await.expect("signed");
    certificates.trust().say([&bundle(&[&old])]);
    *signer.authority.lock().expect("no panic") = new.clone();
    sleep(Duration::from_millis(200)).await;
    assert!(Arc::ptr_eq(&certificates.current(&cart).expect("valid"), &first), "its root is still there");
    certificates.trust().say([&bundle(&[&new])]);
    let until = Instant::now() + Duration::from_secs(5);
    while Arc::ptr_eq(&certificates.current(&cart).expect("valid"), &first) {
        assert!(Instant::now() < until, "an hour of life was left, and peers refuse it");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn an_authority_that_says_later_is_left_alone_so_long() {
    let authority = Mutex::new(Arc::new(Authority::new("root")));
    let signer = Arc::new(Rotating { authority, later: AtomicUsize::new(1) });
    let certificates = Certificates::new(signer, Settings::default());
    let (cart, begin) = (identity("shop", "cart"), Instant::now());
    certificates.keep([cart.clone()].into());
    certificates.wait(&cart, Duration::from_secs(10)).await.expect("signed");
    assert!(begin.elapsed() >= Duration::from_millis(700), "{:?}", begin.elapsed());
}

//! What the agent does not take from its own certificate authority.

use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};

use crate::identity::{
    Certificate, ChainError,
    key::PendingKey,
    pki::{Authority, identity, uri},
};

fn ask(bend: impl FnOnce(&Authority, &mut CertificateParams)) -> Result<Certificate, ChainError> {
    let (authority, cart) = (Authority::new("root"), identity("shop", "cart"));
    let (key, csr) = PendingKey::generate(&cart).expect("a key");
    let mut params = authority.leaf(&cart);
    bend(&authority, &mut params);
    let chain = authority.sign(&csr, params);
    Certificate::new(&cart, key.into_der(), &chain, None, SystemTime::now())
}

#[test]
fn a_good_chain_is_taken() {
    let certificate = ask(|_, _| ()).expect("good");
    assert_eq!(*certificate.identity(), identity("shop", "cart"));
    assert_eq!(certificate.serial(), "1234");
    assert!(certificate.not_before() < SystemTime::now() && !certificate.expired(SystemTime::now()));
    assert!(certificate.expired(certificate.not_after()));
    let shown = format!("{certificate:?}");
    assert!(shown.contains("cart") && !shown.to_lowercase().contains("key"), "{shown}");
}

#[test]
fn the_leaf_must_be_what_was_asked_for() {
    let other = ask(|_, p| p.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/other")]);
    assert!(matches!(other, Err(ChainError::Identity { .. })), "{other:?}");
    let two = ask(|_, p| p.subject_alt_names.push(uri("spiffe://cluster.local/ns/shop/sa/other")));
    assert!(matches!(two, Err(ChainError::Leaf(_))), "{two:?}");
    let ca = ask(|_, p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert!(matches!(ca, Err(ChainError::Leaf(_) | ChainError::Length(_))), "{ca:?}");
    let signs = ask(|_, p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign]);
    assert!(matches!(signs, Err(ChainError::Leaf(_))), "{signs:?}");
}

#[test]
fn the_leaf_must_be_usable_now_and_on_both_sides() {
    for purpose in [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth] {
        let one_sided = ask(|_, p| p.extended_key_usages = vec![purpose.clone()]);
        assert!(matches!(one_sided, Err(ChainError::Unusable(_))), "{purpose:?}: {one_sided:?}");
    }
    let expired = ask(|_, p| p.not_after = (SystemTime::now() - Duration::from_secs(1)).into());
    assert!(matches!(expired, Err(ChainError::Unusable(_))), "{expired:?}");
    let early = ask(|_, p| p.not_before = (SystemTime::now() + Duration::from_secs(60)).into());
    assert!(matches!(early, Err(ChainError::Unusable(_))), "{early:?}");
}

#[test]
fn the_chain_must_fit_our_key_and_the_roots() {
    let (authority, other, cart) = (Authority::new("root"), Authority::new("root"), identity("shop", "cart"));
    let (_, csr) = PendingKey::generate(&cart).expect("a key");
    let chain = authority.sign(&csr, authority.leaf(&cart));
    let take = |chain: &[String], roots| {
        let (key, _) = PendingKey::generate(&cart).expect("a key");
        Certificate::new(&cart, key.into_der(), chain, roots, SystemTime::now()).expect_err("refused").to_string()
    };
    assert!(take(&chain, None).contains("keys may not be consistent"), "{}", take(&chain, None));
    assert!(take(&chain, Some(other.roots())).contains("cannot be used"));
    assert!(take(&[chain[0].clone(), other.root_pem.clone()], None).contains("cannot be used"));
    assert!(take(&chain[..1], None).contains("has 1 certificates"));
    assert!(take(&[chain[1].clone(), chain[0].clone()], None).contains("not a self-issued root"));
    assert!(take(&[chain[1].clone(), chain[1].clone()], None).contains("a leaf and a self-issued root"));
    assert!(take(&["no PEM".to_string()], None).contains("has 0 certificates"));
    let torn = "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n".to_string();
    assert!(take(&[torn], None).contains("not PEM"));
}

#[test]
fn a_chain_in_one_text_with_two_roots_is_taken() {
    let (authority, old, cart) = (Authority::new("new"), Authority::new("old"), identity("shop", "cart"));
    let (key, csr) = PendingKey::generate(&cart).expect("a key");
    let chain = authority.sign(&csr, authority.leaf(&cart)).concat() + &old.root_pem;
    Certificate::new(&cart, key.into_der(), &[chain], None, SystemTime::now()).expect("both roots are trusted");
}

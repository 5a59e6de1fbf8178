//! What is read of a peer's certificate, and how much of a chain.

use rcgen::{CertificateParams, PublicKeyData, SignatureAlgorithm};
use rustls::pki_types::CertificateDer;

use crate::identity::{
    Peer,
    peer::PeerError,
    pki::{Authority, identity, uri},
};

/// An RSA key of so many bytes (RFC 8017 A.1.1), to which nobody knows the private one.
struct Rsa(Vec<u8>);

impl Rsa {
    fn new(bytes: u16) -> Self {
        // A zero in front of the highest bit, which is set.
        let modulus = [&(bytes + 1).to_be_bytes()[..], &[0], &vec![0xAB; usize::from(bytes)]].concat();
        let body = [&[0x02, 0x82][..], &modulus, &[0x02, 0x03, 0x01, 0x00, 0x01]].concat();
        let length = u16::try_from(body.len()).expect("short").to_be_bytes();
        Self([&[0x30, 0x82][..], &length, &body].concat())
    }
}

impl PublicKeyData for Rsa {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

fn read(params: &CertificateParams, authority: &Authority, key: &impl PublicKeyData) -> Result<Peer, PeerError> {
    Peer::read(&CertificateDer::from(authority.raw_for(params, key)))
}

#[test]
fn rsa_keys_have_2048_bits_at_least() {
    let (authority, cart) = (Authority::new("root"), identity("shop", "cart"));
    for (bytes, bits) in [(128, 1024), (255, 2040)] {
        let weak = read(&authority.leaf(&cart), &authority, &Rsa::new(bytes));
        assert!(matches!(weak, Err(PeerError::WeakKey(told)) if told == bits), "{bits}: {weak:?}");
    }
    for bytes in [256, 512] {
        let peer = read(&authority.leaf(&cart), &authority, &Rsa::new(bytes)).expect("long enough");
        assert_eq!(peer.identity, cart);
    }
}

#[test]
fn a_name_that_a_peer_chose_is_repeated_in_part_and_harmless() {
    let authority = Authority::new("root");
    let mut leaf = authority.leaf(&identity("shop", "cart"));
    leaf.subject_alt_names = vec![uri(&format!("spiffe://\u{1b}[2J\n{}", "x".repeat(500)))];
    let error = read(&leaf, &authority, &Rsa::new(256)).expect_err("no identity").to_string();
    assert!(error.contains(r"spiffe://\u{1b}[2J\n") && !error.contains(char::is_control), "{error}");
    assert_eq!(error.matches('x').count(), 128 - "spiffe://".len() - "\u{1b}[2J\n".len(), "{error}");
}

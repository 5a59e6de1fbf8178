//! A fresh key and the request that asks to have it certified.

use mesh_common::model::Identity;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A private key that has no certificate yet. No `Debug`: nothing may print it.
pub struct PendingKey(KeyPair);

impl PendingKey {
    /// A new ECDSA P-256 key, and the CSR (PEM) that names `identity` as its only URI SAN.
    pub fn generate(identity: &Identity) -> Result<(Self, String), rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
        let csr = params.serialize_request(&key)?.pem()?;
        Ok((Self(key), csr))
    }

    pub fn into_der(self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.serialize_der()))
    }
}

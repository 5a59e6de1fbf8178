//! A certificate authority for tests, able to sign what a real one must not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use mesh_common::model::{Identity, TrustBundle};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use super::{Certificate, key::PendingKey, provider};

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub root_pem: String,
    next_serial: AtomicU64,
}

pub fn identity(namespace: &str, account: &str) -> Identity {
    Identity::new("cluster.local", namespace, account).expect("valid parts")
}

pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

/// What the controller says of roots.
pub fn bundle(authorities: &[&Authority]) -> TrustBundle {
    let roots = authorities.iter().map(|authority| authority.root_der());
    TrustBundle { trust_domain: "cluster.local".to_owned(), roots: roots.collect() }
}

/// A fresh key and its CSR.
pub fn pending(identity: &Identity) -> (PrivateKeyDer<'static>, String) {
    let (key, csr) = PendingKey::generate(identity).expect("a key");
    (key.into_der(), csr)
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let root_pem = params.self_signed(&key).expect("a root").pem();
        Self { issuer: Issuer::new(params, key), root_pem, next_serial: AtomicU64::new(0x1234) }
    }

    pub fn root_der(&self) -> Vec<u8> {
        CertificateDer::from_pem_slice(self.root_pem.as_bytes()).expect("PEM").to_vec()
    }

    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut store = RootCertStore::empty();
        store.add(CertificateDer::from_pem_slice(self.root_pem.as_bytes()).expect("PEM")).expect("a root");
        Arc::new(store)
    }

    /// What a workload's leaf looks like, to be bent by tests.
    pub fn leaf(&self, identity: &Identity) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(&identity.to_string())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(self.next_serial.fetch_add(1, Ordering::Relaxed)));
        self.valid(&mut params, Duration::from_secs(3600));
        params
    }

    pub fn valid(&self, params: &mut CertificateParams, life: Duration) {
        params.not_before = (SystemTime::now() - Duration::from_secs(5)).into();
        params.not_after = (SystemTime::now() + life).into();
    }

    /// Signs for the key of a CSR, with the names of `params` alone. PEM, leaf first.
    pub fn sign(&self, csr_pem: &str, params: CertificateParams) -> Vec<String> {
        let mut request = CertificateSigningRequestParams::from_pem(csr_pem).expect("a CSR");
        request.params = params;
        vec![request.signed_by(&self.issuer).expect("a leaf").pem(), self.root_pem.clone()]
    }

    /// A usable certificate, as the agent would hold it.
    pub fn certificate(&self, identity: &Identity) -> Arc<Certificate> {
        let (key, csr) = PendingKey::generate(identity).expect("a key");
        let chain = self.sign(&csr, self.leaf(identity));
        let certificate = Certificate::new(identity, key.into_der(), &chain, None, SystemTime::now());
        Arc::new(certificate.expect("a good chain"))
    }

    /// The same as PEM: chain and key.
    pub fn raw_pem(&self, params: CertificateParams) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        (params.signed_by(&key, &self.issuer).expect("a leaf").pem(), key.serialize_pem())
    }

    /// Any leaf for any key; DER.
    pub fn raw_for(&self, params: &CertificateParams, key: &impl PublicKeyData) -> Vec<u8> {
        params.signed_by(key, &self.issuer).expect("a leaf").der().to_vec()
    }

    /// Any leaf with its key, unchecked: what an attacker or a careless authority might present.
    pub fn raw(&self, params: CertificateParams) -> CertifiedKey {
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, &self.issuer).expect("a leaf");
        let der = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        CertifiedKey::from_der(vec![leaf.der().clone()], der, &provider()).expect("matching")
    }
}

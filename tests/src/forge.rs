//! Certificates as nobody should get them, signed with the real key of a world's controller: whoever holds it could.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

/// The key of a certificate authority.
#[derive(Debug)]
pub struct Forge {
    issuer: Issuer<'static, KeyPair>,
    /// PEM
    pub root: String,
}

/// A certificate with its key, both PEM.
#[derive(Clone, Debug, Default)]
pub struct Forged {
    pub chain: String,
    pub key: String,
}

impl Forge {
    /// From `ca.crt` and `ca.key` in the controller's state folder.
    pub fn open(ca: &Path) -> Result<Self> {
        let read = |name: &str| fs::read_to_string(ca.join(name)).with_context(|| format!("read {name}"));
        let (root, key) = (read("ca.crt")?, KeyPair::from_pem(&read("ca.key")?).context("read ca.key")?);
        Ok(Self { issuer: Issuer::from_ca_cert_pem(&root, key).context("read ca.crt")?, root })
    }

    /// Of somebody who calls himself as the real one does.
    pub fn impostor(&self) -> Result<Self> {
        let key = KeyPair::generate().context("make a key")?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).context("sign the root")?.pem();
        Ok(Self { issuer: Issuer::new(params, key), root })
    }

    /// What the controller would sign for `identity`, changed by `bend`.
    pub fn leaf(&self, identity: &str, bend: impl FnOnce(&mut CertificateParams)) -> Result<Forged> {
        let key = KeyPair::generate().context("make a key")?;
        let params = params(identity, bend)?;
        let leaf = params.signed_by(&key, &self.issuer).context("sign the leaf")?;
        Ok(Forged { chain: leaf.pem(), key: key.serialize_pem() })
    }
}

/// Signed by its own key.
pub fn self_signed(identity: &str) -> Result<Forged> {
    let key = KeyPair::generate().context("make a key")?;
    let leaf = params(identity, |_| {})?.self_signed(&key).context("sign the leaf")?;
    Ok(Forged { chain: leaf.pem(), key: key.serialize_pem() })
}

fn params(identity: &str, bend: impl FnOnce(&mut CertificateParams)) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.try_into().context("an identity is ASCII")?)];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = (SystemTime::now() - Duration::from_secs(60)).into();
    params.not_after = (SystemTime::now() + Duration::from_secs(3600)).into();
    bend(&mut params);
    Ok(params)
}

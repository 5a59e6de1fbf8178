//! The embedded certificate authority: one root key, kept in the state folder, that signs workloads' and the
//! controller's own certificates. What a request says of itself is never copied into a certificate.

mod limits;
mod request;
mod root;
mod service;

pub use limits::{LimitSettings, Limits};
pub use service::CertificateService;

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use aws_lc_rs::rand;
use mesh_common::model::Identity;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};

use crate::tokens::hex;

/// Clocks of nodes differ: a certificate is valid a little before it was made.
const BACKDATE: Duration = Duration::from_secs(60);
/// Bytes of a serial number, all random.
const SERIAL: usize = 17;

/// The root and its key.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root_pem: String,
    /// No certificate outlives its root.
    root_end: SystemTime,
    /// The longest life of a workload's certificate.
    ttl: Duration,
}

/// A certificate that was just signed.
#[derive(Debug)]
pub struct Signed {
    /// PEM
    pub certificate: String,
    /// Hexadecimal
    pub serial: String,
    pub not_after: SystemTime,
}

impl Authority {
    /// Opens the authority in the folder `ca` of the state folder, or makes a new one if there is none.
    ///
    /// # Errors
    /// If only half of it is there, others could read its key, or certificate and key do not fit each other.
    pub fn open(state: &Path, trust_domain: &str, ttl: Duration) -> Result<Self> {
        let root::Root { pem, key, not_after } = root::open(&state.join("ca"), trust_domain)?;
        let issuer = Issuer::from_ca_cert_pem(&pem, key).context("the root certificate cannot be used")?;
        Ok(Self { issuer, root_pem: pem, root_end: not_after, ttl })
    }

    /// PEM; what agents must trust.
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// A certificate for a workload: exactly one name, its SPIFFE id; for both sides of a connection; never a CA.
    /// `wanted` is shortened to the limit of this authority; `None` asks for as much as it gives.
    pub fn sign_workload(
        &self,
        key: &SubjectPublicKeyInfo,
        identity: &Identity,
        wanted: Option<Duration>,
    ) -> Result<(Signed, String)> {
        let name = SanType::URI(identity.to_string().try_into().context("the identity is not ASCII")?);
        let life = wanted.map_or(self.ttl, |wanted| wanted.min(self.ttl));
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        // An empty subject: a common name would be a second name.
        Ok((self.sign(key, name, DistinguishedName::new(), usages, life)?, self.root_pem.clone()))
    }

    /// The controller's own certificate and key (PEM). The key lives in memory only; the certificate as long as the
    /// root, since it is made anew at every start.
    pub fn serving(&self, server_name: &str) -> Result<(String, String)> {
        let key = KeyPair::generate().context("cannot make a key")?;
        let name = server_name.try_into().with_context(|| format!("--server-name {server_name}: not a DNS name"))?;
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, "nodemesh controller");
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let life = self.root_end.duration_since(SystemTime::now()).unwrap_or_default();
        let signed = self.sign(&key, SanType::DnsName(name), subject, usages, life)?;
        Ok((format!("{}{}", signed.certificate, self.root_pem), key.serialize_pem()))
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        name: SanType,
        subject: DistinguishedName,
        usages: Vec<ExtendedKeyUsagePurpose>,
        life: Duration,
    ) -> Result<Signed> {
        let now = SystemTime::now();
        let not_after = (now + life).min(self.root_end);
        let serial = random_serial()?;
        let mut params = CertificateParams::default();
        params.not_before = (now - BACKDATE).into();
        params.not_after = not_after.into();
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.distinguished_name = subject;
        params.subject_alt_names = vec![name];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(key, &self.issuer).context("signing failed")?;
        Ok(Signed { certificate: certificate.pem(), serial: hex(&serial), not_after })
    }
}

/// Positive, and too long to be guessed.
fn random_serial() -> Result<[u8; SERIAL]> {
    let mut serial = [0; SERIAL];
    rand::fill(&mut serial).context("the system gave no random bytes")?;
    serial[0] = serial[0] & 0x7f | 0x40;
    Ok(serial)
}

#[cfg(test)]
mod tests;

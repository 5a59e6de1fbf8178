//! The embedded certificate authority: signs workloads' and the controller's own certificates. Its key is that of a
//! root or of an intermediate, in the state folder or in a Secret, and may be replaced while it works. What a request
//! says of itself is never copied into a certificate.

mod duties;
mod limits;
mod material;
mod renewal;
mod request;
mod root;
mod roots;
mod rotation;
pub mod secret;
mod service;

pub use duties::Duties;
pub use limits::{LimitSettings, Limits};
pub use material::Material;
pub use service::CertificateService;

use std::{
    future::Future,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::rand;
use mesh_common::model::{Identity, TrustBundle};
use rcgen::{
    Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::watch;

use crate::tokens::hex;

/// Clocks of nodes differ: a certificate is valid a little before it was made.
const BACKDATE: Duration = Duration::from_secs(60);
/// Bytes of a serial number, all random.
const SERIAL: usize = 17;

/// Signs with the newest material. Clones share it.
#[derive(Clone, Debug)]
pub struct Authority {
    material: watch::Receiver<Arc<Material>>,
    /// The longest life of a workload's certificate.
    ttl: Duration,
}

/// A certificate that was just signed.
#[derive(Debug)]
pub struct Signed {
    /// PEM: the leaf, what is between it and the roots, one an element; the roots, all in one.
    pub chain: Vec<String>,
    /// Hexadecimal
    pub serial: String,
    pub not_after: SystemTime,
}

/// The controller's own certificate, for TLS.
#[derive(Debug)]
pub struct Serving {
    /// Leaf first; the roots are the agents' to know.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Authority {
    /// Opens the authority in the folder `ca` of the state folder, or makes a new one if there is none.
    ///
    /// # Errors
    /// If only half of it is there, others could read its key, or certificate and key do not fit each other.
    pub fn open(state: &Path, trust_domain: &str, ttl: Duration) -> Result<Self> {
        let material = root::open(&state.join("ca"), trust_domain)?;
        Ok(Self::following(watch::channel(Arc::new(material)).1, ttl))
    }

    /// Signs with what is there, now and later.
    pub fn following(material: watch::Receiver<Arc<Material>>, ttl: Duration) -> Self {
        Self { material, ttl }
    }

    /// The material, now and later.
    pub fn material(&self) -> watch::Receiver<Arc<Material>> {
        self.material.clone()
    }

    /// A certificate for a workload: exactly one name, its SPIFFE id; for both sides of a connection; never a CA.
    /// `wanted` is shortened to the limit of this authority; `None` asks for as much as it gives.
    pub fn sign_workload(
        &self,
        key: &SubjectPublicKeyInfo,
        identity: &Identity,
        wanted: Option<Duration>,
    ) -> Result<Signed> {
        let material = self.material.borrow().clone();
        let life = wanted.map_or(self.ttl, |wanted| wanted.min(self.ttl));
        let (certificate, mut signed) = workload(&material, key, identity, life)?;
        signed.chain = vec![certificate.pem()];
        signed.chain.extend(material.intermediates_pem());
        signed.chain.push(material.roots_pem());
        Ok(signed)
    }
}

/// The roots of the newest material, and what keeps them up to date; it never ends.
pub fn trust(
    mut material: watch::Receiver<Arc<Material>>,
    trust_domain: &str,
) -> (watch::Receiver<TrustBundle>, impl Future<Output = ()> + Send + use<>) {
    let trust_domain = trust_domain.to_owned();
    let bundle = move |material: &Material| {
        let roots = material.roots.iter().map(|root| root.to_vec()).collect();
        TrustBundle { trust_domain: trust_domain.clone(), roots }
    };
    let (sender, receiver) = watch::channel(bundle(&material.borrow_and_update()));
    let follow = async move {
        while material.changed().await.is_ok() {
            let newest = bundle(&material.borrow_and_update());
            sender.send_if_modified(|held| {
                let changed = *held != newest;
                *held = newest;
                changed
            });
        }
        // Nothing changes any more.
        sender.closed().await;
        std::future::pending().await
    };
    (receiver, follow)
}

/// The controller's own certificate and key. The key lives in memory only; the certificate as long as what signed it,
/// since it is made anew at every start and with all new material.
pub fn serving(material: &Material, server_name: &str) -> Result<Serving> {
    let key = KeyPair::generate().context("cannot make a key")?;
    let name = server_name.try_into().with_context(|| format!("--server-name {server_name}: not a DNS name"))?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, "nodemesh controller");
    let usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let life = material.not_after.duration_since(SystemTime::now()).unwrap_or_default();
    let (certificate, _) = sign(material, &key, SanType::DnsName(name), subject, usages, life)?;
    let mut chain = vec![certificate.der().clone()];
    chain.extend(material.intermediates.iter().cloned());
    Ok(Serving { chain, key: PrivatePkcs8KeyDer::from(key.serialize_der()).into() })
}

fn workload(
    material: &Material,
    key: &impl PublicKeyData,
    identity: &Identity,
    life: Duration,
) -> Result<(Certificate, Signed)> {
    let name = SanType::URI(identity.to_string().try_into().context("the identity is not ASCII")?);
    let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    // An empty subject: a common name would be a second name.
    sign(material, key, name, DistinguishedName::new(), usages, life)
}

fn sign(
    material: &Material,
    key: &impl PublicKeyData,
    name: SanType,
    subject: DistinguishedName,
    usages: Vec<ExtendedKeyUsagePurpose>,
    life: Duration,
) -> Result<(Certificate, Signed)> {
    let now = SystemTime::now();
    ensure!(material.not_after > now, "the certificate that signs has expired");
    let not_after = (now + life).min(material.not_after);
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
    let certificate = params.signed_by(key, &material.issuer).context("signing failed")?;
    Ok((certificate, Signed { chain: Vec::new(), serial: hex(&serial), not_after }))
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

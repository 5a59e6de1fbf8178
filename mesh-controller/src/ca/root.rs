//! The root certificate and its key on disk: `ca.crt`, and `ca.key` for the owner's eyes only.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, bail, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose, PublicKeyData,
    SerialNumber,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::tokens::write_private;

/// Ten years. Rotation with overlap is what roots being a bundle is for.
const LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What the folder holds.
pub struct Root {
    /// PEM
    pub pem: String,
    pub key: KeyPair,
    pub not_after: SystemTime,
}

/// Reads the root, or makes one if there is none at all.
pub fn open(folder: &Path, trust_domain: &str) -> Result<Root> {
    let (certificate, key) = (folder.join("ca.crt"), folder.join("ca.key"));
    match (certificate.exists(), key.exists()) {
        (true, true) => {}
        (false, false) => create(folder, trust_domain)?,
        (there, _) => bail!(
            "{}: {} is there without {}; restore the other one, or remove both for a new root that no agent trusts yet",
            folder.display(),
            if there { "ca.crt" } else { "ca.key" },
            if there { "ca.key" } else { "ca.crt" },
        ),
    }
    let mode = fs::metadata(&key).with_context(|| format!("cannot read {}", key.display()))?.mode();
    ensure!(mode & 0o077 == 0, "{}: others can read it (mode {:o}); it must be 0600", key.display(), mode & 0o777);
    load(&certificate, &key)
}

fn load(certificate: &Path, key: &Path) -> Result<Root> {
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let pem = read(certificate)?;
    let pair = KeyPair::from_pem(&read(key)?).with_context(|| format!("{}: not a private key", key.display()))?;
    let place = || certificate.display();
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).with_context(|| format!("{}: not PEM", place()))?;
    let (_, parsed) = X509Certificate::from_der(&der).with_context(|| format!("{}: not a certificate", place()))?;
    ensure!(parsed.is_ca(), "{}: not the certificate of a CA", place());
    ensure!(parsed.public_key().raw == pair.subject_public_key_info(), "{}: not the certificate of ca.key", place());
    let end = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    let not_after = UNIX_EPOCH + Duration::from_secs(end);
    ensure!(not_after > SystemTime::now(), "{}: has expired", place());
    Ok(Root { pem, key: pair, not_after })
}

fn create(folder: &Path, trust_domain: &str) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("cannot protect {}", folder.display()))?;
    let key = KeyPair::generate().context("cannot make the root's key")?;
    let now = SystemTime::now();
    let mut params = CertificateParams::default();
    params.not_before = (now - super::BACKDATE).into();
    params.not_after = (now + LIFE).into();
    params.serial_number = Some(SerialNumber::from_slice(&super::random_serial()?));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain);
    params.distinguished_name.push(DnType::CommonName, "nodemesh root");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).context("cannot sign the root")?;
    write_private(&folder.join("ca.key"), key.serialize_pem().as_bytes())?;
    write_private(&folder.join("ca.crt"), certificate.pem().as_bytes())
}

//! A self-made root, and the folder that keeps one: `ca.crt`, and `ca.key` for the owner's eyes only.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose, SerialNumber,
};

use super::material::{Material, Part, Parts};
use crate::tokens::{hex, write_private};

/// Ten years. Rotation with overlap is what roots being a bundle is for.
const LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A root that was just made, as PEM.
pub struct Made {
    pub certificate: String,
    pub key: String,
}

/// Reads the root of a folder, or makes one if there is none at all.
pub fn open(folder: &Path, trust_domain: &str) -> Result<Material> {
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
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let (root, key) = (read(&certificate)?, read(&key)?);
    let root = Part { name: "ca.crt", pem: &root };
    let key = Part { name: "ca.key", pem: &key };
    let place = folder.display().to_string();
    Material::new(&Parts { place: &place, certificate: root, key, chain: None, roots: root }, trust_domain)
}

/// Makes a root. Its name is its own, so that a chain of one root is never tried with another.
pub fn make(trust_domain: &str) -> Result<Made> {
    let key = KeyPair::generate().context("cannot make the root's key")?;
    let now = SystemTime::now();
    let serial = super::random_serial()?;
    let mut params = CertificateParams::default();
    params.not_before = (now - super::BACKDATE).into();
    params.not_after = (now + LIFE).into();
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, trust_domain);
    params.distinguished_name.push(DnType::CommonName, format!("nodemesh root {}", hex(&serial[1..5])));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).context("cannot sign the root")?;
    Ok(Made { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn create(folder: &Path, trust_domain: &str) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))
        .with_context(|| format!("cannot protect {}", folder.display()))?;
    let Made { certificate, key } = make(trust_domain)?;
    write_private(&folder.join("ca.key"), key.as_bytes())?;
    write_private(&folder.join("ca.crt"), certificate.as_bytes())
}

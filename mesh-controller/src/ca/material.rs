//! What an authority works with: a certificate and key that sign, the certificates between it and its root, and the
//! roots to trust. Material that does not fit together is refused whole, with the place and the part that is wrong.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use mesh_common::model::Identity;
use rcgen::{Issuer, KeyPair, PublicKeyData};
use rustls::{
    RootCertStore,
    crypto::aws_lc_rs::default_provider,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::WebPkiClientVerifier,
};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

/// A part of the material as it came: what it is called there, and its PEM.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    pub name: &'a str,
    pub pem: &'a str,
}

/// Everything of one place.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// A folder or a Secret, as people know it.
    pub place: &'a str,
    /// The certificate that signs; others may follow it, up to but perhaps without the root.
    pub certificate: Part<'a>,
    pub key: Part<'a>,
    /// What stands between it and the root, if that is elsewhere; it may begin with the certificate that signs.
    pub chain: Option<Part<'a>>,
    pub roots: Part<'a>,
}

/// Material that fits.
#[derive(Debug)]
pub struct Material {
    pub issuer: Issuer<'static, KeyPair>,
    /// The certificate that signs (DER).
    pub certificate: CertificateDer<'static>,
    /// What is sent between a leaf and the roots; empty if a root signs.
    pub intermediates: Vec<CertificateDer<'static>>,
    pub roots: Vec<CertificateDer<'static>>,
    /// Nothing signed here is good for longer.
    pub not_after: SystemTime,
    /// When the certificate that signs began, and when it ends.
    pub life: (SystemTime, SystemTime),
}

impl PartialEq for Material {
    /// The key is that of the certificate.
    fn eq(&self, other: &Self) -> bool {
        let Self { issuer: _, certificate, intermediates, roots, not_after: _, life: _ } = self;
        *certificate == other.certificate && *intermediates == other.intermediates && *roots == other.roots
    }
}

impl Material {
    /// Takes the parts, if a certificate that they sign is one that agents of `trust_domain` take.
    ///
    /// # Errors
    /// Names the place and the part.
    pub fn new(parts: &Parts<'_>, trust_domain: &str) -> Result<Self> {
        let Parts { place, certificate, key, chain, roots } = parts;
        let at = |part: &Part<'_>| format!("{place}: {}", part.name);
        let pair = PrivateKeyDer::from_pem_slice(key.pem.as_bytes()).map_err(|e| anyhow!("{e:?}"));
        let pair = pair.and_then(|der| Ok(KeyPair::try_from(&der)?));
        let pair = pair.map_err(|_| anyhow!("{}: not a private key (PEM; ECDSA or RSA)", at(key)))?;

        let sent = certificates(certificate.pem).with_context(|| at(certificate))?;
        let signing = sent[0].clone();
        let parsed = parse(&signing).with_context(|| at(certificate))?;
        ensure!(parsed.is_ca(), "{}: not the certificate of a CA", at(certificate));
        let is_its_key = parsed.public_key().raw == pair.subject_public_key_info();
        ensure!(is_its_key, "{}: not the certificate of {}", at(certificate), key.name);
        ensure!(end(&parsed) > SystemTime::now(), "{}: has expired", at(certificate));

        let trusted = certificates(roots.pem).with_context(|| at(roots))?;
        for root in &trusted {
            let root = parse(root).with_context(|| at(roots))?;
            let issues_itself = root.is_ca() && root.subject().as_raw() == root.issuer().as_raw();
            ensure!(issues_itself, "{}: {} is no root (a CA that is its own issuer)", at(roots), root.subject());
        }

        let mut intermediates = sent;
        if let Some(chain) = chain {
            let above = certificates(chain.pem).with_context(|| at(chain))?;
            intermediates.extend(above.into_iter().filter(|certificate| *certificate != signing));
        }
        intermediates.retain(|certificate| !trusted.contains(certificate));

        let mut not_after = end(&parsed);
        for intermediate in &intermediates {
            not_after = not_after.min(end(&parse(intermediate)?));
        }
        let life = (start(&parsed), end(&parsed));
        let issuer = Issuer::from_ca_cert_der(&signing, pair).with_context(|| at(certificate))?;
        let material = Self { issuer, certificate: signing, intermediates, roots: trusted, not_after, life };
        material
            .try_out(trust_domain)
            .with_context(|| format!("{}: what it signs is not trusted by {}", at(certificate), roots.name))?;
        Ok(material)
    }

    /// Signs for a key that nobody keeps, and looks at it as an agent does: signatures, purposes, lengths of paths,
    /// constraints of names.
    fn try_out(&self, trust_domain: &str) -> Result<()> {
        let identity = Identity::new(trust_domain, "namespace", "account").context("the trust domain")?;
        let key = KeyPair::generate().context("cannot make a key")?;
        let (leaf, _) = super::workload(self, &key, &identity, Duration::from_secs(60))?;
        let mut roots = RootCertStore::empty();
        for root in &self.roots {
            roots.add(root.clone()).context("a root cannot be used")?;
        }
        let provider = Arc::new(default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        verifier.verify_client_cert(leaf.der(), &self.intermediates, UnixTime::now())?;
        Ok(())
    }

    /// When the last of the roots is over.
    pub fn last_root(&self) -> SystemTime {
        let ends = self.roots.iter().filter_map(|root| Some(end(&parse(root).ok()?)));
        ends.max().unwrap_or(self.not_after)
    }

    /// PEM of the roots, one after the other.
    pub fn roots_pem(&self) -> String {
        self.roots.iter().map(pem).collect()
    }

    /// PEM of what is between a leaf and the roots.
    pub fn intermediates_pem(&self) -> Vec<String> {
        self.intermediates.iter().map(pem).collect()
    }
}

/// PEM as openssl writes it.
pub fn pem(certificate: &CertificateDer<'static>) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(certificate);
    let lines = text.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line) + "\n");
    format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", lines.collect::<String>())
}

/// At least one.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match list {
        Ok(list) if list.is_empty() => bail!("holds no certificate (PEM)"),
        Ok(list) => Ok(list),
        Err(error) => bail!("not PEM: {error:?}"),
    }
}

pub fn parse<'a>(certificate: &'a CertificateDer<'static>) -> Result<X509Certificate<'a>> {
    match X509Certificate::from_der(certificate) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => bail!("not a certificate (X.509)"),
    }
}

pub fn start(certificate: &X509Certificate<'_>) -> SystemTime {
    time(certificate.validity().not_before.timestamp())
}

pub fn end(certificate: &X509Certificate<'_>) -> SystemTime {
    time(certificate.validity().not_after.timestamp())
}

fn time(timestamp: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(timestamp).unwrap_or(0))
}

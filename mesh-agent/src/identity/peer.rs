//! Who a certificate speaks for. Reads names only: whether the chain is to be trusted is `verify`'s question.

use std::time::{Duration, SystemTime};

use mesh_common::model::{Identity, IdentityError};
use rustls::pki_types::CertificateDer;
use x509_parser::{extensions::GeneralName, prelude::*, public_key::PublicKey};

/// How much of a name that a peer chose is worth repeating in an error.
const SHOWN: usize = 128;

/// Shorter RSA keys are refused, as rustls refuses signatures made with them.
const RSA_BITS: usize = 2048;

/// What a leaf certificate says of its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub identity: Identity,
    /// Serial number, lower-case hex without separators, as `openssl x509 -serial` orders it.
    pub serial: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

/// Why a certificate names no workload of this mesh.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("the certificate cannot be read: {0}")]
    Encoding(String),
    #[error("the certificate is a certificate authority's, not a workload's")]
    Authority,
    #[error("the certificate has no subject alternative name")]
    NoName,
    #[error("the certificate has {0} subject alternative names; a workload's has one")]
    Names(usize),
    /// A DNS name, an IP address or another kind of name.
    #[error("the certificate's subject alternative name is not a URI")]
    NotUri,
    #[error("the certificate's URI `{uri}` is not a workload identity")]
    Shape { uri: String, source: IdentityError },
    /// Without one a certificate would serve for anything.
    #[error("the certificate does not say what it is for (no extended key usage)")]
    NoPurpose,
    #[error("the certificate's RSA key has {0} bits; 2048 are the least")]
    WeakKey(usize),
    #[error("{0} certificates follow the peer's own")]
    Chain(usize),
    #[error("the peer `{peer}` is not of our trust domain `{ours}`")]
    TrustDomain { peer: Box<Identity>, ours: String },
    #[error("the peer is `{peer}`, `{expected}` was expected")]
    Unexpected { peer: Box<Identity>, expected: Box<Identity> },
}

impl Peer {
    /// Reads a leaf; its identity is its only subject alternative name, a URI of the form of [`Identity`]. Says nothing
    /// of its issuer, its signature or the time.
    pub fn read(leaf: &CertificateDer<'_>) -> Result<Self, PeerError> {
        let encoding = |error: &dyn std::fmt::Display| PeerError::Encoding(error.to_string());
        let (rest, certificate) = X509Certificate::from_der(leaf).map_err(|error| encoding(&error))?;
        if !rest.is_empty() {
            return Err(PeerError::Encoding("bytes follow the certificate".to_string()));
        }
        // Both readers fail on an extension that comes twice, so that no second one can hide.
        let constraints = certificate.basic_constraints().map_err(|error| encoding(&error))?;
        let usage = certificate.key_usage().map_err(|error| encoding(&error))?;
        if constraints.is_some_and(|c| c.value.ca) || usage.is_some_and(|u| u.value.key_cert_sign()) {
            return Err(PeerError::Authority);
        }
        if certificate.extended_key_usage().map_err(|error| encoding(&error))?.is_none() {
            return Err(PeerError::NoPurpose);
        }
        if let Ok(PublicKey::RSA(key)) = certificate.public_key().parsed()
            && key.key_size() < RSA_BITS
        {
            return Err(PeerError::WeakKey(key.key_size()));
        }
        let names =
            certificate.subject_alternative_name().map_err(|error| encoding(&error))?.ok_or(PeerError::NoName)?;
        let uri = match names.value.general_names.as_slice() {
            [] => return Err(PeerError::NoName),
            [GeneralName::URI(uri)] => *uri,
            [_] => return Err(PeerError::NotUri),
            several => return Err(PeerError::Names(several.len())),
        };
        Ok(Self {
            identity: uri.parse().map_err(|source| PeerError::Shape { uri: shown(uri), source })?,
            serial: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
            not_before: time(certificate.validity().not_before)?,
            not_after: time(certificate.validity().not_after)?,
        })
    }
}

fn shown(text: &str) -> String {
    text.chars().take(SHOWN).flat_map(char::escape_default).collect()
}

fn time(time: ASN1Time) -> Result<SystemTime, PeerError> {
    let seconds = u64::try_from(time.timestamp()).map_err(|_| PeerError::Encoding(format!("{time} is before 1970")))?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

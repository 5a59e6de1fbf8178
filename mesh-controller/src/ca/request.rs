//! Certificate signing requests. Only the public key is taken from one, and only from a request that its owner
//! signed; names, CA bits and usages in it are not even read.

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKeyData, SubjectPublicKeyInfo};
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

/// Bytes of PEM; an honest request has about 500.
pub const SIZE: usize = 16 << 10;

/// Why a request is not signed, whoever asks.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("csr: {0} bytes are more than {SIZE}")]
    Size(usize),
    #[error("csr: not a PEM block CERTIFICATE REQUEST")]
    Pem,
    #[error("csr: not a certificate signing request (PKCS #10)")]
    Shape,
    #[error("csr: its signature is not that of its key")]
    Signature,
    #[error("csr: the key must be ECDSA P-256 or P-384")]
    Key,
}

/// The key of a request.
pub fn public_key(pem: &str) -> Result<SubjectPublicKeyInfo, RequestError> {
    if pem.len() > SIZE {
        return Err(RequestError::Size(pem.len()));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).map_err(|_| RequestError::Pem)?;
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| RequestError::Shape)?;
    if !rest.is_empty() {
        return Err(RequestError::Shape);
    }
    let spki = &request.certification_request_info.subject_pki;
    let key = SubjectPublicKeyInfo::from_der(spki.raw).map_err(|_| RequestError::Key)?;
    if ![&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384].contains(&key.algorithm()) {
        return Err(RequestError::Key);
    }
    request.verify_signature().map_err(|_| RequestError::Signature)?;
    Ok(key)
}

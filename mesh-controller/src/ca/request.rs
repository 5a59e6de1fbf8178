//! Certificate signing requests. Only the public key is taken from one, and only from a request that its owner
//! signed; names, CA bits and usages in it are not even read.

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PublicKeyData, SubjectPublicKeyInfo};
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use crate::refusal::{Reason, Refusal};

/// Bytes of PEM; an honest request has about 500.
pub const SIZE: usize = 16 << 10;

/// The key of a request.
///
/// # Errors
/// Why it is not signed, whoever asks.
pub fn public_key(pem: &str) -> Result<SubjectPublicKeyInfo, Refusal> {
    let shape = || Refusal::new(Reason::CsrMalformed, "csr: not a certificate signing request (PKCS #10)");
    let unfit = || Refusal::new(Reason::CsrKey, "csr: the key must be ECDSA P-256 or P-384");
    if pem.len() > SIZE {
        return Err(Refusal::new(Reason::CsrSize, format!("csr: {} bytes are more than {SIZE}", pem.len())));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| Refusal::new(Reason::CsrMalformed, "csr: not a PEM block CERTIFICATE REQUEST"))?;
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|_| shape())?;
    if !rest.is_empty() {
        return Err(shape());
    }
    let spki = &request.certification_request_info.subject_pki;
    let key = SubjectPublicKeyInfo::from_der(spki.raw).map_err(|_| unfit())?;
    if ![&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384].contains(&key.algorithm()) {
        return Err(unfit());
    }
    request
        .verify_signature()
        .map_err(|_| Refusal::new(Reason::CsrSignature, "csr: its signature is not that of its key"))?;
    Ok(key)
}

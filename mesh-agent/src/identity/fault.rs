//! What is wrong with a peer's certificate, as a stable code for flow records and metrics.

use rustls::{CertificateError, Error};

use super::{peer::PeerError, verify::refusal};
use crate::telemetry::reason;

/// The code of a failed handshake whose cause is the peer's certificate; `None`: it has another cause.
pub fn fault(error: &Error) -> Option<&'static str> {
    if let Some(refused) = refusal(error) {
        return Some(of_peer(refused));
    }
    let Error::InvalidCertificate(fault) = error else { return None };
    Some(match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => reason::CERT_EXPIRED,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => reason::CERT_NOT_YET_VALID,
        CertificateError::UnknownIssuer => reason::CERT_UNKNOWN_ISSUER,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => reason::CERT_PURPOSE,
        CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => reason::CERT_BAD_SIGNATURE,
        _ => reason::CERT_INVALID,
    })
}

/// The code of what our own verifiers refused.
pub fn of_peer(error: &PeerError) -> &'static str {
    match error {
        PeerError::Encoding(_) | PeerError::Authority => reason::CERT_INVALID,
        PeerError::NoName | PeerError::Names(_) | PeerError::NotUri | PeerError::Shape { .. } => {
            reason::CERT_BAD_IDENTITY
        }
        PeerError::NoPurpose => reason::CERT_PURPOSE,
        PeerError::WeakKey(_) => reason::CERT_WEAK_KEY,
        PeerError::Chain(_) => reason::CERT_CHAIN_TOO_LONG,
        PeerError::TrustDomain { .. } => reason::CERT_TRUST_DOMAIN,
        PeerError::Unexpected { .. } => reason::IDENTITY_ERROR,
    }
}

//! rustls verifiers that trust a chain by the mesh's roots and a name by its SPIFFE identity, never by host name.
//! Built on webpki: what is added here can only refuse more.

use std::{fmt, sync::Arc};

use mesh_common::model::Identity;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};

use super::{
    peer::{Peer, PeerError},
    provider,
    trust::Roots,
};

/// A peer sends its leaf and at most this many certificates more. Chains are short; what is longer is work for us.
const INTERMEDIATES: usize = 10;

/// What the server side asks of a client: a certificate for TLS clients, from our roots, with an identity of our
/// trust domain. Which identity may do what is policy, decided later.
#[derive(Debug)]
pub struct ClientVerifier {
    roots: Roots,
    trust_domain: String,
}

/// What the client side asks of a server: a certificate for TLS servers, from our roots, with exactly one identity.
pub struct ServerVerifier {
    roots: Roots,
    expected: Identity,
}

impl ClientVerifier {
    pub fn new(roots: Roots, trust_domain: &str) -> Self {
        Self { roots, trust_domain: trust_domain.to_string() }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // See Anchors::new.
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        true
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        bounded(intermediates)?;
        let verified = self.roots.current().clients().verify_client_cert(leaf, intermediates, now)?;
        let peer = Peer::read(leaf).map_err(refused)?.identity;
        if peer.trust_domain() != self.trust_domain {
            return Err(refused(PeerError::TrustDomain { peer: Box::new(peer), ours: self.trust_domain.clone() }));
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ServerVerifier {
    pub fn new(roots: Roots, expected: Identity) -> Self {
        Self { roots, expected }
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerVerifier({})", self.expected)
    }
}

impl ServerCertVerifier for ServerVerifier {
    /// `_name` is not looked at: rustls wants one, but a pod has no host name.
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        bounded(intermediates)?;
        self.roots.current().verify_server(leaf, intermediates, now)?;
        let peer = Peer::read(leaf).map_err(refused)?.identity;
        if peer != self.expected {
            return Err(refused(PeerError::Unexpected {
                peer: Box::new(peer),
                expected: Box::new(self.expected.clone()),
            }));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn bounded(intermediates: &[CertificateDer<'_>]) -> Result<(), Error> {
    if intermediates.len() > INTERMEDIATES {
        return Err(refused(PeerError::Chain(intermediates.len())));
    }
    Ok(())
}

/// Keeps the reason inside rustls' error, so that whoever handles the handshake can tell a wrong name from a bad chain.
fn refused(error: PeerError) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// The reason that a verifier of this file put into a handshake's error, if that is why the handshake failed.
pub fn refusal(error: &Error) -> Option<&PeerError> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner.downcast_ref(),
        _ => None,
    }
}

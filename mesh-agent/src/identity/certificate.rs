//! One certificate with its key, checked when it arrives, and the TLS configurations that it speaks with.

use std::{fmt, future::Future, sync::Arc, time::SystemTime};

use mesh_common::model::Identity;
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::{Resumption, danger::ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, VerifierBuilderError, danger::ClientCertVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    peer::{Peer, PeerError},
    provider,
    trust::{Anchors, End, Roots, Trust},
    verify::{ClientVerifier, ServerVerifier},
};

/// The only protocol spoken inside the mesh's TLS.
const ALPN: &[u8] = b"h2";

/// A name that rustls wants and nobody sees: SNI is off and the verifier compares identities.
const NO_NAME: &str = "mesh.invalid";

/// A workload's certificate and private key.
pub struct Certificate {
    /// Whose it is, and until when; the same for every handshake made with it.
    facts: Peer,
    roots: Roots,
    key: Arc<SingleCertAndKey>,
    /// The leaf and what is between it and its root.
    sent: Vec<CertificateDer<'static>>,
    /// As it came, for a successor of this agent.
    chain: Vec<String>,
    secret: PrivateKeyDer<'static>,
    server: Arc<ServerConfig>,
}

/// How connections to a workload are accepted, and the roots that go on judging them.
#[derive(Clone, Debug)]
pub struct Serving {
    pub config: Arc<ServerConfig>,
    pub roots: Roots,
}

/// Why what the certificate authority sent is not a certificate to use.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    #[error("the chain is not PEM: {0}")]
    Pem(String),
    #[error("the chain has {0} certificates; a leaf and a self-issued root are the least")]
    Length(usize),
    #[error("the chain's last certificate is not a self-issued root")]
    NoRoot,
    #[error("a root cannot be used: {0}")]
    Root(#[source] rustls::Error),
    #[error("the leaf is not a workload's")]
    Leaf(#[source] PeerError),
    #[error("the leaf is for `{issued}`, `{asked}` was asked for")]
    Identity { issued: Box<Identity>, asked: Box<Identity> },
    /// Issued to another key, expired, not valid yet, of another root, or not for TLS on both sides.
    #[error("the leaf cannot be used: {0}")]
    Unusable(#[source] rustls::Error),
    #[error("no verifier can be built from the roots: {0}")]
    Verifier(#[from] VerifierBuilderError),
}

impl Certificate {
    /// As [`Certificate::trusting`], where no controller has said whom to trust.
    #[cfg(test)]
    pub fn new(
        asked: &Identity,
        key: PrivateKeyDer<'static>,
        chain: &[String],
        trusted: Option<Arc<RootCertStore>>,
        now: SystemTime,
    ) -> Result<Self, ChainError> {
        Self::trusting(asked, key, chain, trusted, &Trust::default(), now)
    }

    /// Takes a chain (PEM, leaf first, roots last) for `asked` and the key it was asked with. `trusted` says which
    /// roots count; without it those that the controller says do, now and later; and until it does the chain's own,
    /// since the authority that sent it was authenticated.
    pub fn trusting(
        asked: &Identity,
        key: PrivateKeyDer<'static>,
        chain: &[String],
        trusted: Option<Arc<RootCertStore>>,
        trust: &Trust,
        now: SystemTime,
    ) -> Result<Self, ChainError> {
        let (text, secret) = (chain.to_vec(), key.clone_key());
        let chain = parse(chain)?;
        let tail = chain.iter().rev().take_while(|certificate| self_issued(certificate)).count();
        match (chain.len(), tail) {
            (0 | 1, _) => return Err(ChainError::Length(chain.len())),
            (_, 0) => return Err(ChainError::NoRoot),
            (length, tail) if length == tail => return Err(ChainError::Length(length)),
            _ => {}
        }
        let (sent, own_roots) = chain.split_at(chain.len() - tail);
        let roots = match trusted {
            Some(roots) => Roots::fixed(Arc::new(Anchors::new(roots)?)),
            None => trust.roots(Arc::new(Anchors::new(Arc::new(store(own_roots)?))?), asked.trust_domain()),
        };

        let facts = Peer::read(&sent[0]).map_err(ChainError::Leaf)?;
        if facts.identity != *asked {
            return Err(ChainError::Identity { issued: Box::new(facts.identity), asked: Box::new(asked.clone()) });
        }
        let client_verifier = Arc::new(ClientVerifier::new(roots.clone(), asked.trust_domain()));
        verify_both_ways(sent, &roots, client_verifier.as_ref(), asked, now).map_err(ChainError::Unusable)?;
        // Also compares the leaf's public key with ours.
        let key = CertifiedKey::from_der(sent.to_vec(), key, &provider()).map_err(ChainError::Unusable)?;
        let key = Arc::new(SingleCertAndKey::from(key));
        let server = Arc::new(server_config(client_verifier, key.clone()).map_err(ChainError::Unusable)?);
        Ok(Self { facts, roots, key, sent: sent.to_vec(), chain: text, secret, server })
    }

    /// Chain (PEM) and private key (PKCS#8): for the successor of this agent, and nobody else.
    pub fn secrets(&self) -> (&[String], &[u8]) {
        (&self.chain, self.secret.secret_der())
    }

    /// The roots by which peers are judged, now and later.
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Ready once the roots that count do not bear out this certificate any more: peers refuse it then.
    pub fn distrusted(&self) -> impl Future<Output = ()> + Send + use<> {
        self.roots.distrust(End::Client, self.sent.clone())
    }

    pub fn identity(&self) -> &Identity {
        &self.facts.identity
    }

    /// Lower-case hex without separators.
    pub fn serial(&self) -> &str {
        &self.facts.serial
    }

    pub fn not_before(&self) -> SystemTime {
        self.facts.not_before
    }

    pub fn not_after(&self) -> SystemTime {
        self.facts.not_after
    }

    /// Expired means past `not_after`: the mesh's clock, not the peer's, decides.
    pub fn expired(&self, now: SystemTime) -> bool {
        now >= self.facts.not_after
    }

    /// For connections to this workload: TLS 1.3, ALPN h2, a client certificate of the same trust domain and roots is
    /// mandatory. No tickets and no early data, so that every connection proves its identity anew.
    pub fn serving(&self) -> Serving {
        Serving { config: self.server.clone(), roots: self.roots.clone() }
    }

    #[cfg(test)]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// For a connection from this workload to `expected`: the server's certificate must chain to the same roots and
    /// name exactly that identity. TLS 1.3, ALPN h2, no SNI, no resumption.
    pub fn client_config(&self, expected: &Identity) -> Arc<ClientConfig> {
        let verifier = Arc::new(ServerVerifier::new(self.roots.clone(), expected.clone()));
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3 cipher suites and key exchange groups")
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(self.key.clone());
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.enable_sni = false;
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }
}

/// Shows whose and until when, never the key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate")
            .field("identity", &self.facts.identity)
            .field("serial", &self.facts.serial)
            .field("not_after", &self.facts.not_after)
            .finish_non_exhaustive()
    }
}

fn parse(chain: &[String]) -> Result<Vec<CertificateDer<'static>>, ChainError> {
    let mut certificates = Vec::new();
    for text in chain {
        for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
            certificates.push(certificate.map_err(|error| ChainError::Pem(error.to_string()))?);
        }
    }
    Ok(certificates)
}

/// A root by its form. Whether it is to be trusted was decided by who sent it, or by the configured roots.
fn self_issued(certificate: &CertificateDer<'_>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, c)| c.is_ca() && c.subject().as_raw() == c.issuer().as_raw())
}

fn store(roots: &[CertificateDer<'static>]) -> Result<RootCertStore, ChainError> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(ChainError::Root)?;
    }
    Ok(store)
}

/// One leaf serves connections in and out: an authority that signs for one side only is found here, not at a peer.
fn verify_both_ways(
    sent: &[CertificateDer<'static>],
    roots: &Roots,
    client_verifier: &ClientVerifier,
    asked: &Identity,
    now: SystemTime,
) -> Result<(), rustls::Error> {
    let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let (leaf, intermediates) = (&sent[0], &sent[1..]);
    client_verifier.verify_client_cert(leaf, intermediates, now)?;
    let name = ServerName::try_from(NO_NAME).expect("a constant DNS name");
    ServerVerifier::new(roots.clone(), asked.clone()).verify_server_cert(leaf, intermediates, &name, &[], now)?;
    Ok(())
}

fn server_config(verifier: Arc<ClientVerifier>, key: Arc<SingleCertAndKey>) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(key);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

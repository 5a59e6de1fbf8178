//! TLS that the agent itself speaks to endpoints, as a client of theirs.

use std::{
    fmt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use http::uri::Authority;
use mesh_common::model::traffic::{TrustedRoots, UpstreamTls};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::{Io, pool::Version};

/// Those of the image or host, read once.
static SYSTEM: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Arc::new(roots)
});

/// Tells the settings of one time from those of another.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// What [`UpstreamTls`] says, ready to be used.
pub struct Secure {
    id: u64,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
    /// Without a word on what is spoken inside.
    bytes: Arc<ClientConfig>,
    server_name: Option<String>,
}

/// For one request.
#[derive(Clone, Debug)]
pub struct Secured {
    secure: Arc<Secure>,
    host: String,
}

impl Secure {
    /// # Errors
    /// Why no connection can be had by these settings.
    pub fn new(settings: &UpstreamTls) -> Result<Self, String> {
        let roots = match &settings.roots {
            TrustedRoots::System if SYSTEM.is_empty() => {
                return Err("the agent's image has no trusted roots".to_owned());
            }
            TrustedRoots::System => Some(Arc::clone(&SYSTEM)),
            TrustedRoots::Pem(pem) => Some(Arc::new(read(pem)?)),
            TrustedRoots::Unverified => None,
            TrustedRoots::Unusable(why) => return Err(why.clone()),
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = Arc::new(Verifier { roots, names: settings.names.clone(), provider: Arc::clone(&provider) });
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder =
            builder.map_err(|error| error.to_string())?.dangerous().with_custom_certificate_verifier(verifier);
        let mut http1 = builder.with_no_client_auth();
        let (mut http2, bytes) = (http1.clone(), http1.clone());
        http1.alpn_protocols = vec![b"http/1.1".to_vec()];
        http2.alpn_protocols = vec![b"h2".to_vec()];
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let (http1, http2, bytes) = (http1.into(), http2.into(), bytes.into());
        Ok(Self { id, http1, http2, bytes, server_name: settings.server_name.clone() })
    }

    /// `authority` as the endpoint is told it.
    pub fn secured(self: Arc<Self>, authority: &Authority) -> Secured {
        self.for_host(authority.host())
    }

    /// For what is no request, and names no host of its own.
    pub fn for_host(self: Arc<Self>, host: &str) -> Secured {
        let host = self.server_name.as_deref().unwrap_or(host);
        Secured { host: host.trim_matches(['[', ']']).to_ascii_lowercase(), secure: self }
    }
}

impl Secured {
    pub fn id(&self) -> u64 {
        self.secure.id
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    /// # Errors
    /// Why TLS failed.
    pub fn client(
        &self,
        io: Box<dyn Io>,
        version: Version,
    ) -> impl Future<Output = Result<TlsStream<Box<dyn Io>>, String>> + Send + use<> {
        let config = match version {
            Version::Http1 => &self.secure.http1,
            Version::Http2 => &self.secure.http2,
        };
        self.by(config, io)
    }

    /// The same, for bytes of whatever kind.
    ///
    /// # Errors
    /// Likewise.
    pub fn bytes<T: Io>(&self, io: T) -> impl Future<Output = Result<TlsStream<T>, String>> + Send + use<T> {
        self.by(&self.secure.bytes, io)
    }

    fn by<T: Io>(
        &self,
        config: &Arc<ClientConfig>,
        io: T,
    ) -> impl Future<Output = Result<TlsStream<T>, String>> + Send + use<T> {
        let (config, host) = (Arc::clone(config), self.host.clone());
        async move {
            let name = ServerName::try_from(host.clone()).map_err(|_| format!("`{host}` is no host name"))?;
            TlsConnector::from(config).connect(name, io).await.map_err(|error| error.to_string())
        }
    }
}

fn read(pem: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("the trusted roots are no PEM: {error}"))?;
        roots.add(certificate).map_err(|error| format!("the trusted roots: {error}"))?;
    }
    if roots.is_empty() { Err("the trusted roots have no certificate".to_owned()) } else { Ok(roots) }
}

/// As `webpki` verifies, but that other names than the server's own may be asked for.
#[derive(Debug)]
struct Verifier {
    /// `None`: anybody is believed.
    roots: Option<Arc<RootCertStore>>,
    /// One of them must be there; none: the name that is asked for.
    names: Vec<String>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    fn is_named(&self, leaf: &CertificateDer<'_>, parsed: &ParsedCertificate<'_>) -> bool {
        let uris = || {
            let (_, read) = X509Certificate::from_der(leaf).ok()?;
            let names = read.subject_alternative_name().ok()??.value.general_names.clone();
            let uri = |name| if let GeneralName::URI(uri) = name { Some(uri.to_owned()) } else { None };
            Some(names.into_iter().filter_map(uri).collect::<Vec<_>>())
        };
        let uris = uris().unwrap_or_default();
        self.names.iter().any(|name| {
            let as_host =
                || ServerName::try_from(name.as_str()).is_ok_and(|name| verify_server_name(parsed, &name).is_ok());
            if name.contains("://") { uris.contains(name) } else { as_host() }
        })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(roots) = &self.roots else { return Ok(ServerCertVerified::assertion()) };
        let parsed = ParsedCertificate::try_from(leaf)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)?;
        if self.names.is_empty() {
            verify_server_name(&parsed, name)?;
        } else if !self.is_named(leaf, &parsed) {
            return Err(CertificateError::NotValidForName.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for Secure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secure").field("id", &self.id).field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

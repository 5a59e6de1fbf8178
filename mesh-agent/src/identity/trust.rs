//! Whose signatures count, and since when. The controller's bundle, once there is one, is the one truth: for our own
//! chains, for new handshakes, and for connections that are open.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use mesh_common::model::TrustBundle;
use rustls::{
    Error, RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    pki_types::{CertificateDer, UnixTime},
    server::{
        ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use tokio::sync::watch;

use super::provider;

/// The roots of one trust domain, ready to verify with.
pub struct Anchors {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
}

/// What the controller says, by trust domain. Clones share it.
#[derive(Clone, Debug)]
pub struct Trust {
    said: watch::Sender<Arc<Said>>,
}

type Said = BTreeMap<String, (TrustBundle, Arc<Anchors>)>;

/// The roots that count for one certificate.
#[derive(Clone)]
pub struct Roots {
    /// Those that came with it, or that were configured.
    own: Arc<Anchors>,
    /// What the controller says of its trust domain; `None`: it does not matter.
    said: Option<(String, watch::Receiver<Arc<Said>>)>,
}

/// Which end of a connection a chain is presented by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Client,
    Server,
}

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    #[error("{0} is no root: {1}")]
    Root(usize, #[source] Error),
    #[error(transparent)]
    Verifier(#[from] VerifierBuilderError),
}

impl Anchors {
    pub fn new(roots: Arc<RootCertStore>) -> Result<Self, VerifierBuilderError> {
        let builder = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider());
        // No hints: while roots rotate, a client with a leaf of the other root must still offer it.
        Ok(Self { roots, clients: builder.clear_root_hint_subjects().build()? })
    }

    /// The roots of a bundle.
    ///
    /// # Errors
    /// If one of them cannot be used: half a bundle would cut off half a mesh.
    pub fn of(bundle: &TrustBundle) -> Result<Self, BundleError> {
        let mut store = RootCertStore::empty();
        for (i, root) in bundle.roots.iter().enumerate() {
            store.add(CertificateDer::from(root.clone())).map_err(|error| BundleError::Root(i, error))?;
        }
        Ok(Self::new(Arc::new(store))?)
    }

    /// What rustls wants of a verifier of clients.
    pub fn clients(&self) -> &Arc<dyn ClientCertVerifier> {
        &self.clients
    }

    pub fn verify_client(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<ClientCertVerified, Error> {
        let (leaf, intermediates) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.clients.verify_client_cert(leaf, intermediates, now)
    }

    pub fn verify_server(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let algorithms = provider().signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)
    }

    fn verify(&self, end: End, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Error> {
        match (end, chain) {
            (End::Client, chain) => self.verify_client(chain, now).map(drop),
            (End::Server, [leaf, intermediates @ ..]) => self.verify_server(leaf, intermediates, now),
            (End::Server, []) => Err(Error::NoCertificatesPresented),
        }
    }
}

impl fmt::Debug for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Anchors({})", self.roots.len())
    }
}

impl Default for Trust {
    fn default() -> Self {
        Self { said: watch::Sender::new(Arc::default()) }
    }
}

impl Trust {
    /// From now on these bundles count. One that is not named any more stays as it was: that nobody speaks of a root is
    /// no reason to trust others.
    pub fn say<'a>(&self, bundles: impl IntoIterator<Item = &'a TrustBundle>) {
        let mut next = Said::clone(&self.said.borrow());
        let mut changed = false;
        for bundle in bundles {
            if next.get(&bundle.trust_domain).is_some_and(|(held, _)| held == bundle) {
                continue;
            }
            match Anchors::of(bundle) {
                Ok(anchors) => {
                    tracing::info!(trust_domain = bundle.trust_domain, roots = bundle.roots.len(), "roots to trust");
                    next.insert(bundle.trust_domain.clone(), (bundle.clone(), Arc::new(anchors)));
                    changed = true;
                }
                // Control refuses such a bundle before it comes here.
                Err(error) => {
                    tracing::error!(trust_domain = bundle.trust_domain, %error, "the roots stay as they were");
                }
            }
        }
        if changed {
            self.said.send_replace(Arc::new(next));
        }
    }

    /// The roots for certificates of `trust_domain`; `own` until the controller says which.
    pub fn roots(&self, own: Arc<Anchors>, trust_domain: &str) -> Roots {
        Roots { own, said: Some((trust_domain.to_owned(), self.said.subscribe())) }
    }
}

impl Roots {
    /// These alone, whatever the controller says.
    pub fn fixed(own: Arc<Anchors>) -> Self {
        Self { own, said: None }
    }

    pub fn current(&self) -> Arc<Anchors> {
        let said = self.said.as_ref().and_then(|(domain, said)| Some(said.borrow().get(domain)?.1.clone()));
        said.unwrap_or_else(|| self.own.clone())
    }

    /// Ready once other roots count and they do not bear out this chain, which they did when this was called. That a
    /// certificate has expired meanwhile is another matter.
    pub fn distrust(&self, end: End, chain: Vec<CertificateDer<'static>>) -> impl Future<Output = ()> + Send + use<> {
        let mut roots = self.clone();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let now = UnixTime::since_unix_epoch(now);
        if let Some((_, said)) = &mut roots.said {
            // What was said while the handshake went on counts too.
            said.mark_changed();
        }
        async move {
            loop {
                let changed = match &mut roots.said {
                    Some((_, said)) => said.changed().await.is_ok(),
                    None => false,
                };
                if !changed {
                    return std::future::pending().await;
                }
                if roots.current().verify(end, &chain, now).is_err() {
                    return;
                }
            }
        }
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Roots").field(&self.current()).finish()
    }
}

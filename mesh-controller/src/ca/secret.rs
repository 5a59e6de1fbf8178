//! The authority in a Secret of the mesh's own namespace, in one of three layouts. `mesh-ca` is made if it is not
//! there, by whichever replica is first; all of them follow it. What does not fit is reported, and the last good
//! material stays.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use futures::StreamExt;
use k8s_openapi::{ByteString, api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client,
    api::PostParams,
    runtime::{WatchStreamExt, watcher},
};
use tokio::sync::watch;

use super::{
    material::{Material, Part, Parts},
    root,
};

/// The Secret that a controller makes for itself.
pub const OWN: &str = "mesh-ca";

pub const CERTIFICATE: &str = "ca.crt";
pub const KEY: &str = "ca.key";
pub const ROOTS: &str = "roots.pem";
pub const SIGNING_CERTIFICATE: &str = "signing.crt";
pub const SIGNING_KEY: &str = "signing.key";
pub const TLS_CERTIFICATE: &str = "tls.crt";
pub const TLS_KEY: &str = "tls.key";

/// Which keys of a Secret hold what: certificate, key, chain, roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    certificate: &'static str,
    key: &'static str,
    chain: Option<&'static str>,
    roots: &'static str,
}

/// Our own: a root, and beside it the other roots that are trusted while they rotate.
const OURS: Layout = Layout { certificate: CERTIFICATE, key: KEY, chain: None, roots: ROOTS };
/// Istio's `cacerts`.
const ISTIO: Layout =
    Layout { certificate: "ca-cert.pem", key: "ca-key.pem", chain: Some("cert-chain.pem"), roots: "root-cert.pem" };
/// kubernetes.io/tls, as cert-manager writes it.
const TLS: Layout = Layout { certificate: TLS_CERTIFICATE, key: TLS_KEY, chain: None, roots: "ca.crt" };
/// What is in use of an [`OWN`] that somebody else renews; see `renewal`.
const IN_USE: Layout = Layout { certificate: SIGNING_CERTIFICATE, key: SIGNING_KEY, chain: None, roots: ROOTS };

/// One request takes no longer.
const REQUEST: Duration = Duration::from_secs(10);
/// How soon an API that does not answer is asked again.
const AGAIN: Duration = Duration::from_secs(2);

/// Where the authority is.
#[derive(Clone, Debug)]
pub struct Place {
    pub namespace: String,
    pub name: String,
    pub trust_domain: String,
    /// [`OWN`] is made and renewed by somebody else, as cert-manager does for a Certificate.
    pub given: bool,
}

/// An authority that is followed.
#[derive(Debug)]
pub struct Followed<F> {
    pub material: watch::Receiver<Arc<Material>>,
    /// The Secret as it is, fit or not.
    pub secret: watch::Receiver<Arc<Secret>>,
    /// Follows as long as it runs.
    pub task: F,
}

/// Reads the Secret, or makes it if it is [`OWN`] and not there. An API that is away is waited for.
///
/// # Errors
/// If the API refuses, another Secret is not there, or what is in it does not fit.
pub async fn open(client: Client, place: Place) -> Result<Followed<impl Future<Output = ()> + Send>> {
    let secrets: Api<Secret> = Api::namespaced(client, &place.namespace);
    let secret = loop {
        match tokio::time::timeout(REQUEST, find(&secrets, &place)).await {
            Ok(Ok(Some(secret))) => break secret,
            Ok(Ok(None)) => {
                tracing::warn!(secret = %place, "waiting for it: --ca-given says that somebody else makes it, as \
                    cert-manager for a Certificate; no agent is served before")
            }
            Ok(Err(error)) if !is_away(&error) => return Err(error),
            failed => {
                let error = match failed {
                    Ok(Err(error)) => format!("{error:#}"),
                    _ => "no answer".to_owned(),
                };
                tracing::warn!(secret = %place, error, "waiting for the Kubernetes API, to read the certificate \
                    authority; no agent is served before");
            }
        }
        tokio::time::sleep(AGAIN).await;
    };
    let first = read(&secret, &place)?;
    tracing::info!(secret = %place, "certificate authority read");
    let (materials, material) = watch::channel(Arc::new(first));
    let (newest, seen) = watch::channel(Arc::new(secret));
    let task = follow(secrets, place, materials, newest);
    Ok(Followed { material, secret: seen, task })
}

/// `None`: somebody else is to make it.
async fn find(secrets: &Api<Secret>, place: &Place) -> Result<Option<Secret>> {
    let found = secrets.get_opt(&place.name).await.with_context(|| format!("cannot read {place}"))?;
    Ok(match found {
        Some(secret) => Some(secret),
        None if place.given => None,
        None if place.name == OWN => Some(create(secrets, place).await?),
        None => bail!("{place}: there is none; --ca-secret names a certificate authority that somebody else makes"),
    })
}

/// Only one of several replicas makes it; the others read what that one made.
async fn create(secrets: &Api<Secret>, place: &Place) -> Result<Secret> {
    let root::Made { certificate, key } = root::make(&place.trust_domain)?;
    let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
    let data = [(CERTIFICATE, bytes(&certificate)), (KEY, bytes(&key)), (ROOTS, bytes(&certificate))];
    let secret = Secret {
        metadata: ObjectMeta { name: Some(OWN.to_owned()), ..Default::default() },
        data: Some(data.map(|(key, value)| (key.to_owned(), value)).into()),
        type_: Some("nodemesh.io/ca".to_owned()),
        ..Default::default()
    };
    match secrets.create(&PostParams::default(), &secret).await {
        Ok(made) => {
            tracing::info!(target: "audit", secret = %place, "made a root");
            Ok(made)
        }
        Err(kube::Error::Api(status)) if status.code == 409 => {
            secrets.get(OWN).await.with_context(|| format!("cannot read {place}"))
        }
        Err(error) => Err(error).with_context(|| format!("cannot make {place}")),
    }
}

/// What passes: nobody answers, or an API that starts or has too much to do says so. A refusal does not.
fn is_away(error: &anyhow::Error) -> bool {
    match error.downcast_ref() {
        Some(kube::Error::Api(status)) => status.code == 429 || status.code >= 500,
        Some(kube::Error::Service(_) | kube::Error::HyperError(_)) => true,
        _ => false,
    }
}

async fn follow(
    secrets: Api<Secret>,
    place: Place,
    materials: watch::Sender<Arc<Material>>,
    newest: watch::Sender<Arc<Secret>>,
) {
    let config = watcher::Config::default().fields(&format!("metadata.name={}", place.name));
    let mut events = std::pin::pin!(watcher(secrets, config).default_backoff());
    while let Some(event) = events.next().await {
        let secret = match event {
            Ok(watcher::Event::Apply(secret) | watcher::Event::InitApply(secret)) => secret,
            Ok(watcher::Event::Delete(_)) => {
                tracing::error!(secret = %place, "the certificate authority was deleted; what was read of it stays in use");
                continue;
            }
            Ok(watcher::Event::Init | watcher::Event::InitDone) => continue,
            Err(error) => {
                tracing::warn!(secret = %place, %error, "the certificate authority is not watched now");
                continue;
            }
        };
        match read(&secret, &place) {
            Ok(material) if material == **materials.borrow() => {}
            Ok(material) => {
                tracing::info!(target: "audit", secret = %place, roots = material.roots.len(), "new material signs");
                materials.send_replace(Arc::new(material));
            }
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(secret = %place, error, "unfit certificate authority; the last good one stays");
            }
        }
        newest.send_replace(Arc::new(secret));
    }
}

/// What a Secret holds.
///
/// # Errors
/// Names Secret and key.
pub fn read(secret: &Secret, place: &Place) -> Result<Material> {
    let empty = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&empty);
    let in_use = place.given.then_some(IN_USE);
    let known = in_use.into_iter().chain([ISTIO, TLS, OURS]);
    let layout = match known.into_iter().find(|layout| data.contains_key(layout.certificate)) {
        Some(layout) if layout != TLS || secret.type_.as_deref() == Some("kubernetes.io/tls") => layout,
        Some(_) => bail!("{place}: has tls.crt and is not of type kubernetes.io/tls"),
        None => bail!(
            "{place}: has none of the keys {}, {} and {}, of which one holds the certificate that signs",
            OURS.certificate,
            ISTIO.certificate,
            TLS.certificate
        ),
    };
    material(data, place, layout)
}

/// What whoever renews it wrote last, in use or not.
///
/// # Errors
/// As [`read`].
pub fn read_given(secret: &Secret, place: &Place) -> Result<Material> {
    material(secret.data.as_ref().unwrap_or(&BTreeMap::new()), place, TLS)
}

fn material(data: &BTreeMap<String, ByteString>, place: &Place, layout: Layout) -> Result<Material> {
    let text = |name: &'static str| -> Result<Part<'_>> {
        let bytes = data.get(name).ok_or_else(|| anyhow!("{place}: {name}: is missing"))?;
        let pem = std::str::from_utf8(&bytes.0).with_context(|| format!("{place}: {name}: not text"))?;
        Ok(Part { name, pem })
    };
    let chain = layout.chain.filter(|name| data.contains_key(*name)).map(text).transpose()?;
    let parts = Parts {
        place: &place.to_string(),
        certificate: text(layout.certificate)?,
        key: text(layout.key)?,
        chain,
        roots: text(layout.roots)?,
    };
    Material::new(&parts, &place.trust_domain)
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret {}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
pub mod tests;

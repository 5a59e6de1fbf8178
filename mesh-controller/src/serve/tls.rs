//! TLS towards agents: each handshake is a task of its own with a time to be done, and is made with the newest
//! certificate, so that new material of the authority needs no restart.

use std::{io, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs::default_provider,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;

use crate::ca::{Material, serving};

/// A caller that has not finished its handshake by then is gone, or means no good.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at the same time; who comes then waits.
const HANDSHAKES: usize = 4096;
/// Connections that wait to be served.
const BACKLOG: usize = 64;
/// How long accepting rests when the system has no descriptor left.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// The certificate to show now.
#[derive(Debug)]
struct Shown(watch::Receiver<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.borrow().clone())
    }
}

/// Connections whose handshake is done. The task ends when nobody takes them any more.
pub fn accept(
    listener: TcpListener,
    server_name: &str,
    mut material: watch::Receiver<Arc<Material>>,
) -> Result<ReceiverStream<io::Result<TlsStream<TcpStream>>>> {
    let provider = Arc::new(default_provider());
    let first = certified(&material.borrow_and_update(), server_name)?;
    let (shown, seen) = watch::channel(Arc::new(first));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS")?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Shown(seen)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));

    let (done, connections) = mpsc::channel(BACKLOG);
    let server_name = server_name.to_owned();
    tokio::spawn(async move {
        let turns = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = done.closed() => return,
                Ok(()) = material.changed() => {
                    let newest = material.borrow_and_update().clone();
                    match certified(&newest, &server_name) {
                        Ok(certified) => drop(shown.send_replace(Arc::new(certified))),
                        Err(error) => {
                            tracing::error!(error = format!("{error:#}"), "the old certificate is shown to agents");
                        }
                    }
                    continue;
                }
            };
            let tcp = match accepted {
                Ok((tcp, _)) => tcp,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an agent's connection");
                    tokio::time::sleep(EXHAUSTED).await;
                    continue;
                }
            };
            let Ok(turn) = turns.clone().acquire_owned().await else { return };
            let (acceptor, done) = (acceptor.clone(), done.clone());
            tokio::spawn(async move {
                let _turn = turn;
                let shaken = async {
                    tcp.set_nodelay(true)?;
                    acceptor.accept(tcp).await
                };
                match tokio::time::timeout(HANDSHAKE, shaken).await {
                    // Fails only if the server has ended.
                    Ok(Ok(tls)) => drop(done.send(Ok(tls)).await),
                    Ok(Err(error)) => tracing::debug!(%error, "an agent's handshake failed"),
                    Err(_) => tracing::debug!("an agent's handshake took too long"),
                }
            });
        }
    });
    Ok(ReceiverStream::new(connections))
}

fn certified(material: &Material, server_name: &str) -> Result<CertifiedKey> {
    let serving = serving(material, server_name)?;
    CertifiedKey::from_der(serving.chain, serving.key, &default_provider())
        .context("the controller's own certificate cannot be used")
}

//! A connection to a collector: found anew each time, in TLS if it is asked for.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::rt::TokioIo;
use mesh_common::model::telemetry::OtlpProtocol;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::codegen::Service;

use super::{Resolve, Target};

/// For TCP and TLS to one address.
pub const CONNECT: Duration = Duration::from_secs(5);
/// Addresses that are tried.
const ADDRESSES: usize = 3;

/// Of the image or host, read once.
static ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    Arc::new(roots)
});

pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

pub type Connection = TokioIo<Box<dyn Io>>;

/// Also what tonic asks for a connection.
#[derive(Clone)]
pub struct Dialler {
    pub target: Target,
    pub resolve: Resolve,
    pub roots: Option<Arc<RootCertStore>>,
}

impl Dialler {
    pub async fn dial(self) -> io::Result<Connection> {
        let collector = &self.target.collector;
        let (host, port) = (collector.host.as_str(), collector.port);
        let mut addresses: Vec<SocketAddr> = match (self.resolve)(host, port) {
            Some(addresses) => addresses,
            None => tokio::net::lookup_host((host, port)).await?.collect(),
        };
        fastrand::shuffle(&mut addresses);
        let mut failed = io::Error::new(io::ErrorKind::NotFound, format!("{host} has no endpoint for port {port}"));
        for address in addresses.into_iter().take(ADDRESSES) {
            match tokio::time::timeout(CONNECT, self.at(address)).await {
                Ok(Ok(io)) => return Ok(TokioIo::new(io)),
                Ok(Err(error)) => failed = io::Error::new(error.kind(), format!("{address}: {error}")),
                Err(_) => failed = io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
            }
        }
        Err(failed)
    }

    async fn at(&self, address: SocketAddr) -> io::Result<Box<dyn Io>> {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        if !self.target.tls {
            return Ok(Box::new(tcp));
        }
        let alpn = match self.target.collector.protocol {
            OtlpProtocol::Grpc => "h2",
            OtlpProtocol::Http => "http/1.1",
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(Arc::clone(self.roots.as_ref().unwrap_or_else(|| &ROOTS)))
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let name = ServerName::try_from(self.target.collector.host.clone()).map_err(io::Error::other)?;
        Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, tcp).await?))
    }
}

impl Service<Uri> for Dialler {
    type Response = Connection;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Connection>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        Box::pin(self.clone().dial())
    }
}

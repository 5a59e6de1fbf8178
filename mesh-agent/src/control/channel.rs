//! The connection to the controller: TLS to a known name, and the token that says which node calls.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How join tokens begin.
const JOIN_TOKEN: &str = "nm1.";
/// The first answer of a large mesh: 100,000 workloads of half a KiB, with room.
pub const LARGEST_MESSAGE: usize = 128 << 20;

/// One HTTP/2 connection that all of control shares. It is opened when first needed, and again after it broke.
#[derive(Clone, Debug)]
pub struct Connection {
    endpoint: Arc<Endpoint>,
    name: Arc<str>,
    ca_file: Arc<Path>,
    token_file: Arc<Path>,
    newest: Arc<Mutex<Newest>>,
}

/// The channel, and the roots that it was opened with.
#[derive(Debug)]
struct Newest {
    channel: Channel,
    roots: Vec<u8>,
}

/// Settings that cannot work.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot read the controller's CA file {}", path.display())]
    CaFile { path: PathBuf, source: std::io::Error },
    #[error("the controller's CA file {} holds no PEM certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("controller address `{controller}` is not of the form https://IP:PORT")]
    Address { controller: String, source: Option<tonic::transport::Error> },
    #[error("no TLS client from CA file {} and controller name `{name}`", path.display())]
    Tls { path: PathBuf, name: String, source: tonic::transport::Error },
}

/// The token cannot be sent. A later attempt reads it again.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot read the token file {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the token file {} does not hold one line of printable ASCII", path.display())]
    Content { path: PathBuf },
    /// A token that the kubelet projects lies in the pod's own file system, with the mode that it chose.
    #[error("the join token in {} can be read by others (mode {mode:o}); it must be 0600", path.display())]
    Mode { path: PathBuf, mode: u32 },
}

impl Connection {
    pub fn new(controller: &str, name: &str, ca_file: &Path, token_file: PathBuf) -> Result<Self, ConnectError> {
        let roots = read_roots(ca_file)?;
        let address = |source| ConnectError::Address { controller: controller.to_owned(), source };
        // Without the scheme the token would travel in the clear.
        if !controller.starts_with("https://") {
            return Err(address(None));
        }
        let endpoint = Endpoint::from_shared(controller.to_owned())
            .map_err(|source| address(Some(source)))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .http2_adaptive_window(true);
        let channel = connect(&endpoint, name, ca_file, &roots)?;
        Ok(Self {
            endpoint: Arc::new(endpoint),
            name: name.into(),
            ca_file: ca_file.into(),
            token_file: token_file.into(),
            newest: Arc::new(Mutex::new(Newest { channel, roots })),
        })
    }

    /// For one call or stream: with the roots as they are in their file now, since they rotate. If those cannot be used
    /// it is the channel of before.
    pub fn channel(&self) -> Channel {
        let read = read_roots(&self.ca_file);
        // Nothing panics while it holds this lock, and nothing waits.
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let replaced = read.and_then(|roots| {
            if roots != newest.roots {
                let channel = connect(&self.endpoint, &self.name, &self.ca_file, &roots)?;
                tracing::info!(file = %self.ca_file.display(), "the controller's roots have changed");
                *newest = Newest { channel, roots };
            }
            Ok(())
        });
        if let Err(error) = replaced {
            let error: &dyn std::error::Error = &error;
            tracing::warn!(error, "the controller's roots cannot be read anew; those of before are used");
        }
        newest.channel.clone()
    }

    /// The message with the token as it is in its file now: a rotated one needs no restart.
    pub async fn request<T>(&self, message: T) -> Result<Request<T>, TokenError> {
        let path = || self.token_file.to_path_buf();
        let text = tokio::fs::read_to_string(&self.token_file)
            .await
            .map_err(|source| TokenError::Read { path: path(), source })?;
        let token = text.trim();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(TokenError::Content { path: path() });
        }
        if token.starts_with(JOIN_TOKEN) {
            let read = |source| TokenError::Read { path: path(), source };
            let mode = tokio::fs::metadata(&self.token_file).await.map_err(read)?.permissions().mode() & 0o777;
            if mode & 0o077 != 0 {
                return Err(TokenError::Mode { path: path(), mode });
            }
        }
        let mut value: MetadataValue<Ascii> =
            format!("Bearer {token}").parse().map_err(|_| TokenError::Content { path: path() })?;
        value.set_sensitive(true);
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", value);
        Ok(request)
    }
}

fn read_roots(ca_file: &Path) -> Result<Vec<u8>, ConnectError> {
    let pem = std::fs::read(ca_file).map_err(|source| ConnectError::CaFile { path: ca_file.to_path_buf(), source })?;
    if !CertificateDer::pem_slice_iter(&pem).any(|certificate| certificate.is_ok()) {
        return Err(ConnectError::NoCertificate { path: ca_file.to_path_buf() });
    }
    Ok(pem)
}

fn connect(endpoint: &Endpoint, name: &str, ca_file: &Path, roots: &[u8]) -> Result<Channel, ConnectError> {
    let tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots)).domain_name(name).timeout(CONNECT_TIMEOUT);
    let endpoint = endpoint.clone().tls_config(tls);
    let endpoint =
        endpoint.map_err(|source| ConnectError::Tls { path: ca_file.to_path_buf(), name: name.to_owned(), source })?;
    Ok(endpoint.connect_lazy())
}

/// What a failed call says, with its causes, on one line. The code is for programs and left out.
pub fn explain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut next = std::error::Error::source(status);
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    if text.is_empty() { status.code().description().to_owned() } else { text }
}

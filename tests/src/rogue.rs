//! A client of HBONE that keeps no rule: any certificate, any TLS, any text as authority. It checks nothing of its
//! server and tells what became of each attempt.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Method, Request, Version};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

const PATIENCE: Duration = Duration::from_secs(5);

/// One connection with one request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attempt {
    pub to: SocketAddr,
    /// Bind to this first.
    pub from: Option<SocketAddr>,
    /// PEM, leaf first; empty: none is sent.
    pub chain: String,
    /// PEM; need not fit the leaf.
    pub key: String,
    pub alpn: Vec<String>,
    /// Offer TLS 1.2 and nothing newer.
    pub old_tls: bool,
    pub method: String,
    /// As it is to be written.
    pub authority: String,
    pub headers: Vec<(String, String)>,
    /// Sent once the tunnel is open; the answer is read to its end.
    pub text: String,
    /// Keep the open stream this long before `text` is sent, in milliseconds. It ends earlier if the other end ends it.
    pub wait_ms: u64,
}

/// What became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// Its own address, by which records name it.
    pub local: Option<SocketAddr>,
    /// connect, tls, answered, reset, closed: how far it came.
    pub how: String,
    /// Of the answer; 0 without one.
    pub status: u16,
    /// The header in which a refusal carries its reason.
    pub reason: String,
    /// What came back through an open tunnel.
    pub text: String,
    /// The alert or error.
    pub detail: String,
    /// When an open tunnel was over, in milliseconds since 1970; 0: it never was open.
    pub over_ms: u64,
}

/// Makes the attempt; every end of it is an outcome.
pub async fn attempt(attempt: &Attempt) -> Outcome {
    let limit = PATIENCE + Duration::from_millis(attempt.wait_ms);
    timeout(limit, run(attempt)).await.unwrap_or_else(|_| Outcome::failed("timeout", "no end within the limit"))
}

async fn run(attempt: &Attempt) -> Outcome {
    let tcp = match dial(attempt).await {
        Ok(tcp) => tcp,
        Err(error) => return Outcome::failed("connect", error),
    };
    let local = tcp.local_addr().ok();
    Outcome { local, ..over(attempt, tcp).await }
}

async fn over(attempt: &Attempt, tcp: TcpStream) -> Outcome {
    let tls = match config(attempt) {
        Ok(config) => TlsConnector::from(config).connect(ServerName::from(attempt.to.ip()), tcp).await,
        Err(error) => return Outcome::failed("own fault", error),
    };
    let tls = match tls {
        Ok(tls) => tls,
        Err(error) => return Outcome::failed("tls", error),
    };
    match request(attempt) {
        Some(request) => through_library(attempt, request, tls).await,
        None => by_hand(attempt, tls).await,
    }
}

impl Outcome {
    fn failed(how: &str, error: impl ToString) -> Self {
        Self { how: how.to_owned(), detail: error.to_string(), ..Self::default() }
    }

    fn of(error: &h2::Error) -> Self {
        Self::failed(if error.is_reset() { "reset" } else { "closed" }, error)
    }
}

async fn dial(attempt: &Attempt) -> io::Result<TcpStream> {
    let socket = if attempt.to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(from) = attempt.from {
        socket.set_reuseaddr(true)?;
        socket.bind(from)?;
    }
    socket.connect(attempt.to).await
}

fn config(attempt: &Attempt) -> Result<Arc<ClientConfig>, Error> {
    let versions = if attempt.old_tls { &[&TLS12] } else { &[&TLS13] };
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut config = if attempt.chain.is_empty() {
        builder.with_no_client_auth()
    } else {
        let unreadable = |error: rustls::pki_types::pem::Error| Error::General(error.to_string());
        let chain = CertificateDer::pem_slice_iter(attempt.chain.as_bytes()).collect::<Result<Vec<_>, _>>();
        let key = PrivateKeyDer::from_pem_slice(attempt.key.as_bytes()).map_err(unreadable)?;
        let key = aws_lc_rs::sign::any_supported_type(&key)?;
        builder.with_client_cert_resolver(Arc::new(Always(CertifiedKey::new(chain.map_err(unreadable)?, key).into())))
    };
    config.alpn_protocols = attempt.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// `None` if the library would not send that, or would mend it.
fn request(attempt: &Attempt) -> Option<Request<()>> {
    let method = Method::from_bytes(attempt.method.as_bytes()).ok()?;
    let uri = match method {
        Method::CONNECT => attempt.authority.clone(),
        _ => format!("https://{}/", attempt.authority),
    };
    let mut builder = Request::builder().method(method).uri(uri).version(Version::HTTP_2);
    for (name, value) in &attempt.headers {
        if name.chars().any(char::is_uppercase) {
            return None;
        }
        builder = builder.header(name, value);
    }
    let request = builder.body(()).ok()?;
    (request.uri().authority()?.as_str() == attempt.authority).then_some(request)
}

async fn through_library(attempt: &Attempt, request: Request<()>, tls: TlsStream<TcpStream>) -> Outcome {
    let (send, connection) = match h2::client::handshake(tls).await {
        Ok(both) => both,
        Err(error) => return Outcome::of(&error),
    };
    let driver = tokio::spawn(connection);
    let outcome = converse(attempt, request, send).await.unwrap_or_else(|error| Outcome::of(&error));
    driver.abort();
    outcome
}

async fn converse(
    attempt: &Attempt,
    request: Request<()>,
    send: h2::client::SendRequest<Bytes>,
) -> Result<Outcome, h2::Error> {
    let (response, mut body) = send.ready().await?.send_request(request, false)?;
    let (head, mut data) = response.await?.into_parts();
    let reason = head.headers.get("nodemesh-reason").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut outcome = Outcome { how: "answered".to_owned(), status: head.status.as_u16(), ..Outcome::default() };
    outcome.reason = reason.to_owned();
    if outcome.status != 200 {
        return Ok(outcome);
    }
    // Nobody speaks before `text` is said: what comes earlier is the end.
    let waited = timeout(Duration::from_millis(attempt.wait_ms), data.data()).await;
    if waited.is_err() {
        // It may be over already: reading tells.
        let _ = body.send_data(Bytes::from(attempt.text.clone()), true);
    }
    let mut early = waited.ok();
    while let Some(chunk) = match early.take() {
        Some(end) => end,
        None => data.data().await,
    } {
        match chunk {
            Ok(chunk) => {
                outcome.text.push_str(&String::from_utf8_lossy(&chunk));
                data.flow_control().release_capacity(chunk.len())?;
            }
            Err(error) => {
                outcome.detail = error.to_string();
                break;
            }
        }
    }
    outcome.over_ms = millis(SystemTime::now());
    Ok(outcome)
}

/// Since 1970.
pub fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// HTTP/2 without a library: preface, SETTINGS, and HEADERS with everything as literals (RFC 7541, section 6.2.2).
async fn by_hand(attempt: &Attempt, mut tls: TlsStream<TcpStream>) -> Outcome {
    let mut block = Vec::new();
    let pseudo = [(":method", attempt.method.as_str()), (":authority", attempt.authority.as_str())];
    let rest = attempt.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in pseudo.into_iter().chain(rest) {
        block.push(0);
        literal(&mut block, name);
        literal(&mut block, value);
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    bytes.extend(frame(1, 4, 1, &block));
    let sent = async { tls.write_all(&bytes).await.and(tls.flush().await) }.await;
    if let Err(error) = sent {
        return Outcome::failed("closed", error);
    }
    answer(tls).await.unwrap_or_else(|error| Outcome::failed("closed", error))
}

/// The first word on stream 1.
async fn answer(mut tls: TlsStream<TcpStream>) -> io::Result<Outcome> {
    loop {
        let mut head = [0; 9];
        tls.read_exact(&mut head).await?;
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| head[at + i]));
        let mut payload = vec![0; (word(0) >> 8) as usize];
        tls.read_exact(&mut payload).await?;
        match (head[3], word(5)) {
            // HEADERS: refused or not, the library's reader would tell; here it is enough that it is an answer.
            (1, 1) => return Ok(Outcome { how: "answered".to_owned(), ..Outcome::default() }),
            (3, 1) => return Ok(Outcome::failed("reset", format!("code {payload:?}"))),
            (7, _) => return Ok(Outcome::failed("closed", "GOAWAY")),
            _ => {}
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A string without Huffman's code, its length with a 7-bit prefix.
fn literal(block: &mut Vec<u8>, text: &str) {
    let mut left = text.len();
    if left < 127 {
        block.push(left as u8);
    } else {
        block.push(127);
        left -= 127;
        while left >= 128 {
            block.push((left % 128) as u8 | 128);
            left /= 128;
        }
        block.push(left as u8);
    }
    block.extend(text.as_bytes());
}

/// Presents its certificate whoever asks.
#[derive(Debug)]
struct Always(Arc<CertifiedKey>);

impl ResolvesClientCert for Always {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Takes every server certificate.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

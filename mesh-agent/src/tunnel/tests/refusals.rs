//! Who is refused, and the codes that flow records get.

use ::bytes::Bytes;
use http::{Method, Request, StatusCode, Version};
use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    pki_types::ServerName,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::*;
use crate::identity::{
    Trust,
    pki::{bundle, pending, uri},
};

#[tokio::test]
async fn a_refusal_brings_status_and_reason() {
    let authority = Authority::new("root");
    let handler = |_, respond: Respond| async { respond.refuse(StatusCode::FORBIDDEN, "DENY") };
    let peer = Peer::start(authority.certificate(&cart()).serving(), handler).await;
    let pool = Pool::new(PoolSettings::default());
    let source = Source::new(&authority, "pod-1", &peer);
    for _ in 0..2 {
        let error = source.open(&pool).await.expect_err("refused");
        assert_eq!(error.code(), "REFUSED");
        let TunnelError::Refused { status, reason, .. } = error else { panic!("{error}") };
        assert_eq!((status, reason.as_str()), (StatusCode::FORBIDDEN, "DENY"));
    }
    assert_eq!(peer.accepted(), 1, "a refusal is no reason for another connection");
}

#[tokio::test]
async fn a_handler_that_fails_answers_503() {
    let authority = Authority::new("root");
    let handler = |_: Inbound, respond: Respond| async move {
        let _unanswered = respond;
        panic!("on purpose");
    };
    let peer = Peer::start(authority.certificate(&cart()).serving(), handler).await;
    let error = Source::new(&authority, "pod-1", &peer).open(&Pool::new(PoolSettings::default())).await;
    let error = error.expect_err("abandoned");
    let TunnelError::Refused { status, reason, .. } = error else { panic!("{error}") };
    assert_eq!((status, reason.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "ABANDONED"));
}

#[tokio::test]
async fn nobody_listening_is_a_connect_error() {
    let (authority, peer, pool) = echo_world().await;
    let mut source = Source::new(&authority, "pod-1", &peer);
    let free = TcpListener::bind("127.0.0.1:0").await.expect("loopback").local_addr().expect("bound");
    source.key.address = free;
    assert_eq!(source.open(&pool).await.expect_err("refused").code(), "CONNECT");
    assert_eq!(pool.connections(), 0);
}

#[tokio::test]
async fn slow_peers_are_given_up() {
    let authority = Authority::new("root");
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let peer = Peer::start(authority.certificate(&cart()).serving(), echo).await;
    let brief = Duration::from_millis(100);
    let pool = Pool::new(PoolSettings { connect_timeout: brief, handshake_timeout: brief, ..PoolSettings::default() });
    let mut source = Source::new(&authority, "pod-1", &peer);
    source.key.address = silent.local_addr().expect("bound");
    assert_eq!(source.open(&pool).await.expect_err("silent").code(), "TLS_FAILURE");
    let never = std::future::pending::<io::Result<TcpStream>>;
    let outcome = within(pool.open(&source.key, &source.certificate, never, &request())).await;
    assert_eq!(outcome.expect_err("never connects").code(), "CONNECT");
}

#[tokio::test]
async fn another_identity_at_the_address_is_refused() {
    let (authority, peer, pool) = echo_world().await;
    let mut source = Source::new(&authority, "pod-1", &peer);
    source.key.destination = identity("shop", "bank");
    let error = source.open(&pool).await.expect_err("not the bank");
    assert_eq!(error.code(), "IDENTITY_ERROR");
    assert!(error.to_string().contains("ns/shop/sa/cart"), "{error}");
    assert_eq!(peer.error().await, "TLS_FAILURE");
}

#[tokio::test]
async fn a_certificate_of_somebody_else_is_not_used() {
    let (authority, peer, pool) = echo_world().await;
    let mut source = Source::new(&authority, "pod-1", &peer);
    source.certificate = authority.certificate(&identity("shop", "bank"));
    assert_eq!(source.open(&pool).await.expect_err("mixed up").code(), "IDENTITY_ERROR");
    assert_eq!(peer.accepted(), 0);
}

#[tokio::test]
async fn a_server_of_another_root_is_refused() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let peer = Peer::start(theirs.certificate(&cart()).serving(), echo).await;
    let source = Source::new(&ours, "pod-1", &peer);
    let error = source.open(&Pool::new(PoolSettings::default())).await.expect_err("unknown issuer");
    assert_eq!(error.code(), "CERT_UNKNOWN_ISSUER");
    assert_eq!(peer.error().await, "TLS_FAILURE");
}

#[tokio::test]
async fn a_connection_ends_when_its_peer_s_root_is_no_longer_trusted() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    // Each side hears of it alone.
    for client_hears in [true, false] {
        let trust = Trust::default();
        let trusting = |of: &Identity| {
            let (key, csr) = pending(of);
            let chain = old.sign(&csr, old.leaf(of));
            let now = std::time::SystemTime::now();
            Arc::new(Certificate::trusting(of, key, &chain, None, &trust, now).expect("good"))
        };
        let server = if client_hears { old.certificate(&cart()) } else { trusting(&cart()) };
        let peer = Peer::start(server.serving(), echo).await;
        let mut source = Source::new(&old, "pod-1", &peer);
        if client_hears {
            source.certificate = trusting(&identity("shop", "web"));
        }
        let pool = Pool::new(PoolSettings::default());
        let mut stream = source.open(&pool).await.expect("open");
        trust.say([&bundle(&[&old, &new])]);
        let mut said = [0; 5];
        stream.write_all(b"hello").await.expect("it goes on");
        within(stream.read_exact(&mut said)).await.expect("it goes on");
        trust.say([&bundle(&[&new])]);
        assert!(!matches!(within(stream.read(&mut said)).await, Ok(1..)), "it has ended");
        if !client_hears {
            assert_eq!(peer.error().await, "CERT_UNKNOWN_ISSUER");
        }
    }
}

#[tokio::test]
async fn an_alert_after_the_handshake_is_a_tls_failure() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let peer = Peer::start(ours.certificate(&cart()).serving(), echo).await;
    let mut source = Source::new(&ours, "pod-1", &peer);
    source.certificate = trusting(&theirs, &ours);
    let error = source.open(&Pool::new(PoolSettings::default())).await.expect_err("the server knows no such root");
    assert_eq!(error.code(), "TLS_FAILURE", "{error:?}");
    assert_eq!(peer.error().await, "CERT_UNKNOWN_ISSUER");
}

/// A client certificate of `issuer` that trusts servers of `also` too.
fn trusting(issuer: &Authority, also: &Authority) -> Arc<Certificate> {
    let web = identity("shop", "web");
    let (key, csr) = pending(&web);
    let mut chain = issuer.sign(&csr, issuer.leaf(&web));
    chain.push(also.root_pem.clone());
    Arc::new(Certificate::new(&web, key, &chain, None, std::time::SystemTime::now()).expect("good"))
}

#[tokio::test]
async fn clients_that_prove_nothing_are_counted_by_reason() {
    let (authority, peer, _pool) = echo_world().await;
    let mut stranger = authority.leaf(&identity("shop", "web"));
    stranger.subject_alt_names = vec![uri("spiffe://elsewhere/ns/shop/sa/web")];
    let named = |key| Arc::new(SingleCertAndKey::from(key));
    for (alpn, key, code) in [
        ("h2", None, "NO_CLIENT_CERTIFICATE"),
        ("h2", Some(named(authority.raw(stranger))), "CERT_TRUST_DOMAIN"),
        ("http/1.1", Some(named(authority.raw(authority.leaf(&identity("shop", "web"))))), "ALPN_MISMATCH"),
        ("", Some(named(authority.raw(authority.leaf(&identity("shop", "web"))))), "ALPN_MISMATCH"),
    ] {
        // The agent's own verifier, on a client that is not the agent's.
        let mut config =
            rustls::ClientConfig::clone(&authority.certificate(&identity("shop", "web")).client_config(&cart()));
        config.client_auth_cert_resolver = match key {
            Some(key) => key,
            None => Arc::new(NoCertificate),
        };
        config.alpn_protocols = [alpn].iter().filter(|a| !a.is_empty()).map(|a| a.as_bytes().to_vec()).collect();
        let tcp = TcpStream::connect(peer.address).await.expect("listening");
        let name = ServerName::from(peer.address.ip());
        // The refusal may come after the client's half of the handshake: what counts is what the server says.
        let connected = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
        assert_eq!(peer.error().await, code, "{alpn}");
        drop(connected);
    }
    drop(TcpStream::connect(peer.address).await.expect("listening"));
    assert_eq!(peer.error().await, "TLS_FAILURE");
}

#[derive(Debug)]
struct NoCertificate;

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[tokio::test]
async fn only_connect_to_an_address_is_served() {
    let (authority, peer, _pool) = echo_world().await;
    let certificate = authority.certificate(&identity("shop", "web"));
    let tcp = TcpStream::connect(peer.address).await.expect("listening");
    let connector = TlsConnector::from(certificate.client_config(&cart()));
    let tls = connector.connect(ServerName::from(peer.address.ip()), tcp).await.expect("trusted");
    let (send, connection) = h2::client::handshake(tls).await.expect("h2");
    let driver = tokio::spawn(connection);
    for (method, uri, status, reason) in [
        (Method::CONNECT, "10.1.2.3:80", 200, ""),
        (Method::CONNECT, "[fd00::1]:80", 200, ""),
        (Method::CONNECT, "web.shop.svc:80", 400, "BAD_AUTHORITY"),
        (Method::CONNECT, "u@10.1.2.3:80", 400, "BAD_AUTHORITY"),
        (Method::CONNECT, "010.1.2.3:80", 400, "BAD_AUTHORITY"),
        (Method::CONNECT, "[::ffff:10.1.2.3]:80", 400, "BAD_AUTHORITY"),
        (Method::CONNECT, "10.1.2.3", 400, "BAD_AUTHORITY"),
        (Method::GET, "https://10.1.2.3:80/", 405, "METHOD_NOT_ALLOWED"),
        (Method::POST, "https://10.1.2.3:80/", 405, "METHOD_NOT_ALLOWED"),
    ] {
        let request = Request::builder().method(method.clone()).uri(uri).version(Version::HTTP_2).body(());
        let mut ready = send.clone().ready().await.expect("open");
        let (response, mut body) = ready.send_request(request.expect("well-formed"), false).expect("sent");
        let response = within(response).await.expect("answered");
        let given = response.headers().get(REASON_HEADER).map(|v| v.to_str().expect("text")).unwrap_or_default();
        assert_eq!((response.status().as_u16(), given), (status, reason), "{method} {uri}");
        let _ = body.send_data(Bytes::new(), true);
    }
    driver.abort();
}

#[tokio::test]
async fn a_peer_that_never_answers_keeps_nobody_waiting() {
    let authority = Authority::new("root");
    let (gave_up, mut noticed) = tokio::sync::mpsc::unbounded_channel();
    let silent = move |_: Inbound, mut respond: Respond| {
        let gave_up = gave_up.clone();
        async move {
            respond.cancelled().await;
            let _ = gave_up.send(());
        }
    };
    let peer = Peer::start(authority.certificate(&cart()).serving(), silent).await;
    let limit = Duration::from_millis(300);
    let pool = Pool::new(PoolSettings { answer_timeout: limit, ..PoolSettings::default() });
    let source = Source::new(&authority, "pod-1", &peer);
    let error = source.open(&pool).await.expect_err("nobody answers");
    assert!(matches!(error, TunnelError::AnswerTimeout { after, .. } if after == limit), "{error}");
    assert_eq!(error.code(), "CONNECT");
    within(noticed.recv()).await.expect("the peer learns that it is no longer wanted");
    // The connection itself is sound and stays for others.
    assert_eq!((pool.connections(), peer.accepted()), (1, 1));
}

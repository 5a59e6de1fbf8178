//! What the tunnel refuses, attack by attack, for the table of refused inputs: authorities, methods and headers of
//! clients with a good certificate; clocks that jump; servers that are not who they should be; early data.

use std::{
    io::{Read as _, Write as _},
    time::SystemTime,
};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, SanType};
use rustls::{
    ClientConfig, ClientConnection, ServerConfig, ServerConnection,
    client::Resumption,
    pki_types::{ServerName, UnixTime},
    sign::SingleCertAndKey,
    time_provider::TimeProvider,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    identity::pki::uri,
    refused::row,
    rogue::{self, Attempt, Outcome},
};

const DAY: Duration = Duration::from_secs(24 * 3600);
const RECORDED: &str = "record and metric of that code";

/// An attempt with everything right.
fn good(authority: &Authority, peer: &Peer) -> Attempt {
    let (chain, key) = authority.raw_pem(authority.leaf(&identity("shop", "web")));
    Attempt {
        to: peer.address,
        from: None,
        chain,
        key,
        alpn: vec!["h2".to_owned()],
        old_tls: false,
        method: "CONNECT".to_owned(),
        authority: TARGET.to_owned(),
        headers: Vec::new(),
        text: "hello".to_owned(),
        wait_ms: 0,
    }
}

fn seen(outcome: &Outcome) -> String {
    match outcome.status {
        0 => format!("{}: {}", outcome.how, outcome.detail),
        status => format!("{status} {}", outcome.reason),
    }
}

#[tokio::test]
async fn authorities_in_any_other_spelling() {
    let (authority, peer, _) = echo_world().await;
    let good = good(&authority, &peer);
    let outcome = rogue::attempt(&good).await;
    assert_eq!((outcome.status, outcome.text.as_str()), (200, "hello"), "{outcome:?}");
    for (text, what, code) in [
        ("10.1.2.3", "no port", "BAD_AUTHORITY"),
        ("10.1.2.3:", "an empty port", "BAD_AUTHORITY"),
        ("10.1.2.3:0", "port 0", "BAD_AUTHORITY"),
        ("10.1.2.3:65536", "port 65536", "BAD_AUTHORITY"),
        ("10.1.2.3:080", "a port with a leading zero", "BAD_AUTHORITY"),
        ("10.1.2.3:+80", "a port with a sign", "BAD_AUTHORITY"),
        ("10.1.2.3:80:80", "two ports", "BAD_REQUEST"),
        ("admin@10.1.2.3:80", "a user", "BAD_AUTHORITY"),
        ("a:b@10.1.2.3:80", "a user with a password", "BAD_AUTHORITY"),
        ("10.1.2.3:80@10.9.9.9:80", "a user that looks like an address", "BAD_AUTHORITY"),
        (" 10.1.2.3:80", "a space before", "BAD_REQUEST"),
        ("10.1.2.3:80 ", "a space behind", "BAD_REQUEST"),
        ("10.1.2.3 :80", "a space inside", "BAD_REQUEST"),
        ("10.1.2.3\t:80", "a tab", "BAD_REQUEST"),
        ("10.1.2.3:80\r\nx: y", "a line end", "BAD_REQUEST"),
        ("10.1.2.3:80\0", "a NUL", "BAD_REQUEST"),
        ("10.1.2.3:٨٠", "digits of another script", "BAD_REQUEST"),
        ("[fe80::1%eth0]:80", "an IPv6 zone", "BAD_AUTHORITY"),
        ("[fe80::1%25eth0]:80", "an IPv6 zone, encoded", "BAD_AUTHORITY"),
        ("[::ffff:10.1.2.3]:80", "an IPv4-mapped address", "BAD_AUTHORITY"),
        ("[::ffff:a01:203]:80", "an IPv4-mapped address in hex", "BAD_AUTHORITY"),
        ("[10.1.2.3]:80", "IPv4 in brackets", "BAD_AUTHORITY"),
        ("::1:80", "IPv6 without brackets", "BAD_REQUEST"),
        ("0x0a010203:80", "hex", "BAD_AUTHORITY"),
        ("167838211:80", "one decimal number", "BAD_AUTHORITY"),
        ("012.1.2.3:80", "octal", "BAD_AUTHORITY"),
        ("10.1:80", "two parts", "BAD_AUTHORITY"),
        ("10.1.2.3.:80", "a trailing dot", "BAD_AUTHORITY"),
        ("localhost:80", "a name", "BAD_AUTHORITY"),
        ("10-1-2-3.rebind.example:80", "a name that resolves elsewhere (rebinding)", "BAD_AUTHORITY"),
        ("*:80", "a wildcard", "BAD_AUTHORITY"),
        ("http://10.1.2.3:80", "a URL", "BAD_REQUEST"),
        ("10.1.2.3:80/path", "a path", "BAD_REQUEST"),
        ("", "nothing at all", "BAD_REQUEST"),
    ] {
        let outcome = rogue::attempt(&Attempt { authority: text.to_owned(), ..good.clone() }).await;
        assert_ne!(outcome.status, 200, "{what}: {outcome:?}");
        assert!(outcome.how == "answered" || outcome.how == "reset", "{what}: {outcome:?}");
        peer.told(code).await;
        row("X3", &format!("CONNECT to {what}"), &seen(&outcome), code, RECORDED);
    }
    assert_eq!(rogue::attempt(&good).await.text, "hello", "nobody else felt it");
}

#[tokio::test]
async fn methods_and_headers_that_are_no_tunnel() {
    let (authority, peer, _) = echo_world().await;
    let good = good(&authority, &peer);
    for method in ["GET", "POST", "OPTIONS", "TRACE", "BREW"] {
        let outcome = rogue::attempt(&Attempt { method: method.to_owned(), ..good.clone() }).await;
        assert_eq!((outcome.status, outcome.reason.as_str()), (405, "METHOD_NOT_ALLOWED"), "{method}: {outcome:?}");
        peer.told("METHOD_NOT_ALLOWED").await;
        row("X3", &format!("method {method}"), &seen(&outcome), "METHOD_NOT_ALLOWED", RECORDED);
    }
    let header = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    for (what, headers, code) in [
        ("20 KiB of headers", header("x-much", &"x".repeat(20 * 1024)), "HEADERS_TOO_LARGE"),
        ("300 headers", vec![("x-many".to_owned(), "y".repeat(30)); 300], "HEADERS_TOO_LARGE"),
        ("CONNECT with a path", header(":path", "/"), "BAD_REQUEST"),
        ("CONNECT with a scheme", header(":scheme", "https"), "BAD_REQUEST"),
        ("CONNECT with another protocol", header(":protocol", "websocket"), "BAD_REQUEST"),
        ("a status in a request", header(":status", "200"), "BAD_REQUEST"),
        ("two authorities", header(":authority", "10.9.9.9:80"), "BAD_REQUEST"),
        ("an upper-case header", header("X-Upper", "x"), "H2_CONNECTION_FAILURE"),
    ] {
        let outcome = rogue::attempt(&Attempt { headers, ..good.clone() }).await;
        assert!(outcome.how != "timeout" && outcome.status != 200 && outcome.text.is_empty(), "{what}: {outcome:?}");
        peer.told(code).await;
        row("X3", what, &seen(&outcome), code, RECORDED);
    }
    assert_eq!(rogue::attempt(&good).await.text, "hello", "nobody else felt it");
}

#[derive(Debug)]
struct Shifted(SystemTime);

impl TimeProvider for Shifted {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0.duration_since(SystemTime::UNIX_EPOCH).ok()?))
    }
}

#[tokio::test]
async fn clocks_that_jump() {
    let authority = Authority::new("root");
    for (what, now, code) in [
        ("the clock is 24 h ahead", SystemTime::now() + DAY, "CERT_EXPIRED"),
        ("the clock is 24 h behind", SystemTime::now() - DAY, "CERT_NOT_YET_VALID"),
    ] {
        let mut serving = authority.certificate(&cart()).serving();
        let mut tls = ServerConfig::clone(&serving.config);
        tls.time_provider = Arc::new(Shifted(now));
        let peer = {
            serving.config = Arc::new(tls);
            Peer::start(serving, echo).await
        };
        let outcome = rogue::attempt(&good(&authority, &peer)).await;
        assert_eq!((outcome.status, outcome.text.as_str()), (0, ""), "{outcome:?}");
        peer.told(code).await;
        row("X13", what, &seen(&outcome), code, RECORDED);
    }
}

/// A server that presents `key` and asks for nothing.
async fn bare_server(key: rustls::sign::CertifiedKey) -> SocketAddr {
    let mut config = ServerConfig::builder_with_provider(crate::identity::provider())
        .with_safe_default_protocol_versions()
        .expect("supported")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        while let Ok((tcp, _)) = listener.accept().await {
            // Whatever the client thinks of it.
            let _ = acceptor.accept(tcp).await;
        }
    });
    address
}

#[tokio::test]
async fn servers_that_are_not_who_they_should_be() {
    let (ours, theirs, unknown) = (Authority::new("root"), Authority::new("root"), Authority::new("unknown"));
    let leaf = |bend: &dyn Fn(&mut CertificateParams)| {
        let mut params = ours.leaf(&cart());
        bend(&mut params);
        ours.raw(params)
    };
    let named = |text: &'static str| leaf(&move |p| p.subject_alt_names = vec![uri(text)]);
    let long = {
        let mut key = ours.raw(ours.leaf(&cart()));
        key.cert.extend(vec![theirs.raw(theirs.leaf(&cart())).cert[0].clone(); 100]);
        key
    };
    let cases = [
        ("X12", "another workload", named("spiffe://cluster.local/ns/shop/sa/web"), "IDENTITY_ERROR"),
        ("X12", "another trust domain", named("spiffe://evil.local/ns/shop/sa/cart"), "IDENTITY_ERROR"),
        ("X12", "a look-alike id", named("spiffe://cluster.local/ns/shop/sa/cart/.."), "CERT_BAD_IDENTITY"),
        (
            "X12",
            "two names",
            leaf(&|p| p.subject_alt_names.push(uri("spiffe://cluster.local/ns/shop/sa/web"))),
            "CERT_BAD_IDENTITY",
        ),
        (
            "X12",
            "a DNS name only",
            leaf(&|p| p.subject_alt_names = vec![SanType::DnsName("cart.shop.svc".try_into().expect("ASCII"))]),
            "CERT_BAD_IDENTITY",
        ),
        ("X12", "CA:TRUE", leaf(&|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "CERT_INVALID"),
        ("X12", "no extended key usage", leaf(&|p| p.extended_key_usages.clear()), "CERT_PURPOSE"),
        (
            "X12",
            "a purpose of clients only",
            leaf(&|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
            "CERT_PURPOSE",
        ),
        ("X13", "an end in the past", leaf(&|p| p.not_after = (SystemTime::now() - DAY).into()), "CERT_EXPIRED"),
        (
            "X13",
            "a start in the future",
            leaf(&|p| p.not_before = (SystemTime::now() + DAY / 48).into()),
            "CERT_NOT_YET_VALID",
        ),
        ("X13", "another root of the same name", theirs.raw(theirs.leaf(&cart())), "CERT_BAD_SIGNATURE"),
        ("X13", "an unknown root", unknown.raw(unknown.leaf(&cart())), "CERT_UNKNOWN_ISSUER"),
        ("X13", "100 certificates more", long, "CERT_CHAIN_TOO_LONG"),
    ];
    let (certificate, pool) = (ours.certificate(&identity("shop", "web")), Pool::new(PoolSettings::default()));
    for (id, what, key, code) in cases {
        let address = bare_server(key).await;
        let key =
            PoolKey { source_pod: "pod-1".to_owned(), source: identity("shop", "web"), destination: cart(), address };
        let opened = within(pool.open(&key, &certificate, || TcpStream::connect(address), &request())).await;
        let error = opened.err().unwrap_or_else(|| panic!("{what}: was trusted"));
        assert_eq!(error.code(), code, "{what}: {error}");
        row(id, &format!("a server with {what}"), "the agent closes before a byte of the app's", code, RECORDED);
    }
    assert_eq!(pool.connections(), 0);
}

/// TLS 1.3 as a client that wants to resume, and early data with it.
fn eager(authority: &Authority, account: &str, resumption: Resumption) -> Arc<ClientConfig> {
    let certificate = authority.certificate(&identity("shop", account));
    let mut config = ClientConfig::clone(&certificate.client_config(&cart()));
    config.resumption = resumption;
    config.enable_early_data = true;
    Arc::new(config)
}

/// Carries bytes both ways until nobody has more to say.
fn shake(client: &mut ClientConnection, server: &mut ServerConnection) -> Result<(), rustls::Error> {
    while client.wants_write() || server.wants_write() {
        let mut there = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut there).expect("into memory");
        }
        let mut bytes = there.as_slice();
        while !bytes.is_empty() {
            server.read_tls(&mut bytes).expect("from memory");
            server.process_new_packets()?;
        }
        let mut back = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut back).expect("into memory");
        }
        let mut bytes = back.as_slice();
        while !bytes.is_empty() {
            client.read_tls(&mut bytes).expect("from memory");
            client.process_new_packets()?;
        }
    }
    Ok(())
}

#[test]
fn nothing_is_resumed_and_early_data_is_not_read() {
    let authority = Authority::new("root");
    let strict = authority.certificate(&cart()).server_config();
    // The same server, gone soft: it gives tickets for early data to anybody.
    let mut soft = ServerConfig::clone(&strict);
    soft.session_storage = rustls::server::ServerSessionMemoryCache::new(16);
    soft.send_tls13_tickets = 4;
    soft.max_early_data_size = 4096;
    let soft = Arc::new(soft);
    let resumption = Resumption::in_memory_sessions(16);
    let name = ServerName::try_from("mesh.invalid").expect("valid");
    let web = eager(&authority, "web", resumption.clone());
    for (what, account) in [("replayed early data", "web"), ("a ticket of another identity", "other")] {
        let connect = |config: &Arc<ClientConfig>| ClientConnection::new(config.clone(), name.clone()).expect("good");
        let (mut client, mut server) = (connect(&web), ServerConnection::new(soft.clone()).expect("good"));
        shake(&mut client, &mut server).expect("soft");
        assert!(client.tls13_tickets_received() > 0, "the attack needs a ticket");

        // rustls keeps tickets apart by verifier and key; an attacker need not.
        let mut config = ClientConfig::clone(&web);
        let other = eager(&authority, account, Resumption::disabled());
        config.client_auth_cert_resolver = other.client_auth_cert_resolver.clone();
        let config = if account == "web" { web.clone() } else { Arc::new(config) };
        let (mut client, mut server) = (connect(&config), ServerConnection::new(strict.clone()).expect("good"));
        let sent = client.early_data().map(|mut early| early.write(b"early").expect("room"));
        assert!(account != "web" || sent == Some(5), "the attack sends early data");
        shake(&mut client, &mut server).expect("a handshake");
        assert_eq!(server.handshake_kind(), Some(rustls::HandshakeKind::Full), "{what}");
        assert!(!client.is_early_data_accepted() && client.tls13_tickets_received() == 0, "{what}");
        let mut read = [0; 16];
        assert!(server.reader().read(&mut read).is_err(), "{what}: early data was read");
        let leaf = &server.peer_certificates().expect("mandatory")[0];
        let peer = crate::identity::Peer::read(leaf).expect("good");
        assert_eq!(peer.identity, identity("shop", account), "{what}");
        row(
            "X15",
            what,
            "ignored: a full handshake, the certificate counts, no ticket is given",
            "-",
            "its own identity",
        );
    }
}

/// The key of a leaf is as good as the leaf: it must be the one that signs.
#[tokio::test]
async fn a_certificate_without_its_key() {
    let (authority, peer, _) = echo_world().await;
    let good = good(&authority, &peer);
    let (_, key) = authority.raw_pem(authority.leaf(&identity("shop", "web")));
    let outcome = rogue::attempt(&Attempt { key, ..good }).await;
    assert_eq!(outcome.status, 0, "{outcome:?}");
    peer.told("CERT_BAD_SIGNATURE").await;
    row("X12", "a stolen certificate without its key", &seen(&outcome), "CERT_BAD_SIGNATURE", RECORDED);
}

//! Which peers are refused in the handshake. The bad side runs on a bare rustls configuration that presents anything
//! and checks nothing; the good side is always a [`Certificate`].

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, SanType};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme, SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::identity::{
    Peer,
    peer::PeerError,
    pki::{Authority, identity, uri},
    provider, refusal,
};

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
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn bare_client(key: Option<CertifiedKey>, version: &'static SupportedProtocolVersion, alpn: &str) -> Arc<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .expect("supported")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut config = match key {
        Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    Arc::new(config)
}

fn bare_server(key: CertifiedKey, version: &'static SupportedProtocolVersion) -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .expect("supported")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
    Arc::new(config)
}

/// What each side thinks of the handshake; the client's verdict includes a byte from the server.
async fn shake(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> (io::Result<()>, io::Result<()>) {
    let (near, far) = duplex(64 * 1024);
    let serve = async {
        let mut tls = TlsAcceptor::from(server).accept(far).await?;
        tls.write_all(b"!").await?;
        tls.shutdown().await
    };
    let dial = async {
        let name = ServerName::try_from("any.invalid").expect("valid");
        let mut tls = TlsConnector::from(client).connect(name, near).await?;
        tls.read_u8().await.map(drop)
    };
    tokio::join!(serve, dial)
}

fn bent(leaf: &CertificateParams, bend: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = leaf.clone();
    bend(&mut params);
    params
}

/// Our own reason if there is one, rustls' otherwise.
fn why(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()).expect("a TLS error");
    refusal(inner).map_or_else(|| format!("{inner} {inner:?}"), ToString::to_string)
}

/// Every leaf that no peer may get away with, and a word of the reason.
fn bad_leaves(authority: &Authority) -> Vec<(&'static str, CertificateParams, &'static str)> {
    let leaf = authority.leaf(&identity("shop", "cart"));
    let named = |names: Vec<SanType>| bent(&leaf, |p| p.subject_alt_names = names);
    let good = uri("spiffe://cluster.local/ns/shop/sa/cart");
    let dns = SanType::DnsName("cart.shop.svc".try_into().expect("ASCII"));
    let ago = |seconds| SystemTime::now() - Duration::from_secs(seconds);
    let later = SystemTime::now() + Duration::from_secs(600);
    vec![
        ("trailing slash", named(vec![uri("spiffe://cluster.local/ns/shop/sa/cart/")]), "is not a workload identity"),
        ("upper case", named(vec![uri("spiffe://cluster.local/ns/Shop/sa/cart")]), "is not a workload identity"),
        ("other scheme", named(vec![uri("https://cluster.local/ns/shop/sa/cart")]), "is not a workload identity"),
        ("percent", named(vec![uri("spiffe://cluster.local/ns/shop/sa/c%61rt")]), "is not a workload identity"),
        ("two URIs", named(vec![good.clone(), uri("spiffe://cluster.local/ns/shop/sa/web")]), "has 2 subject"),
        ("the same twice", named(vec![good.clone(), good.clone()]), "has 2 subject"),
        ("URI and DNS", named(vec![good, dns.clone()]), "has 2 subject"),
        ("DNS only", named(vec![dns]), "is not a URI"),
        ("no name", named(vec![]), "no subject alternative name"),
        ("CA", bent(&leaf, |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "CaUsedAsEndEntity"),
        ("expired", bent(&leaf, |p| p.not_after = ago(1).into()), "expired"),
        ("not valid yet", bent(&leaf, |p| p.not_before = later.into()), "not valid yet"),
    ]
}

#[tokio::test]
async fn peers_of_one_root_shake_hands() {
    let authority = Authority::new("root");
    let (cart, web) = (identity("shop", "cart"), identity("shop", "web"));
    let (server, client) = (authority.certificate(&cart), authority.certificate(&web));
    let (served, dialled) = shake(server.server_config(), client.client_config(&cart)).await;
    assert!(served.is_ok() && dialled.is_ok(), "{served:?} {dialled:?}");
}

#[tokio::test]
async fn the_server_refuses_bad_clients() {
    let authority = Authority::new("root");
    let server = authority.certificate(&identity("shop", "web")).server_config();
    let mut cases = bad_leaves(&authority);
    let foreign = vec![uri("spiffe://cluster.local.evil/ns/shop/sa/cart")];
    let leaf = authority.leaf(&identity("shop", "cart"));
    cases.push(("trust domain", bent(&leaf, |p| p.subject_alt_names = foreign), "our trust domain"));
    let server_only = vec![ExtendedKeyUsagePurpose::ServerAuth];
    cases.push(("purpose", bent(&leaf, |p| p.extended_key_usages = server_only), "client authentication"));
    for (name, params, reason) in cases {
        let client = bare_client(Some(authority.raw(params)), &TLS13, "h2");
        let (served, _) = shake(server.clone(), client).await;
        let error = served.err().unwrap_or_else(|| panic!("{name}: was taken"));
        assert!(why(&error).contains(reason), "{name}: {error:?}");
    }
}

#[tokio::test]
async fn the_client_refuses_bad_servers() {
    let authority = Authority::new("root");
    let cart = identity("shop", "cart");
    let client = authority.certificate(&identity("shop", "web")).client_config(&cart);
    let mut cases = bad_leaves(&authority);
    let leaf = authority.leaf(&cart);
    for other in ["spiffe://cluster.local.evil/ns/shop/sa/cart", "spiffe://cluster.local/ns/shop/sa/cart2"] {
        let named = vec![uri(other)];
        cases.push(("other", bent(&leaf, |p| p.subject_alt_names = named), "was expected"));
    }
    let client_only = vec![ExtendedKeyUsagePurpose::ClientAuth];
    cases.push(("purpose", bent(&leaf, |p| p.extended_key_usages = client_only), "server authentication"));
    for (name, params, reason) in cases {
        let (_, dialled) = shake(bare_server(authority.raw(params), &TLS13), client.clone()).await;
        let error = dialled.err().unwrap_or_else(|| panic!("{name}: was taken"));
        assert!(why(&error).contains(reason), "{name}: {error:?}");
    }
}

#[tokio::test]
async fn a_chain_may_have_ten_certificates_more() {
    let authority = Authority::new("root");
    let (cart, web) = (identity("shop", "cart"), identity("shop", "web"));
    let good = authority.certificate(&cart);
    for (more, taken) in [(10, true), (11, false), (12, false)] {
        let mut key = authority.raw(authority.leaf(&web));
        key.cert.extend(vec![authority.root_der().into(); more]);
        let (served, _) = shake(good.server_config(), bare_client(Some(key.clone()), &TLS13, "h2")).await;
        let (_, dialled) = shake(bare_server(key, &TLS13), good.client_config(&web)).await;
        for end in [served, dialled] {
            assert_eq!(end.is_ok(), taken, "{more}: {end:?}");
            assert!(end.err().is_none_or(|error| why(&error).contains(&format!("{more} certificates follow"))));
        }
    }
}

#[tokio::test]
async fn another_root_of_the_same_name_is_refused_both_ways() {
    let (ours, theirs) = (Authority::new("root"), Authority::new("root"));
    let (cart, web) = (identity("shop", "cart"), identity("shop", "web"));
    let bad_client = bare_client(Some(theirs.raw(theirs.leaf(&web))), &TLS13, "h2");
    let (served, _) = shake(ours.certificate(&cart).server_config(), bad_client).await;
    assert!(served.is_err());
    let bad_server = bare_server(theirs.raw(theirs.leaf(&cart)), &TLS13);
    let (_, dialled) = shake(bad_server, ours.certificate(&web).client_config(&cart)).await;
    assert!(dialled.is_err());
}

#[tokio::test]
async fn no_certificate_old_tls_and_other_protocols_are_refused() {
    let authority = Authority::new("root");
    let (cart, web) = (identity("shop", "cart"), identity("shop", "web"));
    let server = authority.certificate(&cart).server_config();
    let key = || authority.raw(authority.leaf(&web));
    for (name, client, reason) in [
        ("no certificate", bare_client(None, &TLS13, "h2"), "NoCertificatesPresented"),
        ("TLS 1.2", bare_client(Some(key()), &TLS12, "h2"), "Tls12NotOffered"),
        ("ALPN", bare_client(Some(key()), &TLS13, "http/1.1"), "NoApplicationProtocol"),
    ] {
        let (served, dialled) = shake(server.clone(), client).await;
        let error = served.err().unwrap_or_else(|| panic!("{name}: was taken"));
        assert!(format!("{error:?}").contains(reason), "{name}: {error:?}");
        assert!(dialled.is_err(), "{name}: the client did not notice");
    }
    let old_server = bare_server(authority.raw(authority.leaf(&cart)), &TLS12);
    let (_, dialled) = shake(old_server, authority.certificate(&web).client_config(&cart)).await;
    assert!(dialled.is_err());
}

#[tokio::test]
async fn nothing_is_resumed() {
    let authority = Authority::new("root");
    let (cart, web) = (identity("shop", "cart"), identity("shop", "web"));
    let server = authority.certificate(&cart).server_config();
    let client = bare_client(Some(authority.raw(authority.leaf(&web))), &TLS13, "h2");
    for _ in 0..2 {
        let (near, far) = duplex(64 * 1024);
        let serve = async {
            let mut tls = TlsAcceptor::from(server.clone()).accept(far).await?;
            tls.write_all(b"!").await?;
            io::Result::Ok(tls.get_ref().1.handshake_kind())
        };
        let dial = async {
            let name = ServerName::try_from("any.invalid").expect("valid");
            let mut tls = TlsConnector::from(client.clone()).connect(name, near).await?;
            tls.read_u8().await?;
            io::Result::Ok(tls.get_ref().1.tls13_tickets_received())
        };
        let (kind, tickets) = tokio::try_join!(serve, dial).expect("a handshake");
        assert_eq!(kind, Some(rustls::HandshakeKind::Full));
        assert_eq!(tickets, 0);
    }
}

#[test]
fn garbage_is_no_certificate() {
    let authority = Authority::new("root");
    let good = authority.raw(authority.leaf(&identity("shop", "cart"))).cert[0].clone();
    assert_eq!(Peer::read(&good).expect("good").identity, identity("shop", "cart"));
    for bytes in [vec![], vec![0x30], good[..good.len() - 1].to_vec(), [good.as_ref(), b"x"].concat()] {
        let read = Peer::read(&CertificateDer::from(bytes));
        assert!(matches!(read, Err(PeerError::Encoding(_))), "{read:?}");
    }
}

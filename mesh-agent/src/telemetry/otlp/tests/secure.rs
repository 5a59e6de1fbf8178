//! `https://` collectors: spoken to if their certificate is theirs and of a trusted authority, told nothing otherwise.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{RootCertStore, ServerConfig, pki_types::PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

const NAME: &str = "collector.tools";

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn trusting(issuer: &CertifiedIssuer<'static, KeyPair>) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(issuer.der().clone()).unwrap();
    Arc::new(roots)
}

/// Ends TLS before a collector; where it listens. It speaks what that one speaks, and nothing else.
async fn before(
    collector: &Fake,
    protocol: OtlpProtocol,
    issuer: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
    expired: bool,
) -> SocketAddr {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    if expired {
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2001, 1, 1), rcgen::date_time_ymd(2002, 1, 1));
    }
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    config.alpn_protocols = vec![match protocol {
        OtlpProtocol::Grpc => b"h2".to_vec(),
        OtlpProtocol::Http => b"http/1.1".to_vec(),
    }];
    let (acceptor, behind) = (TlsAcceptor::from(Arc::new(config)), collector.address);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut plain = TcpStream::connect(behind).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut plain).await;
            });
        }
    });
    address
}

/// A collector by its name at this address, and who may have signed for it.
fn secured(at: SocketAddr, protocol: OtlpProtocol, roots: &Arc<RootCertStore>, patience: Duration) -> Spans {
    let target = Target::parse(&format!("https://{NAME}:{}", at.port()), protocol).expect("an address");
    let resolve: Resolve = Arc::new(move |host, _| (host == NAME).then(|| vec![at]));
    let roots = Some(Arc::clone(roots));
    Spans::new(Settings { target: Some(target), resolve, roots, patience, ..settings(at, protocol) })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_proves_its_name_gets_everything() {
    let issuer = authority("trusted");
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::Http] {
        let fake = Fake::new(protocol).await;
        let at = before(&fake, protocol, &issuer, NAME, false).await;
        let spans = secured(at, protocol, &trusting(&issuer), Duration::from_secs(20));
        (0..700).for_each(|_| spans.ended(&Arc::new(request(Direction::Outbound))));
        assert_eq!(settled(&spans).await, [700, 700, 0], "{protocol:?}");
        let all = fake.got().iter().flat_map(|message| message.resource_spans.clone()).collect::<Vec<_>>();
        assert_eq!(all.iter().flat_map(|of| &of.scope_spans).map(|scope| scope.spans.len()).sum::<usize>(), 700);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_with_a_wrong_certificate_is_told_nothing_and_every_span_is_counted() {
    let (trusted, other) = (authority("trusted"), authority("other"));
    let patience = Duration::from_millis(300);
    for protocol in [OtlpProtocol::Grpc, OtlpProtocol::Http] {
        for (issuer, name, expired) in
            [(&other, NAME, false), (&trusted, "another.tools", false), (&trusted, NAME, true)]
        {
            let fake = Fake::new(protocol).await;
            let at = before(&fake, protocol, issuer, name, expired).await;
            let spans = secured(at, protocol, &trusting(&trusted), patience);
            (0..3).for_each(|_| spans.ended(&Arc::new(request(Direction::Outbound))));
            assert_eq!(settled(&spans).await, [3, 0, 3], "{protocol:?} {name} {expired}");
            assert!(fake.got().is_empty());
        }
        // One that speaks no TLS is not spoken to without.
        let fake = Fake::new(protocol).await;
        let spans = secured(fake.address, protocol, &trusting(&trusted), patience);
        spans.ended(&Arc::new(request(Direction::Outbound)));
        assert_eq!(settled(&spans).await, [1, 0, 1], "{protocol:?}");
        assert!(fake.got().is_empty());
    }
}

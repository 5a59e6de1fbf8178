//! TLS to endpoints, and questions whether they are well.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::{body::Frame, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_common::model::traffic::{
    ActiveCheck, CheckKind, ConnectionPool, HttpUpgrade, Millis, TrafficPolicy, TrustedRoots, UpstreamTls,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::pki_types::PrivateKeyDer;

use super::world::*;

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server whose certificate is for `name`; it says which protocol was agreed on, and the server name.
async fn server(world: &World, issuer: &CertifiedIssuer<'static, KeyPair>, name: &str, expired: bool) {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI("spiffe://a/ns/b/sa/c".try_into().unwrap()));
    if expired {
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2001, 1, 1), rcgen::date_time_ymd(2002, 1, 1));
    }
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    world
        .bytes(move |_, stream| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let (_, state) = stream.get_ref();
                let agreed = String::from_utf8_lossy(state.alpn_protocol().unwrap_or_default()).into_owned();
                let told = format!("{agreed} {}", state.server_name().unwrap_or_default());
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let told = format!("{told} {}", request.uri().scheme_str().unwrap_or_default());
                    async move { Ok::<_, Error>(answer(200, told)) }
                });
                let io = TokioIo::new(stream);
                let _ = match agreed.as_str() {
                    "h2" => {
                        let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        builder.serve_connection(io, service).await
                    }
                    _ => hyper::server::conn::http1::Builder::new().serve_connection(io, service).await,
                };
            }
        })
        .await;
}

async fn said(world: &World, tls: UpstreamTls, upgrade: HttpUpgrade) -> (u16, String) {
    let pool = ConnectionPool { upgrade, ..ConnectionPool::default() };
    world.rules(vec![], TrafficPolicy { tls: Some(tls), pool, ..TrafficPolicy::default() });
    let answer = world.ask(get("/")).await;
    (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
}

#[tokio::test]
async fn only_who_the_policy_trusts_is_spoken_to() {
    use HttpUpgrade::{Always, Default};
    let (issuer, stranger) = (authority("ours"), authority("theirs"));
    let pem = TrustedRoots::Pem(issuer.pem());
    let tls = |server_name: Option<&str>, names: &[&str], roots: &TrustedRoots| UpstreamTls {
        server_name: server_name.map(Into::into),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        roots: roots.clone(),
    };
    let world = World::new();
    server(&world, &issuer, "good.example", false).await;
    let good = Some("good.example");
    assert_eq!(said(&world, tls(good, &[], &pem), Default).await, (200, "http/1.1 good.example ".into()));
    assert_eq!(said(&world, tls(good, &[], &pem), Always).await, (200, "h2 good.example https".into()));
    let refused =
        |answer: (u16, String), why: &str| assert!(answer.0 == 503 && answer.1.contains(why), "{answer:?}, not {why}");
    refused(said(&world, tls(Some("bad.example"), &[], &pem), Default).await, "not valid for name");
    refused(said(&world, tls(None, &[], &pem), Default).await, "not valid for name");
    refused(said(&world, tls(good, &[], &TrustedRoots::Pem(stranger.pem())), Default).await, "UnknownIssuer");
    refused(
        said(&world, tls(good, &["other.example", "spiffe://a/ns/b/sa/x"], &pem), Default).await,
        "NotValidForName",
    );
    for names in [&["other.example", "good.example"][..], &["spiffe://a/ns/b/sa/c"]] {
        assert_eq!(said(&world, tls(Some("sni.example"), names, &pem), Default).await.0, 200, "{names:?}");
    }
    assert_eq!(said(&world, tls(Some("any.example"), &[], &TrustedRoots::Unverified), Default).await.0, 200);
    let unusable = TrustedRoots::Unusable("no such ConfigMap".into());
    refused(said(&world, tls(good, &[], &unusable), Default).await, "no such ConfigMap");
    refused(said(&world, tls(good, &[], &TrustedRoots::Pem(String::new())), Default).await, "no certificate");
    let old = World::new();
    server(&old, &issuer, "good.example", true).await;
    refused(said(&old, tls(good, &[], &pem), Default).await, "expired");
    let plain = World::with_server().await;
    refused(said(&plain, tls(good, &[], &pem), Default).await, "no TLS");
}

fn checked(kind: CheckKind) -> TrafficPolicy {
    let check =
        ActiveCheck { kind, interval: Millis(10), timeout: Millis(2000), healthy_threshold: 2, unhealthy_threshold: 3 };
    TrafficPolicy { check: Some(check), ..TrafficPolicy::default() }
}

/// Asks until it comes to that.
async fn comes_to(world: &World, status: u16) {
    for _ in 0..500 {
        if world.status("/").await.0 == status {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("it never comes to {status}");
}

#[tokio::test]
async fn endpoints_are_asked_whether_they_are_well() {
    let world = World::new();
    let (well, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
    let (told, counted) = (Arc::clone(&well), Arc::clone(&asked));
    world
        .server(move |seen| match seen.uri.as_str() {
            "/well" => {
                assert_eq!(seen.headers["host"], "check.example");
                counted.fetch_add(1, Ordering::SeqCst);
                answer(if told.load(Ordering::SeqCst) { 204 } else { 500 }, "")
            }
            _ => answer(200, ""),
        })
        .await;
    let kind = CheckKind::Http { path: "/well".into(), host: Some("check.example".into()) };
    world.rules(vec![], checked(kind));
    assert_eq!(world.status("/").await.0, 200);
    until(|| asked.load(Ordering::SeqCst) > 3).await;
    assert_eq!(world.status("/").await.0, 200);
    well.store(false, Ordering::SeqCst);
    comes_to(&world, 503).await;
    well.store(true, Ordering::SeqCst);
    comes_to(&world, 200).await;
    // With the pod the questions go.
    world.http.forget("client");
    until(|| {
        let before = asked.load(Ordering::SeqCst);
        std::thread::sleep(std::time::Duration::from_millis(60));
        asked.load(Ordering::SeqCst) == before
    })
    .await;
}

#[tokio::test]
async fn grpc_servers_and_sockets_are_asked_in_their_own_ways() {
    let world = World::new();
    let serving = Arc::new(AtomicBool::new(true));
    let told = Arc::clone(&serving);
    world
        .server2(move |seen| {
            if seen.uri.ends_with("/grpc.health.v1.Health/Check") {
                assert_eq!(&seen.body[..], b"\0\0\0\0\x06\x0a\x04cart");
                let status = if told.load(Ordering::SeqCst) { 1 } else { 2 };
                let data = Frame::data(bytes::Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]));
                let end =
                    http::HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), "0".parse().unwrap())]);
                let frames = [Ok::<_, Error>(data), Ok(Frame::trailers(end))];
                return http::Response::new(BoxBody::new(StreamBody::new(tokio_stream::iter(frames))));
            }
            answer(200, "")
        })
        .await;
    let pool = ConnectionPool { upgrade: HttpUpgrade::Always, ..ConnectionPool::default() };
    world.rules(vec![], TrafficPolicy { pool, ..checked(CheckKind::Grpc { service: "cart".into() }) });
    assert_eq!(world.status("/").await.0, 200);
    until(|| world.log.all().iter().filter(|seen| seen.uri.ends_with("/Check")).count() > 3).await;
    assert_eq!(world.status("/").await.0, 200);
    serving.store(false, Ordering::SeqCst);
    comes_to(&world, 503).await;
    serving.store(true, Ordering::SeqCst);
    comes_to(&world, 200).await;
    let world = World::with_server().await;
    world.rules(vec![], checked(CheckKind::Tcp));
    assert_eq!(world.status("/").await.0, 200);
    let address = world.http_address(0);
    world.dial.refused.lock().unwrap().push(address);
    let flag = async || world.status("/").await.1;
    for _ in 0..300 {
        if flag().await.as_deref() == Some("UH") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(flag().await.as_deref(), Some("UH"));
    world.dial.refused.lock().unwrap().clear();
    comes_to(&world, 200).await;
}

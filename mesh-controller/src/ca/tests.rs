//! Certificates as agents get them, and requests that must not get one.

use std::sync::Arc;

use mesh_common::proto::auth::{
    IstioCertificateRequest, istio_certificate_service_server::IstioCertificateService as _,
};
use rcgen::{BasicConstraints, PKCS_ED25519};
use tokio::sync::watch;
use tonic::{Code, Request, Status};
use x509_parser::{extensions::GeneralName, prelude::FromDer};

use super::*;
use crate::{
    index::tests::{SHOP, world},
    publish::Published,
    tokens::{Authenticator, Tokens},
};

const TTL: Duration = Duration::from_secs(3600);
const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

struct Scene {
    state: tempfile::TempDir,
    service: CertificateService,
}

fn scene() -> Scene {
    scene_of(SHOP)
}

fn scene_of(objects: &str) -> Scene {
    let state = tempfile::tempdir().expect("folder");
    let authority = Authority::open(state.path(), "cluster.local", TTL).expect("authority");
    let published = Published { world: world(objects), ..Published::default() };
    let (_, published) = watch::channel(Arc::new(published));
    let limits = Limits::new(LimitSettings { burst: 100, per_second: 1, signing: 2 });
    Scene { state, service: CertificateService::new(authority, "cluster.local", limits, published) }
}

impl Scene {
    async fn ask(&self, node: &str, identity: &str, csr: String, seconds: i64) -> Result<Vec<String>, Status> {
        let tokens = Tokens::new(self.state.path());
        let token = tokens.create(node).expect("token");
        let caller = Authenticator::Join(tokens).verify(&token).await.expect("valid");
        let value = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(identity.to_owned())) };
        let metadata = prost_types::Struct { fields: [("ImpersonatedIdentity".to_owned(), value)].into() };
        let mut request =
            Request::new(IstioCertificateRequest { csr, validity_duration: seconds, metadata: Some(metadata) });
        request.extensions_mut().insert(caller);
        self.service.create_certificate(request).await.map(|response| response.into_inner().cert_chain)
    }
}

fn csr(params: &CertificateParams) -> String {
    let key = KeyPair::generate().expect("key");
    params.serialize_request(&key).expect("request").pem().expect("PEM")
}

fn plain() -> String {
    csr(&CertificateParams::default())
}

#[tokio::test]
async fn only_identities_of_the_agent_s_own_node() {
    let scene = scene();
    assert_eq!(scene.ask("a", CART, plain(), 0).await.expect("signed").len(), 2);
    for (node, identity) in [
        ("b", CART),
        ("a", "spiffe://cluster.local/ns/shop/sa/default"),
        ("a", "spiffe://cluster.local/ns/other/sa/cart"),
        ("a", "spiffe://other.domain/ns/shop/sa/cart"),
    ] {
        let status = scene.ask(node, identity, plain(), 0).await.expect_err("refused");
        assert_eq!(status.code(), Code::PermissionDenied, "{node} {identity}");
    }
    assert!(scene.ask("b", "spiffe://cluster.local/ns/shop/sa/default", plain(), 0).await.is_ok());
}

#[tokio::test]
async fn a_pod_that_is_observed_or_left_alone_gets_no_certificate() {
    for mode in ["observe", "none"] {
        let scene = scene_of(&SHOP.replace("mode: mesh", &format!("mode: {mode}")));
        let status = scene.ask("a", CART, plain(), 0).await.expect_err("refused");
        assert_eq!(status.code(), Code::PermissionDenied, "{mode}");
        assert_eq!(status.message(), format!("IDENTITY_NOT_HERE: {CART}: no pod of it on node a is in the mesh"));
    }
}

#[tokio::test]
async fn an_account_that_does_not_exist_gets_no_certificate() {
    let with = |account: &str| {
        let account =
            format!("{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {account}, namespace: shop}}}}");
        scene_of(&format!("{SHOP}\n---\n{account}\n"))
    };
    with("cart").ask("a", CART, plain(), 0).await.expect("signed");
    let status = with("web").ask("a", CART, plain(), 0).await.expect_err("refused");
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.message(), format!("IDENTITY_ACCOUNT: {CART}: ServiceAccount shop/cart does not exist"));
}

#[tokio::test]
async fn names_and_ca_bits_of_the_request_are_ignored() {
    let scene = scene();
    let mut params = CertificateParams::new(vec!["evil.example".to_owned(), "10.0.0.1".to_owned()]).expect("names");
    params.subject_alt_names.push(SanType::URI("spiffe://cluster.local/ns/x/sa/admin".try_into().expect("ASCII")));
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let request = {
        // The builder of requests does not write a CA bit; an attribute with it would be no different.
        params.is_ca = IsCa::NoCa;
        let mut basic = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 3, 1, 1, 0xff]);
        basic.set_criticality(true);
        params.custom_extensions.push(basic);
        csr(&params)
    };
    let chain = scene.ask("a", CART, request, 0).await.expect("signed");
    let pem = x509_parser::pem::parse_x509_pem(chain[0].as_bytes()).expect("PEM").1;
    let leaf = pem.parse_x509().expect("certificate");
    let names = leaf.subject_alternative_name().expect("one").expect("present");
    assert_eq!(names.value.general_names, [GeneralName::URI(CART)]);
    assert!(!leaf.is_ca());
    assert_eq!(leaf.subject().iter().count(), 0);
    let usage = leaf.key_usage().expect("one").expect("present").value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    let extended = leaf.extended_key_usage().expect("one").expect("present").value;
    assert!(extended.client_auth && extended.server_auth && !extended.any);
    assert_eq!(leaf.raw_serial().len(), SERIAL);

    let root = x509_parser::pem::parse_x509_pem(chain[1].as_bytes()).expect("PEM").1;
    let root = root.parse_x509().expect("certificate");
    leaf.verify_signature(Some(root.public_key())).expect("signed by the root");
    assert!(root.is_ca());
}

#[tokio::test]
async fn life_is_clamped_and_backdated() {
    let scene = scene();
    for (wanted, got) in [(0, 3600), (-1, 3600), (i64::MAX, 3600), (60, 60)] {
        let chain = scene.ask("a", CART, plain(), wanted).await.expect("signed");
        let pem = x509_parser::pem::parse_x509_pem(chain[0].as_bytes()).expect("PEM").1;
        let validity = pem.parse_x509().expect("certificate").validity().clone();
        assert_eq!(validity.not_after.timestamp() - validity.not_before.timestamp(), got + 60, "{wanted}");
    }
}

#[tokio::test]
async fn requests_that_are_none() {
    let scene = scene();
    let mut forged = rustls::pki_types::CertificateSigningRequestDer::from(
        CertificateParams::default().serialize_request(&KeyPair::generate().expect("key")).expect("request"),
    )
    .to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    let broken = {
        use base64::Engine;
        let text = base64::engine::general_purpose::STANDARD.encode(&forged);
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n")
    };
    let other_kind = KeyPair::generate_for(&PKCS_ED25519).expect("key");
    let other_kind = CertificateParams::default().serialize_request(&other_kind).expect("request").pem().expect("PEM");
    for csr in [String::new(), "x".repeat(20 << 10), "hello".to_owned(), broken, other_kind] {
        let status = scene.ask("a", CART, csr, 0).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let status = scene.ask("a", "spiffe://cluster.local/ns/shop/sa/cart/..", plain(), 0).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[test]
fn the_root_stays_and_its_key_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let state = tempfile::tempdir().expect("folder");
    let open = || Authority::open(state.path(), "cluster.local", TTL);
    let first = open().expect("made").material().borrow().roots_pem();
    assert_eq!(open().expect("opened").material().borrow().roots_pem(), first);
    let key = state.path().join("ca/ca.key");
    assert_eq!(std::fs::metadata(&key).expect("key").permissions().mode() & 0o777, 0o600);
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).expect("mode");
    assert!(format!("{:#}", open().expect_err("readable by others")).contains("must be 0600"));
    std::fs::remove_file(&key).expect("key");
    assert!(format!("{:#}", open().expect_err("half of it")).contains("ca.crt is there without ca.key"));
    // Another authority's key.
    std::fs::write(&key, KeyPair::generate().expect("key").serialize_pem()).expect("key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("mode");
    assert!(format!("{:#}", open().expect_err("another key")).contains("not the certificate of ca.key"));
    let (_, pem) = x509_parser::pem::parse_x509_pem(first.as_bytes()).expect("PEM");
    assert!(x509_parser::certificate::X509Certificate::from_der(&pem.contents).expect("DER").1.is_ca());
}

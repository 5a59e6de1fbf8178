//! Secrets in their three layouts, whole and not.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, SignatureAlgorithm,
};

use super::*;
use crate::ca::{Authority, root};

/// A CA of a test and its key (PEM).
pub struct Ca {
    pub pem: String,
    pub key: String,
    issuer: Issuer<'static, KeyPair>,
}

pub fn place(name: &str) -> Place {
    Place { namespace: "nodemesh-system".into(), name: name.into(), trust_domain: "cluster.local".into(), given: false }
}

pub fn ca(name: &str, by: Option<&Ca>, change: impl FnOnce(&mut CertificateParams)) -> Ca {
    ca_of(name, by, &PKCS_ECDSA_P256_SHA256, change)
}

fn ca_of(
    name: &str,
    by: Option<&Ca>,
    kind: &'static SignatureAlgorithm,
    change: impl FnOnce(&mut CertificateParams),
) -> Ca {
    let key = KeyPair::generate_for(kind).expect("key");
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Istio");
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    change(&mut params);
    let certificate = match by {
        Some(by) => params.signed_by(&key, &by.issuer),
        None => params.self_signed(&key),
    };
    let pem = certificate.expect("signed").pem();
    let text = key.serialize_pem();
    Ca { issuer: Issuer::from_ca_cert_pem(&pem, key).expect("issuer"), pem, key: text }
}

pub fn secret(kind: &str, data: &[(&str, &str)]) -> Secret {
    let data = data.iter().map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec())));
    Secret { data: Some(data.collect()), type_: Some(kind.to_owned()), ..Default::default() }
}

/// Whether a leaf of this material has a chain of that many certificates, and ends in its roots.
fn chain(material: Material) -> Vec<String> {
    let identity = "spiffe://cluster.local/ns/shop/sa/cart".parse().expect("identity");
    let csr = CertificateParams::default().serialize_request(&KeyPair::generate().expect("key")).expect("request");
    let key = crate::ca::request::public_key(&csr.pem().expect("PEM")).expect("key");
    let authority = Authority::following(watch::channel(Arc::new(material)).1, Duration::from_secs(60));
    authority.sign_workload(&key, &identity, None).expect("signed").chain
}

#[test]
fn each_layout_gives_leaf_intermediates_roots() {
    let root = ca("root", None, |_| {});
    let middle = ca("middle", Some(&root), |_| {});
    let low = ca("low", Some(&middle), |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let up = format!("{}{}", low.pem, middle.pem);
    let istio = secret(
        "Opaque",
        &[
            ("ca-cert.pem", &low.pem),
            ("ca-key.pem", &low.key),
            ("cert-chain.pem", &format!("{up}{}", root.pem)),
            ("root-cert.pem", &root.pem),
        ],
    );
    let tls = secret("kubernetes.io/tls", &[("tls.crt", &up), ("tls.key", &low.key), ("ca.crt", &root.pem)]);
    for secret in [istio, tls] {
        let chain = chain(read(&secret, &place("given")).expect("fits"));
        assert_eq!(chain[1..], [low.pem.clone(), middle.pem.clone(), root.pem.clone()]);
    }
    // A root that signs itself, as cert-manager's SelfSigned issuer makes one.
    let tls = secret("kubernetes.io/tls", &[("tls.crt", &root.pem), ("tls.key", &root.key), ("ca.crt", &root.pem)]);
    assert_eq!(chain(read(&tls, &place("given")).expect("fits")).len(), 2);

    let made = root::make("cluster.local").expect("made");
    let roots = format!("{}{}", root.pem, made.certificate);
    let ours = secret("nodemesh.io/ca", &[("ca.crt", &made.certificate), ("ca.key", &made.key), ("roots.pem", &roots)]);
    let chain = chain(read(&ours, &place(OWN)).expect("fits"));
    assert_eq!(chain[1..], [roots]);
}

#[test]
fn an_rsa_intermediate_signs() {
    let root = ca_of("root", None, &PKCS_RSA_SHA256, |_| {});
    let low = ca_of("low", Some(&root), &PKCS_RSA_SHA256, |_| {});
    let istio = secret(
        "Opaque",
        &[
            ("ca-cert.pem", &low.pem),
            ("ca-key.pem", &low.key),
            ("cert-chain.pem", &low.pem),
            ("root-cert.pem", &root.pem),
        ],
    );
    assert_eq!(chain(read(&istio, &place("cacerts")).expect("fits")).len(), 3);
}

#[test]
fn what_is_half_or_unfit_is_refused_by_name() {
    let root = ca("root", None, |_| {});
    let low = ca("low", Some(&root), |_| {});
    let other = ca("other", None, |_| {});
    let leaf = ca("leaf", Some(&root), |params| params.is_ca = IsCa::ExplicitNoCa);
    let strict = ca("strict", Some(&root), |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    let too_deep = ca("too deep", Some(&strict), |_| {});
    let hour = Duration::from_secs(3600);
    let old = ca("old", Some(&root), |params| params.not_after = (std::time::SystemTime::now() - hour).into());
    let given = |certificate: &str, key: &str, roots: &str| {
        secret("Opaque", &[("ca-cert.pem", certificate), ("ca-key.pem", key), ("root-cert.pem", roots)])
    };
    for (secret, why) in [
        (secret("Opaque", &[]), "Secret nodemesh-system/x: has none of the keys ca.crt, ca-cert.pem and tls.crt"),
        (Secret::default(), "Secret nodemesh-system/x: has none of the keys"),
        (secret("Opaque", &[("ca-cert.pem", &low.pem)]), "Secret nodemesh-system/x: ca-key.pem: is missing"),
        (
            secret("Opaque", &[("ca-cert.pem", &low.pem), ("ca-key.pem", &low.key)]),
            "Secret nodemesh-system/x: root-cert.pem: is missing",
        ),
        (secret("Opaque", &[("tls.crt", &low.pem)]), "has tls.crt and is not of type kubernetes.io/tls"),
        (given("", &low.key, &root.pem), "x: ca-cert.pem: holds no certificate"),
        (given("hello", &low.key, &root.pem), "x: ca-cert.pem: holds no certificate"),
        (given(&low.pem, "hello", &root.pem), "x: ca-key.pem: not a private key"),
        (given(&low.pem, &other.key, &root.pem), "x: ca-cert.pem: not the certificate of ca-key.pem"),
        (given(&leaf.pem, &leaf.key, &root.pem), "x: ca-cert.pem: not the certificate of a CA"),
        (given(&old.pem, &old.key, &root.pem), "x: ca-cert.pem: has expired"),
        (given(&low.pem, &low.key, &low.pem), "x: root-cert.pem: O=Istio, CN=low is no root"),
        (given(&low.pem, &low.key, &other.pem), "x: ca-cert.pem: what it signs is not trusted by root-cert.pem"),
        (
            given(&format!("{}{}", too_deep.pem, strict.pem), &too_deep.key, &root.pem),
            "x: ca-cert.pem: what it signs is not trusted by",
        ),
    ] {
        let error = format!("{:#}", read(&secret, &place("x")).expect_err(why));
        assert!(error.contains(why), "{error} instead of {why}");
    }
}

//! Requests for certificates by an agent whose token is good.

use std::sync::Arc;

use anyhow::{Result, ensure};
use prost_types::value::Kind;
use rcgen::{DnType, IsCa, KeyPair, PKCS_ED25519, PKCS_RSA_SHA256, SanType};
use tonic::{Code, Request};

use super::{
    identity, refused, stage,
    stage::{Ask, CART, bearer, csr, csr_of, named},
};

#[tokio::test(flavor = "multi_thread")]
async fn requests_for_what_is_not_theirs() -> Result<()> {
    let Some(stage) = stage(&[]).await? else { return Ok(()) };
    let (a, b) = (stage.agent("a").await?, stage.agent("b").await?);
    let ask = |identity: Option<Kind>, csr: String| Ask { authorization: bearer(&a), identity, csr };
    stage.ask(ask(named(CART), csr())).await?;

    for (what, wanted, code) in [
        ("an identity of another node's pod", identity("shop", "web"), "IDENTITY_NOT_HERE"),
        ("the same account of another namespace", identity("bank", "cart"), "IDENTITY_NOT_HERE"),
        ("an account of the namespace that no pod has", identity("shop", "default"), "IDENTITY_NOT_HERE"),
        ("an identity that nobody has", identity("nowhere", "nobody"), "IDENTITY_NOT_HERE"),
        ("the agents' own identity", identity("nodemesh-system", "mesh-agent"), "IDENTITY_NOT_HERE"),
        ("an identity of a pod that is not in the mesh", identity("outside", "batch"), "IDENTITY_NOT_HERE"),
        ("an identity of a pod that is only observed", identity("shop", "watcher"), "IDENTITY_NOT_HERE"),
        ("an identity of a pod in the node's network", identity("shop", "proxy"), "IDENTITY_NOT_HERE"),
        ("an account that was deleted", identity("shop", "ghost"), "IDENTITY_ACCOUNT"),
        ("another trust domain", CART.replace("cluster.local", "evil.local"), "IDENTITY_TRUST_DOMAIN"),
        ("an id that climbs out of its path", format!("{CART}/../admin"), "IDENTITY_MALFORMED"),
        ("an id with a query", format!("{CART}?sa=admin"), "IDENTITY_MALFORMED"),
        ("an id of https", CART.replace("spiffe", "https"), "IDENTITY_MALFORMED"),
        ("a wildcard as account", identity("shop", "*"), "IDENTITY_MALFORMED"),
        ("an empty id", String::new(), "IDENTITY_MALFORMED"),
    ] {
        stage.refused("X16", &format!("request for {what}"), ask(named(&wanted), csr()), code).await?;
    }
    stage.refused("X16", "request for no identity", ask(None, csr()), "IDENTITY_MALFORMED").await?;
    let number = Some(Kind::NumberValue(7.0));
    stage.refused("X16", "request for a number as identity", ask(number, csr()), "IDENTITY_MALFORMED").await?;

    let key = KeyPair::generate()?;
    let good = csr_of(&key, |_| {});
    // The last line but one is the signature's end.
    let broken = {
        let body: String = good.lines().filter(|line| !line.starts_with("---")).collect();
        let at = body.len() - 12;
        let other = if body.as_bytes()[at] == b'A' { "B" } else { "A" };
        let body = format!("{}{other}{}", &body[..at], &body[at + 1..]);
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
    };
    let weak = csr_of(&KeyPair::generate_for(&PKCS_ED25519)?, |_| {});
    let rsa = csr_of(&KeyPair::generate_for(&PKCS_RSA_SHA256)?, |_| {});
    for (what, csr, code) in [
        ("no CSR", String::new(), "CSR_MALFORMED"),
        ("a CSR that is no PEM", "hello".to_owned(), "CSR_MALFORMED"),
        ("a certificate as CSR", good.replace("CERTIFICATE REQUEST", "CERTIFICATE"), "CSR_MALFORMED"),
        ("half a CSR", good[..good.len() / 2].to_owned(), "CSR_MALFORMED"),
        ("a CSR that another key signed", broken, "CSR_SIGNATURE"),
        ("a CSR of an Ed25519 key", weak, "CSR_KEY"),
        ("a CSR of an RSA key", rsa, "CSR_KEY"),
        ("a CSR of 20 KB", "x".repeat(20 << 10), "CSR_SIZE"),
        ("a CSR of 1 MB", "x".repeat(1 << 20), "REQUEST_INVALID"),
        ("a CSR of 60 MB", "x".repeat(60 << 20), "REQUEST_INVALID"),
    ] {
        stage.refused("X16", what, ask(named(CART), csr), code).await?;
    }

    stage.ask(ask(named(CART), good.clone())).await?;
    let crawler = named(&identity("shop", "crawler"));
    stage.refused("X16", "the key of another identity", ask(crawler, good.clone()), "CSR_KEY_REUSED").await?;
    let other = Ask { authorization: bearer(&b), identity: named(&identity("shop", "web")), csr: good };
    stage.refused("X16", "the key of another node", other, "CSR_KEY_REUSED").await?;

    // What a CSR says of names and rights is not refused but ignored.
    let greedy = csr_of(&KeyPair::generate()?, |params| {
        params.subject_alt_names = [identity("shop", "admin"), CART.to_owned()]
            .map(|name| SanType::URI(name.try_into().expect("ASCII")))
            .into();
        params.subject_alt_names.push(SanType::DnsName("*.shop.svc".try_into().expect("ASCII")));
        params.distinguished_name.push(DnType::CommonName, "admin");
        params.is_ca = IsCa::NoCa;
        let bit = rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 19], vec![0x30, 3, 1, 1, 0xff]);
        params.custom_extensions.push(bit);
    });
    let chain = stage.ask(ask(named(CART), greedy)).await?;
    let leaf = stage.folder().join("leaf.pem");
    std::fs::write(&leaf, &chain[0])?;
    let text = std::process::Command::new("openssl").args(["x509", "-noout", "-text", "-in"]).arg(&leaf).output()?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    ensure!(text.contains(&format!("URI:{CART}\n")) && text.contains("CA:FALSE"), "{text}");
    ensure!(!text.contains("admin") && !text.contains("DNS:"), "{text}");
    for what in ["extra names in a CSR", "a CA bit in a CSR"] {
        refused::row("X16", what, "signed without them", "-", "the certificate, read by openssl");
    }

    let before = stage.log_length()?;
    let mut client = tonic::client::Grpc::new(stage.channel().await?);
    client.ready().await?;
    let mut request = Request::new(mesh_common::proto::auth::IstioCertificateRequest::default());
    request.metadata_mut().insert("authorization", format!("Bearer {a}").parse()?);
    let path = "/istio.v1.auth.IstioCertificateService/SignAnything".parse()?;
    let codec = tonic_prost::ProstCodec::<mesh_common::proto::auth::IstioCertificateRequest, ()>::default();
    let status = client.unary(request, path, codec).await.map(|_: tonic::Response<()>| ()).expect_err("refused");
    ensure!(status.code() == Code::Unimplemented, "{status}");
    stage.told("X16", "a method that there is not", &status, "REQUEST_INVALID", before).await
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_node_may_ask_for() -> Result<()> {
    let options = ["--certificate-burst=20", "--certificate-rate=1"];
    let Some(stage) = stage(&options).await? else { return Ok(()) };
    let stage = Arc::new(stage);
    let token = stage.agent("a").await?;
    let before = stage.log_length()?;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..60 {
        let (stage, token) = (stage.clone(), token.clone());
        asking.spawn(async move {
            stage.ask(Ask { authorization: bearer(&token), identity: named(CART), csr: csr() }).await
        });
    }
    let mut outcomes = asking.join_all().await;
    let signed = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
    ensure!((20..=30).contains(&signed), "{signed} of 60 were signed");
    outcomes.retain(Result::is_err);
    let status = outcomes.pop().and_then(Result::err).expect("there are some");
    let again = status.metadata().get("grpc-retry-pushback-ms").and_then(|ms| ms.to_str().ok()?.parse::<u64>().ok());
    ensure!(again.is_some_and(|ms| ms <= 1000), "{again:?}: {status}");
    ensure!(status.code() == Code::ResourceExhausted, "{status}");
    stage.told("X16", "60 requests at once of a node that may ask for 20", &status, "RATE_LIMITED", before).await?;
    // Others are served meanwhile.
    let (authorization, identity) = (bearer(&stage.agent("b").await?), named(&identity("shop", "web")));
    stage.ask(Ask { authorization, identity, csr: csr() }).await?;
    Ok(())
}

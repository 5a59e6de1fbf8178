//! Certificates and TLS that no peer may get away with, tried on a real agent.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Result, ensure};
use mesh_tests::{
    forge::{self, Forged},
    rogue::Attempt,
};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};

use crate::rogue::{Attack, Stage};

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn certificates_that_prove_nothing() -> Result<()> {
    let stage = Stage::new("refused certificates")?;
    let own = stage.cast.client.identity();
    let uri = |text: &str| SanType::URI(text.try_into().expect("ASCII"));
    let dns = |text: &str| SanType::DnsName(text.try_into().expect("ASCII"));
    let mut attacks = Vec::new();
    let mut add = |id, what: &str, code, with: Forged| {
        attacks.push(Attack { id, what: format!("a client with {what}"), attempt: stage.attempt(&with), code });
    };
    let bent = |bend: &dyn Fn(&mut CertificateParams)| stage.forge.leaf(&own, bend);
    let named = |names: Vec<SanType>| bent(&|params| params.subject_alt_names.clone_from(&names));

    let stranger = "spiffe://evil.local/ns/shop/sa/client";
    add("X12", "an id of another trust domain", "CERT_TRUST_DOMAIN", named(vec![uri(stranger)])?);
    for (what, id) in [
        ("/.. behind its id", format!("{own}/..")),
        ("a slash behind its id", format!("{own}/")),
        ("a query behind its id", format!("{own}?x=y")),
        ("a fragment behind its id", format!("{own}#x")),
        ("%61 in its id", own.replace("client", "%63lient")),
        ("upper case in its id", own.replace("shop", "Shop")),
        ("a port in its trust domain", own.replace("cluster.local", "cluster.local:443")),
        ("a user in its trust domain", own.replace("cluster.local", "x@cluster.local")),
        ("a wildcard as namespace", own.replace("shop", "*")),
        ("a NUL in its id", format!("{own}\0.evil")),
        ("an empty service account", own.replace("client", "")),
        ("https instead of spiffe", own.replace("spiffe:", "https:")),
    ] {
        add("X12", what, "CERT_BAD_IDENTITY", named(vec![uri(&id)])?);
    }
    let other = uri("spiffe://cluster.local/ns/shop/sa/admin");
    for (what, names) in [
        ("two URIs", vec![uri(&own), other]),
        ("the same URI twice", vec![uri(&own), uri(&own)]),
        ("a URI and a DNS name", vec![uri(&own), dns("client.shop.svc")]),
        ("a DNS name only", vec![dns("client.shop.svc")]),
        ("a DNS wildcard only", vec![dns("*.shop.svc")]),
        ("an IP address only", vec![SanType::IpAddress([10, 244, 1, 10].into())]),
    ] {
        add("X12", what, "CERT_BAD_IDENTITY", named(names)?);
    }
    let common_name = bent(&|params| {
        params.subject_alt_names.clear();
        params.distinguished_name.push(DnType::CommonName, own.as_str());
    })?;
    add("X12", "its id as common name only", "CERT_BAD_IDENTITY", common_name);
    add("X12", "CA:TRUE", "CERT_INVALID", bent(&|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))?);
    add(
        "X12",
        "the right to sign certificates",
        "CERT_INVALID",
        bent(&|p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign])?,
    );
    for (what, purposes) in [
        ("no extended key usage", vec![]),
        ("a purpose of servers only", vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ("any purpose", vec![ExtendedKeyUsagePurpose::Any]),
        ("the purpose of signing code", vec![ExtendedKeyUsagePurpose::CodeSigning]),
    ] {
        add("X12", what, "CERT_PURPOSE", bent(&|p| p.extended_key_usages.clone_from(&purposes))?);
    }
    let folder = stage.cast.world.root();
    add("X12", "a signature with SHA-1", "CERT_BAD_SIGNATURE", openssl(&stage, folder, &own, "ec", "-sha1")?);
    add("X12", "an RSA key of 1024 bits", "CERT_WEAK_KEY", openssl(&stage, folder, &own, "rsa", "-sha256")?);

    let end = SystemTime::now() - HOUR;
    add("X13", "a certificate that is over", "CERT_EXPIRED", bent(&|p| p.not_after = end.into())?);
    let start = SystemTime::now() + HOUR;
    add("X13", "a certificate that is not valid yet", "CERT_NOT_YET_VALID", bent(&|p| p.not_before = start.into())?);
    add("X13", "a certificate that signs itself", "CERT_UNKNOWN_ISSUER", forge::self_signed(&own)?);
    let old = stage.forge.impostor()?;
    let of_old = old.leaf(&own, |_| {})?;
    add("X13", "a root that is not trusted (any more)", "CERT_UNKNOWN_ISSUER", of_old.clone());
    let with_root = Forged { chain: format!("{}{}", of_old.chain, old.root), key: of_old.key };
    add("X13", "a strange root that it brings along", "CERT_UNKNOWN_ISSUER", with_root);
    let good = bent(&|_| {})?;
    let long = Forged { chain: good.chain.repeat(101), key: good.key.clone() };
    add("X13", "100 certificates more than one", "CERT_CHAIN_TOO_LONG", long);
    let mixed = Forged { chain: good.chain, key: stage.stolen(&stage.cast.near)?.key };
    add("X12", "a certificate and the key of another one", "CERT_BAD_SIGNATURE", mixed);
    stage.refused(&attacks)?;
    Ok(())
}

#[test]
fn tls_that_proves_nothing() -> Result<()> {
    let stage = Stage::new("refused tls")?;
    let stolen = stage.stolen(&stage.cast.client)?;
    let attack = |what: &str, code, change: &dyn Fn(&mut Attempt)| {
        let mut attempt = stage.attempt(&stolen);
        change(&mut attempt);
        Attack { id: "X15", what: what.to_owned(), attempt, code }
    };
    let attacks = [
        attack("TLS 1.2", "TLS_VERSION", &|a| a.old_tls = true),
        attack("no client certificate", "NO_CLIENT_CERTIFICATE", &|a| a.chain.clear()),
        attack("ALPN http/1.1", "ALPN_MISMATCH", &|a| a.alpn = vec!["http/1.1".into()]),
        attack("ALPN h2c", "ALPN_MISMATCH", &|a| a.alpn = vec!["h2c".into()]),
        attack("no ALPN", "ALPN_MISMATCH", &|a| a.alpn.clear()),
    ];
    stage.refused(&attacks)?;

    // Bytes that are no TLS at all.
    let far = &stage.cast.far;
    for (what, text) in [
        ("HTTP/2 without TLS on the tunnel's port", "PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n"),
        ("HTTP/1.1 without TLS on the tunnel's port", "CONNECT 10.244.2.10:7000 HTTP/1.1\\r\\n\\r\\n"),
        ("half a handshake, then the end", "\u{16}\u{3}\u{1}"),
    ] {
        let report = stage.rogue.say(far.at(15008), text)?;
        let from = report.local.map(|local| local.to_string()).unwrap_or_default();
        let of_it = |flow: &mesh_tests::Flow| flow.source.address == from && flow.reason == "TLS_FAILURE";
        let flow = stage.cast.world.flow(far.node, what, of_it)?;
        ensure!(flow.verdict == "dropped" && !report.text.contains("HTTP"), "{flow:?} {report:?}");
        let seen = format!("{:?} after {} bytes", report.end, report.received);
        mesh_tests::refused::row("X15", what, &seen, "TLS_FAILURE", "flow of node b");
    }
    Ok(())
}

/// What this crate's own signer refuses to make: a leaf with a key and a digest of openssl's. The key that is presented
/// with an RSA leaf is another one, since the client's library refuses the real one; the leaf is judged before.
fn openssl(stage: &Stage, folder: &Path, identity: &str, kind: &str, digest: &str) -> Result<Forged> {
    let file = |name: &str| folder.join(format!("openssl-{kind}-{name}"));
    let text = |name: &str| file(name).display().to_string();
    let usage = "basicConstraints=critical,CA:FALSE\nextendedKeyUsage=serverAuth,clientAuth\n";
    fs::write(file("extensions"), format!("{usage}subjectAltName=critical,URI:{identity}\n"))?;
    let ca = folder.join("controller/ca");
    let (root, root_key) = (ca.join("ca.crt").display().to_string(), ca.join("ca.key").display().to_string());
    let new: &[&str] = match kind {
        "rsa" => &["rsa:1024"],
        _ => &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
    };
    let (key, request, leaf, extensions) = (text("key"), text("request"), text("leaf"), text("extensions"));
    let ask = [&["req", "-new", "-newkey"], new, &["-nodes", "-subj", "/", "-keyout", &key, "-out", &request]].concat();
    let sign = [
        "x509",
        "-req",
        digest,
        "-days",
        "1",
        "-in",
        &request,
        "-CA",
        &root,
        "-CAkey",
        &root_key,
        "-set_serial",
        "77",
        "-extfile",
        &extensions,
        "-out",
        &leaf,
    ];
    for arguments in [&ask[..], &sign[..]] {
        let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
        let output = stage.rogue.output(&mesh_tests::installed("openssl")?, &arguments, Duration::from_secs(10))?;
        ensure!(output.status.success(), "openssl: {}", String::from_utf8_lossy(&output.stderr));
    }
    let key = if kind == "rsa" { stage.stolen(&stage.cast.client)?.key } else { fs::read_to_string(file("key"))? };
    Ok(Forged { chain: fs::read_to_string(file("leaf"))?, key })
}

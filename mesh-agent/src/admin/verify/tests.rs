//! What is concluded of a session and its packets.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use http::StatusCode;

use super::*;
use crate::{capture::Packet, identity::Peer, tunnel::TlsFacts};

const SOURCE: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const DESTINATION: &str = "spiffe://cluster.local/ns/shop/sa/web";
const OWN: [u8; MARKER] = [7; MARKER];

fn key() -> PoolKey {
    let identity = |text: &str| text.parse().expect("an identity");
    let address = "10.2.0.9:15008".parse().expect("an address");
    PoolKey { source_pod: "p".into(), source: identity(SOURCE), destination: identity(DESTINATION), address }
}

fn probed(answer: Result<Vec<u8>, TunnelError>) -> Result<Probed, TunnelError> {
    let now = SystemTime::now();
    let peer = Peer {
        identity: DESTINATION.parse().expect("an identity"),
        serial: "1".into(),
        not_before: now,
        not_after: now + Duration::from_secs(60),
    };
    Ok(Probed { tls: TlsFacts { version: "TLSv1_3", cipher: "TLS13_AES_256_GCM_SHA384" }, peer, answer })
}

fn echo() -> Vec<u8> {
    [&OWN[..], SOURCE.as_bytes()].concat()
}

/// As it should be; a link towards the peer comes from packets alone.
fn seen() -> Seen {
    let ends = Ends { client: "10.1.0.7:40000".parse().expect("an address"), server: key().address };
    let packet = |outgoing: bool| {
        let (from, to) = if outgoing { (ends.client, ends.server) } else { (ends.server, ends.client) };
        let octets = |end: SocketAddr| match end.ip() {
            std::net::IpAddr::V4(ip) => ip.octets(),
            std::net::IpAddr::V6(_) => [0; 4],
        };
        let mut bytes = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
        bytes.extend([octets(from), octets(to)].concat());
        bytes.extend([from.port().to_be_bytes(), to.port().to_be_bytes()].concat());
        bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
        Packet { link: 2, is_outgoing: outgoing, protocol: 0x0800, bytes }
    };
    let links = capture::read(&[packet(true), packet(false)], ends, &OWN).links;
    Seen { links, fault: None, ..Seen::default() }
}

fn outcome(probed: &Result<Probed, TunnelError>, seen: &Seen, names: (&str, &str), lost: u32) -> (Outcome, String) {
    let names = (names.0.to_owned(), names.1.to_owned());
    let found = judged(&key(), probed, seen, &names, lost, &OWN);
    (found.outcome(), found.reason)
}

const NAMES: (&str, &str) = ("TLSv1_3", "TLS13_AES_256_GCM_SHA384");

#[test]
fn all_must_agree() {
    let good = probed(Ok(echo()));
    assert_eq!(outcome(&good, &seen(), NAMES, 0), (Outcome::Encrypted, String::new()));
    let broken = |probed: &Result<Probed, TunnelError>, seen: &Seen, names: (&str, &str)| {
        outcome(probed, seen, names, 0).0 == Outcome::Broken
    };
    assert!(broken(&good, &Seen { marker_in_clear: true, ..seen() }, NAMES));
    assert!(broken(&good, &Seen { fault: Some("no TLS".into()), ..seen() }, NAMES));
    assert!(broken(&good, &seen(), ("TLSv1_3", "TLS13_AES_128_GCM_SHA256")), "somebody else's session");
    assert!(broken(&good, &seen(), ("", "")));
    assert!(broken(&probed(Ok(vec![1; MARKER])), &seen(), NAMES), "another marker");
    assert!(broken(&probed(Ok(Vec::new())), &seen(), NAMES));
    let other = probed(Ok([&OWN[..], DESTINATION.as_bytes()].concat()));
    assert_eq!(outcome(&other, &seen(), NAMES, 0), (Outcome::Broken, "IDENTITY_ERROR".into()));
}

#[test]
fn what_was_not_seen_is_not_claimed() {
    let good = probed(Ok(echo()));
    let nowhere = Seen { links: BTreeMap::new(), ..seen() };
    assert_eq!(outcome(&good, &nowhere, NAMES, 0).0, Outcome::Unproven);
    assert_eq!(outcome(&good, &seen(), NAMES, 1).0, Outcome::Unproven);
    // But what was seen in the clear is no doubt.
    assert_eq!(outcome(&good, &Seen { marker_in_clear: true, ..nowhere }, NAMES, 1).0, Outcome::Broken);
}

#[test]
fn refusals_keep_their_code() {
    let refused = |status, reason: &str| {
        probed(Err(TunnelError::Refused { address: key().address, status, reason: reason.into() }))
    };
    let of = |probed| outcome(&probed, &seen(), NAMES, 0);
    assert_eq!(of(refused(StatusCode::FORBIDDEN, "POLICY_DENY")), (Outcome::Denied, "POLICY_DENY".into()));
    assert_eq!(of(refused(StatusCode::FORBIDDEN, "<b>")), (Outcome::Denied, "PEER_REFUSED".into()));
    assert_eq!(of(refused(StatusCode::BAD_REQUEST, "HBONE_PORT")), (Outcome::Unproven, "HBONE_PORT".into()));
    assert_eq!(of(refused(StatusCode::SERVICE_UNAVAILABLE, "CONNECT")).0, Outcome::Broken);
    let failed = Err(TunnelError::Alpn(key().address));
    assert_eq!(of(failed), (Outcome::Broken, "ALPN_MISMATCH".into()));
}

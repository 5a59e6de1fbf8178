//! `meshctl verify mtls`: one connection of this agent's own from a pod of its node to another pod, captured on the
//! node's links while it carries a marker. What is said of TLS is read from the packets; identities come from the
//! session, since TLS 1.3 shows nobody else a certificate.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use bytes::Bytes;
use mesh_common::{
    model::{Connection, Tunnel, Workload},
    proto::nodemesh::{CapturedLink, Verification, VerifyQuery, item, verification::Outcome},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{Admin, Answer};
use crate::{
    capture::{self, Capture, Captured, Ends, Seen},
    identity::Certificate,
    pods::Pod,
    proxy::{self, Proxy},
    state::Snapshot,
    telemetry::reason,
    tunnel::{self, PoolKey, PoolSettings, Probed, TunnelError},
};

/// For each of dialling, the handshake and the answer; `WHOLE` for all of it.
const EACH: Duration = Duration::from_secs(2);
const WHOLE: Duration = Duration::from_secs(5);
/// What was sent last is on its links by then.
const SETTLES: Duration = Duration::from_millis(50);
const MARKER: usize = 32;

/// One answer, or none if the source is no pod of this node.
pub fn answer(admin: &Admin, query: VerifyQuery) -> Answer {
    let (proxy, node) = (Arc::clone(&admin.proxy), admin.node.clone());
    let (send, receive) = mpsc::channel(1);
    tokio::spawn(async move {
        let answer = tokio::select! {
            answer = tokio::time::timeout(WHOLE, verified(&proxy, &node, &query)) => answer,
            // Nobody wants to know any more.
            () = send.closed() => return,
        };
        let late = |_| Err(Status::deadline_exceeded(format!("no end within {} s", WHOLE.as_secs())));
        let item = match answer.unwrap_or_else(late) {
            Ok(None) => return,
            Ok(Some(found)) => {
                Ok(mesh_common::proto::nodemesh::Item { node, kind: Some(item::Kind::Verification(found)) })
            }
            Err(status) => Err(status),
        };
        let _ = send.send(item).await;
    });
    Box::pin(ReceiverStream::new(receive))
}

async fn verified(proxy: &Arc<Proxy>, node: &str, query: &VerifyQuery) -> Result<Option<Verification>, Status> {
    let snapshot = proxy.store.snapshot();
    let (namespace, name) = named("source", &query.source)?;
    let Some(source) = snapshot.workload_by_name(namespace, name).filter(|source| source.node == node) else {
        return Ok(None);
    };
    let (namespace, name) = named("destination", &query.destination)?;
    // Of other nodes' pods it may know those alone that somebody has dialled.
    let dial = if snapshot.is_on_demand() { " on this node; to be told of it, dial it once" } else { "" };
    let missing = || Status::not_found(format!("destination: no pod {} is known{dial}", query.destination));
    let destination = snapshot.workload_by_name(namespace, name).ok_or_else(missing)?;
    let port = port(query, destination)?;
    Ok(Some(Verification { port: port.into(), ..between(proxy, node, &snapshot, (source, destination), port).await? }))
}

fn named<'a>(field: &str, name: &'a str) -> Result<(&'a str, &'a str), Status> {
    name.split_once('/')
        .ok_or_else(|| Status::invalid_argument(format!("{field}: `{name}` is not of the form namespace/pod")))
}

fn port(query: &VerifyQuery, destination: &Workload) -> Result<u16, Status> {
    if query.port != 0 {
        let port = u16::try_from(query.port).ok();
        return port.ok_or_else(|| Status::invalid_argument(format!("port: {} is not a port", query.port)));
    }
    let ports = destination.services.values().flatten().map(|port| port.target);
    ports.filter(|port| *port != 0).min().ok_or_else(|| {
        Status::invalid_argument(format!("port: is missing, and no service leads to {}", query.destination))
    })
}

/// Both are pods that somebody knows, the first one of this node.
async fn between(
    proxy: &Arc<Proxy>,
    node: &str,
    snapshot: &Snapshot,
    (source, destination): (&Arc<Workload>, &Arc<Workload>),
    port: u16,
) -> Result<Verification, Status> {
    for (workload, whose) in [(source, "source"), (destination, "destination")] {
        if workload.tunnel == Tunnel::None {
            let name = format!("{}/{}", workload.namespace, workload.name);
            let why =
                format!("the {whose} {name} is not in the mesh: what is said between them is plaintext on the wire");
            return Ok(found(Outcome::InPlaintext, "", why));
        }
    }
    let Some(pod) = proxy.pods.by_uid(&source.uid) else {
        return Ok(found(Outcome::Broken, "", "the source is not redirected on its node: see `meshctl status`".into()));
    };
    let like = destination.addresses.iter().find(|ip| pod.ips.like(**ip).is_some());
    let Some(ip) = like else {
        return Ok(found(Outcome::Broken, reason::CONNECT, "the two have no address of one family".into()));
    };
    let target = SocketAddr::new(*ip, port);
    let tls_here = [&source.uid, &destination.uid].iter().any(|uid| snapshot.same_node_tls(uid));
    if destination.node == node && !tls_here && !snapshot.reads(destination, port) {
        return Ok(within_the_node(snapshot, source, destination, target));
    }
    let Some(certificate) = proxy.certificates.current(&pod.identity) else {
        let why = format!("no valid certificate for {}", pod.identity);
        return Ok(found(Outcome::Broken, reason::NO_CERTIFICATE, why));
    };
    on_the_wire(proxy, &pod, &certificate, destination, target).await
}

/// No packet of theirs is TLS, and none leaves the node.
fn within_the_node(snapshot: &Snapshot, source: &Workload, destination: &Workload, target: SocketAddr) -> Verification {
    let source_ip = source.addresses.first().copied().unwrap_or(target.ip());
    let source_identity = Some(source.identity.clone());
    let connection = Connection { source_identity, source_ip, destination: target };
    let decision = snapshot.decide(destination, &connection, snapshot.passed_at_first(destination, target.port()));
    let identities = |found| Verification {
        source_identity: source.identity.to_string(),
        destination_identity: destination.identity.to_string(),
        ..found
    };
    identities(match decision.outcome {
        Ok(_) => found(
            Outcome::Attested,
            "",
            "both are on this node: nothing leaves it; the kernel attests who dials, and there is no TLS on any wire"
                .into(),
        ),
        Err(denied) => found(Outcome::Denied, denied.reason.code(), denied.to_string()),
    })
}

async fn on_the_wire(
    proxy: &Arc<Proxy>,
    pod: &Arc<Pod>,
    certificate: &Arc<Certificate>,
    destination: &Workload,
    target: SocketAddr,
) -> Result<Verification, Status> {
    let hbone = SocketAddr::new(target.ip(), proxy.hbone_port);
    let key = PoolKey {
        source_pod: pod.key(),
        source: pod.identity.clone(),
        destination: destination.identity.clone(),
        address: hbone,
    };
    let mut marker = [0; MARKER];
    SystemRandom::new().fill(&mut marker).map_err(|_| Status::internal("the system gives no random bytes"))?;
    let bound = proxy::bound_for_tunnel(pod, hbone)
        .map_err(|error| Status::unavailable(format!("no socket in the source's network: {error}")))?;
    let ends = Ends { client: bound.local, server: hbone };
    let capture = Capture::start(ends).map_err(|error| no_capture(&error))?;
    let settings = PoolSettings {
        connect_timeout: EACH,
        handshake_timeout: EACH,
        answer_timeout: EACH,
        ..PoolSettings::default()
    };
    let sent = Bytes::copy_from_slice(&marker);
    let probed = tunnel::probe(&key, certificate, &settings, bound.dial(hbone), ends.client, target.port(), sent).await;
    tokio::time::sleep(SETTLES).await;
    let Captured { packets, lost } = capture.take().map_err(|error| no_capture(&error))?;
    let seen = capture::read(&packets, ends, &marker);
    let chosen = seen.chosen.map(capture::Chosen::names).unwrap_or_default();
    let mut answer = judged(&key, &probed, &seen, &chosen, lost, &marker);
    answer.source_identity = pod.identity.to_string();
    answer.source_not_after = Some(certificate.not_after().into());
    if let Ok(Probed { peer, .. }) = &probed {
        answer.destination_identity = peer.identity.to_string();
        answer.destination_not_after = Some(peer.not_after.into());
    }
    answer.marker_arrived = echoed(&probed, &marker).is_some();
    answer.marker_in_clear = seen.marker_in_clear;
    (answer.client, answer.server) = (ends.client.to_string(), ends.server.to_string());
    (answer.tls_version, answer.tls_cipher) = chosen;
    answer.offered_versions = seen.offered.iter().map(|version| capture::version_name(*version)).collect();
    answer.encrypted_records = seen.encrypted;
    let link = |(index, link): (&u32, &capture::Link)| CapturedLink {
        name: capture.link(*index).unwrap_or_else(|| format!("#{index}")),
        packets: link.packets,
        bytes: link.bytes,
        towards_peer: link.is_towards_peer(),
    };
    answer.links = seen.links.iter().map(link).collect();
    Ok(answer)
}

fn no_capture(error: &io::Error) -> Status {
    match error.kind() {
        io::ErrorKind::PermissionDenied => Status::failed_precondition(
            "the agent may not capture: its container lacks the capability NET_RAW (see manifests/README.md)",
        ),
        _ => Status::unavailable(format!("nothing can be captured: {error}")),
    }
}

fn found(outcome: Outcome, reason: &str, message: String) -> Verification {
    Verification { outcome: outcome.into(), reason: reason.to_owned(), message, ..Verification::default() }
}

/// What the peer wrote behind the marker, if that came back.
fn echoed<'a>(probed: &'a Result<Probed, TunnelError>, marker: &[u8]) -> Option<&'a [u8]> {
    probed.as_ref().ok()?.answer.as_ref().ok()?.strip_prefix(marker)
}

/// What the session says is worth nothing where the wire says otherwise.
fn judged(
    key: &PoolKey,
    probed: &Result<Probed, TunnelError>,
    seen: &Seen,
    (version, cipher): &(String, String),
    lost: u32,
    marker: &[u8],
) -> Verification {
    let probed = match probed {
        Ok(probed) => probed,
        Err(error) => {
            let wire = seen.fault.as_ref().map(|fault| format!("; on the wire: {fault}")).unwrap_or_default();
            return found(Outcome::Broken, error.code(), format!("{error}{wire}"));
        }
    };
    let towards = seen.links.values().any(capture::Link::is_towards_peer);
    if seen.marker_in_clear {
        return found(Outcome::Broken, reason::TLS_FAILURE, "the marker is on the wire as it was written".into());
    }
    if !towards || lost > 0 {
        let why = match lost {
            0 => "no link was seen on which its packets leave towards the peer".to_owned(),
            lost => format!("{lost} packets could not be kept"),
        };
        return found(Outcome::Unproven, "", format!("the connection is TLS, says this end of it; {why}"));
    }
    if let Some(fault) = &seen.fault {
        return found(Outcome::Broken, reason::TLS_FAILURE, format!("on the wire it is not TLS 1.3: {fault}"));
    }
    if (version.as_str(), cipher.as_str()) != (probed.tls.version, probed.tls.cipher) {
        let own = format!("{} {}", probed.tls.version, probed.tls.cipher);
        let why = format!("the wire shows {version} {cipher}, and this end speaks {own}");
        return found(Outcome::Broken, reason::TLS_FAILURE, why);
    }
    match &probed.answer {
        Err(TunnelError::Refused { reason: why, status, .. }) if why == reason::HBONE_PORT => found(
            Outcome::Unproven,
            reason::HBONE_PORT,
            format!("TLS on the wire; the destination's agent is older and does not know the question ({status})"),
        ),
        Err(TunnelError::Refused { reason: why, status, .. }) if matches!(status.as_u16(), 401 | 403) => {
            let code = reason::known(why).unwrap_or(reason::PEER_REFUSED);
            found(Outcome::Denied, code, format!("TLS on the wire, and the destination's agent denies it: {why}"))
        }
        Err(error) => found(Outcome::Broken, error.code(), format!("TLS on the wire, but no answer: {error}")),
        Ok(answer) => match answer.strip_prefix(marker) {
            None => found(Outcome::Broken, reason::TLS_FAILURE, "another marker came back than was sent".into()),
            Some(own) if own != key.source.to_string().as_bytes() => {
                let own: String = String::from_utf8_lossy(own).chars().take(128).collect();
                let why = format!("the destination's agent has seen {own:?} as its client");
                found(Outcome::Broken, reason::IDENTITY_ERROR, why)
            }
            Some(_) => found(
                Outcome::Encrypted,
                "",
                "every captured byte of it is TLS 1.3; the marker arrived, and is not to be read on the wire".into(),
            ),
        },
    }
}

#[cfg(test)]
mod tests;

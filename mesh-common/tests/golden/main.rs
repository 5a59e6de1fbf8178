//! Bytes written by hand from the public field numbers, never by the encoder: they pin what peers read and write.
//! A field's first byte is `number << 3 | type` (type 0: varint, 2: length and bytes); from 16 on it takes two bytes.

mod address;
mod authorization;
mod control;
mod local_pod;

use mesh_common::proto::{nodemesh, security, workload};
use prost::Message;

/// The bytes decode to the message, and the message encodes to the bytes.
#[track_caller]
fn golden<M: Message + Default + PartialEq + std::fmt::Debug>(parts: &[&[u8]], message: M) {
    let bytes = parts.concat();
    assert_eq!(M::decode(bytes.as_slice()).expect("decodes"), message);
    assert_eq!(message.encode_to_vec(), bytes);
}

#[test]
fn the_numbers_of_every_enum() {
    use workload::{AppProtocol, load_balancing::Mode};
    let protocols = [
        AppProtocol::Unknown,
        AppProtocol::Http11,
        AppProtocol::Http2,
        AppProtocol::Grpc,
        AppProtocol::Tcp,
        AppProtocol::Tls,
    ];
    assert_eq!(protocols.map(i32::from), [0, 1, 2, 3, 4, 5]);
    assert_eq!([Mode::UnspecifiedMode, Mode::Strict, Mode::Failover, Mode::Passthrough].map(i32::from), [0, 1, 2, 3]);
    assert_eq!([workload::TunnelProtocol::None, workload::TunnelProtocol::Hbone].map(i32::from), [0, 1]);
    assert_eq!([workload::WorkloadStatus::Healthy, workload::WorkloadStatus::Unhealthy].map(i32::from), [0, 1]);
    assert_eq!([workload::NetworkMode::Standard, workload::NetworkMode::HostNetwork].map(i32::from), [0, 1]);
    let scopes = [security::Scope::Global, security::Scope::Namespace, security::Scope::WorkloadSelector];
    assert_eq!(scopes.map(i32::from), [0, 1, 2]);
    let modes = [nodemesh::Mode::None, nodemesh::Mode::Mesh, nodemesh::Mode::Observe];
    assert_eq!(modes.map(i32::from), [0, 1, 2]);
    assert_eq!([security::Action::Allow, security::Action::Deny].map(i32::from), [0, 1]);
}

//! Bytes of `nodemesh.v1.LocalPod`.

use mesh_common::{
    model::{self, SameNode},
    proto::nodemesh::{LocalPod, Mode},
};

use super::golden;

#[test]
fn local_pod_with_every_field() {
    let message = LocalPod {
        uid: "u".into(),
        namespace: "shop".into(),
        name: "cart".into(),
        service_account: "sa".into(),
        addresses: vec![vec![10, 0, 0, 1]],
        mode: Mode::Observe.into(),
        pod_uid: "p".into(),
        strict_by: "a/b".into(),
        probe_ports: vec![80],
        same_node_tls: true,
        inbound: br#"{"protocols":{"80":"http"}}"#.to_vec(),
        telemetry: br#"{"requests":"seen"}"#.to_vec(),
    };
    golden(
        &[
            b"\x0a\x01u",                                 // 1 uid
            b"\x12\x04shop",                              // 2 namespace
            b"\x1a\x04cart",                              // 3 name
            b"\x22\x02sa",                                // 4 service_account
            b"\x2a\x04\x0a\x00\x00\x01",                  // 5 addresses, 10.0.0.1
            b"\x30\x02",                                  // 6 mode OBSERVE
            b"\x3a\x01p",                                 // 7 pod_uid
            b"\x42\x03a/b",                               // 8 strict_by
            b"\x4a\x01\x50",                              // 9 probe_ports 80, packed
            b"\x50\x01",                                  // 10 same_node_tls
            b"\x5a\x1b{\"protocols\":{\"80\":\"http\"}}", // 11 inbound
            b"\x62\x13{\"requests\":\"seen\"}",           // 12 telemetry
        ],
        message.clone(),
    );
    let pod = model::LocalPod::try_from(message.clone()).expect("a pod");
    assert_eq!((pod.mode, pod.same_node), (model::Mode::Observe, SameNode::Tls));
    assert_eq!(pod.telemetry.requests, model::telemetry::Requests::Seen);
    assert_eq!(LocalPod::from(&pod), message);
    assert_eq!(model::LocalPod::try_from(LocalPod { mode: 3, ..message }).expect_err("no mode").field, "mode");
}

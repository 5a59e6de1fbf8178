//! Bytes of discovery and certificates.

use mesh_common::proto::{auth, core, discovery, rpc};

use super::golden;

#[test]
fn certificate_request_and_response() {
    let identity = prost_types::value::Kind::StringValue("spiffe://t/ns/a/sa/b".into());
    let fields = [("ImpersonatedIdentity".to_owned(), prost_types::Value { kind: Some(identity) })];
    golden(
        &[
            b"\x0a\x03csr",                          // 1 csr
            b"\x18\x90\x1c",                         // 3 validity_duration 3600
            b"\x22\x30",                             // 4 metadata, a Struct of 48 bytes:
            b"\x0a\x2e",                             //   1 fields, one entry of 46 bytes:
            b"\x0a\x14ImpersonatedIdentity",         //     1 key
            b"\x12\x16\x1a\x14spiffe://t/ns/a/sa/b", //    2 value { 3 string_value }
        ],
        auth::IstioCertificateRequest {
            csr: "csr".into(),
            validity_duration: 3600,
            metadata: Some(prost_types::Struct { fields: fields.into() }),
        },
    );
    golden(
        &[b"\x0a\x04leaf", b"\x0a\x04root"], // 1 cert_chain, twice
        auth::IstioCertificateResponse { cert_chain: vec!["leaf".into(), "root".into()] },
    );
}

#[test]
fn delta_request() {
    golden(
        &[
            b"\x0a\x07\x0a\x02id\x12\x01c", // 1 node { 1 id, 2 cluster }
            b"\x12\x01t",                   // 2 type_url
            b"\x1a\x01a\x1a\x01b",          // 3 resource_names_subscribe, twice
            b"\x22\x01*",                   // 4 resource_names_unsubscribe
            b"\x2a\x06\x0a\x01n\x12\x01v",  // 5 initial_resource_versions, one entry { 1 key, 2 value }
            b"\x32\x01o",                   // 6 response_nonce
            b"\x3a\x07\x08\x03\x12\x03bad", // 7 error_detail { 1 code INVALID_ARGUMENT, 2 message }
        ],
        discovery::DeltaDiscoveryRequest {
            node: Some(core::Node { id: "id".into(), cluster: "c".into(), metadata: None }),
            type_url: "t".into(),
            resource_names_subscribe: vec!["a".into(), "b".into()],
            resource_names_unsubscribe: vec!["*".into()],
            initial_resource_versions: [("n".to_owned(), "v".to_owned())].into(),
            response_nonce: "o".into(),
            error_detail: Some(rpc::Status { code: 3, message: "bad".into(), details: vec![] }),
        },
    );
    // The node's facts: 3 metadata, a Struct { 1 fields { 1 key, 2 value { 3 string_value } } }.
    let name = prost_types::Value { kind: Some(prost_types::value::Kind::StringValue("n1".into())) };
    let metadata = prost_types::Struct { fields: [("NODE_NAME".to_owned(), name)].into() };
    golden(
        &[b"\x1a\x13\x0a\x11\x0a\x09NODE_NAME\x12\x04\x1a\x02n1"],
        core::Node { metadata: Some(metadata), ..Default::default() },
    );
}

#[test]
fn delta_response() {
    golden(
        &[
            b"\x0a\x02v9",                         // 1 system_version_info
            b"\x12\x15",                           // 2 resources, one Resource of 21 bytes:
            b"\x0a\x01v",                          //   1 version
            b"\x12\x08\x0a\x01t\x12\x03\x0a\x01u", //   2 resource, an Any { 1 type_url, 2 value }
            b"\x1a\x01n",                          //   3 name
            b"\x22\x03a/1",                        //   4 aliases
            b"\x22\x01t",                          // 4 type_url
            b"\x2a\x01o",                          // 5 nonce
            b"\x32\x01r\x32\x01s",                 // 6 removed_resources, twice
        ],
        discovery::DeltaDiscoveryResponse {
            system_version_info: "v9".into(),
            resources: vec![discovery::Resource {
                version: "v".into(),
                resource: Some(prost_types::Any { type_url: "t".into(), value: b"\x0a\x01u".to_vec() }),
                name: "n".into(),
                aliases: vec!["a/1".into()],
            }],
            type_url: "t".into(),
            nonce: "o".into(),
            removed_resources: vec!["r".into(), "s".into()],
        },
    );
}

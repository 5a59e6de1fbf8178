//! Certificates: asked for with the right words, refused with understandable ones.

use std::time::Duration;

use mesh_common::model::Identity;
use tonic::{Code, Status};

use super::world::{Mute, World};
use crate::control::{ca::CaError, channel::ConnectError};

fn cart() -> Identity {
    Identity::new("cluster.local", "shop", "cart").expect("an identity")
}

#[tokio::test]
async fn asks_in_the_name_of_the_workload_with_the_token() {
    let world = World::with_ca(|metadata, request| {
        assert_eq!(metadata.get("authorization").expect("a token"), "Bearer nm1.n1.secret");
        assert_eq!((request.csr.as_str(), request.validity_duration), ("a csr", 3600));
        let fields = request.metadata.expect("metadata").fields;
        let want = prost_types::value::Kind::StringValue("spiffe://cluster.local/ns/shop/sa/cart".into());
        assert_eq!(fields["ImpersonatedIdentity"].kind, Some(want));
        Ok(vec!["leaf".into(), "root".into()])
    })
    .await;
    let control = world.start(Mute);
    let chain = control.ca.sign(&cart(), "a csr".into(), Duration::from_secs(3600)).await.expect("signed");
    assert_eq!(chain, ["leaf", "root"]);
}

#[tokio::test]
async fn says_whether_to_retry() {
    let world = World::with_ca(|_, request| match request.csr.as_str() {
        "empty" => Ok(vec![]),
        "refused" => Err(Status::permission_denied("no pod of shop/cart runs on n1")),
        _ => Err(Status::new(Code::Unavailable, "starting")),
    })
    .await;
    let control = world.start(Mute);
    let sign = |csr: &str| {
        let (ca, csr) = (control.ca.clone(), csr.to_owned());
        async move { ca.sign(&cart(), csr, Duration::from_secs(60)).await.expect_err("not signed") }
    };
    let refused = sign("refused").await;
    assert!(!refused.retryable() && matches!(refused, CaError::Refused { .. }), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("no pod of shop/cart runs on n1") && text.contains("sa/cart"), "{text}");
    assert!(!sign("empty").await.retryable());
    assert!(sign("later").await.retryable());

    std::fs::remove_file(world.token_file()).expect("removed");
    let unread = sign("later").await;
    assert!(unread.retryable() && matches!(unread, CaError::Token(_)), "{unread}");
    std::fs::write(world.token_file(), "two\nlines").expect("written");
    assert!(matches!(sign("later").await, CaError::Token(_)));
}

#[tokio::test]
async fn settings_that_cannot_work_are_named_at_once() {
    let world = World::new().await;
    let start = |change: &dyn Fn(&mut super::world::Settings)| {
        let mut settings = world.settings.clone();
        change(&mut settings);
        settings.connect().map(drop).expect_err("cannot work")
    };
    let plain = start(&|s| s.controller = s.controller.replace("https", "http"));
    assert!(matches!(plain, ConnectError::Address { .. }), "{plain}");
    let missing = start(&|s| s.ca_file = "/nonexistent/ca.crt".into());
    assert!(matches!(missing, ConnectError::CaFile { .. }), "{missing}");
    let empty = start(&|s| s.ca_file.clone_from(&s.token_file));
    assert!(matches!(empty, ConnectError::NoCertificate { .. }), "{empty}");
}

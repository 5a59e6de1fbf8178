//! What of a request that passed is told.

use std::{sync::Arc, time::SystemTime};

use super::*;
use crate::telemetry::{Direction, Flow, Headers, Party};

fn seen(headers: Option<Headers>) -> Seen {
    let flow = Flow::new(7, SystemTime::UNIX_EPOCH, Direction::Inbound, Party::default(), Party::default());
    Seen { flow: Arc::new(flow), headers: headers.map(Box::new) }
}

fn header(name: &str, value: &[u8]) -> (String, Vec<u8>) {
    (name.to_owned(), value.to_owned())
}

#[test]
fn headers_are_told_if_asked_for_and_secrets_only_then() {
    let headers = Headers {
        request: vec![header("authorization", b"Bearer abc"), header("accept", b"*/*"), header("x-odd", b"a\xffb")],
        answer: vec![header("set-cookie", b"session=1")],
    };
    let seen = seen(Some(headers));
    let told = message("node-a", &seen, false, true);
    assert_eq!(told.flow.as_ref().map(|flow| (flow.id, flow.node.as_str())), Some((7, "node-a")));
    assert!(told.request_headers.is_empty() && told.response_headers.is_empty());
    let values = |secrets| {
        let told = message("node-a", &seen, true, secrets);
        let all = told.request_headers.into_iter().chain(told.response_headers);
        all.map(|header| header.value).collect::<Vec<_>>()
    };
    assert_eq!(values(false), ["[redacted]", "*/*", "a\u{fffd}b", "[redacted]"]);
    assert_eq!(values(true), ["Bearer abc", "*/*", "a\u{fffd}b", "session=1"]);
}

#[test]
fn what_nobody_looked_at_when_it_began_has_no_headers() {
    let told = message("node-a", &seen(None), true, true);
    assert!(told.flow.is_some() && told.request_headers.is_empty());
}

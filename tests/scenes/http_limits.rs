//! Circuit breakers of the samples: connections and pending requests that are too many, endpoints that fail.

use anyhow::Result;
use mesh_tests::{Ask, Patience, eventually};

use crate::http_cast::{HttpCast, PORT};

const LAST: &str = include_str!("../samples/004-2-circuit-breaking.yaml");
const FIRST: &str = include_str!("../samples/001-4-circuit-breaking.yaml");

/// `room` requests at once have a connection or may wait for one.
fn overflows(service: &str, sample: &str, room: u32) -> Result<()> {
    let mut cast = HttpCast::meshed("http overflow", service, "default")?;
    cast.rules("sample", sample)?;
    // A request waits while its connection is made, too: they do not come all at the same moment.
    let slow = Ask { ramp_ms: 1500, ..Ask::service(&cast.service).header("x-delay", "2500") };
    let answers = cast.client.ask_http(&slow.many(room + 35, room + 35))?;
    assert_eq!(answers.lost(), 0, "{:?}", answers.failed);
    let seen = (answers.status(200), answers.status(503), answers.flag("UO"));
    assert_eq!(seen, (room, 35, 35), "{:?} {:?}", answers.by_status, answers.by_flag);
    assert!(answers.ms[34] < 2000.0, "at once: {:?}", &answers.ms[..36]);
    Ok(())
}

#[test]
fn what_is_too_many_is_answered_at_once() -> Result<()> {
    overflows("inventory-service", LAST, 100 + 25)
}

#[test]
fn what_is_too_many_for_the_first_sample_is() -> Result<()> {
    overflows("payment-service", FIRST, 100 + 100)
}

/// `again`: the sample with shorter times.
fn ejected(service: &str, sample: &str, again: &str) -> Result<()> {
    let mut cast = HttpCast::meshed("http outlier", service, "default")?;
    cast.rules("sample", sample)?;
    let service = cast.service.clone();
    let ask = || Ask::service(&service);
    let well = cast.client.ask_http(&ask().many(40, 1))?;
    assert_eq!(well.status(200), 40, "{well:?}");
    assert!(well.of("v1") > 0 && well.of("v2") > 0, "{:?}", well.by_backend);

    cast.v2.answer_with(PORT, 500)?;
    let failing = cast.client.ask_http(&ask().many(60, 1))?;
    assert_eq!((failing.status(500), failing.of("v2")), (5, 5), "five in a row, then none: {:?}", failing.by_status);
    // At most half of them are.
    cast.v1.answer_with(PORT, 500)?;
    let both = cast.client.ask_http(&ask().many(30, 1))?;
    assert_eq!((both.status(500), both.of("v1")), (30, 30), "{:?}", both.by_backend);

    for pod in [&cast.v1, &cast.v2] {
        pod.answer_with(PORT, 0)?;
    }
    cast.rules("sample", again)?;
    cast.v2.answer_with(PORT, 500)?;
    let _ = cast.client.ask_http(&ask().many(40, 1))?;
    cast.v2.answer_with(PORT, 0)?;
    eventually("it is let back", Patience::SHORT, || {
        let answers = cast.client.ask_http(&ask().many(10, 1))?;
        Ok((answers.of("v2") > 0).then_some(()))
    })
}

#[test]
fn an_endpoint_that_fails_is_left_out_and_let_back() -> Result<()> {
    ejected("payment-service", FIRST, &FIRST.replace(": 30s", ": 1s"))
}

#[test]
fn so_it_is_by_the_older_field() -> Result<()> {
    ejected("inventory-service", LAST, &LAST.replace(": 30s", ": 1s").replace(": 5s", ": 1s"))
}

//! Faults of one object over the routes of another: the samples 003-3 and 003-1 as they stand.

use anyhow::Result;
use mesh_tests::Ask;

use crate::http_cast::HttpCast;

const ROUTING: &str =
    include_str!("../../mesh-controller/src/translate/virtual_service/tests/samples/003-1-traffic-management.yaml");
const FAULTS: &str =
    include_str!("../../mesh-controller/src/translate/virtual_service/tests/samples/003-3-fault-injection.yaml");

#[test]
fn a_tenth_is_late_and_a_twentieth_aborted() -> Result<()> {
    let mut cast = HttpCast::meshed("http faults", "order-service", "default")?;
    cast.rules("routing", ROUTING)?;
    cast.rules("chaos", FAULTS)?;
    // So many at once that those which are late are late together.
    let ask = Ask { ramp_ms: 1000, timeout_ms: 9000, ..Ask::service(&cast.service).many(600, 600) };
    let answers = cast.client.ask_http(&ask)?;
    assert_eq!(answers.lost(), 0, "{:?}", answers.failed);
    // Five standard deviations of 600 * 0.05 and of 600 * 0.1.
    assert!((4..=57).contains(&answers.status(503)), "{:?}", answers.by_status);
    assert_eq!(answers.status(200) + answers.status(503), 600, "{:?}", answers.by_status);
    assert!(answers.by_flag.keys().all(|flag| flag == "FI" || flag == "DI"), "{:?}", answers.by_flag);
    let late = answers.ms.iter().filter(|ms| **ms >= 5000.0).count();
    assert!((24..=97).contains(&late), "{late} of 600");
    let between = answers.ms.iter().filter(|ms| (3000.0..5000.0).contains(*ms)).count();
    assert_eq!(between, 0, "late by five seconds, or not at all");
    // The routes are those of the older object.
    assert!(answers.of("v2") > 0, "{:?}", answers.by_backend);
    let canary = Ask { timeout_ms: 9000, ..Ask::service(&cast.service).header("x-canary", "true").many(40, 40) };
    let canary = cast.client.ask_http(&canary)?;
    assert_eq!(canary.of("v1"), 0, "{:?}", canary.by_backend);
    Ok(())
}

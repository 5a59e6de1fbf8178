//! Requests by weight: samples as they stand, and what becomes of subsets that nobody defines.

use anyhow::Result;
use mesh_tests::Ask;

use crate::http_cast::{HttpCast, subsets};

const SAMPLES: [(&str, &str); 2] = [
    (
        "order-service",
        include_str!("../../mesh-controller/src/translate/virtual_service/tests/samples/001-2-canary.yaml"),
    ),
    (
        "payment-service",
        include_str!("../../mesh-controller/src/translate/virtual_service/tests/samples/004-1-canary.yaml"),
    ),
];

fn ninety_ten((service, sample): (&str, &str), http2: bool) -> Result<()> {
    let mut cast = HttpCast::meshed("http split", service, "default")?;
    cast.rules("sample", sample)?;
    let ask = Ask { http2, ..Ask::service(&cast.service) };
    // Subsets that nobody defines.
    let answers = cast.client.ask_http(&ask.clone().many(20, 2))?;
    assert_eq!((answers.status(503), answers.flag("NC")), (20, 20), "{answers:?}");

    cast.rules("subsets", &subsets(service, [("v1", "v1"), ("v2", "v2")]))?;
    let answers = cast.client.ask_http(&Ask { timeout_ms: 2500, ..ask }.many(10_000, 8))?;
    assert_eq!(
        (answers.status(200), answers.of("v1") + answers.of("v2")),
        (10_000, 10_000),
        "{:?} {:?}",
        answers.by_status,
        answers.failed
    );
    // Five standard deviations: sqrt(10000 * 0.9 * 0.1) is 30.
    assert!((850..=1150).contains(&answers.of("v2")), "{:?}", answers.by_backend);
    let asked = cast.v2.asked(crate::http_cast::PORT)?;
    assert_eq!(asked["/"], u64::from(answers.of("v2")), "each is sent once");
    Ok(())
}

#[test]
fn ninety_to_ten_of_the_first_sample() -> Result<()> {
    ninety_ten(SAMPLES[0], false)
}

#[test]
fn ninety_to_ten_of_the_last_sample_over_http2() -> Result<()> {
    ninety_ten(SAMPLES[1], true)
}

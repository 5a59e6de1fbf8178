//! The canary, the time-outs and the retries of the samples, counted at the servers.

use anyhow::Result;
use mesh_tests::Ask;

use crate::http_cast::{HttpCast, PORT};

const ROUTING: &str =
    include_str!("../../mesh-controller/src/translate/virtual_service/tests/samples/003-1-traffic-management.yaml");
const RETRIES: &str =
    include_str!("../../mesh-controller/src/translate/virtual_service/tests/samples/001-3-retries-timeouts.yaml");

impl HttpCast {
    /// How often both servers together were asked for this path.
    fn tries(&self, path: &str) -> Result<u64> {
        let of = |pod: &mesh_tests::Pod| anyhow::Ok(pod.asked(PORT)?.get(path).copied().unwrap_or(0));
        Ok(of(&self.v1)? + of(&self.v2)?)
    }
}

#[test]
fn the_canary_and_the_retries_of_a_sample() -> Result<()> {
    let mut cast = HttpCast::meshed("http retries", "order-service", "default")?;
    cast.rules("sample", ROUTING)?;
    let ask = || Ask::service(&cast.service);

    let canary = cast.client.ask_http(&ask().header("x-canary", "true").many(50, 4))?;
    assert_eq!((canary.status(200), canary.of("v2")), (50, 50), "{canary:?}");
    let others = cast.client.ask_http(&ask().many(1000, 4))?;
    // Five standard deviations.
    assert_eq!(others.status(200), 1000, "{others:?}");
    assert!((52..=148).contains(&others.of("v2")), "{:?}", others.by_backend);

    // Three retries beside the first try.
    let failing = |id: &str, times: &str| ask().path(&format!("/{id}")).header("x-fail", times).header("x-id", id);
    let healed = cast.client.ask_http(&failing("healed", "3"))?;
    assert_eq!((healed.status(200), cast.tries("/healed")?), (1, 4), "{healed:?}");
    let failed = cast.client.ask_http(&failing("failed", "9"))?;
    assert_eq!((failed.status(503), cast.tries("/failed")?), (1, 4), "{failed:?}");
    let reset = cast.client.ask_http(&failing("reset", "2").header("x-reset", "1"))?;
    assert_eq!((reset.status(200), cast.tries("/reset")?), (1, 3), "{reset:?}");
    // 404 is no failure to this sample; nor has its canary retries after a status.
    let missing = cast.client.ask_http(&ask().path("/missing").header("x-status", "404"))?;
    assert_eq!((missing.status(404), cast.tries("/missing")?), (1, 1), "{missing:?}");
    let canary = cast.client.ask_http(&failing("canary", "3").header("x-canary", "true"))?;
    assert_eq!((canary.status(503), cast.tries("/canary")?), (1, 1), "{canary:?}");
    // A try that takes too long is another's turn: 2 s.
    let slow = cast.client.ask_http(&failing("slow", "1").header("x-delay", "4000"))?;
    assert_eq!((slow.status(200), cast.tries("/slow")?), (1, 2), "{slow:?}");
    assert!((2000.0..3500.0).contains(&slow.ms[0]), "{slow:?}");
    Ok(())
}

#[test]
fn conflicts_are_tried_again_and_the_time_is_bounded() -> Result<()> {
    let mut cast = HttpCast::meshed("http retries 4xx", "payment-service", "default")?;
    cast.rules("sample", RETRIES)?;
    let ask = |id: &str| Ask::service(&cast.service).path(&format!("/{id}")).header("x-id", id);
    // Once at each server: the next try goes to the other.
    let conflict = cast.client.ask_http(&ask("conflict").header("x-fail", "1").header("x-status", "409"))?;
    assert_eq!((conflict.status(200), cast.tries("/conflict")?), (1, 3), "{conflict:?}");
    let gone = cast.client.ask_http(&ask("gone").header("x-fail", "2").header("x-status", "410"))?;
    assert_eq!((gone.status(410), cast.tries("/gone")?), (1, 1), "{gone:?}");
    // Four tries of two seconds each are within the ten of the route.
    let slow = cast.client.ask_http(&Ask { timeout_ms: 9800, ..ask("slow").header("x-delay", "20000") })?;
    assert_eq!((slow.status(504), cast.tries("/slow")?), (1, 4), "{slow:?}");
    assert!((8000.0..9500.0).contains(&slow.ms[0]), "{slow:?}");
    Ok(())
}

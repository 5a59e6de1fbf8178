//! Copies of requests: as many as were asked for, and nobody waits for them.

use anyhow::Result;
use mesh_tests::{Ask, B, Patience, eventually};

use crate::http_cast::{HTTP, HttpCast, PORT};

fn mirrored(percent: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: web, namespace: default }}\n\
         spec:\n  hosts: [web]\n  http:\n  - route: [{{ destination: {{ host: web }} }}]\n    \
         mirror: {{ host: shadow }}\n    mirrorPercentage: {{ value: {percent} }}\n"
    )
}

#[test]
fn every_request_or_a_share_is_copied() -> Result<()> {
    let mut cast = HttpCast::meshed("http mirror", "web", "default")?;
    let shadow = cast.world.pod("default", "shadow", B)?;
    shadow.http(PORT)?;
    let service = cast.world.service("default", "shadow", 80, PORT, &[&shadow])?;
    cast.world.change_service(&service, &[&shadow], &[("ports", HTTP)])?;
    cast.world.mesh("default")?;
    cast.rules("mirror", &mirrored("100"))?;

    let service = cast.service.clone();
    let ask = |path: &str| Ask::service(&service).path(path).header("x-delay", "1").many(400, 4);
    let answers = cast.client.ask_http(&ask("/all"))?;
    assert_eq!((answers.status(200), answers.of("shadow")), (400, 0), "{answers:?}");
    let copies = |path: &str| anyhow::Ok(shadow.asked(PORT)?.get(path).copied().unwrap_or(0));
    eventually("each was copied", Patience::SHORT, || Ok((copies("/all")? == 400).then_some(())))?;

    // A shadow that fails is nothing to the client.
    shadow.answer_with(PORT, 500)?;
    let answers = cast.client.ask_http(&ask("/failing"))?;
    assert_eq!(answers.status(200), 400, "{answers:?}");
    eventually("each once", Patience::SHORT, || Ok((copies("/failing")? == 400).then_some(())))?;
    cast.rules("mirror", &mirrored("25"))?;
    let answers = cast.client.ask_http(&Ask { count: 2000, ..ask("/some") })?;
    assert_eq!(answers.status(200), 2000, "{answers:?}");
    // Five standard deviations: sqrt(2000 * 0.25 * 0.75) is 19.4.
    eventually("a quarter was copied", Patience::SHORT, || {
        let copies = copies("/some")?;
        Ok((403..=597).contains(&copies).then_some(()))
    })?;
    assert_eq!(copies("/all")?, 400, "never more");
    Ok(())
}

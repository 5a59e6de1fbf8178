//! What a change would touch is told before, and is what it touches.

use anyhow::{Context, Result};
use mesh_tests::Patience;

use crate::{
    cast::{Cast, policy},
    policy_test::{aside, asked},
};

const ROUTES: &str = "apiVersion: networking.istio.io/v1\nkind: VirtualService\n\
                      metadata: { name: web, namespace: shop }\n\
                      spec: { hosts: [web], tcp: [{ route: [{ destination: { host: web } }] }] }\n";

#[test]
fn what_a_change_would_touch_is_known_before() -> Result<()> {
    let Cast { mut world, client, near: _, far } = Cast::meshed("diff")?;
    let service = world.service("shop", "web", 80, 7000, &[&far])?;
    world.settle()?;
    far.serve("echo", 7000)?;
    far.serve("echo", 7070)?;
    let (held, untouched) = (client.hold(far.at(7000))?, client.hold(far.at(7070))?);
    let dialled = client.hold(service.addr())?;

    let yaml = policy("deny", "far", "DENY", "[{ to: [{ operation: { ports: ['7000'] } }] }]");
    let new = aside(&world, "new", &yaml)?.display().to_string();
    let (code, all, error) = asked(&world, &["diff"], &["-f", &new])?;
    assert_eq!(code, 1, "{all:?} {error}");
    let of_kind = |kind: &'static str| all.iter().filter(move |value| value["kind"] == kind);
    let [workload] = of_kind("workload").collect::<Vec<_>>()[..] else { panic!("one workload: {all:?}") };
    assert_eq!(workload["workload"], "far");
    assert_eq!(workload["changes"][0], "policy shop/deny (DENY) begins to hold");
    let cut: Vec<_> = of_kind("connection").collect();
    assert_eq!(cut.len(), 2, "both to that port: {all:?}");
    for connection in cut {
        assert_eq!((&connection["change"], &connection["why"]), (&"cut".into(), &"POLICY_DENY shop/deny#0".into()));
        assert_eq!(connection["flow"]["node"], "b");
        let port = connection["flow"]["destination"]["address"].as_str().context("an address")?;
        assert!(port.ends_with(":7000"), "{connection}");
    }

    let routes = aside(&world, "routes", ROUTES)?.display().to_string();
    let (code, all, error) = asked(&world, &["diff"], &["-f", &routes])?;
    assert_eq!(code, 1, "{all:?} {error}");
    let rerouted: Vec<_> = all.iter().filter(|value| value["change"] == "rerouted").collect();
    let [rerouted] = rerouted[..] else { panic!("one to the service: {all:?}") };
    assert_eq!((&rerouted["flow"]["node"], &rerouted["flow"]["direction"]), (&"a".into(), &"outbound".into()));

    world.apply("deny", &yaml)?;
    for connection in [held, dialled] {
        connection.ended(Patience::SHORT)?;
    }
    assert!(untouched.is_open()?, "it was not told of");
    let (code, all, error) = asked(&world, &["diff"], &["-f", &new])?;
    assert_eq!((code, all.len()), (0, 1), "{all:?} {error}");
    Ok(())
}

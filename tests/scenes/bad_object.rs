//! An object that cannot be honoured is reported by file, object and field, and takes nothing else with it.

use anyhow::Result;
use mesh_tests::{Patience, eventually};

use crate::cast::{Cast, policy};

#[test]
fn it_is_reported_and_the_rest_is_served() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("bad object")?;
    far.serve("echo", 7000)?;
    far.serve("echo", 7070)?;
    near.serve("echo", 7000)?;
    // The same file: one that asks for what does not exist, and a good one.
    let bad = policy("bad", "near", "CUSTOM", "[{}]");
    let good = policy("good", "far", "DENY", "[{ to: [{ operation: { ports: ['7070'] } }] }]");
    world.apply("two-policies", &format!("{bad}---\n{good}"))?;
    world.manifests.write("no-yaml", "kind: [unfinished")?;

    let problems = eventually("the controller reports both", Patience::LONG, || {
        let status = world.ask_controller(&["status"])?;
        let of_controller = status.iter().find(|answer| answer["kind"] == "controller");
        let problems: Vec<String> = of_controller
            .and_then(|answer| answer["problems"].as_array())
            .into_iter()
            .flatten()
            .filter_map(|problem| problem.as_str().map(str::to_owned))
            .collect();
        let told = |file: &str| problems.iter().any(|problem| problem.contains(file));
        Ok((told("two-policies.yaml") && told("no-yaml.yaml")).then_some(problems))
    })?;
    let of_policy = problems.iter().find(|problem| problem.contains("two-policies.yaml")).expect("it was there");
    assert!(of_policy.contains("shop/bad") && of_policy.contains("action"), "object and field: {of_policy}");

    assert!(client.say(far.at(7000), "as before")?.echoed());
    assert!(client.say(far.at(7070), "denied by the good one")?.turned_away());
    // What the bad one asked for is unknown: its own pods let nobody in until it is mended.
    assert!(client.say(near.at(7000), "denied by the bad one")?.turned_away());
    Ok(())
}

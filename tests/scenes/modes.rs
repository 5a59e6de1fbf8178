//! What a pod's mode is, from its label to its agent and to who asks.

use anyhow::Result;
use mesh_tests::{A, B};

use crate::cast::Cast;

#[test]
fn an_observed_pod_is_no_pod_of_the_mesh() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("observe")?;
    far.serve("peer", 7001)?;
    world.label_namespace("shop", Some("observe"))?;
    world.label_pod(&near, Some("mesh"))?;
    // Nobody tunnels to it any more, and its agent takes its hooks away.
    world.wait_for(&[client.clone(), far.clone()], false)?;
    world.wait_for(std::slice::from_ref(&near), true)?;
    for (node, pods) in [(A, vec![(&client, "observe"), (&near, "mesh")]), (B, vec![(&far, "observe")])] {
        let status = world.status(node)?;
        let states = status["pods"].as_array().cloned().unwrap_or_default();
        for (pod, mode) in pods {
            let state = states.iter().find(|state| state["pod"] == pod.name.as_str()).cloned().unwrap_or_default();
            assert_eq!(state["mode"], mode, "{state}");
        }
    }
    let controller = world.ask_controller(&["status"])?;
    let controller = controller.iter().find(|object| object["kind"] == "controller").cloned().unwrap_or_default();
    assert_eq!((&controller["mesh_pods"], &controller["observed_pods"]), (&1.into(), &2.into()), "{controller}");
    assert_eq!(controller["problems"], serde_json::json!([]), "{controller}");
    // It speaks as it would without a mesh.
    assert_eq!(client.say(far.at(7001), "")?.seen()?.accepted.ip(), client.ip);
    Ok(())
}

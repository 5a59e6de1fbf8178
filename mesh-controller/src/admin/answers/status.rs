//! The controller's own status: what it holds, and which pods that shall be in the mesh are not in an agent's hands.

use std::{collections::BTreeMap, sync::Arc};

use mesh_common::{
    model::{LocalPod, Mode, Tunnel},
    proto::nodemesh::{ControllerStatus, MissingNode, UnjoinedPod, item::Kind},
};

use super::{count, texts};
use crate::{
    index::{PodName, Redirected, World},
    link::Reports,
};

/// `linked`: the nodes with an agent, and what that says of its pods.
pub fn status(world: &World, linked: &BTreeMap<String, Reports>) -> Kind {
    let (mut missing_nodes, mut unjoined_pods) = (Vec::new(), Vec::new());
    let all = || world.local_pods.values().flat_map(BTreeMap::values);
    let of_mode = |mode: Mode| count(all().filter(|pod| pod.mode == mode).count());
    for (node, pods) in &world.local_pods {
        let pods = pods.values().filter(|pod| pod.mode == Mode::Mesh);
        match linked.get(node) {
            Some(reports) => {
                unjoined_pods.extend(pods.filter(|pod| !has_joined(reports, pod)).map(|pod| UnjoinedPod {
                    node: node.clone(),
                    namespace: pod.namespace.clone(),
                    name: pod.name.clone(),
                    pod_uid: pod.pod_uid.clone(),
                    redirected: is_redirected(world, pod),
                }))
            }
            None => missing_nodes.extend(missing(world, node, &pods.map(Arc::as_ref).collect::<Vec<_>>())),
        }
    }
    Kind::Controller(ControllerStatus {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        connected_nodes: linked.keys().cloned().collect(),
        workloads: count(world.workloads.len()),
        services: count(world.services.len()),
        policies: count(world.policies.len()),
        problems: texts(&world.problems),
        missing_nodes,
        unjoined_pods,
        mesh_pods: of_mode(Mode::Mesh),
        observed_pods: of_mode(Mode::Observe),
    })
}

/// Nothing is missing on a node without mesh pods.
fn missing(world: &World, node: &str, pods: &[&LocalPod]) -> Option<MissingNode> {
    let redirected = pods.iter().filter(|pod| is_redirected(world, pod)).count();
    (!pods.is_empty()).then(|| MissingNode {
        node: node.to_owned(),
        mesh_pods: count(pods.len()),
        redirected_pods: count(redirected),
    })
}

/// Reported by now or remembered from earlier.
fn is_redirected(world: &World, pod: &LocalPod) -> bool {
    world.workloads.get(&pod.uid).is_some_and(|workload| workload.tunnel == Tunnel::Hbone)
}

/// Does the agent speak of this very pod as one of the mesh? Whether it works, its own status says.
fn has_joined(reports: &Reports, pod: &LocalPod) -> bool {
    let name = PodName { namespace: pod.namespace.clone(), name: pod.name.clone() };
    let report = reports.get(&name).filter(|report| report.pod_uid == pod.pod_uid);
    report.is_some_and(|report| report.redirected != Redirected::Disabled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::{
        Redirection, Report,
        tests::{SHOP, enabled, objects, settings},
    };

    /// The shop's status: the cart on node a, a client on node b, both to be in the mesh.
    fn shop(redirection: &Redirection, linked: &BTreeMap<String, Reports>) -> ControllerStatus {
        match status(&World::new(&settings(), &objects(SHOP), redirection), linked) {
            Kind::Controller(status) => status,
            other => panic!("{other:?}"),
        }
    }

    fn node_a_says(redirected: Redirected, pod_uid: &str) -> BTreeMap<String, Reports> {
        let name = PodName { namespace: "shop".into(), name: "cart-6f5d8-x1".into() };
        [("a".into(), [(name, Report { redirected, pod_uid: pod_uid.into(), why: String::new() })].into())].into()
    }

    fn missing_node(node: &str, mesh_pods: u32, redirected_pods: u32) -> MissingNode {
        MissingNode { node: node.into(), mesh_pods, redirected_pods }
    }

    #[test]
    fn a_node_with_mesh_pods_and_no_agent_is_missing() {
        let status = shop(&enabled("a"), &BTreeMap::new());
        assert_eq!(status.missing_nodes, [missing_node("a", 1, 1), missing_node("b", 1, 0)]);
        assert_eq!(status.unjoined_pods, []);
        // After a restart of the controller only its memory knows.
        let name = PodName { namespace: "shop".into(), name: "cart-6f5d8-x1".into() };
        let remembered = [(name, "u-cart".to_owned())].into();
        let status = shop(&Redirection { remembered, ..Redirection::default() }, &BTreeMap::new());
        assert_eq!(status.missing_nodes, [missing_node("a", 1, 1), missing_node("b", 1, 0)]);
    }

    #[test]
    fn a_node_without_mesh_pods_is_not_missed() {
        let world = World::new(&settings(), &objects(&SHOP.replace("mode: mesh", "mode: none")), &enabled("a"));
        let Kind::Controller(status) = status(&world, &BTreeMap::new()) else { panic!("another kind") };
        assert_eq!(status.missing_nodes, []);
        assert_eq!((status.mesh_pods, status.observed_pods), (0, 0));
    }

    #[test]
    fn an_observed_pod_is_counted_and_not_missed() {
        let observed = SHOP.replace("mode: mesh", "mode: observe");
        let client = observed.replace("uid: u-client,", "uid: u-client, labels: {nodemesh.io/mode: mesh},");
        let world = World::new(&settings(), &objects(&client), &enabled("a"));
        let silent = [("a".into(), Reports::new())].into();
        let Kind::Controller(status) = status(&world, &silent) else { panic!("another kind") };
        assert_eq!((status.mesh_pods, status.observed_pods), (1, 1));
        assert_eq!(status.unjoined_pods, []);
        assert_eq!(status.missing_nodes, [missing_node("b", 1, 0)]);
    }

    #[test]
    fn a_pod_that_its_agent_does_not_report_has_not_joined() {
        let unjoined = |redirection: &Redirection, linked| {
            let status = shop(redirection, &linked);
            assert_eq!(status.missing_nodes, [missing_node("b", 1, 0)]);
            let pods = status.unjoined_pods.into_iter();
            pods.map(|pod| (pod.node, pod.namespace, pod.name, pod.redirected)).collect::<Vec<_>>()
        };
        let cart = |redirected| [("a".to_owned(), "shop".to_owned(), "cart-6f5d8-x1".to_owned(), redirected)];
        let silent: BTreeMap<_, _> = [("a".to_owned(), Reports::new())].into();
        assert_eq!(unjoined(&Redirection::default(), silent.clone()), cart(false));
        assert_eq!(unjoined(&enabled("a"), silent), cart(true));
        let default = Redirection::default();
        assert_eq!(unjoined(&default, node_a_says(Redirected::Enabled, "u-other")), cart(false));
        assert_eq!(unjoined(&default, node_a_says(Redirected::Disabled, "u-cart")), cart(false));
        for joined in [Redirected::Pending, Redirected::Enabled, Redirected::Failed] {
            assert_eq!(unjoined(&default, node_a_says(joined, "u-cart")), []);
        }
    }
}

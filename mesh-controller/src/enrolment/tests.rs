//! What is written of a pod, from its mode and its agent's report.

use super::*;
use crate::index::{
    Redirection,
    tests::{SHOP, enabled, objects, settings},
};

fn report(redirected: Redirected, why: &str) -> Report {
    Report { redirected, pod_uid: "u".into(), why: why.into() }
}

#[test]
fn the_agent_s_word_for_the_mode_that_it_has_heard_of() {
    use Mode::{Mesh, None as Out, Observe};
    use Redirected::{Disabled, Enabled, Failed, Pending};
    for (mode, redirected, now, expected) in [
        (Mesh, Enabled, None, Some("enabled")),
        (Mesh, Enabled, Some("pending: why"), Some("enabled")),
        (Mesh, Enabled, Some("enabled, failed: why"), Some("enabled")),
        (Mesh, Pending, None, Some("pending: why")),
        // An agent that has just started.
        (Mesh, Pending, Some("enabled"), Some("enabled")),
        (Mesh, Disabled, Some("enabled"), Some("enabled")),
        (Mesh, Disabled, None, None),
        // What takes HBONE goes on taking it.
        (Mesh, Failed, Some("enabled"), Some("enabled, failed: why")),
        (Mesh, Failed, Some("enabled, failed: other"), Some("enabled, failed: why")),
        (Mesh, Failed, None, Some("failed: why")),
        (Mesh, Failed, Some("observed"), Some("failed: why")),
        (Observe, Disabled, Some("enabled"), Some("observed")),
        (Observe, Enabled, Some("enabled"), Some("enabled")),
        (Observe, Failed, None, Some("failed: why")),
        (Out, Disabled, Some("enabled"), None),
        (Out, Disabled, Some("observed"), None),
        // It has not left yet.
        (Out, Enabled, Some("enabled"), Some("enabled")),
        (Out, Pending, Some("enabled"), Some("enabled")),
        (Out, Disabled, None, None),
    ] {
        let said = wanted(mode, &report(redirected, "why"), now);
        assert_eq!(said.as_deref(), expected, "{mode:?} {redirected:?} {now:?}");
    }
    assert_eq!(wanted(Mesh, &report(Failed, ""), None).as_deref(), Some("failed"));
}

#[test]
fn events_tell_what_matters_to_the_pod() {
    let occasion = |before: Option<&str>, after: Option<&str>| {
        let pod = PodName { namespace: "shop".into(), name: "cart".into() };
        let text = |text: Option<&str>| text.map(ToOwned::to_owned);
        Change { pod, pod_uid: "u".into(), before: text(before), after: text(after) }.occasion()
    };
    assert_eq!(occasion(None, Some("enabled")), Some(Occasion::Enrolled));
    assert_eq!(occasion(Some("pending: x"), Some("enabled")), Some(Occasion::Enrolled));
    assert_eq!(occasion(Some("enabled"), None), Some(Occasion::Unenrolled));
    assert_eq!(occasion(Some("enabled"), Some("observed")), Some(Occasion::Unenrolled));
    assert_eq!(occasion(None, Some("failed: no room")), Some(Occasion::Failed("no room".into())));
    let failed = Some(Occasion::Failed("hooks: gone".into()));
    assert_eq!(occasion(Some("enabled"), Some("enabled, failed: hooks: gone")), failed);
    assert_eq!(occasion(Some("enabled, failed: x"), Some("enabled")), None);
    assert_eq!(occasion(Some("failed: x"), Some("failed: y")), None);
    assert_eq!(occasion(None, Some("pending: x")), None);
}

#[test]
fn only_pods_of_linked_agents_and_only_these_very_pods() {
    let update = objects(SHOP);
    let world = World::new(&settings(), &update, &Redirection::default());
    let linked = enabled("a").reports;
    let none = BTreeMap::new();
    let found = changes(&world, &update, &linked, &none);
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].pod.name.as_str(), found[0].after.as_deref()), ("cart-6f5d8-x1", Some("enabled")));
    // Written, and not seen yet.
    let known = [(found[0].pod.clone(), found[0].clone())].into();
    assert_eq!(changes(&world, &update, &linked, &known), []);
    // Another node's agent, and a pod that had the name.
    assert_eq!(changes(&world, &update, &enabled("b").reports, &none), []);
    let mut old = linked.clone();
    old.get_mut("a").expect("a").values_mut().for_each(|report| report.pod_uid = "u-old".into());
    assert_eq!(changes(&world, &update, &old, &none), []);
}

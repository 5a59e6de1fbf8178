//! What is published, and what is remembered of it.

use std::path::Path;

use super::*;
use crate::index::tests::{SHOP, enabled, objects, settings};

/// A publisher on this state folder that was told of the shop, but of no redirection yet.
fn publisher(state: &Path) -> Publisher {
    Publisher::new(settings(), Memory::file(state), &objects(SHOP)).expect("a publisher").0
}

fn remembered(state: &Path) -> BTreeMap<PodName, String> {
    File::new(state).load().expect("readable").clone()
}

/// Makes saves fail, for root too.
fn block(state: &Path) {
    fs::create_dir_all(state.join("redirected.json.new/x")).expect("folder");
}

fn unblock(state: &Path) {
    fs::remove_dir_all(state.join("redirected.json.new")).expect("folder");
}

#[test]
fn the_next_publication_saves_what_could_not_be_saved() {
    let state = tempfile::tempdir().expect("folder");
    let mut publisher = publisher(state.path());
    publisher.redirection.reports = enabled("a").reports;
    block(state.path());
    publisher.publish(&objects(SHOP));
    assert_eq!(publisher.redirection.remembered.len(), 1);
    unblock(state.path());
    assert!(remembered(state.path()).is_empty());
    // Nothing is new.
    publisher.publish(&objects(SHOP));
    assert_eq!(remembered(state.path()), publisher.redirection.remembered);
}

#[tokio::test(start_paused = true)]
async fn time_saves_what_could_not_be_saved() {
    let state = tempfile::tempdir().expect("folder");
    let mut publisher = publisher(state.path());
    publisher.redirection.reports = enabled("a").reports;
    block(state.path());
    publisher.publish(&objects(SHOP));
    let (_updates, updated) = watch::channel(objects(SHOP));
    let (_reports, reported) = mpsc::channel(1);
    let running = tokio::spawn(publisher.run(updated, reported));
    tokio::time::sleep(SAVE_AGAIN * 3).await;
    unblock(state.path());
    assert!(remembered(state.path()).is_empty());
    tokio::time::sleep(SAVE_AGAIN * 2).await;
    assert_eq!(remembered(state.path()).len(), 1);
    running.abort();
}

#[test]
fn a_pod_that_is_gone_is_forgotten_whatever_else_is_wrong() {
    let state = tempfile::tempdir().expect("folder");
    let mut publisher = publisher(state.path());
    publisher.redirection.reports = enabled("a").reports;
    publisher.publish(&objects(SHOP));
    assert_eq!(remembered(state.path()).len(), 1);
    let rest = "{apiVersion: networking.istio.io/v1, kind: EnvoyFilter, metadata: {name: v, namespace: shop}}";
    publisher.publish(&objects(rest));
    assert!(!publisher.published.borrow().world.problems.is_empty());
    assert!(remembered(state.path()).is_empty());
}

/// The shop, with the cart's pod saying this of its redirection, in a namespace of this mode.
fn annotated_shop(said: &str, mode: &str) -> Update {
    let shop = SHOP.replace("nodemesh.io/mode: mesh", &format!("nodemesh.io/mode: {mode}"));
    let annotation = format!("uid: u-cart\n  annotations: {{nodemesh.io/redirection: '{said}'}}");
    objects(&shop.replace("uid: u-cart", &annotation))
}

#[test]
fn pods_remember_by_themselves_that_they_are_redirected() {
    let mut publisher =
        Publisher::new(settings(), Memory::annotations(), &annotated_shop("pending: why", "mesh")).expect("valid").0;
    let redirected = |publisher: &Publisher| publisher.published.borrow().world.redirected.len();
    assert_eq!(redirected(&publisher), 0);
    for (said, mode, expected) in [
        ("enabled", "mesh", 1),
        // Also when nobody says so any more.
        ("pending: why", "mesh", 1),
        ("enabled, failed: why", "mesh", 1),
        // It leaves, and comes back before its annotation has gone: it is redirected when its agent says so.
        ("enabled", "none", 0),
        ("enabled", "mesh", 0),
        ("", "mesh", 0),
        ("enabled", "mesh", 1),
    ] {
        publisher.publish(&annotated_shop(said, mode));
        assert_eq!(redirected(&publisher), expected, "{said} {mode}");
    }
    // Another replica, which has seen nothing of that.
    let update = annotated_shop("enabled, failed: why", "mesh");
    let other = Publisher::new(settings(), Memory::annotations(), &update).expect("valid").0;
    assert_eq!(redirected(&other), 1);
}

#[tokio::test(start_paused = true)]
async fn reports_count_by_the_annotation_where_there_is_one() {
    let (publisher, mut published) = Publisher::new(settings(), Memory::annotations(), &objects(SHOP)).expect("valid");
    let (updates, updated) = watch::channel(objects(SHOP));
    let (reports, reported) = mpsc::channel(1);
    let running = tokio::spawn(publisher.run(updated, reported));
    published.mark_unchanged();
    let (node, pods) = enabled("a").reports.pop_first().expect("a report");
    reports.send(NodeReport { node, pods }).await.expect("running");
    assert!(tokio::time::timeout(Duration::from_secs(60), published.changed()).await.is_err());
    updates.send(annotated_shop("enabled", "mesh")).expect("running");
    published.changed().await.expect("running");
    assert_eq!(published.borrow().world.redirected.len(), 1);
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn the_first_change_is_published_at_once_and_more_of_them_together() {
    let (publisher, mut published) = Publisher::new(settings(), Memory::annotations(), &objects(SHOP)).expect("valid");
    let (updates, updated) = watch::channel(objects(SHOP));
    let (_reports, reported) = mpsc::channel(1);
    let running = tokio::spawn(publisher.run(updated, reported));
    let zone = |name: &str| objects(&SHOP.replace("name: client", &format!("name: {name}")));
    published.mark_unchanged();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let start = Instant::now();
    updates.send(zone("first")).expect("running");
    published.changed().await.expect("running");
    assert_eq!(start.elapsed(), Duration::ZERO);
    for name in ["second", "third"] {
        updates.send(zone(name)).expect("running");
        tokio::task::yield_now().await;
    }
    published.changed().await.expect("running");
    let rest = start.elapsed();
    assert!(rest >= SHORTEST_REST && rest <= LONGEST_REST, "{rest:?}");
    assert!(published.borrow_and_update().world.workloads.contains_key("Kubernetes//Pod/shop/third"));
    assert!(tokio::time::timeout(Duration::from_secs(60), published.changed()).await.is_err());
    running.abort();
}

#[tokio::test]
async fn a_bypass_is_over_without_anybody_saying_so() {
    let until = Timestamp::now() + Duration::from_millis(500);
    let annotation = format!("annotations: {{nodemesh.io/bypass-until: '{until}'}}, labels:");
    let shop = objects(&SHOP.replacen("labels:", &annotation, 1));
    let (publisher, mut published) = Publisher::new(settings(), Memory::annotations(), &shop).expect("valid");
    let (_updates, updated) = watch::channel(shop);
    let (_reports, reported) = mpsc::channel(1);
    let mode = |published: &Published| published.world.local_pods["a"][crate::index::tests::CART].mode;
    assert_eq!(mode(&published.borrow_and_update()), mesh_common::model::Mode::None);
    assert!(published.borrow().world.identities.is_empty());
    let running = tokio::spawn(publisher.run(updated, reported));
    published.changed().await.expect("running");
    assert_eq!(mode(&published.borrow()), mesh_common::model::Mode::Mesh);
    assert!(Timestamp::now() >= until);
    running.abort();
}

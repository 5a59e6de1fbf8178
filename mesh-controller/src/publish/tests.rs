//! What is published, and what is remembered of it.

use std::path::Path;

use super::*;
use crate::index::tests::{SHOP, enabled, objects, settings};

/// A publisher on this state folder that was told of the shop, but of no redirection yet.
fn publisher(state: &Path) -> Publisher {
    Publisher::new(settings(), Memory::new(state), &objects(SHOP)).expect("a publisher").0
}

fn remembered(state: &Path) -> BTreeMap<PodName, String> {
    Memory::new(state).load().expect("readable").clone()
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
    let rest = "{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: v, namespace: shop}}";
    publisher.publish(&objects(rest));
    assert!(!publisher.published.borrow().world.problems.is_empty());
    assert!(remembered(state.path()).is_empty());
}

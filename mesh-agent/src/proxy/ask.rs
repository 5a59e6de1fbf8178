//! Whose an address is, where the controller tells on demand: who dials waits for the answer. Without one the
//! connection is refused: it would leave in plaintext, and may be meant for a workload of the mesh.

use std::{net::IpAddr, sync::Arc, time::Duration};

use crate::state::{Snapshot, Store};

/// The newest state, in which everything is known of the address that the mesh knows; otherwise why not. `uid` is the
/// workload that dials it.
pub async fn whose(store: &Store, uid: &str, address: IpAddr, patience: Duration) -> Result<Arc<Snapshot>, String> {
    let snapshot = store.snapshot();
    if !snapshot.must_ask(address) || store.questions().ask(address) {
        return Ok(snapshot);
    }
    let Some(_place) = store.questions().place(uid) else {
        return Err(format!("too many connections of {uid} wait to hear of other addresses"));
    };
    let mut answers = store.questions().watch();
    let answered = async {
        // It may have come before there was anybody to watch; and what came with it is in the state by then.
        while store.snapshot().must_ask(address) && !store.questions().ask(address) {
            if answers.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    match tokio::time::timeout(patience, answered).await {
        Ok(()) => Ok(store.snapshot()),
        Err(_) => Err(format!("the controller has not said within {patience:?} whose {address} is")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{Delta, Kind, Object, tests::workload};

    fn put(store: &Store, name: &str, object: Object) {
        let delta = Delta { upserts: vec![(name.to_owned(), object)], ..Delta::default() };
        let snapshot = store.apply(delta).expect("applied");
        store.questions().settle(&snapshot, &[]);
    }

    #[tokio::test]
    async fn who_dials_waits_for_the_answer_and_not_for_ever() {
        let store = Arc::new(Store::default());
        let (somebody, nobody, unsaid) = ([10, 0, 0, 1].into(), [192, 0, 2, 1].into(), [192, 0, 2, 2].into());
        let asking = |address, patience| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { whose(&store, "a", address, Duration::from_millis(patience)).await })
        };
        // The whole mesh is told: nothing is asked.
        asking(nobody, 0).await.expect("no panic").expect("at once");
        assert_eq!(store.questions().len(), 0);

        put(&store, "addresses", Object::OnDemand);
        let (one, other, third) = (asking(somebody, 60_000), asking(nobody, 60_000), asking(unsaid, 200));
        let why = third.await.expect("no panic").expect_err("never answered");
        assert_eq!(why, "the controller has not said within 200ms whose 192.0.2.2 is");
        assert!(!one.is_finished() && !other.is_finished() && store.questions().len() == 3);
        let known = workload("a", "10.0.0.1");
        put(&store, &known.uid.clone(), Object::Workload(known));
        let snapshot = one.await.expect("no panic").expect("known");
        assert_eq!(snapshot.workload_by_address(somebody).expect("known").name, "a");
        assert!(!other.is_finished());
        store.questions().settle(&snapshot, &["/192.0.2.1".to_owned()]);
        assert!(other.await.expect("no panic").expect("known").workload_by_address(nobody).is_none());
        // What has an answer is not waited for.
        asking(nobody, 0).await.expect("no panic").expect("known");
        asking(unsaid, 0).await.expect("no panic").expect_err("still not");
        // It is told of the whole mesh again.
        let removals = vec![(Kind::OnDemand, "addresses".to_owned())];
        store.apply(Delta { removals, ..Delta::default() }).expect("applied");
        asking(unsaid, 0).await.expect("no panic").expect("nothing to ask");
    }
}

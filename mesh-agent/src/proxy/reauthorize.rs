//! A live connection watches the configuration and ends when a change denies it.

use mesh_common::model::{Connection, Denied, Reason};

use crate::state::Store;

/// Resolves when the configuration no longer names the workload with this uid: what it opened ends, as what it would
/// open is refused.
pub async fn forgotten(store: &Store, uid: &str) -> Denied {
    let mut changes = store.subscribe();
    // Err: the agent is shutting down, which ends the connection in its own way.
    let gone = changes.wait_for(|snapshot| snapshot.workload(uid).is_none()).await.is_ok();
    if !gone {
        std::future::pending::<()>().await;
    }
    Denied { reason: Reason::PolicyUnknown, policy: None, rule: None }
}

/// Resolves when the configuration no longer permits `connection` to the workload with this uid.
pub async fn denied_later(store: &Store, uid: String, connection: Connection) -> Denied {
    let mut changes = store.subscribe();
    loop {
        let snapshot = changes.borrow_and_update().clone();
        match snapshot.workload(&uid) {
            Some(workload) => {
                if let Err(denied) = snapshot.authorize(workload, &connection) {
                    return denied;
                }
            }
            // Gone from the configuration: nobody can say any more that the connection is permitted.
            None => return Denied { reason: Reason::PolicyUnknown, policy: None, rule: None },
        }
        if changes.changed().await.is_err() {
            // The agent is shutting down, which ends the connection in its own way.
            std::future::pending::<()>().await;
        }
    }
}

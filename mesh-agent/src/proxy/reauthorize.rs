//! A live connection watches the configuration and ends when a change denies it.

use std::sync::Arc;

use mesh_common::model::{Connection, Decision, Denied, Passed, Reason, traffic::Protocol};

use crate::state::{Snapshot, Store};

/// Resolves when the configuration no longer names the workload with this uid: what it opened ends, as what it would
/// open is refused.
pub async fn forgotten(store: &Store, uid: &str) -> Decision {
    let mut changes = store.subscribe();
    let gone = changes.wait_for(|snapshot| snapshot.workload(uid).is_none()).await.map(|s| s.generation());
    match gone {
        Ok(generation) => nobody_knows(generation),
        // The agent is shutting down, which ends the connection in its own way.
        Err(_) => std::future::pending().await,
    }
}

/// Gone from the configuration: nobody can say any more that the connection is permitted.
fn nobody_knows(generation: u64) -> Decision {
    let outcome = Err(Denied::without_policy(Reason::PolicyUnknown));
    Decision { outcome, observations: Vec::new(), asked: None, generation }
}

/// Resolves when the configuration no longer permits `connection` to the workload with this uid. It was permitted by
/// `decided`, and is decided again only after a change of that workload, of a policy that applies to it, or of the
/// accounts of the source's namespace.
pub async fn denied_later(store: &Store, mut decided: Arc<Snapshot>, uid: String, connection: Connection) -> Decision {
    let mut changes = store.subscribe();
    loop {
        let snapshot = changes.borrow_and_update().clone();
        if !snapshot.decides_like(&decided, &uid, connection.source_identity.as_ref()) {
            match snapshot.workload(&uid) {
                Some(workload) => {
                    let decision = snapshot.decide(workload, &connection, Passed::BYTES);
                    if decision.outcome.is_err() {
                        return decision;
                    }
                }
                None => return nobody_knows(snapshot.generation()),
            }
        }
        decided = snapshot;
        if changes.changed().await.is_err() {
            // The agent is shutting down, which ends the connection in its own way.
            std::future::pending::<()>().await;
        }
    }
}

/// Resolves when the workload's limits begin to count requests to `port`: what goes on as bytes since before that, they
/// could not count. The connection ends, as one that goes past the agent does, and its client opens another.
pub async fn limited_later(store: &Store, uid: &str, connection: &Connection) -> Decision {
    let port = connection.destination.port();
    let counts = |snapshot: &Arc<Snapshot>| {
        let inbound = snapshot.inbound(uid);
        inbound.limits_port(port) && !matches!(inbound.protocol(port), Protocol::Tcp | Protocol::Tls)
    };
    let mut changes = store.subscribe();
    let limited = changes.wait_for(counts).await.map(|snapshot| Arc::clone(&snapshot));
    match limited {
        Ok(snapshot) => match snapshot.workload(uid) {
            Some(workload) => snapshot.decide(workload, connection, Passed::BYTES),
            None => nobody_knows(snapshot.generation()),
        },
        // The agent is shutting down, which ends the connection in its own way.
        Err(_) => std::future::pending().await,
    }
}

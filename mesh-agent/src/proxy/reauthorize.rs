//! A live connection watches the configuration and ends when a change denies it.

use std::sync::Arc;

use mesh_common::model::{Connection, Decision, Denied, Passed, Reason, ServiceName, Workload, traffic::Protocol};

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

/// Decides by the newest configuration.
pub fn decide_now(store: &Store, uid: &str, connection: &Connection, passed: Passed) -> (Arc<Snapshot>, Decision) {
    let snapshot = store.snapshot();
    let decision = match snapshot.workload(uid) {
        Some(workload) => snapshot.decide(workload, connection, passed),
        None => nobody_knows(snapshot.generation()),
    };
    (snapshot, decision)
}

/// Resolves when the configuration no longer permits `connection` to the workload with this uid, which `passed` is
/// known of. It was permitted by `decided`, and is decided again only after a change of that workload, of a policy that
/// applies to it, or of the accounts of the source's namespace.
pub async fn denied_later(store: &Store, decided: Arc<Snapshot>, of: (&str, &Connection), passed: Passed) -> Decision {
    ends_later(store, decided, of, passed, |_, _, _| true).await
}

/// As [`denied_later`] for a connection that carries requests: what policies deny of these, each hears in an answer
/// ([`answers`]).
pub async fn unheard_later(store: &Store, decided: Arc<Snapshot>, of: (&str, &Connection)) -> Decision {
    let ends = |snapshot: &Snapshot, workload: &Workload, denied: &Denied| {
        !answers(snapshot, workload, of.1.destination.port(), denied)
    };
    ends_later(store, decided, of, Passed::Open, ends).await
}

/// Whether a client that is denied so hears it in answers to its requests, if it speaks HTTP. Who has no identity where
/// one must be had, or one that is over, is not heard at all.
pub fn answers(snapshot: &Snapshot, workload: &Workload, port: u16, denied: &Denied) -> bool {
    matches!(denied.reason, Reason::PolicyDeny | Reason::PolicyNoAllow) && snapshot.decides_requests(workload, port)
}

async fn ends_later(
    store: &Store,
    mut decided: Arc<Snapshot>,
    (uid, connection): (&str, &Connection),
    passed: Passed,
    ends: impl Fn(&Snapshot, &Workload, &Denied) -> bool,
) -> Decision {
    let mut changes = store.subscribe();
    loop {
        let snapshot = changes.borrow_and_update().clone();
        if !snapshot.decides_like(&decided, uid, connection.source_identity.as_ref()) {
            match snapshot.workload(uid) {
                Some(workload) => {
                    let decision = snapshot.decide(workload, connection, passed.clone());
                    if decision.outcome.as_ref().is_err_and(|denied| ends(&snapshot, workload, denied)) {
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

/// Resolves when what goes to the workload's port must be read from now on: what goes on as bytes since before that,
/// nobody could count or judge. The connection ends, as one that goes past the agent does, and its client opens
/// another.
pub async fn read_later(store: &Store, uid: &str, connection: &Connection) -> Decision {
    let port = connection.destination.port();
    let mut decided: Option<Arc<Snapshot>> = None;
    let mut changes = store.subscribe();
    loop {
        let snapshot = changes.borrow_and_update().clone();
        let alike = decided
            .as_ref()
            .is_some_and(|decided| snapshot.decides_like(decided, uid, None) && snapshot.has_inbound_of(decided, uid));
        if !alike && let Some(workload) = snapshot.workload(uid) {
            // Where bytes are declared a limit counts connections, and this one was there before.
            let counts_only = matches!(snapshot.inbound(uid).protocol(port), Protocol::Tcp | Protocol::Tls)
                && !snapshot.policies_of(workload).asks_server_name;
            if !counts_only && snapshot.must_read(workload, port) {
                return snapshot.decide(workload, connection, Passed::Open);
            }
        }
        decided = Some(snapshot);
        if changes.changed().await.is_err() {
            // The agent is shutting down, which ends the connection in its own way.
            std::future::pending::<()>().await;
        }
    }
}

/// Resolves when connections of the workload with this uid to a port of the service begin to be looked into: what goes
/// on as bytes since before that goes past the service's rules.
pub async fn outdated(store: Arc<Store>, uid: String, service: ServiceName, port: u16) {
    let looks = |snapshot: &Arc<Snapshot>| {
        let own = snapshot.workload(&uid);
        own.is_some_and(|own| snapshot.looks_into(&service, &own.namespace, port))
    };
    if store.subscribe().wait_for(looks).await.is_err() {
        // The agent is shutting down, which ends the connection in its own way.
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use mesh_common::model::{
        LocalPod, Mode,
        telemetry::{Requests, Telemetry},
        traffic::{Action, DirectResponse, For, HttpRoute, Inbound, Origin, Routes, Traffic, TrafficPolicy},
    };

    use super::*;
    use crate::state::{
        Object, Rules,
        tests::{pod, put, service, workload},
    };

    fn rules(protocol: Protocol, routes: bool) -> Object {
        let action = Action::Respond(DirectResponse { status: 418, body: None });
        let route = HttpRoute::new("shop/cart/0", Origin::default(), action);
        let http = if routes { vec![route] } else { vec![] };
        let mut all = TrafficPolicy::default();
        all.pool.max_connections = Some(9);
        let traffic = Traffic {
            service: service("10.96.0.1").service_name(),
            protocols: BTreeMap::from([(80, protocol)]),
            routes: vec![For::everybody(Routes { http, ..Routes::default() })],
            policies: vec![For::everybody(mesh_common::model::traffic::DestinationPolicy {
                all,
                ..Default::default()
            })],
            seen: false,
        };
        Object::Traffic(Arc::new(Rules::new(traffic).expect("rules")))
    }

    /// A connection that is bytes goes on when somebody begins to look at requests, and ends when they must be read.
    #[tokio::test]
    async fn bytes_are_read_later_only_if_something_depends_on_it() {
        let store = Arc::new(Store::default());
        let seen = Telemetry { requests: Requests::Seen, ..Telemetry::default() };
        put(&store, [Object::Workload(workload("a", "10.0.0.1")), Object::LocalPod(pod("a", Mode::Mesh))]);
        let connection = Connection {
            source_identity: None,
            source_ip: [10, 0, 0, 9].into(),
            destination: ([10, 0, 0, 1], 80).into(),
        };
        let mut end = std::pin::pin!(read_later(&store, "Kubernetes//Pod/shop/a", &connection));
        let wait = Duration::from_millis(20);
        put(&store, [Object::LocalPod(LocalPod { telemetry: seen.clone(), ..pod("a", Mode::Mesh) })]);
        assert!(tokio::time::timeout(wait, end.as_mut()).await.is_err(), "it ends for the sake of being seen");
        let inbound = Inbound { unreadable: true, ..Inbound::default() };
        put(&store, [Object::LocalPod(LocalPod { telemetry: seen, inbound, ..pod("a", Mode::Mesh) })]);
        assert!(tokio::time::timeout(wait, end.as_mut()).await.is_ok(), "tokens matter from now on");
    }

    #[tokio::test]
    async fn bytes_are_outdated_by_rules_for_requests_alone() {
        use Protocol::{Auto, Http, Http2, Tcp, Tls};
        let ends = async |protocol, routes| {
            let store = Arc::new(Store::default());
            put(&store, [Object::Workload(workload("a", "10.0.0.1")), Object::Service(service("10.96.0.1"))]);
            let name = service("10.96.0.1").service_name();
            let end = outdated(Arc::clone(&store), "Kubernetes//Pod/shop/a".into(), name, 80);
            let mut end = std::pin::pin!(end);
            let wait = Duration::from_millis(20);
            assert!(tokio::time::timeout(wait, end.as_mut()).await.is_err(), "before there are any rules");
            put(&store, [rules(protocol, routes)]);
            tokio::time::timeout(wait, end).await.is_ok()
        };
        for (protocol, routes, expected) in [
            (Tcp, true, false),
            (Tls, true, false),
            (Auto, false, false),
            (Auto, true, true),
            (Http, false, true),
            (Http2, true, true),
        ] {
            assert_eq!(ends(protocol, routes).await, expected, "{protocol:?}, routes: {routes}");
        }
    }
}

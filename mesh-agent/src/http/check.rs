//! Endpoints are asked whether they are well, where the policy says so: one task for each destination of a pod, for as
//! long as the pod has it.

mod ask;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Weak, atomic::Ordering},
    time::{Duration, Instant},
};

use mesh_common::model::traffic::ActiveCheck;
use tokio::{sync::Semaphore, task::JoinSet, time::sleep};

use super::{Connect, Destination};

/// Endpoints that are asked at once.
const AT_ONCE: usize = 32;
/// Rounds are no closer to each other.
const SHORTEST: Duration = Duration::from_millis(10);

/// Answers of one endpoint in a row.
#[derive(Clone, Copy, Debug)]
struct Row {
    well: bool,
    length: u32,
}

/// Begins to ask, if the policy wants it and nobody does yet.
pub fn begin<C: Connect>(destination: &Arc<Destination>, connect: &C) {
    if destination.policy().check.is_some() && !destination.checked.swap(true, Ordering::Relaxed) {
        tokio::spawn(rounds(Arc::downgrade(destination), connect.clone()));
    }
}

async fn rounds<C: Connect>(destination: Weak<Destination>, connect: C) {
    let mut rows: HashMap<SocketAddr, Row> = HashMap::new();
    while let Some(held) = destination.upgrade() {
        let Some(check) = held.policy().check.clone() else {
            held.checked.store(false, Ordering::Relaxed);
            return;
        };
        let answers = round(&held, &check, &connect).await;
        rows.retain(|address, _| answers.iter().any(|(answered, _)| answered == address));
        for (address, well) in answers {
            let row = rows.entry(address).or_insert(Row { well, length: 0 });
            *row = if row.well == well {
                Row { length: row.length.saturating_add(1), ..*row }
            } else {
                Row { well, length: 1 }
            };
            let wanted = if well { check.healthy_threshold } else { check.unhealthy_threshold };
            if row.length == wanted.max(1) {
                held.cluster.set_checked(address, well, Instant::now());
            }
        }
        // Between rounds it is not held: it may go.
        drop(held);
        let interval = Duration::from(check.interval).max(SHORTEST);
        // Not all at the same moment.
        sleep(interval.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
    }
}

/// Everybody's answer.
async fn round<C: Connect>(
    destination: &Arc<Destination>,
    check: &ActiveCheck,
    connect: &C,
) -> Vec<(SocketAddr, bool)> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut asking = JoinSet::new();
    for endpoint in destination.endpoints() {
        let (places, connect, check) = (Arc::clone(&places), connect.clone(), check.clone());
        let secure = destination.secure();
        let address = endpoint.address;
        asking.spawn(async move {
            let _place = places.acquire().await;
            let asked = tokio::time::timeout(check.timeout.into(), ask::ask(endpoint, check.kind, secure, connect));
            (address, asked.await.unwrap_or(false))
        });
    }
    let mut answers = Vec::new();
    while let Some(answer) = asking.join_next().await {
        answers.extend(answer.ok());
    }
    answers
}

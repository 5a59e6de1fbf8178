//! Direct connections that were dialled by a service's address before the service got rules for requests. They go past
//! these rules, so they end: when nothing passes for a moment, or after a while whatever passes.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use mesh_common::abi::direction;

use super::Direct;
use crate::{
    pods::Netns,
    sock_diag::{self, Target},
    state::Snapshot,
};

/// Without a byte in either direction: nobody waits for an answer, most likely.
pub const QUIET: Duration = Duration::from_secs(1);
/// Whatever passes.
pub const LONGEST: Duration = Duration::from_secs(30);
/// How often those are looked at that are to end.
const LOOK: Duration = Duration::from_millis(500);

/// One that is to end.
#[derive(Debug)]
struct Waiting {
    since: Instant,
    /// Since when these bytes are all.
    quiet: Instant,
    bytes: u64,
}

/// By the sockets' cookies.
type All = HashMap<u64, Waiting>;

impl Waiting {
    fn new(bytes: u64, now: Instant) -> Self {
        Self { since: now, quiet: now, bytes }
    }

    /// Whether it is time, when so many bytes have passed in all.
    fn is_over(&mut self, bytes: u64, now: Instant) -> bool {
        if self.bytes != bytes {
            (self.bytes, self.quiet) = (bytes, now);
        }
        now - self.quiet >= QUIET || now - self.since >= LONGEST
    }
}

impl Direct {
    pub(super) async fn watch_outdated(&self) {
        let mut changes = self.store.subscribe();
        let mut all = All::new();
        let mut before = changes.borrow_and_update().clone();
        // At first, too: for those of an earlier agent.
        let mut again = true;
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(LOOK), if again || !all.is_empty() => {}
            }
            let snapshot = changes.borrow_and_update().clone();
            let changed = !snapshot.has_rules_of(&before);
            if changed || again || !all.is_empty() {
                tokio::task::block_in_place(|| self.look_at_outdated(&snapshot, &mut all));
            }
            // The kernel chose endpoints by itself until its tables were written.
            again = changed;
            before = snapshot;
        }
    }

    fn look_at_outdated(&self, snapshot: &Snapshot, all: &mut All) {
        let found = self.outdated(snapshot);
        all.retain(|cookie, _| found.values().any(|(_, targets)| targets.iter().any(|one| one.cookie == *cookie)));
        for (netns, targets) in found.into_values() {
            if let Err(error) = self.end_outdated(&netns, targets, all) {
                tracing::error!(%error, "cannot end direct connections that go past their service's rules");
            }
        }
    }

    /// By the namespace that has their sockets.
    fn outdated(&self, snapshot: &Snapshot) -> BTreeMap<u64, (Arc<Netns>, Vec<Target>)> {
        let mut found = BTreeMap::new();
        for (cookie, open) in self.datapath.direct_connections() {
            if open.direction != direction::DIRECT || open.dialled == open.remote {
                continue;
            }
            let dialled = SocketAddr::from(open.dialled);
            let Some(service) = snapshot.service_by_address(dialled.ip()) else { continue };
            let Some((pair, netns)) = self.pair_now(&open) else { continue };
            let Some(source) = snapshot.workload(&pair.source) else { continue };
            if snapshot.looks_into(&service.service_name(), &source.namespace, dialled.port()) {
                let target = Target { local: open.local.into(), remote: open.remote.into(), cookie };
                found.entry(netns.cookie()).or_insert_with(|| (netns, Vec::new())).1.push(target);
            }
        }
        found
    }

    fn end_outdated(&self, netns: &Netns, mut targets: Vec<Target>, all: &mut All) -> io::Result<()> {
        let open = netns.run(sock_diag::connections)??;
        let bytes: HashMap<u64, u64> = open
            .iter()
            .filter_map(|open| Some((open.cookie, open.info.as_ref()?)))
            .map(|(cookie, info)| (cookie, info.bytes_acked + info.bytes_received))
            .collect();
        let now = Instant::now();
        targets.retain(|target| {
            let bytes = bytes.get(&target.cookie).copied().unwrap_or_default();
            all.entry(target.cookie).or_insert_with(|| Waiting::new(bytes, now)).is_over(bytes, now)
        });
        if targets.is_empty() {
            return Ok(());
        }
        self.marks().outdated(&targets);
        let ended = netns.run(|| sock_diag::destroy_all(&targets)).and_then(|ended| ended);
        match &ended {
            Ok(ended) => tracing::info!(ended, "direct connections ended that went past their service's rules"),
            Err(_) => self.marks().not_ended(&targets),
        }
        ended.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_when_it_is_quiet_or_has_gone_on_for_long() {
        let began = Instant::now();
        let after = |millis: u64| began + Duration::from_millis(millis);
        let mut quiet = Waiting::new(7, began);
        assert!(!quiet.is_over(7, after(900)) && quiet.is_over(7, after(1000)));
        let mut busy = Waiting::new(0, began);
        for second in 1..30 {
            assert!(!busy.is_over(second, after(second * 1000)), "{second}");
        }
        assert!(busy.is_over(30, after(30_000)));
    }
}

//! Connections that a namespace had before its pod was enrolled. They go on past the agent, which knows them by their
//! sockets' cookies and by nothing else.

use std::{
    collections::BTreeMap,
    fs, io,
    ops::RangeInclusive,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Netns, cgroup};
use crate::sock_diag::{self, Connection};

/// Those that were there and did not end yet: SO_COOKIE, and whether somebody else dialled it.
#[derive(Debug, Default)]
pub struct Older(Mutex<BTreeMap<u64, bool>>);

impl Older {
    /// As an earlier agent knew them.
    pub fn put(&self, known: impl IntoIterator<Item = (u64, bool)>) {
        self.locked().extend(known);
    }

    pub fn list(&self) -> Vec<(u64, bool)> {
        self.locked().iter().map(|(cookie, inbound)| (*cookie, *inbound)).collect()
    }

    /// All others ended.
    pub fn keep(&self, is_open: impl Fn(u64) -> bool) {
        self.locked().retain(|cookie, _| is_open(*cookie));
    }

    pub fn clear(&self) {
        self.locked().clear();
    }

    /// Nothing that holds it can panic half way through a change.
    fn locked(&self) -> MutexGuard<'_, BTreeMap<u64, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Netns {
    /// Notes what is open and not the agent's own, which may carry something from an earlier time in the mesh. To be
    /// called once the namespace is redirected and before anything can be direct, so that nothing comes between.
    pub(super) fn note_older(&self) -> io::Result<()> {
        let look = || io::Result::Ok((sock_diag::connections()?, sock_diag::open_ports()?, own_ports()?));
        let (open, listening, own_ports) = self.run(look)??;
        let leaves = |c: &Connection| {
            let (local, remote) = (c.local.ip(), c.remote.ip());
            !local.is_loopback() && !remote.is_loopback() && local != remote
        };
        let agent = cgroup::agent();
        let older = open.into_iter().filter(|c| leaves(c) && (agent.is_none() || c.cgroup != agent));
        // A server may have closed its listener and keep what it accepted.
        let inbound = |port: u16| listening.contains(&port) || !own_ports.contains(&port);
        self.older.put(older.map(|c| (c.cookie, inbound(c.local.port()))));
        Ok(())
    }
}

/// Ports from which the calling thread's namespace dials.
fn own_ports() -> io::Result<RangeInclusive<u16>> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok(first..=last),
        _ => Err(io::Error::other(format!("ip_local_port_range: `{}` is no range", text.trim()))),
    }
}

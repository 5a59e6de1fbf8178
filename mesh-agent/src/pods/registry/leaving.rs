//! A pod that leaves the mesh and lives on, in an order in which no connection is refused: first it dials past the
//! agent, then, once everybody has heard that it takes no tunnels, it is dialled past it, and last the listener goes,
//! when what had arrived is accepted.

use tokio::time::{Duration, Instant};

use super::{Audited, Key, Redirection, Registry};
use crate::pods::table::Presence;

/// How long peers may still dial the tunnel's port: a change takes a second to reach everybody.
const HEARD: Duration = Duration::from_millis(1500);
/// How long the kernel may take to let the program go, and connections that had arrived to be accepted.
const ACCEPTED: Duration = Duration::from_millis(300);

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaving {
    /// It dials past the agent; what arrives is still served.
    Heard(Instant),
    /// Nothing arrives any more.
    Accepted(Instant),
}

impl Leaving {
    pub fn next(self) -> Instant {
        match self {
            Self::Heard(at) | Self::Accepted(at) => at,
        }
    }
}

impl Registry {
    /// One pod that is not in the mesh.
    pub(super) fn open(&mut self, key: &Key) -> Redirection {
        let now = Instant::now();
        let Some(joined) = self.joined.get_mut(key) else { return Redirection::Disabled };
        let Some(active) = &joined.active else {
            // What an earlier agent left serves nobody, and what was observed is no longer.
            if self.hooks.known(&joined.netns) || self.hooks.observed(&joined.netns).is_some() {
                self.hooks.unhook(joined.netns.cookie(), None, Presence::Unhooked);
                (joined.observed, joined.audited) = (None, Audited::default());
                self.publish();
            }
            return Redirection::Disabled;
        };
        let next = match joined.leaving {
            None => {
                self.hooks.outbound_off(active, &joined.netns);
                Some(Leaving::Heard(now + HEARD))
            }
            Some(leaving) if leaving.next() > now => Some(leaving),
            Some(Leaving::Heard(_)) => {
                self.hooks.inbound_off(&joined.netns);
                Some(Leaving::Accepted(now + ACCEPTED))
            }
            Some(Leaving::Accepted(_)) => None,
        };
        if next.is_none() {
            self.hooks.left(joined.active.take(), &joined.netns);
        }
        let changed = joined.leaving != next;
        joined.leaving = next;
        if changed {
            self.publish();
        }
        match next {
            Some(_) => Redirection::Pending("it leaves the mesh".to_owned()),
            None => Redirection::Disabled,
        }
    }

    pub(super) fn leaves(&self, key: &Key) -> bool {
        self.joined.get(key).is_some_and(|joined| joined.leaving.is_some())
    }

    /// It shall stay after all.
    pub(super) fn come_back(&mut self, key: &Key) -> Result<(), String> {
        let Some(joined) = self.joined.get_mut(key) else { return Ok(()) };
        if let (Some(_), Some(active)) = (joined.leaving, &joined.active) {
            self.hooks.come_back(active, &joined.cgroup)?;
            joined.leaving = None;
            self.publish();
        }
        Ok(())
    }

    /// When the next step is due.
    pub(super) fn next_step(&self) -> Option<Duration> {
        let due = self.joined.values().filter_map(|joined| joined.leaving).map(Leaving::next).min()?;
        Some(due.saturating_duration_since(Instant::now()))
    }
}

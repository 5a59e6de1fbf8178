//! What follows from an audit: faults are counted and told, what can be mended is mended and looked at again, and a pod
//! that cannot be mended has failed.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{Key, Registry};
use crate::{
    bpf::{Fault, probe_faults},
    pods::{
        audit::{Findings, Subject, examine},
        hooks::Active,
    },
    telemetry,
};

/// How soon what was mended is looked at again.
const SOON: Duration = Duration::from_millis(100);

/// What the audits of one pod said so far.
#[derive(Debug, Default)]
pub(super) struct Audited {
    /// Of the last audit, for people; empty: nothing was wrong.
    pub fault: String,
    pub proven: Option<SystemTime>,
    /// It was mended since the last look.
    mended: bool,
    /// Mending did not help.
    pub broken: bool,
}

impl Registry {
    /// Looks at everything that is redirected or observed; the findings come to [`Registry::audited`].
    pub(super) fn audit(&mut self) {
        if self.auditing.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        let datapath = self.hooks.datapath();
        // Here and not in the task: nobody writes them meanwhile.
        let probes = datapath.probes();
        let subjects = self.joined.iter().filter(|(_, joined)| joined.leaving.is_none()).filter_map(|(key, joined)| {
            let Active { pod, probe_ports, .. } = joined.active.as_ref()?;
            let faults = probe_faults(&probes, pod.entry(), probe_ports).into_iter().collect();
            Some(Subject { key: key.clone(), pod: Arc::clone(pod), cgroup: joined.cgroup.clone(), faults })
        });
        let observed = self.audit_observed();
        let examined = examine(datapath, subjects.collect(), self.settings.outbound_port);
        let findings = self.findings.clone();
        let task = tokio::spawn(async move {
            let mut found = examined.await;
            found.pods.extend(observed);
            // Fails only if the registry is gone.
            let _ = findings.send(found).await;
        });
        self.auditing = Some(task.abort_handle());
    }

    /// Returns when to look again out of turn.
    pub(super) fn audited(&mut self, findings: Findings<Key>) -> Option<Duration> {
        let Findings { shared, pods } = findings;
        let mut again = None;
        // An observed pod has another slot now.
        let mut moved = false;
        let mut shared = count_and_tell("", &shared);
        if !shared.is_empty() {
            shared = match self.hooks.mend_shared() {
                Ok(()) => count_and_tell("", &self.hooks.datapath().shared_faults()),
                Err(e) => format!("{shared}; mending failed: {e}"),
            };
        }
        self.shared.send_if_modified(|old| {
            let changed = *old != shared;
            old.clone_from(&shared);
            changed
        });
        for (key, epoch, faults) in pods {
            // What leaves is taken apart.
            let Some(joined) = self.joined.get_mut(&key).filter(|joined| joined.leaving.is_none()) else { continue };
            // Hooked anew while it was looked at.
            if joined.epoch() != Some(epoch) {
                continue;
            }
            let audited = &mut joined.audited;
            if faults.is_empty() {
                (audited.proven, audited.broken) = (Some(SystemTime::now()), false);
                match std::mem::take(&mut audited.mended) {
                    true => audited.fault.push_str("; mended"),
                    false => audited.fault.clear(),
                }
                continue;
            }
            audited.fault = count_and_tell(&format!("{}/{}: ", key.0, key.1), &faults);
            // A second time in a row: mending did not help. It is tried again all the same.
            audited.broken = std::mem::replace(&mut audited.mended, true);
            if !audited.broken {
                again = Some(SOON);
            }
            let mended = match (&joined.active, joined.observed) {
                (Some(active), _) => self.hooks.mend(active, &joined.cgroup),
                (None, Some(entry)) => self.hooks.mend_observed(&joined.netns, entry).map(|mended| {
                    moved |= mended != entry;
                    joined.observed = Some(mended);
                }),
                (None, None) => Ok(()),
            };
            if let Err(e) = mended {
                audited.fault.push_str(&format!("; mending failed: {e}"));
            }
        }
        if moved {
            self.publish();
        }
        again
    }
}

fn count_and_tell(whose: &str, faults: &[Fault]) -> String {
    let mut text = String::new();
    for Fault { check, why } in faults {
        telemetry::audit_fault(check);
        tracing::error!(check, "{whose}{why}");
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(why);
    }
    text
}

//! What changes in the configuration is told in the audit stream, as this node takes it over.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh_common::{
    audit::{Change, Passage},
    model::{LocalPod, Mode},
};
use tokio::sync::watch;

use crate::{
    state::{Snapshot, Store},
    telemetry::audit::{self, Stream},
};

/// What was told, and of what.
pub struct Following {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// False while another agent of this node tells.
    speaking: watch::Receiver<bool>,
    audit: Stream,
    told: Arc<Snapshot>,
    /// Uids of pods of which it was told that they go past the mesh.
    bypassing: BTreeSet<String>,
}

impl Following {
    /// Tells of what will differ from what is in the store now: before the controller has said anything, that is what
    /// the last agent of this node has told of, so nothing is missed that changed while there was none.
    pub fn new(store: &Store, speaking: watch::Receiver<bool>, audit: Stream) -> Self {
        let (snapshots, told) = (store.subscribe(), store.snapshot());
        let observed = told.local_pods().filter(|pod| pod.mode == Mode::Observe);
        let bypassing = observed.map(|pod| pod.uid.clone()).collect();
        Self { snapshots, speaking, audit, told, bypassing }
    }

    pub async fn run(mut self) {
        loop {
            self.tell();
            let changed = tokio::select! {
                changed = self.snapshots.changed() => changed,
                changed = self.speaking.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }

    fn tell(&mut self) {
        let now = self.snapshots.borrow_and_update().clone();
        let speaks = *self.speaking.borrow_and_update();
        if speaks {
            self.tell_policies(&now);
        }
        self.tell_pods(&now, speaks);
        self.told = now;
    }

    fn tell_policies(&self, now: &Snapshot) {
        let before = &self.told;
        if now.has_policies_of(before) {
            return;
        }
        for policy in now.policies() {
            let change = match before.policy(&policy.name) {
                None => Change::Added,
                Some(earlier) if earlier == policy => continue,
                Some(_) => Change::Changed,
            };
            self.audit.tell(audit::policy(change, policy, now.generation()));
        }
        for policy in before.policies().filter(|policy| now.policy(&policy.name).is_none()) {
            self.audit.tell(audit::policy(Change::Removed, policy, now.generation()));
        }
    }

    /// Of pods that were in the mesh and are not any more, or are watched only.
    fn tell_pods(&mut self, now: &Snapshot, speaks: bool) {
        let pods = |snapshot: &Snapshot| -> BTreeMap<String, Arc<LocalPod>> {
            snapshot.local_pods().map(|pod| (pod.uid.clone(), Arc::clone(pod))).collect()
        };
        let (before, after) = (pods(&self.told), pods(now));
        for (uid, pod) in &after {
            let earlier = before.get(uid).map(|pod| pod.mode);
            let change = match (earlier, pod.mode) {
                (Some(earlier), mode) if earlier == mode => continue,
                (_, Mode::Observe) | (Some(Mode::Mesh), Mode::None) => Passage::Begun,
                // Whoever watched it left it alone: it is as unprotected as before.
                (_, Mode::None) => continue,
                (_, Mode::Mesh) if self.bypassing.contains(uid) => Passage::Ended,
                (_, Mode::Mesh) => continue,
            };
            match change {
                Passage::Begun => self.bypassing.insert(uid.clone()),
                Passage::Ended => self.bypassing.remove(uid),
            };
            if speaks {
                self.audit.tell(audit::bypass(change, pod, Some(pod.mode), now.generation()));
            }
        }
        for (uid, pod) in before.iter().filter(|(uid, _)| !after.contains_key(*uid)) {
            if self.bypassing.remove(uid) && speaks {
                self.audit.tell(audit::bypass(Passage::Ended, pod, None, now.generation()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::{
        audit::Record,
        model::{Action, Policy, PolicyName, SameNode, Scope, traffic::Inbound},
    };

    use super::*;
    use crate::{
        state::{Delta, Kind, Object},
        telemetry::audit::{LAST_LINES, Target, open},
    };

    fn policy(name: &str, action: Action) -> (String, Object) {
        let name = PolicyName { namespace: "shop".into(), name: name.into() };
        let policy = Policy { name, scope: Scope::Namespace, action, rules: Vec::new(), dry_run: false };
        (policy.name.to_string(), Object::Policy(policy))
    }

    fn pod(name: &str, mode: Mode) -> (String, Object) {
        let pod = LocalPod {
            uid: name.into(),
            pod_uid: String::new(),
            namespace: "shop".into(),
            name: name.into(),
            service_account: "default".into(),
            addresses: Vec::new(),
            mode,
            strict_by: None,
            probe_ports: Vec::new(),
            same_node: SameNode::Direct,
            inbound: Inbound::default(),
            telemetry: Default::default(),
        };
        (pod.uid.clone(), Object::LocalPod(pod))
    }

    fn upserts(upserts: impl IntoIterator<Item = (String, Object)>) -> Delta {
        Delta { upserts: upserts.into_iter().collect(), ..Delta::default() }
    }

    fn removal(kind: Kind, name: &str) -> Delta {
        Delta { removals: vec![(kind, name.to_owned())], ..Delta::default() }
    }

    /// What is told of these changes, in short, with the generation.
    fn told(before: Delta, changes: impl IntoIterator<Item = (bool, Delta)>) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.json");
        let audit = open(&Target::File(path.clone()), "a").unwrap();
        let store = Store::default();
        store.apply(before).unwrap();
        let (speaks, speaking) = watch::channel(true);
        let mut following = Following::new(&store, speaking, audit.clone());
        for (speaking, change) in changes {
            speaks.send_replace(speaking);
            store.apply(change).unwrap();
            following.tell();
        }
        audit.end(LAST_LINES);
        let text = std::fs::read_to_string(path).unwrap();
        let short = |line: &str| {
            let record: Record = serde_json::from_str(line).unwrap();
            let policy = record.policy.map(|policy| format!("{:?} {}", policy.change, policy.name));
            let bypass = record.bypass.map(|bypass| {
                let (pod, mode) = (bypass.pod.unwrap_or_default(), bypass.mode.unwrap_or_default());
                format!("{:?} {pod} {mode}", bypass.change)
            });
            format!("{} {}", record.generation.unwrap_or_default(), policy.or(bypass).unwrap())
        };
        text.lines().map(short).collect()
    }

    #[test]
    fn policies_are_told_as_they_come_change_and_go() {
        let all = told(
            upserts([policy("old", Action::Allow)]),
            [
                (true, upserts([policy("new", Action::Allow), policy("old", Action::Allow)])),
                (true, upserts([policy("old", Action::Deny)])),
                (true, upserts([pod("p", Mode::Mesh)])),
                (true, removal(Kind::Policy, "shop/old")),
                // The other agent of this node tells that.
                (false, removal(Kind::Policy, "shop/new")),
                (true, upserts([policy("last", Action::Allow)])),
            ],
        );
        assert_eq!(all, ["2 Added new", "3 Changed old", "5 Removed old", "7 Added last"]);
    }

    #[test]
    fn pods_that_go_past_the_mesh_are_told_and_told_back() {
        let all = told(
            upserts([pod("a", Mode::Mesh), pod("b", Mode::Observe), pod("c", Mode::None)]),
            [
                (true, upserts([pod("a", Mode::None), pod("d", Mode::None), pod("e", Mode::Mesh)])),
                (true, upserts([pod("a", Mode::Mesh), pod("b", Mode::Mesh), pod("c", Mode::Mesh)])),
                (true, upserts([pod("e", Mode::Observe)])),
                (true, removal(Kind::LocalPod, "e")),
                (true, removal(Kind::LocalPod, "a")),
            ],
        );
        let expected = ["2 Begun a none", "3 Ended a mesh", "3 Ended b mesh", "4 Begun e observe", "5 Ended e "];
        assert_eq!(all, expected);
    }
}

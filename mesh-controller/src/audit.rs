//! What this replica says in the audit stream: which policies there are, which namespaces go past the mesh, whose
//! certificates it signed, and what it refused. As the log and the counters, there is one a process.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use k8s_openapi::jiff::Timestamp;
use mesh_common::audit::{
    Bounds, Bypass, Certificate, Change, Counting, Kind, Passage, PolicyChange, Record, Sink, Stream, Target, Time,
    Writer,
};
use metrics::counter;
use tokio::sync::watch;

use crate::{
    publish::Published,
    refusal::Refusal,
    source::{self, CustomKind, Key, Object, Update},
    translate::join,
};

static STREAM: OnceLock<Stream> = OnceLock::new();
/// How long the end of the controller waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Opens it. Until then, and in tests, what is said is kept nowhere.
pub fn open(target: &Target) -> Result<()> {
    let place = || format!("--audit-log {target}");
    let counting = Counting {
        written: |kind, events| counter!("mesh_audit_events_total", "kind" => kind.name()).increment(events),
        lost: |events| counter!("mesh_audit_events_lost_total").increment(events),
        failed: |error| tracing::error!(%error, "the audit stream cannot be written; what is not written is counted"),
    };
    // In a pod, the pod's name.
    let instance = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned();
    let writer = Writer { program: "mesh-controller".to_owned(), instance, counting };
    let stream = Stream::to(Sink::open(target).with_context(place)?, writer, Bounds::default()).with_context(place)?;
    // It is opened once, before anything is said.
    let _ = STREAM.set(stream);
    Ok(())
}

/// Writes what was said last.
pub fn end() {
    if let Some(stream) = STREAM.get() {
        stream.end(LAST_LINES);
    }
}

fn tell(record: Record) {
    if let Some(stream) = STREAM.get() {
        stream.tell(record);
    }
}

/// A certificate was signed for a node's agent.
pub fn signed(node: &str, identity: String, serial: &str, not_after: SystemTime) {
    let mut record = Record::new(Kind::CertificateIssued);
    record.certificate = Some(Box::new(Certificate {
        identity: Some(identity),
        node: Some(node.to_owned()),
        serial: Some(serial.to_owned()),
        not_after: Some(Time(not_after)),
        renewed: false,
    }));
    tell(record);
}

/// A node's agent asked for a certificate, of this identity if it named one, and gets none.
pub fn not_signed(node: &str, identity: Option<String>, refusal: &Refusal) {
    let mut record = refused(Kind::CertificateRefused, refusal);
    record.certificate =
        Some(Box::new(Certificate { identity, node: Some(node.to_owned()), ..Certificate::default() }));
    tell(record);
}

/// Another call was not served. `caller` is a node, or the address of somebody who did not prove one.
pub fn not_served(caller: &str, refusal: &Refusal) {
    let mut record = refused(Kind::AgentRefused, refusal);
    record.caller = Some(caller.to_owned());
    tell(record);
}

fn refused(kind: Kind, Refusal { reason, why }: &Refusal) -> Record {
    let mut record = Record::new(kind);
    (record.reason, record.message) = (Some(reason.code().to_owned()), Some(why.clone()));
    record
}

/// What of an object somebody must answer for.
struct Following<T> {
    tell: T,
    policies: BTreeMap<Key, Arc<Object>>,
    /// What the label of a namespace says, of those that have one with a meaning.
    modes: BTreeMap<String, &'static str>,
    bypassed: BTreeMap<String, Timestamp>,
    /// Namespaces of which it was told that their label takes them past the mesh.
    labelled: BTreeSet<String>,
}

/// Tells of what is there, and from then on of what changes; it never ends. Of what changes twice before this looks
/// again, the last is told.
pub async fn follow(mut updates: watch::Receiver<Update>, mut published: watch::Receiver<Arc<Published>>) {
    let mut following = Following::new(tell);
    let first = updates.borrow_and_update().clone();
    following.objects(&first, true);
    loop {
        let bypassed = published.borrow_and_update().world.bypassed.clone();
        following.bypassed(&updates.borrow().clone(), bypassed);
        tokio::select! {
            Ok(()) = updates.changed() => {
                let update = updates.borrow_and_update().clone();
                following.objects(&update, false);
            }
            Ok(()) = published.changed() => {}
            else => std::future::pending().await,
        }
    }
}

impl<T: FnMut(Record)> Following<T> {
    fn new(tell: T) -> Self {
        Self {
            tell,
            policies: BTreeMap::new(),
            modes: BTreeMap::new(),
            bypassed: BTreeMap::new(),
            labelled: BTreeSet::new(),
        }
    }

    fn objects(&mut self, update: &Update, first: bool) {
        let (mut policies, mut modes) = (BTreeMap::new(), BTreeMap::new());
        for object in update.objects.iter() {
            match &object.kind {
                source::Kind::Custom(kind, _) if is_policy(*kind) => {
                    policies.insert(object.key(), Arc::clone(object));
                }
                source::Kind::Namespace(namespace) => {
                    let mode = namespace.metadata.labels.as_ref().and_then(join::word);
                    modes.extend(namespace.metadata.name.clone().zip(mode));
                }
                _ => {}
            }
        }
        for (key, object) in &policies {
            let change = match self.policies.get(key) {
                None if first => Change::Found,
                None => Change::Added,
                Some(earlier) if says_the_same(earlier, object) => continue,
                Some(_) => Change::Changed,
            };
            (self.tell)(policy(change, key, object));
        }
        for (key, object) in self.policies.iter().filter(|(key, _)| !policies.contains_key(key)) {
            (self.tell)(policy(Change::Removed, key, object));
        }
        self.policies = policies;
        if !first {
            self.labels(update, &modes);
        }
        self.modes = modes;
    }

    /// A namespace that was in the mesh and is not any more, or is only watched.
    fn labels(&mut self, update: &Update, modes: &BTreeMap<String, &'static str>) {
        let all: BTreeSet<&String> = self.modes.keys().chain(modes.keys()).collect();
        for name in all {
            let (before, now) = (self.modes.get(name).copied(), modes.get(name).copied());
            let exists = namespace(update, name).is_some();
            let change = match (before, now) {
                _ if !exists => match self.labelled.remove(name) {
                    true => Passage::Ended,
                    false => continue,
                },
                (before, now) if before == now => continue,
                (_, Some("mesh")) if self.labelled.remove(name) => Passage::Ended,
                (_, Some("observe")) | (Some("mesh"), _) => Passage::Begun,
                _ => continue,
            };
            if change == Passage::Begun {
                self.labelled.insert(name.clone());
            }
            let mode = exists.then(|| now.unwrap_or("none").to_owned());
            let bypass = Bypass {
                change,
                namespace: name.clone(),
                pod: None,
                mode,
                by: Some("label".to_owned()),
                until: None,
                manager: manager(update, name),
            };
            (self.tell)(bypassing(bypass));
        }
    }

    /// By the annotation: until when, by namespace.
    fn bypassed(&mut self, update: &Update, now: BTreeMap<String, Timestamp>) {
        let mut say = |change, name: &str, until: Option<Timestamp>| {
            let bypass = Bypass {
                change,
                namespace: name.to_owned(),
                pod: None,
                mode: (change == Passage::Begun).then(|| "none".to_owned()),
                by: Some("annotation".to_owned()),
                until: until.map(|until| Time(until.into())),
                manager: manager(update, name),
            };
            (self.tell)(bypassing(bypass));
        };
        for (name, until) in now.iter().filter(|(name, until)| self.bypassed.get(*name) != Some(until)) {
            say(Passage::Begun, name, Some(*until));
        }
        for name in self.bypassed.keys().filter(|name| !now.contains_key(*name)) {
            say(Passage::Ended, name, None);
        }
        self.bypassed = now;
    }
}

/// Kinds that say who may do what, or how much of it.
fn is_policy(kind: CustomKind) -> bool {
    matches!(
        kind,
        CustomKind::AuthorizationPolicy
            | CustomKind::PeerAuthentication
            | CustomKind::RequestAuthentication
            | CustomKind::RateLimitPolicy
    )
}

/// Labels of it and annotations of others change nothing.
fn says_the_same(before: &Arc<Object>, now: &Arc<Object>) -> bool {
    if Arc::ptr_eq(before, now) {
        return true;
    }
    let (source::Kind::Custom(_, then), source::Kind::Custom(_, custom)) = (&before.kind, &now.kind) else {
        return false;
    };
    let annotations = |object: &Object| {
        let all = object.metadata().annotations.clone().unwrap_or_default();
        all.into_iter().filter(|(name, _)| name.starts_with("istio.io/")).collect::<Vec<_>>()
    };
    then.spec == custom.spec && before.metadata().uid == now.metadata().uid && annotations(before) == annotations(now)
}

fn policy(change: Change, key: &Key, object: &Object) -> Record {
    let metadata = object.metadata();
    let annotations = metadata.annotations.as_ref();
    let mut record = Record::new(Kind::PolicyChanged);
    record.policy = Some(Box::new(PolicyChange {
        change,
        object: key.kind.clone(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        action: None,
        dry_run: annotations.is_some_and(|all| all.get("istio.io/dry-run").is_some_and(|value| value == "true")),
        uid: metadata.uid.clone(),
        resource_version: object.origin.resource_version.clone(),
        object_generation: metadata.generation,
        manager: object.origin.manager.clone(),
        file: Some(&object.file).filter(|file| !file.is_empty()).cloned(),
    }));
    record
}

fn bypassing(bypass: Bypass) -> Record {
    Record { bypass: Some(Box::new(bypass)), ..Record::new(Kind::Bypass) }
}

fn namespace<'a>(update: &'a Update, name: &str) -> Option<&'a Object> {
    let all = update.objects.iter().map(|object| &**object);
    all.filter(|object| matches!(object.kind, source::Kind::Namespace(_)))
        .find(|object| object.metadata().name.as_deref() == Some(name))
}

/// Who wrote the namespace last.
fn manager(update: &Update, name: &str) -> Option<String> {
    namespace(update, name).and_then(|object| object.origin.manager.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tests::objects;

    const POLICY: &str = "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p, namespace: shop, labels: {a: b}, annotations: {other: x}}
spec: {action: ALLOW}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: v, namespace: shop}
spec: {}
";

    /// What is told of one state after the other, in short.
    fn told(states: &[&str]) -> Vec<String> {
        let mut all = Vec::new();
        let mut following = Following::new(|record: Record| {
            let policy = record.policy.map(|policy| {
                let dry_run = if policy.dry_run { " dry run" } else { "" };
                format!("{:?} {} {}/{}{dry_run}", policy.change, policy.object, policy.namespace, policy.name)
            });
            let bypass = record.bypass.map(|bypass| {
                let (by, mode) = (bypass.by.unwrap_or_default(), bypass.mode.unwrap_or_default());
                format!("{:?} {} {mode} by {by}", bypass.change, bypass.namespace)
            });
            all.extend(policy.or(bypass));
        });
        for (number, state) in states.iter().enumerate() {
            following.objects(&objects(state), number == 0);
        }
        all
    }

    #[test]
    fn policies_are_told_when_what_they_say_changes() {
        let relabelled = POLICY.replace("{a: b}", "{a: c}").replace("{other: x}", "{other: y}");
        let idle = POLICY.replace("{other: x}", "{istio.io/dry-run: 'true'}");
        let denies = POLICY.replace("ALLOW", "DENY");
        let all = told(&[POLICY, POLICY, &relabelled, &idle, &denies, "", POLICY]);
        let name = "AuthorizationPolicy shop/p";
        let expected = [
            format!("Found {name}"),
            format!("Changed {name} dry run"),
            format!("Changed {name}"),
            format!("Removed {name}"),
            format!("Added {name}"),
        ];
        assert_eq!(all, expected);
    }

    #[test]
    fn a_namespace_s_label_is_told_when_it_takes_pods_out_or_only_watches_them() {
        let namespace = |label: &str| {
            format!(
                "{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, labels: {{nodemesh.io/mode: {label}}}}}}}"
            )
        };
        let [mesh, observe, none] = ["mesh", "observe", "none"].map(namespace);
        assert!(told(&["", &mesh, "", &mesh, &mesh]).is_empty(), "it joins, it is deleted");
        assert!(told(&[&none, &mesh]).is_empty());
        let out = ["Begun shop none by label", "Ended shop mesh by label"];
        assert_eq!(told(&[&mesh, &none, &mesh]), out);
        let unknown = namespace("msh");
        assert_eq!(told(&[&mesh, &unknown, &mesh]), out, "a word without a meaning is none");
        assert_eq!(told(&[&none, &observe, ""]), ["Begun shop observe by label", "Ended shop  by label"]);
        assert!(told(&[&observe]).is_empty(), "it was so before");
    }

    #[test]
    fn a_bypass_has_its_end() {
        let mut all = Vec::new();
        let mut following = Following::new(|record: Record| {
            let bypass = record.bypass.expect("it is one");
            let until = bypass.until.map(|until| until.to_string()).unwrap_or_default();
            all.push(format!("{:?} {} {until}", bypass.change, bypass.namespace));
        });
        let at = |until: &str| BTreeMap::from([("shop".to_owned(), until.parse().expect("a time"))]);
        let update = Update::default();
        for now in [at("2026-01-31T12:00:00Z"), at("2026-01-31T12:00:00Z"), at("2026-01-31T13:00:00Z"), BTreeMap::new()]
        {
            following.bypassed(&update, now);
        }
        let expected =
            ["Begun shop 2026-01-31T12:00:00.000000Z", "Begun shop 2026-01-31T13:00:00.000000Z", "Ended shop "];
        assert_eq!(all, expected);
    }
}

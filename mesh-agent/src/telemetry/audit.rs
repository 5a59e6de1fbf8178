//! What this agent says in the audit stream: what it refused, which policies hold here, which pods go past them, and
//! which certificates it holds.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use mesh_common::{
    audit::{
        self, Bounds, Bypass, Certificate, Change, Counting, Denied, Kind, Passage, PolicyChange, Record, Sink, Time,
        Writer,
    },
    model::{Action, Identity, LocalPod, Mode, Policy},
};
use metrics::counter;

pub use mesh_common::audit::{Stream, Target};

use super::flow::{Facts, Flow, HttpRequest, Party, Path};

/// How long the end of the agent waits for the last lines.
pub const LAST_LINES: Duration = Duration::from_secs(2);

/// Opens the stream of this node's agent.
pub fn open(target: &Target, node: &str) -> Result<Stream> {
    let place = || format!("--audit-log {target}");
    let counting = Counting {
        written: |kind, events| counter!("mesh_audit_events_total", "kind" => kind.name()).increment(events),
        lost: |events| counter!("mesh_audit_events_lost_total").increment(events),
        failed: |error| tracing::error!(%error, "the audit stream cannot be written; what is not written is counted"),
    };
    let writer = Writer { program: "mesh-agent".to_owned(), instance: node.to_owned(), counting };
    let sink = Sink::open(target).with_context(place)?;
    Stream::to(sink, writer, Bounds::default()).with_context(place)
}

/// Of a record with the verdict DROPPED.
pub(super) fn denied(flow: &Flow) -> Record {
    let party = |party: &Party| {
        let Party { facts, identity, address } = party;
        let Facts { namespace, pod, workload, .. } = &**facts;
        audit::Party {
            namespace: some(namespace),
            pod: some(pod),
            workload: some(workload),
            identity: identity.as_ref().map(ToString::to_string),
            // What the kernel refuses at connect has no address of its own yet.
            address: address.filter(|address| !address.ip().is_unspecified()).map(|address| address.to_string()),
        }
    };
    let way = |path: Path| match path {
        Path::Local => "local",
        Path::Tunnel => "tunnel",
        Path::Passthrough => "passthrough",
        Path::Direct => "direct",
    };
    let request = |http: &HttpRequest| {
        let HttpRequest { method, path, host, status, version, principal, .. } = http;
        audit::Request {
            method: method.clone(),
            path: path.clone(),
            host: host.clone(),
            version: (*version).to_owned(),
            status: *status,
            principal: principal.clone(),
        }
    };
    let mut record = Record::new(Kind::Denied);
    record.time = Time(flow.end);
    record.reason = flow.reason.as_deref().map(str::to_owned);
    record.message = flow.error.clone();
    record.generation = Some(flow.generation).filter(|generation| *generation > 0);
    record.denied = Some(Box::new(Denied {
        reporter: flow.direction.reporter().to_owned(),
        source: Some(party(&flow.source)),
        destination: Some(party(&flow.destination)),
        service: flow.service.as_ref().map(ToString::to_string),
        path: flow.path.map(|path| way(path).to_owned()),
        security: flow.security.name().to_owned(),
        policy: flow.policy.as_ref().map(ToString::to_string),
        rule: flow.rule.map(|rule| rule as u64),
        request: flow.http.as_deref().map(request),
        flow: Some(flow.id),
    }));
    record
}

/// A policy as this node has it from this generation on.
pub fn policy(change: Change, policy: &Policy, generation: u64) -> Record {
    let action = match policy.action {
        Action::Allow => "ALLOW",
        Action::Deny => "DENY",
        Action::Audit => "AUDIT",
    };
    let mut record = Record::new(Kind::PolicyChanged);
    record.generation = Some(generation);
    record.policy = Some(Box::new(PolicyChange {
        change,
        object: "AuthorizationPolicy".to_owned(),
        namespace: policy.name.namespace.clone(),
        name: policy.name.name.clone(),
        action: Some(action.to_owned()),
        dry_run: policy.dry_run,
        uid: None,
        resource_version: None,
        object_generation: None,
        manager: None,
        file: None,
    }));
    record
}

/// A pod of this node goes past the mesh, or no longer does. `mode` is what it has from now on; `None`: it is gone.
pub fn bypass(change: Passage, pod: &LocalPod, mode: Option<Mode>, generation: u64) -> Record {
    let mode = mode.map(|mode| match mode {
        Mode::None => "none",
        Mode::Mesh => "mesh",
        Mode::Observe => "observe",
    });
    let mut record = Record::new(Kind::Bypass);
    record.generation = Some(generation);
    record.bypass = Some(Box::new(Bypass {
        change,
        namespace: pod.namespace.clone(),
        pod: Some(pod.name.clone()),
        mode: mode.map(str::to_owned),
        by: None,
        until: None,
        manager: None,
    }));
    record
}

/// A certificate that this node's pods speak with from now on.
pub fn certificate(identity: &Identity, serial: &str, not_after: SystemTime, renewed: bool) -> Record {
    let mut record = Record::new(Kind::CertificateIssued);
    let (serial, not_after) = (Some(serial.to_owned()), Some(Time(not_after)));
    let identity = Some(identity.to_string());
    record.certificate = Some(Box::new(Certificate { identity, serial, not_after, renewed, node: None }));
    record
}

/// None came. `refused`: the authority said no; otherwise the next attempt may succeed.
pub fn no_certificate(identity: &Identity, refused: bool, why: impl ToString, renewed: bool) -> Record {
    let mut record = Record::new(if refused { Kind::CertificateRefused } else { Kind::CertificateFailed });
    (record.reason, record.message) = (Some(super::reason::NO_CERTIFICATE.to_owned()), Some(why.to_string()));
    record.certificate =
        Some(Box::new(Certificate { identity: Some(identity.to_string()), renewed, ..Default::default() }));
    record
}

fn some(text: &str) -> Option<String> {
    Some(text).filter(|text| !text.is_empty()).map(str::to_owned)
}

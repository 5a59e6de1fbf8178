//! Which pod of this node speaks as whom.

use mesh_common::{
    model::Identity,
    proto::nodemesh::{CertificateInfo, IdentityInfo, IdentityQuery, item},
};

use super::{Admin, pod_state};
use crate::identity::CertificateState;

/// By namespace and name.
pub fn answer(admin: &Admin, query: &IdentityQuery) -> Vec<item::Kind> {
    let snapshot = admin.store.snapshot();
    let certificates = admin.certificates.list();
    let pods = admin.pods.borrow().clone();
    let mut all: Vec<IdentityInfo> = pods
        .iter()
        .map(|status| {
            let state = pod_state(status);
            let local = snapshot.local_pod(&state.namespace, &state.name);
            let workload = local.and_then(|pod| snapshot.workload(&pod.uid));
            let identity: Option<&Identity> = workload.map(|workload| &workload.identity);
            let kept = certificates.iter().find(|kept| Some(&kept.identity) == identity);
            let certificate = kept.map(certificate).unwrap_or_else(|| CertificateInfo {
                identity: identity.map(ToString::to_string).unwrap_or_default(),
                state: missing(identity.is_some()).to_owned(),
                ..CertificateInfo::default()
            });
            IdentityInfo {
                identity: certificate.identity.clone(),
                addresses: local.map(|pod| pod.addresses.iter().map(ToString::to_string).collect()).unwrap_or_default(),
                redirection: state.redirection,
                namespace: state.namespace,
                pod: state.name,
                certificate: Some(certificate),
            }
        })
        .collect();
    let asked = |info: &IdentityInfo| {
        let of_pod = match query.pod.split_once('/') {
            Some((namespace, name)) => info.namespace == namespace && info.pod == name,
            None => query.pod.is_empty() || info.pod == query.pod,
        };
        of_pod && (query.namespace.is_empty() || info.namespace == query.namespace)
    };
    all.retain(asked);
    all.sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
    all.into_iter().map(item::Kind::Identity).collect()
}

/// Why there is none.
fn missing(known: bool) -> &'static str {
    if known { "none: the pod is not in the mesh" } else { "none: the pod is not in the configuration" }
}

pub fn certificate(kept: &CertificateState) -> CertificateInfo {
    let CertificateState { identity, serial, not_before, not_after, state } = kept;
    CertificateInfo {
        identity: identity.to_string(),
        serial: serial.clone(),
        not_before: not_before.map(Into::into),
        not_after: not_after.map(Into::into),
        state: state.clone(),
    }
}

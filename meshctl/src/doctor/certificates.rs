//! Workloads' certificates: near their end, not signed, not valid yet; and handshakes that fail for them.

use std::collections::BTreeMap;

use mesh_common::{
    model::{Validity, advice},
    proto::nodemesh::CertificateInfo,
};

use super::{
    count, or_well,
    said::{RECENT, Said, ahead},
};
use crate::{check::Finding, words};

/// Agents renew at half of a life; with so little left two thirds of the attempts have failed.
const LEFT: f64 = 0.25;

/// Refusals of a handshake. An issuer that is unknown means that two ends trust different roots.
const HANDSHAKE: &[&str] = &[
    "CERT_UNKNOWN_ISSUER",
    "CERT_BAD_SIGNATURE",
    "CERT_EXPIRED",
    "CERT_NOT_YET_VALID",
    "CERT_TRUST_DOMAIN",
    "CERT_INVALID",
    "IDENTITY_ERROR",
    "IDENTITY_REVOKED",
    "NO_CERTIFICATE",
    "TLS_FAILURE",
];

pub fn judge(said: &Said) -> Vec<Finding> {
    let mut findings: Vec<Finding> =
        said.certificates.iter().filter_map(|(node, certificate)| one(node, certificate)).collect();
    findings.extend(handshakes(said));
    or_well(findings, "certificates", format!("valid: {}", count(said.certificates.len(), "certificate")))
}

fn one(node: &str, certificate: &CertificateInfo) -> Option<Finding> {
    let identity = words::short_identity(&certificate.identity);
    let begin = certificate.not_before.map(|time| ahead(time.seconds));
    let end = certificate.not_after.map(|time| ahead(time.seconds));
    let log = "the controller's log and the agent's say why: look for the identity in both";
    if let Some(begin) = begin.filter(|begin| *begin > 0) {
        let what = format!("{identity} on {node}: its certificate is not valid before {begin} s from now");
        return Some(Finding::error("certificates", what, "the controller's clock is ahead: set the clocks by NTP"));
    }
    if !Validity::is_valid(&certificate.state) {
        let is_late = certificate.state.starts_with("valid");
        let what = format!("{identity} on {node}: {}", certificate.state);
        return Some(match is_late {
            true => Finding::warning("certificates", what, format!("it is good until its end; {log}")),
            false => Finding::error("certificates", what, format!("its pods are refused without one; {log}")),
        });
    }
    let (begin, end) = (begin?, end?);
    let life = end.saturating_sub(begin) as f64;
    (end > 0 && (end as f64) < life * LEFT).then(|| {
        let left = words::span(end as f64 * 1000.0);
        Finding::warning("certificates", format!("{identity} on {node}: its certificate ends in {left}"), log)
    })
}

fn handshakes(said: &Said) -> Vec<Finding> {
    let mut failed: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for (node, flow) in &said.flows {
        let recent = flow.end.is_some_and(|end| ahead(end.seconds).unsigned_abs() < RECENT.as_secs());
        if recent && HANDSHAKE.contains(&flow.reason.as_str()) {
            *failed.entry((node, &flow.reason)).or_default() += 1;
        }
    }
    let said = failed.into_iter().map(|((node, reason), times)| {
        let minutes = RECENT.as_secs() / 60;
        let what = format!("{node}: {reason} {} in the last {minutes} min", count(times, "time"));
        let roots = match reason {
            "CERT_UNKNOWN_ISSUER" => "the two ends trust different roots. ",
            _ => "",
        };
        Finding::error("certificates", what, format!("{roots}{}", advice(reason).unwrap_or_default()))
    });
    said.collect()
}

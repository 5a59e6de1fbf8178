//! Which certificates the agents hold, those that expire first at the top. Pure.

use mesh_common::proto::nodemesh::{CertificateInfo, item};
use serde_json::{Value, json};

use super::{Said, words};

pub fn certificates(said: &Said) -> Value {
    let mut all: Vec<(&str, &CertificateInfo)> = said
        .items
        .iter()
        .filter_map(|(node, kind)| match kind {
            item::Kind::Certificate(certificate) => Some((node.as_str(), certificate)),
            _ => None,
        })
        .collect();
    let until = |certificate: &CertificateInfo| certificate.not_after.map_or(i64::MIN, |time| time.seconds);
    all.sort_by(|(node, one), (other_node, other)| {
        (until(one), &one.identity, node).cmp(&(until(other), &other.identity, other_node))
    });
    let rows = all.iter().map(|(node, certificate)| {
        json!({
            "node": node,
            "identity": certificate.identity,
            "serial": certificate.serial,
            "not_before": words::time(certificate.not_before),
            "not_after": words::time(certificate.not_after),
            "state": certificate.state,
        })
    });
    json!({ "rows": rows.collect::<Vec<_>>(), "errors": said.errors })
}

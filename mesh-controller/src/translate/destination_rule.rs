//! `DestinationRule` -> subsets of a service, and how its endpoints are treated. Which rule holds for whom is decided
//! in the index, where rules about one host are put together first.
//!
//! - What cannot be read is left out and reported with its field; the rest is honoured. A subset whose labels or name
//!   cannot be read is left out whole: what is routed to it is refused, and never goes to other endpoints.
//! - `tls` that asks for what a node's agent cannot have (files of the client's pod, Secrets), and `tls` that cannot be
//!   read, refuse every connection: nobody gets plaintext who wrote TLS.
//! - A rule with a `workloadSelector` holds for nobody: without it, it would hold for clients that it is not for.
//! - A subset takes over from the rule, field by field (`loadBalancer`, `connectionPool`, …, each whole), what it does
//!   not say itself; a port takes over nothing but the retry budget and the health check.
//!
//! Two annotations say what the kind has no field for:
//!
//! - `nodemesh.io/load-balancer: PEAK_EWMA` where `loadBalancer` names no algorithm.
//! - `nodemesh.io/health-check: http:/healthz interval=5s timeout=1s healthy=2 unhealthy=3`: every agent with clients
//!   asks endpoints itself. `http:PATH`, `tcp`, `grpc` or `grpc:SERVICE`; the rest may be left out.

mod balancing;
mod check;
mod outlier;
mod parts;
mod pool;
mod tls;

pub use parts::{Parts, SubsetParts};

use mesh_common::model::traffic::Clients;
use serde_json::Value;

use super::{Settings, created, fields::Fields, hosts, traffic::HostRef};
use crate::{
    names,
    source::{Custom, Key},
    status::{Extent, Fault},
};

const KIND: &str = "DestinationRule";
/// Subsets of a host, over all rules about it.
pub const SUBSETS: usize = 128;
/// Ports with settings of their own, of a rule or a subset.
const PORTS: usize = 32;

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationRule {
    pub object: Key,
    /// Seconds since 1970.
    pub created: i64,
    pub host: HostRef,
    /// Whom it is exported to.
    pub clients: Clients,
    /// What it says itself of all endpoints; `None`: nothing.
    pub policy: Option<Parts>,
    pub subsets: Vec<SubsetParts>,
}

/// `None` for a rule that holds for nobody; what is not honoured as written is added to `faults`.
pub fn destination_rule(settings: &Settings, object: &Custom, faults: &mut Vec<Fault>) -> Option<DestinationRule> {
    let metadata = &object.metadata;
    let namespace = metadata.namespace.clone().unwrap_or_default();
    let mut fields = Fields::of_spec(object, faults);
    let host = fields.text("host");
    let clients = fields.export_to(metadata);
    let selected = fields.value("workloadSelector").is_some();
    let policy = fields.value("trafficPolicy");
    let subsets = fields.list("subsets", SUBSETS);
    fields.end();

    let nobody = |field: &str, why: &str, faults: &mut Vec<Fault>| {
        faults.push(Fault::new(field, format_args!("{why}; the rule holds for nobody")).of_extent(Extent::Whole));
    };
    if selected {
        nobody("spec.workloadSelector", "is not supported yet", faults);
        return None;
    }
    let Some(host) = host else {
        nobody("spec.host", "is missing", faults);
        return None;
    };
    let host = match hosts::host(settings, &namespace, &host) {
        Ok(host) => host,
        Err(why) => {
            nobody("spec.host", &why, faults);
            return None;
        }
    };
    let mut policy = policy.map(|policy| Parts::read("spec.trafficPolicy", policy, PORTS, faults));
    let subsets = subsets_of(subsets, faults);
    if let Some((algorithm, active)) = check::annotations(metadata, faults) {
        let own = policy.get_or_insert_default();
        own.algorithm = algorithm;
        own.check = active;
    }
    let name = metadata.name.clone().unwrap_or_default();
    let object = Key { kind: KIND.to_owned(), namespace, name };
    Some(DestinationRule { object, created: created(metadata), host, clients, policy, subsets })
}

fn subsets_of(list: Vec<(String, Value)>, faults: &mut Vec<Fault>) -> Vec<SubsetParts> {
    let mut found: Vec<SubsetParts> = Vec::new();
    for (path, value) in list {
        let mut fields = Fields::new(path.as_str(), value, faults);
        let name = fields.text("name");
        let labels = fields.labels("labels");
        let policy = fields.value("trafficPolicy");
        fields.end();
        let policy = policy.map(|policy| Parts::read(&format!("{path}.trafficPolicy"), policy, PORTS, faults));
        let Ok(labels) = labels else {
            let why = "the subset is left out: what is routed to it is refused";
            faults.push(Fault::new(format!("{path}.labels"), why));
            continue;
        };
        match name.ok_or_else(|| "is missing".to_owned()).and_then(|name| names::subdomain(&name).map(|()| name)) {
            Ok(name) if found.iter().any(|subset| subset.name == name) => {
                let why = format!("`{name}` is the name of a subset above; this one is left out");
                faults.push(Fault::new(format!("{path}.name"), why));
            }
            Ok(name) => found.push(SubsetParts { name, labels, policy: policy.unwrap_or_default() }),
            Err(why) => faults.push(Fault::new(format!("{path}.name"), format_args!("{why}; the subset is left out"))),
        }
    }
    found
}

#[cfg(test)]
mod tests;

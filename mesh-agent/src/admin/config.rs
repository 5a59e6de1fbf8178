//! What the agent holds, and the kernel acts on: workloads, services, policies, certificates.

use std::sync::Arc;

use mesh_common::{
    model::Tunnel,
    proto::nodemesh::{self, ConfigKind, ConfigQuery, item},
};
use tonic::Status;

use super::{Admin, edges, identity};

pub fn answer(admin: &Admin, query: &ConfigQuery) -> Result<Vec<item::Kind>, Status> {
    let snapshot = admin.direct.in_force();
    let in_namespace = |namespace: &str| query.namespace.is_empty() || query.namespace == namespace;
    Ok(match query.kind() {
        ConfigKind::Workloads => sorted(snapshot.workloads(), |w| (w.namespace.clone(), w.name.clone()))
            .filter(|w| in_namespace(&w.namespace))
            .map(|w| {
                item::Kind::Workload(nodemesh::WorkloadInfo {
                    uid: w.uid.clone(),
                    namespace: w.namespace.clone(),
                    name: w.name.clone(),
                    node: w.node.clone(),
                    addresses: w.addresses.iter().map(ToString::to_string).collect(),
                    identity: w.identity.to_string(),
                    protocol: match w.tunnel {
                        Tunnel::None => "NONE".to_owned(),
                        Tunnel::Hbone => "HBONE".to_owned(),
                    },
                    healthy: w.healthy,
                    services: w.services.keys().map(ToString::to_string).collect(),
                    policies: snapshot.policies_of(w).policies.iter().map(|policy| policy.name.to_string()).collect(),
                    telemetry: snapshot
                        .local_pod_by_uid(&w.uid)
                        .map(|pod| nodemesh::LocalPod::from(&**pod).telemetry)
                        .unwrap_or_default(),
                    workload: w.workload_name.clone(),
                    revision: w.canonical_revision.clone(),
                })
            })
            .collect(),
        ConfigKind::Services => sorted(snapshot.services(), |s| (s.namespace.clone(), s.hostname.clone()))
            .filter(|s| in_namespace(&s.namespace))
            .map(|s| {
                let name = s.service_name();
                item::Kind::Service(nodemesh::ServiceInfo {
                    namespace: s.namespace.clone(),
                    hostname: s.hostname.clone(),
                    addresses: s.addresses.iter().map(ToString::to_string).collect(),
                    ports: s.ports.iter().map(|p| format!("{}->{}", p.port, p.target)).collect(),
                    endpoints: snapshot
                        .endpoints(&name)
                        .iter()
                        .map(|w| {
                            let ip = w.addresses.first().map(ToString::to_string).unwrap_or_default();
                            format!("{ip} ({})", if w.healthy { "healthy" } else { "unhealthy" })
                        })
                        .collect(),
                    load_balancing: s.choice(),
                })
            })
            .collect(),
        ConfigKind::Policies => sorted(snapshot.policies(), |p| (p.name.namespace.clone(), p.name.name.clone()))
            .filter(|p| in_namespace(&p.name.namespace))
            .map(|p| {
                let applies = snapshot
                    .workloads()
                    .filter(|w| snapshot.policies_of(w).policies.iter().any(|other| other.name == p.name));
                item::Kind::Policy(nodemesh::PolicyInfo {
                    namespace: p.name.namespace.clone(),
                    name: p.name.name.clone(),
                    scope: p.scope.name().to_owned(),
                    action: p.listed_action(),
                    rules: p.rules.len() as u32,
                    workloads: applies.map(|w| w.uid.clone()).collect(),
                })
            })
            .collect(),
        ConfigKind::Accounts => sorted(snapshot.accounts(), |a| (a.namespace.clone(), String::new()))
            .filter(|a| in_namespace(&a.namespace))
            .map(|a| item::Kind::Accounts(nodemesh::Accounts::from(&**a)))
            .collect(),
        ConfigKind::Certificates => admin
            .certificates
            .list()
            .into_iter()
            .filter(|c| in_namespace(c.identity.namespace()))
            .map(|c| item::Kind::Certificate(identity::certificate(&c)))
            .collect(),
        ConfigKind::Connections => edges::connections(admin, &query.namespace),
        ConfigKind::Routes => {
            sorted(snapshot.all_rules(), |rules| (rules.traffic().service.to_string(), String::new()))
                .filter(|rules| in_namespace(&rules.traffic().service.namespace))
                .map(|rules| {
                    let nodemesh::Traffic { rules: written } = nodemesh::Traffic::from(rules.traffic());
                    let service = rules.traffic().service.to_string();
                    item::Kind::Traffic(nodemesh::TrafficInfo { service, rules: written })
                })
                .collect()
        }
        ConfigKind::ConfigUnspecified => return Err(Status::invalid_argument("kind: is not set")),
    })
}

/// By namespace and name, as people look for them.
fn sorted<'a, T: 'a>(
    items: impl Iterator<Item = &'a Arc<T>>,
    name: impl Fn(&T) -> (String, String),
) -> impl Iterator<Item = &'a Arc<T>> {
    let mut items: Vec<_> = items.collect();
    items.sort_by_cached_key(|item| name(item));
    items.into_iter()
}

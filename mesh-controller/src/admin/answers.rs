//! The controller's state in the words of its answers. An empty namespace means all of them.

mod status;

pub use status::status;

use mesh_common::{
    model::{Policy, Scope, ServicePort, Tunnel, Workload},
    proto::nodemesh::{self, PolicyInfo, ServiceInfo, WorkloadInfo, item::Kind},
};

use crate::index::World;

pub fn workloads(world: &World, namespace: &str) -> Vec<Kind> {
    let workloads = world.workloads.values().filter(|workload| within(namespace, &workload.namespace));
    workloads
        .map(|workload| {
            Kind::Workload(WorkloadInfo {
                uid: workload.uid.clone(),
                namespace: workload.namespace.clone(),
                name: workload.name.clone(),
                node: workload.node.clone(),
                addresses: texts(&workload.addresses),
                identity: workload.identity.to_string(),
                protocol: match workload.tunnel {
                    Tunnel::Hbone => "HBONE",
                    Tunnel::None => "NONE",
                }
                .to_owned(),
                healthy: workload.healthy,
                services: texts(workload.services.keys()),
                policies: texts(&workload.policies),
                telemetry: telemetry(world, workload),
                workload: workload.workload_name.clone(),
                revision: workload.canonical_revision.clone(),
            })
        })
        .collect()
}

/// What its node's agent is told of how to see it.
fn telemetry(world: &World, workload: &Workload) -> Vec<u8> {
    let local = world.local_pods.get(&workload.node).and_then(|pods| pods.get(&workload.uid));
    local.map(|local| nodemesh::LocalPod::from(&**local).telemetry).unwrap_or_default()
}

pub fn services(world: &World, namespace: &str) -> Vec<Kind> {
    let services = world.services.iter().filter(|(name, _)| within(namespace, &name.namespace));
    services
        .map(|(name, service)| {
            let members = world.workloads.values().filter(|workload| workload.services.contains_key(name));
            Kind::Service(ServiceInfo {
                namespace: service.namespace.clone(),
                hostname: service.hostname.clone(),
                addresses: texts(&service.addresses),
                ports: service.ports.iter().map(port).collect(),
                endpoints: members.flat_map(|workload| endpoints(workload)).collect(),
                load_balancing: service.choice(),
            })
        })
        .collect()
}

pub fn policies(world: &World, namespace: &str) -> Vec<Kind> {
    let policies = world.policies.values().filter(|policy| within(namespace, &policy.name.namespace));
    policies
        .map(|policy| {
            let concerned = world.workloads.values().filter(|workload| applies(policy, workload));
            Kind::Policy(PolicyInfo {
                namespace: policy.name.namespace.clone(),
                name: policy.name.name.clone(),
                scope: policy.scope.name().to_owned(),
                action: policy.listed_action(),
                rules: count(policy.rules.len()),
                workloads: concerned.map(|workload| workload.uid.clone()).collect(),
            })
        })
        .collect()
}

pub fn accounts(world: &World, namespace: &str) -> Vec<Kind> {
    let accounts = world.accounts.values().filter(|accounts| within(namespace, &accounts.namespace));
    accounts.map(|accounts| Kind::Accounts(nodemesh::Accounts::from(accounts))).collect()
}

pub fn routes(world: &World, namespace: &str) -> Vec<Kind> {
    let told = world.traffic.values().filter(|traffic| within(namespace, &traffic.service.namespace));
    told.map(|traffic| {
        let nodemesh::Traffic { rules } = nodemesh::Traffic::from(&**traffic);
        Kind::Traffic(nodemesh::TrafficInfo { service: traffic.service.to_string(), rules })
    })
    .collect()
}

fn applies(policy: &Policy, workload: &Workload) -> bool {
    match policy.scope {
        Scope::Global => true,
        Scope::Namespace => policy.name.namespace == workload.namespace,
        Scope::WorkloadSelector => workload.policies.contains(&policy.name),
    }
}

fn endpoints(workload: &Workload) -> impl Iterator<Item = String> {
    let health = if workload.healthy { "healthy" } else { "unhealthy" };
    workload.addresses.iter().map(move |ip| format!("{ip} ({health})"))
}

fn port(port: &ServicePort) -> String {
    match port.target {
        0 => format!("{}->named", port.port),
        target => format!("{}->{target}", port.port),
    }
}

fn within(wanted: &str, namespace: &str) -> bool {
    wanted.is_empty() || wanted == namespace
}

fn texts<T: ToString>(list: impl IntoIterator<Item = T>) -> Vec<String> {
    list.into_iter().map(|value| value.to_string()).collect()
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

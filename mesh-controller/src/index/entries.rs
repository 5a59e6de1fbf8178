//! ServiceEntries among everything else: what they add to the mesh, and what they may not take. An address of a pod, of
//! a service of Kubernetes (its load balancer's and external ones too) or of a node is never an entry's, however old
//! that is: whoever owned it would be sent what is meant for others. Among entries the oldest owns an address, and a
//! name as far as other namespaces see it.
//!
//! An address is dialled by everybody, and agents cannot tell clients apart by it: a host that is not for everybody has
//! none, and is reached by routes only.

mod join;

pub use join::Joined;
pub(super) use join::join;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use mesh_common::model::{
    Identity, Service, ServiceName, ServicePort, Tunnel, Workload, WorkloadKind, traffic::Clients,
};

use crate::{
    source::Key,
    status::{Extent, Fault},
    translate::{
        Settings, hosts,
        pod::Pod,
        service_entry::{Endpoint, ServiceEntry},
        traffic::Facts,
    },
};

/// What entries add.
#[derive(Debug, Default)]
pub struct Entries {
    pub services: BTreeMap<ServiceName, Arc<Service>>,
    pub facts: BTreeMap<ServiceName, Facts>,
    /// Endpoints that are no pods, by uid.
    pub workloads: BTreeMap<String, Workload>,
    /// What pods serve besides, by their uids.
    pub pods: BTreeMap<String, BTreeMap<ServiceName, BTreeSet<ServicePort>>>,
    pub faults: Vec<(Key, Fault)>,
}

/// Whose an address is.
enum Owner<'a> {
    /// Of Kubernetes.
    Other(String),
    Pod(&'a Pod),
    /// An entry's service.
    Virtual(&'a Key),
    /// The endpoint of an entry, with its uid.
    Endpoint(&'a Key, String),
}

/// `services` are those of Kubernetes, `reserved` are addresses that something of Kubernetes has besides, with what.
/// The order of `entries` does not matter.
pub fn entries(
    settings: &Settings,
    entries: &[&ServiceEntry],
    pods: &[&Pod],
    services: &BTreeMap<ServiceName, Arc<Service>>,
    reserved: impl IntoIterator<Item = (IpAddr, String)>,
) -> Entries {
    let mut found = Entries::default();
    let mut entries = entries.to_vec();
    entries.sort_by_key(|entry| (entry.created, &entry.object));
    let reserved = reserved.into_iter().map(|(ip, what)| (ip, Owner::Other(what)));
    let mut owners: BTreeMap<IpAddr, Owner<'_>> = reserved.collect();
    for service in services.values() {
        let name = || Owner::Other(format!("Service {}/{}", service.namespace, service.name));
        owners.extend(service.addresses.iter().map(|ip| (*ip, name())));
    }
    for pod in pods {
        for ip in &pod.addresses {
            if pod.host_network {
                owners.entry(*ip).or_insert_with(|| Owner::Other("a node".to_owned()));
            } else {
                owners.insert(*ip, Owner::Pod(pod));
            }
        }
    }
    let mut claimed: BTreeMap<&str, &Key> = BTreeMap::new();
    for entry in entries {
        let hosts = found.hosts(settings, entry, services, &mut claimed);
        found.add(settings, entry, &hosts, pods, &mut owners);
    }
    found
}

impl Entries {
    /// The hosts that are the entry's, with whom they are exported to.
    fn hosts<'a>(
        &mut self,
        settings: &Settings,
        entry: &'a ServiceEntry,
        services: &BTreeMap<ServiceName, Arc<Service>>,
        claimed: &mut BTreeMap<&'a str, &'a Key>,
    ) -> Vec<(ServiceName, Clients)> {
        let mut own = Vec::new();
        for (field, name) in &entry.hosts {
            let meant =
                hosts::service_of_two_labels(settings, &name.hostname).filter(|meant| services.contains_key(meant));
            if let Some(known) = services.get(name).or_else(|| services.get(&meant?)) {
                let why = format!("is Service {}/{}; it is left out", known.namespace, known.name);
                self.say(entry, field, why);
                continue;
            }
            if self.services.contains_key(name) || own.iter().any(|(known, _)| known == name) {
                let why = format!("another entry of namespace {} has it; it is left out", name.namespace);
                self.faults.push((entry.object.clone(), Fault::new(field, why).of_extent(Extent::Conflict)));
                continue;
            }
            let mut clients = entry.exported.clone();
            let owner = *claimed.entry(&name.hostname).or_insert(&entry.object);
            if owner.namespace != name.namespace {
                // Who came later must not get what others send to the first.
                let visible = clients.has(&name.namespace);
                clients = Clients::Namespaces(visible.then(|| name.namespace.clone()).into_iter().collect());
                let why = format!("{owner} has it already; others than namespace {} do not see it", name.namespace);
                self.faults.push((entry.object.clone(), Fault::new(field, why).of_extent(Extent::Conflict)));
            }
            own.push((name.clone(), clients));
        }
        own
    }

    fn add<'a>(
        &mut self,
        settings: &Settings,
        entry: &'a ServiceEntry,
        hosts: &[(ServiceName, Clients)],
        pods: &[&'a Pod],
        owners: &mut BTreeMap<IpAddr, Owner<'a>>,
    ) {
        // The addresses are the first host's: one address cannot be two services.
        let Some((first, clients)) = hosts.first() else { return };
        let mut addresses = Vec::new();
        for (field, ip) in &entry.addresses {
            match owners.get(ip) {
                None if *clients != Clients::Everybody => {
                    let why = format!(
                        "is dialled by everybody, and {} is not exported to all; it is left out",
                        first.hostname
                    );
                    self.say(entry, field, format!("{ip} {why}"));
                }
                None => {
                    owners.insert(*ip, Owner::Virtual(&entry.object));
                    addresses.push(*ip);
                }
                Some(Owner::Virtual(owner)) if **owner == entry.object => {}
                Some(owner) => self.say(entry, field, format!("{ip} belongs to {}; it is left out", owner.said())),
            }
        }
        if hosts.len() > 1 && !addresses.is_empty() {
            let why = format!("belong to {} alone; other hosts are reached by routes only", first.hostname);
            self.say(entry, "spec.addresses", why);
        }
        for (name, clients) in hosts {
            self.services.insert(
                name.clone(),
                Arc::new(Service {
                    name: entry.object.name.clone(),
                    namespace: name.namespace.clone(),
                    hostname: name.hostname.clone(),
                    addresses: if name == first { addresses.clone() } else { Vec::new() },
                    ports: entry.service_ports().into_iter().collect(),
                    load_balancing: None,
                    affinity: None,
                }),
            );
            self.facts.insert(name.clone(), Facts { exported: clients.clone(), ..entry.facts() });
        }
        let names: Vec<&ServiceName> = hosts.iter().map(|(name, _)| name).collect();
        for pod in pods.iter().filter(|pod| entry.selects(pod)) {
            self.serve(pod, &names, &entry.service_ports());
        }
        let mut outside = 0;
        for endpoint in &entry.endpoints {
            let ports = entry.ports_at(endpoint);
            match owners.get(&endpoint.address) {
                None => {
                    if let Some(workload) = self.workload(settings, entry, endpoint) {
                        outside += 1;
                        let uid = workload.uid.clone();
                        owners.insert(endpoint.address, Owner::Endpoint(&entry.object, uid.clone()));
                        self.workloads.insert(uid.clone(), workload);
                        self.extend(&uid, &names, &ports);
                    }
                }
                Some(Owner::Pod(pod)) if pod.namespace == entry.object.namespace => self.serve(pod, &names, &ports),
                Some(Owner::Endpoint(owner, uid)) if owner.namespace == entry.object.namespace => {
                    let uid = uid.clone();
                    self.extend(&uid, &names, &ports);
                }
                Some(owner) => {
                    let why = format!("{} belongs to {}; it is left out", endpoint.address, owner.said());
                    self.say(entry, &endpoint.field, why);
                }
            }
        }
        if entry.is_internal && outside > 0 {
            let why = format!(
                "MESH_INTERNAL is not supported yet for what is no pod: {outside} of the endpoints are reached in plaintext, \
                 as if they were outside"
            );
            self.say(entry, "spec.location", why);
        }
    }

    fn serve(&mut self, pod: &Pod, names: &[&ServiceName], ports: &BTreeSet<ServicePort>) {
        let serves = self.pods.entry(pod.uid.clone()).or_default();
        for name in names {
            serves.entry((*name).clone()).or_default().extend(ports.iter().copied());
        }
    }

    fn extend(&mut self, uid: &str, names: &[&ServiceName], ports: &BTreeSet<ServicePort>) {
        let Some(workload) = self.workloads.get_mut(uid) else { return };
        for name in names {
            workload.services.entry((*name).clone()).or_insert_with(|| ports.iter().copied().collect());
        }
    }

    /// As yet without services.
    fn workload(&mut self, settings: &Settings, entry: &ServiceEntry, endpoint: &Endpoint) -> Option<Workload> {
        let Key { namespace, name, .. } = &entry.object;
        if endpoint.service_account.is_some() {
            let field = endpoint.field.strip_suffix("address").unwrap_or_default();
            let why = "is not asked for yet: nobody proves who answers".to_owned();
            self.say(entry, &format!("{field}serviceAccount"), why);
        }
        let account = endpoint.service_account.as_deref().unwrap_or("default");
        let identity = Identity::new(&settings.trust_domain, namespace, account);
        let identity = identity.map_err(|e| self.say(entry, &endpoint.field, format!("{e}; it is left out"))).ok()?;
        let label = |keys: &[&str]| keys.iter().find_map(|key| endpoint.labels.get(*key)).cloned();
        let canonical = label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"]);
        let revision = label(&["service.istio.io/canonical-revision", "app.kubernetes.io/version", "version"]);
        Some(Workload {
            uid: format!(
                "{}/networking.istio.io/ServiceEntry/{namespace}/{name}/{}",
                settings.cluster, endpoint.address
            ),
            name: name.clone(),
            namespace: namespace.clone(),
            addresses: vec![endpoint.address],
            network: String::new(),
            tunnel: Tunnel::None,
            identity,
            node: String::new(),
            canonical_name: canonical.unwrap_or_else(|| name.clone()),
            canonical_revision: revision.unwrap_or_else(|| "latest".to_owned()),
            kind: WorkloadKind::Pod,
            workload_name: name.clone(),
            policies: Vec::new(),
            healthy: true,
            cluster: settings.cluster.clone(),
            host_network: false,
            locality: endpoint.locality.clone(),
            services: BTreeMap::new(),
            labels: endpoint.labels.clone(),
        })
    }

    fn say(&mut self, entry: &ServiceEntry, field: &str, why: String) {
        self.faults.push((entry.object.clone(), Fault::new(field, why)));
    }
}

impl Owner<'_> {
    fn said(&self) -> String {
        match self {
            Self::Other(what) => what.clone(),
            Self::Pod(pod) => format!("Pod {}/{}", pod.namespace, pod.name),
            Self::Virtual(key) | Self::Endpoint(key, _) => key.to_string(),
        }
    }
}

#[cfg(test)]
mod tests;

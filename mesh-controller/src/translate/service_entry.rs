//! `ServiceEntry` -> services that Kubernetes does not know, and who serves them. Who owns the addresses and names that
//! it claims is decided in the index.
//!
//! - A host below the cluster's domain, or that reads like a Kubernetes service's name, is the own namespace's or none.
//! - Names are resolved by the application: where an entry asks for DNS, its addresses and the names of its endpoints
//!   are left out, and connections go where the application dialled.
//! - Without resolution each address is an endpoint: what is dialled is what is reached.
//! - An endpoint that cannot be read is left out; of one whose selector cannot be read nobody serves it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use mesh_common::model::{
    Locality, ServiceName, ServicePort,
    traffic::{Clients, Protocol},
};
use serde_json::Value;

use super::{Labels, Settings, address, created, fields::Fields, pod::Pod, port, traffic::Facts};
use crate::{
    names,
    source::{Custom, Key},
    status::Fault,
};

const KIND: &str = "ServiceEntry";
/// As the kind has it.
const HOSTS: usize = 256;
const ADDRESSES: usize = 256;
const PORTS: usize = 256;
const ENDPOINTS: usize = 4096;

/// One object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    pub object: Key,
    /// Seconds since 1970.
    pub created: i64,
    /// With the field that names each.
    pub hosts: Vec<(String, ServiceName)>,
    /// Virtual addresses that it claims, with their fields.
    pub addresses: Vec<(String, IpAddr)>,
    pub ports: Vec<Port>,
    pub exported: Clients,
    /// Its endpoints are said to be in the mesh.
    pub is_internal: bool,
    pub endpoints: Vec<Endpoint>,
    /// Pods of the own namespace that serve it.
    pub selector: Option<Labels>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub name: String,
    pub port: u16,
    pub target: u16,
    pub protocol: Protocol,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// As in `spec.endpoints[0].address`.
    pub field: String,
    pub address: IpAddr,
    /// By the name of the service's port.
    pub ports: BTreeMap<String, u16>,
    pub labels: Labels,
    pub locality: Locality,
    /// As its author has it.
    pub service_account: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resolution {
    AsDialled,
    Static,
    Dns,
}

/// What is not honoured as written is added to `faults`.
pub fn service_entry(settings: &Settings, object: &Custom, faults: &mut Vec<Fault>) -> ServiceEntry {
    let metadata = &object.metadata;
    let namespace = metadata.namespace.clone().unwrap_or_default();
    let mut fields = Fields::of_spec(object, faults);
    let exported = fields.export_to(metadata);
    let resolution = resolution(&mut fields);
    let location = fields.text("location");
    let is_internal = location.as_deref() == Some("MESH_INTERNAL");
    if let Some(other) = location.filter(|word| !is_internal && word != "MESH_EXTERNAL") {
        let other: String = other.chars().take(32).collect();
        fields.report("location", format_args!("`{other}` is neither MESH_INTERNAL nor MESH_EXTERNAL"));
    }
    fields.idle("subjectAltNames", "is not supported yet; certificates are asked for by DestinationRules");
    let hosts = fields.list("hosts", HOSTS);
    let addresses = fields.list("addresses", ADDRESSES);
    let ports = fields.list("ports", PORTS);
    let listed = fields.list("endpoints", ENDPOINTS);
    let mut selected = fields.has("workloadSelector");
    if selected && !listed.is_empty() {
        fields.report("workloadSelector", "stands beside `endpoints`, only one of them may; it is not honoured");
        fields.value("workloadSelector");
        selected = false;
    }
    let selector = fields.within("workloadSelector").and_then(|mut selector| {
        let labels = selector.labels("labels").ok();
        if labels.as_ref().is_none_or(Labels::is_empty) {
            selector.report("labels", "selects nothing that can be read; nobody serves the hosts");
        }
        selector.end();
        labels.filter(|labels| !labels.is_empty())
    });
    fields.end();

    let hosts = hosts.into_iter().filter_map(|(field, value)| host(settings, &namespace, field, value, faults));
    let hosts: Vec<_> = hosts.collect();
    if hosts.is_empty() {
        faults.push(Fault::new("spec.hosts", "no host can be used; nothing of the entry is honoured"));
    }
    let ports = ports_of(ports, faults);
    let mut endpoints: Vec<Endpoint> =
        listed.into_iter().filter_map(|(path, value)| endpoint(path, value, resolution, &ports, faults)).collect();
    let mut addresses: Vec<(String, IpAddr)> =
        addresses.into_iter().filter_map(|(field, value)| virtual_address(field, value, faults)).collect();
    match resolution {
        Resolution::AsDialled if !selected => {
            if !endpoints.is_empty() {
                let why = "have no meaning without resolution; connections go where they are dialled";
                faults.push(Fault::new("spec.endpoints", why));
            }
            endpoints =
                std::mem::take(&mut addresses).into_iter().map(|(field, ip)| Endpoint::plain(field, ip)).collect();
        }
        Resolution::Dns if endpoints.is_empty() && !selected => {
            let why = "names are not resolved by the mesh yet; connections go where the application dials";
            faults.push(Fault::new("spec.resolution", why));
            addresses.clear();
        }
        _ => {}
    }
    let name = metadata.name.clone().unwrap_or_default();
    let object = Key { kind: KIND.to_owned(), namespace, name };
    ServiceEntry {
        object,
        created: created(metadata),
        hosts,
        addresses,
        ports,
        exported,
        is_internal,
        endpoints,
        selector,
    }
}

fn resolution(fields: &mut Fields<'_>) -> Resolution {
    let word = fields.text("resolution");
    match word.as_deref() {
        None | Some("NONE") => Resolution::AsDialled,
        Some("STATIC") => Resolution::Static,
        Some("DNS" | "DNS_ROUND_ROBIN" | "DYNAMIC_DNS") => Resolution::Dns,
        Some(other) => {
            let (known, other) = ("NONE, STATIC, DNS, DNS_ROUND_ROBIN, DYNAMIC_DNS", other.chars().take(32));
            let other: String = other.collect();
            fields.report("resolution", format_args!("`{other}` is none of {known}; it counts as NONE"));
            Resolution::AsDialled
        }
    }
}

fn host(
    settings: &Settings,
    namespace: &str,
    field: String,
    value: Value,
    faults: &mut Vec<Fault>,
) -> Option<(String, ServiceName)> {
    let mut refuse = |why: String| {
        faults.push(Fault::new(field.as_str(), format_args!("{why}; it is left out")));
        None
    };
    let Some(hostname) = value.as_str().map(str::to_ascii_lowercase) else { return refuse("is not a text".into()) };
    if hostname.starts_with('*') {
        return refuse("names of many hosts are not supported yet".into());
    }
    if let Err(why) = names::subdomain(&hostname) {
        return refuse(why);
    }
    let labels: Vec<&str> = hostname.split('.').collect();
    if labels.len() < 2 || labels.iter().all(|label| label.bytes().all(|b| b.is_ascii_digit())) {
        return refuse(format!("`{hostname}` is not the full name of a host"));
    }
    let domain = format!(".{}", settings.cluster_domain);
    let own = [format!(".{namespace}.svc{domain}"), format!(".{namespace}.svc"), format!(".{namespace}")];
    let short = hostname.strip_suffix(&domain).unwrap_or(&hostname);
    let is_clusters = hostname == settings.cluster_domain || hostname.ends_with(&domain) || short.ends_with(".svc");
    if is_clusters && !own.iter().any(|suffix| hostname.ends_with(suffix)) {
        return refuse(format!("`{hostname}` belongs to another namespace, or to nobody"));
    }
    Some((field, ServiceName { namespace: namespace.to_owned(), hostname }))
}

fn ports_of(list: Vec<(String, Value)>, faults: &mut Vec<Fault>) -> Vec<Port> {
    let mut found: Vec<Port> = Vec::new();
    for (path, value) in list {
        let mut fields = Fields::new(path.as_str(), value, faults);
        let name = fields.text("name").unwrap_or_default();
        let number = fields.number("number", 1..=65535);
        let target = fields.has("targetPort").then(|| fields.number("targetPort", 1..=65535));
        let word = fields.text("protocol");
        if number.is_none() {
            fields.report("number", "is missing; the port is left out");
        }
        let protocol = word.as_deref().map(spoken);
        if protocol == Some(None) {
            fields.report("protocol", "is none of HTTP, HTTPS, GRPC, HTTP2, MONGO, TCP, TLS; the first bytes tell");
        }
        fields.end();
        let (Some(number), false) = (number, target == Some(None)) else { continue };
        let (port, target) = (number, target.flatten().unwrap_or(number));
        let (Ok(port), Ok(target)) = (u16::try_from(port), u16::try_from(target)) else { continue };
        if found.iter().any(|known| known.port == port || (!name.is_empty() && known.name == name)) {
            faults.push(Fault::new(path, "its number or name stands above already; the port is left out"));
            continue;
        }
        let protocol = protocol.flatten().unwrap_or_else(|| super::protocol::protocol(None, &name));
        found.push(Port { name, port, target, protocol });
    }
    if found.is_empty() {
        faults.push(Fault::new("spec.ports", "no port can be used; nothing is served"));
    }
    found
}

fn spoken(word: &str) -> Option<Protocol> {
    Some(match word.to_ascii_uppercase().as_str() {
        "HTTP" => Protocol::Http,
        "HTTP2" | "GRPC" => Protocol::Http2,
        "HTTPS" | "TLS" => Protocol::Tls,
        "TCP" | "MONGO" => Protocol::Tcp,
        _ => return None,
    })
}

fn endpoint(
    path: String,
    value: Value,
    resolution: Resolution,
    known: &[Port],
    faults: &mut Vec<Fault>,
) -> Option<Endpoint> {
    let mut fields = Fields::new(path.as_str(), value, faults);
    let text = fields.text("address");
    let ports: BTreeMap<String, i32> = if fields.has("ports") {
        // A port that is not where its author says must not be guessed.
        fields.take("ports")?
    } else {
        BTreeMap::new()
    };
    let labels = fields.labels("labels");
    let locality = fields.text("locality");
    let account = fields.text("serviceAccount");
    fields.idle("network", "is not supported yet; the endpoint is dialled from everywhere");
    if fields.number("weight", 0..=u32::MAX).is_some_and(|weight| weight > 1) {
        fields.report("weight", "is not supported yet; endpoints weigh the same");
    }
    fields.end();
    let field = format!("{path}.address");
    let mut refuse = |field: &str, why: String| {
        faults.push(Fault::new(field, format_args!("{why}; the endpoint is left out")));
        None
    };
    let Some(text) = text else { return refuse(&field, "is missing".into()) };
    let is_name = text.parse::<IpAddr>().is_err();
    if is_name && resolution == Resolution::Dns && names::subdomain(&text.to_ascii_lowercase()).is_ok() {
        return refuse(&field, "names are not resolved by the mesh yet".into());
    }
    let quoted: String = text.chars().take(64).collect();
    let ip = match address(&field, &quoted) {
        Ok(ip) => ip,
        Err(fault) => return refuse(&field, fault.why),
    };
    let Ok(labels) = labels else { return refuse(&field, "its labels cannot be read".into()) };
    if let Some(Err(why)) = account.as_deref().map(names::subdomain) {
        return refuse(&format!("{path}.serviceAccount"), why);
    }
    let mut numbers = BTreeMap::new();
    for (name, number) in ports {
        let place = format!("{path}.ports.{}", name.chars().take(64).collect::<String>());
        if !known.iter().any(|port| port.name == name) {
            return refuse(&place, "the entry has no port of this name".into());
        }
        match port(place.as_str(), number) {
            Ok(number) => {
                numbers.insert(name, number);
            }
            Err(fault) => return refuse(&place, fault.why),
        }
    }
    let mut place = locality.iter().flat_map(|text| text.splitn(3, '/')).map(str::to_owned);
    let mut next = || place.next().unwrap_or_default();
    let locality = Locality { region: next(), zone: next(), subzone: next() };
    Some(Endpoint { field, address: ip, ports: numbers, labels, locality, service_account: account })
}

fn virtual_address(field: String, value: Value, faults: &mut Vec<Fault>) -> Option<(String, IpAddr)> {
    let text: String = value.as_str().unwrap_or_default().chars().take(64).collect();
    // A network of one address is that address.
    let single = match text.parse::<ipnet::IpNet>() {
        Ok(network) if network.prefix_len() == network.max_prefix_len() => network.addr().to_string(),
        _ => text.clone(),
    };
    let found = if single.contains('/') {
        Err(Fault::new(field.as_str(), format_args!("`{text}`: networks are not supported yet, only addresses")))
    } else {
        address(&field, &single)
    };
    found.map(|ip| (field, ip)).map_err(|f| faults.push(Fault { why: format!("{}; it is left out", f.why), ..f })).ok()
}

impl Endpoint {
    fn plain(field: String, address: IpAddr) -> Self {
        Self {
            field,
            address,
            ports: BTreeMap::new(),
            labels: Labels::new(),
            locality: Locality::default(),
            service_account: None,
        }
    }
}

impl ServiceEntry {
    pub fn facts(&self) -> Facts {
        Facts { ports: self.ports.iter().map(|p| (p.port, p.protocol)).collect(), exported: self.exported.clone() }
    }

    /// The ports as an endpoint answers them.
    pub fn ports_at(&self, endpoint: &Endpoint) -> BTreeSet<ServicePort> {
        let at = |p: &Port| endpoint.ports.get(&p.name).copied().unwrap_or(p.target);
        self.ports.iter().map(|p| ServicePort { port: p.port, target: at(p) }).collect()
    }

    /// The same, of an endpoint that says nothing itself.
    pub fn service_ports(&self) -> BTreeSet<ServicePort> {
        self.ports.iter().map(|p| ServicePort { port: p.port, target: p.target }).collect()
    }

    /// Whether a pod serves it by the entry's selector.
    pub fn selects(&self, pod: &Pod) -> bool {
        let own = pod.namespace == self.object.namespace && !pod.host_network;
        own && self.selector.as_ref().is_some_and(|wanted| super::selects(wanted, &pod.labels))
    }
}

#[cfg(test)]
mod tests;

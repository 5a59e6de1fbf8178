//! Which services an object speaks of, and where; and services as they must be for that. Pure.

use std::{collections::BTreeSet, net::Ipv6Addr};

use k8s_openapi::{
    api::core::v1::{Service, ServicePort, ServiceSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::Value;

use super::{Finding, Severity};
use crate::{
    source::{Custom, CustomKind, Key, Kind, Object, Origin},
    status::Problem,
    translate::{Settings, hosts, traffic::HostRef},
};

/// A field that names a service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    pub file: String,
    pub object: String,
    /// As in problems.
    pub field: String,
    /// As written, or `namespace/name`.
    pub host: String,
    /// `None`: a host that no Service can have.
    pub service: Option<Key>,
    pub port: Option<u16>,
    /// Of a port that goes by its name.
    pub port_name: Option<String>,
}

/// All of an object. A field that is not as its kind has it names nothing: the translation says so.
pub fn of(settings: &Settings, object: &Object) -> Vec<Reference> {
    let Kind::Custom(kind, custom) = &object.kind else { return Vec::new() };
    let namespace = custom.metadata.namespace.clone().unwrap_or_default();
    let mut walk = Walk { settings, object, namespace, found: Vec::new() };
    match kind {
        CustomKind::VirtualService => walk.virtual_service(custom),
        CustomKind::DestinationRule => walk.host("spec.host".into(), &custom.spec["host"], None),
        CustomKind::HttpRoute | CustomKind::GrpcRoute | CustomKind::TcpRoute | CustomKind::TlsRoute => {
            walk.route(&custom.spec);
        }
        CustomKind::BackendTlsPolicy | CustomKind::RateLimitPolicy | CustomKind::RequestAuthentication => {
            for (i, target) in items(&custom.spec["targetRefs"]) {
                walk.named(format!("spec.targetRefs[{i}]"), target, "Service");
            }
        }
        CustomKind::AuthorizationPolicy => {
            walk.target("spec.targetRef".into(), &custom.spec["targetRef"]);
            for (i, target) in items(&custom.spec["targetRefs"]) {
                walk.target(format!("spec.targetRefs[{i}]"), target);
            }
        }
        CustomKind::Telemetry => {
            walk.named("spec.targetRef".into(), &custom.spec["targetRef"], "Service");
            for (i, target) in items(&custom.spec["targetRefs"]) {
                walk.named(format!("spec.targetRefs[{i}]"), target, "Service");
            }
            walk.providers(&custom.spec);
        }
        // They select pods, or speak of what they define themselves.
        CustomKind::PeerAuthentication
        | CustomKind::ServiceEntry
        | CustomKind::ReferenceGrant
        | CustomKind::IstioOperator => {}
    }
    walk.found
}

struct Walk<'a> {
    settings: &'a Settings,
    object: &'a Object,
    namespace: String,
    found: Vec<Reference>,
}

impl Walk<'_> {
    fn virtual_service(&mut self, Custom { spec, .. }: &Custom) {
        for (i, host) in items(&spec["hosts"]) {
            self.host(format!("spec.hosts[{i}]"), host, None);
        }
        for protocol in ["http", "tls", "tcp"] {
            for (i, rule) in items(&spec[protocol]) {
                let field = format!("spec.{protocol}[{i}]");
                for (j, route) in items(&rule["route"]) {
                    self.destination(format!("{field}.route[{j}].destination"), &route["destination"]);
                }
                self.destination(format!("{field}.mirror"), &rule["mirror"]);
                for (_, mirror) in items(&rule["mirrors"]) {
                    self.destination(format!("{field}.mirror"), &mirror["destination"]);
                }
            }
        }
    }

    fn destination(&mut self, field: String, destination: &Value) {
        let port = destination["port"]["number"].as_u64().and_then(|port| u16::try_from(port).ok());
        self.host(format!("{field}.host"), &destination["host"], port);
    }

    fn host(&mut self, field: String, host: &Value, port: Option<u16>) {
        let Some(text) = host.as_str() else { return };
        let service = match hosts::host(self.settings, &self.namespace, text) {
            Ok(HostRef::Service(service)) => Some(service),
            Ok(HostRef::Named(name)) => hosts::service_of_two_labels(self.settings, &name),
            Ok(HostRef::Below(_) | HostRef::Every) => None,
            Err(_) => return,
        };
        let service = service.and_then(|service| {
            let name = service.hostname.split('.').next()?;
            Some(service_key(&service.namespace, name))
        });
        self.add(field, text.to_owned(), service, port, None);
    }

    fn route(&mut self, spec: &Value) {
        for (i, parent) in items(&spec["parentRefs"]) {
            self.named(format!("spec.parentRefs[{i}]"), parent, "Gateway");
        }
        for (i, rule) in items(&spec["rules"]) {
            let field = format!("spec.rules[{i}]");
            for (j, backend) in items(&rule["backendRefs"]) {
                self.named(format!("{field}.backendRefs[{j}]"), backend, "Service");
            }
            for (j, filter) in items(&rule["filters"]) {
                let mirror = &filter["requestMirror"]["backendRef"];
                self.named(format!("{field}.filters[{j}].requestMirror.backendRef"), mirror, "Service");
            }
        }
    }

    /// A reference of the Gateway API; `usual` is the kind of one that says none.
    fn named(&mut self, field: String, reference: &Value, usual: &str) {
        let said = |key: &str| reference[key].as_str().filter(|text| !text.is_empty());
        let is_service = said("kind").unwrap_or(usual) == "Service" && matches!(said("group"), None | Some("core"));
        let Some(name) = said("name").filter(|_| is_service) else { return };
        let namespace = said("namespace").unwrap_or(&self.namespace).to_owned();
        let port = reference["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let section = said("sectionName").map(ToOwned::to_owned);
        self.add(field, format!("{namespace}/{name}"), Some(service_key(&namespace, name)), port, section);
    }

    /// The mesh's own settings define them.
    fn providers(&mut self, spec: &Value) {
        for list in ["tracing", "accessLogging", "metrics"] {
            for (i, entry) in items(&spec[list]) {
                for (j, provider) in items(&entry["providers"]) {
                    let field = format!("spec.{list}[{i}].providers[{j}].name");
                    let name = provider["name"].as_str().unwrap_or_default();
                    self.add(field, format!("provider {name}"), None, None, None);
                }
            }
        }
    }

    /// Of an entry that is missing none can be invented.
    fn target(&mut self, field: String, target: &Value) {
        match target["kind"].as_str() {
            Some("ServiceEntry") => {
                let name = target["name"].as_str().unwrap_or_default();
                let entry = format!("ServiceEntry {}/{name}", self.namespace);
                self.add(field, entry, None, None, None);
            }
            _ => self.named(field, target, ""),
        }
    }

    fn add(&mut self, field: String, host: String, service: Option<Key>, port: Option<u16>, port_name: Option<String>) {
        let (file, object) = (self.object.file.clone(), self.object.key().to_string());
        self.found.push(Reference { file, object, field, host, service, port, port_name });
    }
}

impl Reference {
    /// Whether a problem is about this field.
    pub fn is_at(&self, problem: &Problem) -> bool {
        (&self.file, &self.object, &self.field) == (&problem.file, &problem.object, &problem.field)
    }

    pub fn finding(&self) -> Finding {
        let why = match &self.service {
            Some(_) => format!("`{}` is not among the files; the rest is looked at as if it were", self.host),
            None => format!("nothing that `{}` means is among the files", self.host),
        };
        let Self { file, object, field, .. } = self.clone();
        Finding { file, object, field, why, severity: Severity::Missing }
    }
}

/// The service as its references would have it; no file's, so that nobody hears of what is wrong with it.
pub fn invented(number: usize, key: &Key, references: &BTreeSet<&Reference>) -> Object {
    let numbers: BTreeSet<u16> = references.iter().filter_map(|reference| reference.port).collect();
    let names: BTreeSet<&String> = references.iter().filter_map(|reference| reference.port_name.as_ref()).collect();
    let unnamed = numbers.iter().map(|port| ServicePort { port: i32::from(*port), ..ServicePort::default() });
    let mut free = (1..u16::MAX).filter(|port| !numbers.contains(port));
    let named = names.into_iter().zip(&mut free).map(|(name, port)| ServicePort {
        name: Some(name.clone()),
        port: i32::from(port),
        ..ServicePort::default()
    });
    // Routes are attached to what can be dialled; these addresses (RFC 3849) are nobody's.
    let number = u32::try_from(number).unwrap_or(u32::MAX);
    let address = Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) | u128::from(number));
    let spec = ServiceSpec {
        cluster_ip: Some(address.to_string()),
        ports: Some(unnamed.chain(named).collect()),
        ..ServiceSpec::default()
    };
    let metadata =
        ObjectMeta { name: Some(key.name.clone()), namespace: Some(key.namespace.clone()), ..ObjectMeta::default() };
    let service = Service { metadata, spec: Some(spec), status: None };
    Object { file: String::new(), kind: Kind::Service(Box::new(service)), origin: Origin::default() }
}

fn service_key(namespace: &str, name: &str) -> Key {
    Key { kind: "Service".into(), namespace: namespace.to_owned(), name: name.to_owned() }
}

fn items(list: &Value) -> impl Iterator<Item = (usize, &Value)> {
    list.as_array().into_iter().flatten().enumerate()
}

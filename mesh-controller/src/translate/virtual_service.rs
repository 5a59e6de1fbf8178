//! `VirtualService` -> routes of the model. Nothing here may send a request where its author did not want it:
//!
//! - A rule of which a condition, a destination or a change of requests cannot be honoured (an unknown field among
//!   them) keeps its place and the conditions that can be read, and answers 500 (http) or refuses (tls, tcp): what it
//!   would have taken does not fall through to a wider rule. That may be more than it would have taken.
//! - What only says how long, how often, with which faults and copies (`timeout`, `retries`, `fault`, `mirror`,
//!   `corsPolicy`) is left out where it cannot be read; the rule stays.
//! - An object that cannot be read as a whole answers all requests to its hosts with 500; if they cannot be read
//!   either, nothing is said of any.
//! - A rule for gateways alone is none of the mesh's business; nor is an object.
//!
//! Each of these is reported with its field.

mod changes;
mod conditions;
mod destinations;
mod part;
mod resilience;
mod rules;
mod taken;

use std::collections::BTreeSet;

use mesh_common::model::traffic::{Clients, Origin, Routes, TcpRoute, TlsRoute};
use serde_json::Value;

use super::{
    Settings, created, hosts,
    traffic::{About, Ruled},
};
use crate::{
    names,
    source::{Custom, Key},
    status::{Extent, Fault},
};
use part::Part;

const KIND: &str = "VirtualService";
/// Istio's word for all clients within the mesh, in lists of gateways.
const MESH: &str = "mesh";
/// Of one object, in each of its lists: it is one resource for an agent, and one answer to `kubectl get`.
const RULES: usize = 5_000;
/// Hosts, gateways or namespaces that one object names.
const NAMES: usize = 1_000;
/// Of one object: each takes time to read, here and in agents.
const REGEXES: usize = 500;

/// What a VirtualService says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualService {
    /// `None` if it says nothing of the mesh.
    pub ruled: Option<Ruled>,
}

/// What is known of the object that rules belong to, and what was found wrong with it.
struct Rules<'a> {
    settings: &'a Settings,
    namespace: &'a str,
    object: &'a Key,
    /// So far.
    regexes: usize,
    faults: &'a mut Vec<Fault>,
}

/// Translates one object; what is not honoured as written is added to `faults`.
pub fn virtual_service(settings: &Settings, custom: &Custom, faults: &mut Vec<Fault>) -> VirtualService {
    let Custom { metadata, spec, fault } = custom;
    let object = Key {
        kind: KIND.to_owned(),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
    };
    let mut whole: Vec<Fault> = fault.iter().cloned().collect();
    let mut part = Part::new("spec", spec.clone()).unwrap_or_else(|fault| {
        whole.push(fault);
        Part::new("spec", Value::Object(serde_json::Map::new())).expect("an object")
    });

    let mut about = Vec::new();
    match part.list::<String>("hosts", NAMES) {
        Ok(given) if given.is_empty() => whole.push(Fault::new("spec.hosts", "is missing")),
        Ok(given) => {
            for (i, text) in given.iter().enumerate() {
                let field = format!("spec.hosts[{i}]");
                match hosts::host(settings, &object.namespace, text) {
                    Ok(host) => about.push(About { field, host }),
                    Err(why) => faults.push(Fault::new(field, format_args!("{why}; nothing is said of it"))),
                }
            }
        }
        Err(fault) => whole.push(fault),
    }
    let gateways: Vec<String> = part.list("gateways", NAMES).unwrap_or_else(|fault| {
        whole.push(fault);
        Vec::new()
    });
    if !gateways.is_empty() && !gateways.iter().any(|gateway| gateway == MESH) {
        let why = "does not name `mesh`: the object is for gateways only, nothing of it holds within the mesh";
        faults.push(Fault::new("spec.gateways", why).of_extent(Extent::Whole));
        return VirtualService { ruled: None };
    }
    for (i, gateway) in gateways.iter().enumerate().filter(|(_, gateway)| *gateway != MESH) {
        let why = format!("`{gateway}` is no gateway of this mesh; what is said of it holds nowhere");
        faults.push(Fault::new(format!("spec.gateways[{i}]"), why));
    }
    let exported = part.list("exportTo", NAMES).and_then(|given| exported(&object.namespace, &given));
    let exported = exported.unwrap_or_else(|fault| {
        whole.push(fault);
        Clients::Everybody
    });

    let mut list = |name: &str| {
        part.list::<Value>(name, RULES).unwrap_or_else(|fault| {
            whole.push(fault);
            // One that will be refused, so that the list is there.
            vec![Value::Null]
        })
    };
    let (http, tls, tcp) = (list("http"), list("tls"), list("tcp"));
    whole.extend(part.unknown());
    let mut routes = Routes::default();
    if whole.is_empty() {
        let mut rules = Rules { settings, namespace: &object.namespace, object: &object, regexes: 0, faults };
        routes.http = http.into_iter().enumerate().filter_map(|(i, rule)| rules::http(&mut rules, i, rule)).collect();
        routes.tls = tls.into_iter().enumerate().flat_map(|(i, rule)| rules::tls(&mut rules, i, rule)).collect();
        routes.tcp = tcp.into_iter().enumerate().filter_map(|(i, rule)| rules::tcp(&mut rules, i, rule)).collect();
    } else {
        let rules = Rules { settings, namespace: &object.namespace, object: &object, regexes: 0, faults };
        routes = rules.refusing(!tls.is_empty(), !tcp.is_empty());
        let then = if about.is_empty() {
            "the object cannot be honoured, and nobody knows for which hosts: nothing is said of any"
        } else {
            "the object cannot be honoured, until that is mended it answers 500"
        };
        faults.extend(whole.into_iter().map(|Fault { field, why, extent: _ }| Fault {
            field,
            extent: Extent::Whole,
            why: format!("{why}; {then}"),
        }));
    }
    let ruled = Ruled { created: created(metadata), hosts: about, exported, routes, object };
    VirtualService { ruled: Some(ruled).filter(|ruled| !ruled.hosts.is_empty()) }
}

/// `.` is the object's own namespace, `*` or nothing is every one.
fn exported(namespace: &str, given: &[String]) -> Result<Clients, Fault> {
    let mut namespaces = BTreeSet::new();
    for (i, text) in given.iter().enumerate() {
        match text.as_str() {
            "*" => return Ok(Clients::Everybody),
            "." => {
                namespaces.insert(namespace.to_owned());
            }
            name => {
                names::label(name).map_err(|why| Fault::new(format!("spec.exportTo[{i}]"), why))?;
                namespaces.insert(name.to_owned());
            }
        }
    }
    Ok(if given.is_empty() { Clients::Everybody } else { Clients::Namespaces(namespaces) })
}

impl Rules<'_> {
    fn name(&self, rule: &str) -> String {
        let Key { kind: _, namespace, name } = self.object;
        format!("{namespace}/{name}/{rule}")
    }

    fn origin(&self, field: &str) -> Origin {
        Origin { object: self.object.to_string(), field: field.to_owned() }
    }

    /// What stands for an object that cannot be honoured.
    fn refusing(&self, tls: bool, tcp: bool) -> Routes {
        let (name, origin) = (self.name("spec"), self.origin("spec"));
        let (matches, backends) = (Vec::new(), destinations::nowhere("spec"));
        let server_names = vec!["*".to_owned()];
        let tls = tls.then(|| TlsRoute {
            name: name.clone(),
            origin: origin.clone(),
            server_names,
            matches: matches.clone(),
            backends: backends.clone(),
        });
        Routes {
            http: vec![rules::refusing(self, "spec".to_owned(), "spec".to_owned(), Vec::new())],
            faults: Vec::new(),
            tls: tls.into_iter().collect(),
            tcp: tcp.then_some(TcpRoute { name, origin, matches, backends }).into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests;

//! `TLSRoute` (gateway.networking.k8s.io, v1, v1alpha3 and v1alpha2) for services. What holds for all routes: see
//! [`super::gateway`].
//!
//! `hostnames` are the server names of the client's hello: without them a route could not differ from a TCPRoute, and
//! for services too Istio reads them so. None: every name. A name that cannot be read makes the route one for every
//! name, which refuses: what it should have taken must not go elsewhere.

use serde_json::Value;

use super::{
    gateway::{Kind, Route, hostname, is_default, route},
    tcp_route::{only_first, rule},
};
use crate::{
    source::Custom,
    status::{Extent, Fault},
};

/// As in the API's schema.
const NAMES: usize = 1024;

/// Reads one object; what is not honoured as written is added to `faults`.
pub fn tls_route(object: &Custom, faults: &mut Vec<Fault>) -> Route {
    let mut read = route(Kind::Tls, object, faults, rule);
    if read.is_passed_over() {
        return read;
    }
    only_first(&mut read, faults);
    match server_names(object.spec.get("hostnames")) {
        Ok(names) => read.server_names = names,
        Err(fault) => {
            read.server_names = vec!["*".to_owned()];
            for rule in &mut read.rules {
                rule.refused = Some(format!("{}: {}", fault.field, fault.why));
            }
            let why = format!("{}; until that is mended every connection is refused", fault.why);
            faults.push(Fault { why, extent: Extent::Whole, ..fault });
        }
    }
    read
}

fn server_names(written: Option<&Value>) -> Result<Vec<String>, Fault> {
    const FIELD: &str = "spec.hostnames";
    let list = match written {
        Some(Value::Array(list)) if !list.is_empty() => list,
        Some(value) if !is_default(value) => return Err(Fault::new(FIELD, "is no list")),
        _ => return Ok(vec!["*".to_owned()]),
    };
    if list.len() > NAMES {
        return Err(Fault::new(FIELD, format_args!("has {} items, {NAMES} are the most", list.len())));
    }
    let name = |(i, value): (usize, &Value)| {
        let field = format!("{FIELD}[{i}]");
        let name = value.as_str().ok_or_else(|| Fault::new(&field, "is no text"))?;
        match name.strip_prefix("*.") {
            Some(rest) => Ok(format!("*.{}", hostname(&field, rest)?)),
            None => hostname(&field, name),
        }
    };
    list.iter().enumerate().map(name).collect()
}

#[cfg(test)]
mod tests;

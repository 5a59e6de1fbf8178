//! Where requests and connections go.

use mesh_common::model::{
    ServiceName,
    traffic::{Backend, Target, WeightedBackend},
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Rules, changes,
    part::{Found, Part},
};
use crate::{
    status::{Fault, read},
    translate::hosts,
};

/// Of one rule.
const DESTINATIONS: usize = 256;
/// Bytes of a subset's name.
const NAME: usize = 253;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Destination {
    host: String,
    #[serde(default)]
    subset: Option<String>,
    #[serde(default)]
    port: Option<Port>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Port {
    #[serde(default)]
    number: Option<i64>,
}

/// What stands for a rule that cannot be honoured: it takes what it matches, and sends it nowhere.
pub fn nowhere(field: &str) -> Vec<WeightedBackend> {
    let why = format!("{field} cannot be honoured as it is written");
    vec![WeightedBackend { weight: 1, target: Target::Invalid { status: 500, why }, headers: None }]
}

/// `route`: where it is a single one, it takes everything, whatever its weight; one of several without a weight takes
/// nothing.
pub fn route(rules: &Rules<'_>, part: &mut Part, found: &mut Found, headers: bool) -> Vec<WeightedBackend> {
    let field = part.field("route");
    let listed: Vec<Value> = found.must(part.list("route", DESTINATIONS)).unwrap_or_default();
    let single = listed.len() == 1;
    let mut backends = Vec::new();
    for (i, value) in listed.into_iter().enumerate() {
        let Some(mut part) = found.must(Part::new(format!("{field}[{i}]"), value)) else { continue };
        let target = found.must(destination(rules, &mut part, "destination"));
        let weight = found.must(weight(&mut part)).unwrap_or_default();
        let headers = if headers { changes::headers(&mut part, found) } else { None };
        part.unknown().for_each(|fault| found.broken(fault));
        if let Some(backend) = target {
            let weight = if single { 1 } else { weight };
            backends.push(WeightedBackend { weight, target: Target::Backend(backend), headers });
        }
    }
    let sum = backends.iter().try_fold(0_u32, |sum, backend| sum.checked_add(backend.weight));
    match sum {
        None => found.broken(Fault::new(field, format_args!("the sum of weights is above {}", u32::MAX))),
        Some(0) if !backends.is_empty() && !found.is_broken() => {
            found.broken(Fault::new(field, "every weight is 0"));
        }
        Some(_) => {}
    }
    backends
}

fn weight(part: &mut Part) -> Result<u32, Fault> {
    let weight: i64 = part.take("weight")?.unwrap_or_default();
    // As wide as Istio's.
    u32::try_from(weight)
        .ok()
        .filter(|weight| i32::try_from(*weight).is_ok())
        .ok_or_else(|| Fault::new(part.field("weight"), format_args!("{weight} is not a weight (0 to {})", i32::MAX)))
}

/// The service is as the object names it: see `hosts`.
pub fn destination(rules: &Rules<'_>, part: &mut Part, name: &str) -> Result<Backend, Fault> {
    let field = part.field(name);
    let value: Value = part.take(name)?.ok_or_else(|| Fault::new(&field, "is missing"))?;
    let Destination { host, subset, port: given } = read(value).map_err(|fault| fault.within(&field))?;
    let service: ServiceName = hosts::destination(rules.settings, rules.namespace, &host)
        .map_err(|why| Fault::new(format!("{field}.host"), why))?;
    let subset = subset.filter(|subset| !subset.is_empty());
    if subset.as_ref().is_some_and(|subset| subset.len() > NAME) {
        return Err(Fault::new(format!("{field}.subset"), format_args!("is longer than {NAME} bytes")));
    }
    let number = given.and_then(|port| port.number);
    let port = number.map(|number| port(format!("{field}.port.number"), number)).transpose()?;
    Ok(Backend { service, port, subset })
}

pub fn port(field: String, value: i64) -> Result<u16, Fault> {
    u16::try_from(value)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| Fault::new(field, format_args!("{value} is not a port (1 to 65535)")))
}

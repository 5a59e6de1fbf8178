//! What agents would be told otherwise. What is compared is what objects come to, without where in them it was written:
//! another way to write the same is no difference.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::model::{
    Action, Mode, Policy, SameNode, Service, ServiceName, Workload,
    telemetry::{AccessLog, Requests, Telemetry, Tracing},
    traffic::{For, Inbound, Routes, Traffic},
};
use serde_json::{Map, Value};

use super::compiled::{Compiled, Target};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    pub services: Vec<ServiceDifference>,
    pub pods: Vec<PodDifference>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceDifference {
    pub service: ServiceName,
    /// As in `route shop/cart/0 is changed`.
    pub what: Vec<String>,
    /// It has rules for requests, or they are read to be seen, and it had none.
    pub gets_routes: bool,
    /// Requests or connections to come take other rules.
    pub reroutes: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodDifference {
    pub namespace: String,
    pub name: String,
    pub workload: String,
    pub node: String,
    pub what: Vec<String>,
}

/// All that differs, in order.
pub fn difference(before: &Compiled, after: &Compiled) -> Difference {
    let names: BTreeSet<&ServiceName> = before.services().keys().chain(after.services().keys()).collect();
    let names: BTreeSet<_> =
        names.into_iter().chain(before.traffic().keys()).chain(after.traffic().keys()).cloned().collect();
    let services = names.into_iter().filter_map(|name| service(before, after, name)).collect();
    let uids = |compiled: &Compiled| -> BTreeMap<String, (String, String)> {
        compiled.workloads().map(|w| (w.uid.clone(), (w.namespace.clone(), w.name.clone()))).collect()
    };
    let all: BTreeSet<_> = uids(before).into_values().chain(uids(after).into_values()).collect();
    let pods = all.into_iter().filter_map(|(namespace, name)| {
        let (then, now) = (before.pod(&namespace, &name), after.pod(&namespace, &name));
        let workload = now.as_ref().or(then.as_ref())?.workload;
        let what = pod(then.as_ref(), now.as_ref());
        let (workload, node) = (workload.workload_name.clone(), workload.node.clone());
        (!what.is_empty()).then_some(PodDifference { namespace, name, workload, node, what })
    });
    Difference { services, pods: pods.collect() }
}

/// Without what says where it was written.
pub(super) fn plain(value: &impl serde::Serialize) -> Value {
    fn strip(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.remove("origin");
                map.values_mut().for_each(strip);
            }
            Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut value = serde_json::to_value(value).unwrap_or_default();
    strip(&mut value);
    value
}

fn service(before: &Compiled, after: &Compiled, name: ServiceName) -> Option<ServiceDifference> {
    let mut what = match (before.services().get(&name), after.services().get(&name)) {
        (None, Some(_)) => vec!["is new".to_owned()],
        (Some(_), None) => vec!["goes".to_owned()],
        (Some(then), Some(now)) if then != now => of_service(then, now),
        _ => Vec::new(),
    };
    let (then, now) = (before.traffic().get(&name), after.traffic().get(&name));
    let rules = traffic(then.map(|traffic| &**traffic), now.map(|traffic| &**traffic));
    let routes = |traffic: Option<&std::sync::Arc<Traffic>>| {
        traffic.is_some_and(|t| t.routes.iter().any(|of| !of.value.http.is_empty() || !of.value.faults.is_empty()))
    };
    let seen = |traffic: Option<&std::sync::Arc<Traffic>>| traffic.is_some_and(|traffic| traffic.seen);
    let read = |traffic| routes(traffic) || seen(traffic);
    let (gets_routes, reroutes) = (!read(then) && read(now), !rules.is_empty());
    what.extend(rules);
    match (seen(then), seen(now)) {
        (false, true) => what.push("requests to it are read, to be seen".to_owned()),
        (true, false) => what.push("requests to it are no longer read to be seen".to_owned()),
        _ => {}
    }
    (!what.is_empty()).then_some(ServiceDifference { service: name, what, gets_routes, reroutes })
}

fn of_service(then: &Service, now: &Service) -> Vec<String> {
    let differs = [
        ("its addresses change", then.addresses != now.addresses),
        ("its ports change", then.ports != now.ports),
        ("how its endpoints are chosen changes", then.choice() != now.choice()),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what.to_owned()).collect()
}

fn traffic(then: Option<&Traffic>, now: Option<&Traffic>) -> Vec<String> {
    let parts = |traffic: Option<&Traffic>| traffic.map(named_parts).unwrap_or_default();
    let (then, now) = (parts(then), parts(now));
    let names: BTreeSet<&String> = then.keys().chain(now.keys()).collect();
    let mut what: Vec<_> = names
        .into_iter()
        .filter_map(|name| match (then.get(name), now.get(name)) {
            (None, Some(_)) => Some(format!("{name} is new")),
            (Some(_), None) => Some(format!("{name} goes")),
            (then, now) => (then != now).then(|| format!("{name} is changed")),
        })
        .collect();
    // Each is the same, and which of them is asked first is not.
    let order = |parts: &BTreeMap<String, (Vec<usize>, Value)>| {
        let mut all: Vec<_> = parts.iter().flat_map(|(name, (at, _))| at.iter().map(move |at| (*at, name))).collect();
        all.sort();
        all.into_iter().map(|(_, name)| name.clone()).collect::<Vec<_>>()
    };
    if what.is_empty() && order(&then) != order(&now) {
        what.push("the order of its routes changes".to_owned());
    }
    what.into_iter().map(|what| what.trim().to_owned()).collect()
}

/// Each route, and the rest, with the places at which it stands.
fn named_parts(traffic: &Traffic) -> BTreeMap<String, (Vec<usize>, Value)> {
    let mut parts: BTreeMap<String, (Vec<usize>, Value)> = BTreeMap::new();
    let mut place = 0;
    let mut add = |name: String, value: Value| {
        let (at, all) = parts.entry(name).or_insert_with(|| (Vec::new(), Value::Array(Vec::new())));
        at.push(place);
        place += 1;
        if let Value::Array(all) = all {
            all.push(value);
        }
    };
    for For { clients, value: Routes { http, faults, tls, tcp } } in &traffic.routes {
        let clients = plain(clients);
        let of = |value: Value| Value::Array(vec![clients.clone(), value]);
        http.iter().for_each(|route| add(format!("route {}", route.name), of(plain(route))));
        tls.iter().for_each(|route| add(format!("route {}", route.name), of(plain(route))));
        tcp.iter().for_each(|route| add(format!("route {}", route.name), of(plain(route))));
        if !faults.is_empty() {
            add("what is laid over all routes".to_owned(), of(plain(faults)));
        }
    }
    if !traffic.policies.is_empty() {
        add("how its endpoints are treated".to_owned(), plain(&traffic.policies));
    }
    if !traffic.protocols.is_empty() {
        add("what is spoken at its ports".to_owned(), plain(&traffic.protocols));
    }
    // Places say only which comes before which.
    for (at, _) in parts.values_mut() {
        at.sort_unstable();
    }
    parts
}

fn pod(then: Option<&Target<'_>>, now: Option<&Target<'_>>) -> Vec<String> {
    let (then, now) = match (then, now) {
        (None, None) => return Vec::new(),
        (None, Some(_)) => return vec!["is new".to_owned()],
        (Some(_), None) => return vec!["goes".to_owned()],
        (Some(then), Some(now)) => (then, now),
    };
    let mut what = Vec::new();
    let (was, is) = (mode(then), mode(now));
    if was != is {
        what.push(format!("its mode changes from {was} to {is}"));
    }
    if now.is_in_mesh() || then.is_in_mesh() {
        what.extend(policies(&then.policies, &now.policies));
        let (was, is) = (strict(then), strict(now));
        if was != is {
            what.push(format!("it was {was}, and is {is}"));
        }
    }
    if let (Some(then), Some(now)) = (then.local, now.local)
        && (then.mode, now.mode) != (Mode::None, Mode::None)
    {
        what.extend(telemetry(&then.telemetry, &now.telemetry));
    }
    what.extend(inbound(then.inbound(), now.inbound()));
    let tls = |target: &Target<'_>| target.local.is_some_and(|local| local.same_node == SameNode::Tls);
    if tls(then) != tls(now) {
        what.push(format!("TLS within its node {}", if tls(now) { "begins" } else { "ends" }));
    }
    what.extend(workload(then.workload, now.workload));
    what
}

/// What its agent reads, traces, logs and counts of it.
fn telemetry(then: &Telemetry, now: &Telemetry) -> Vec<String> {
    let Telemetry { requests, traced_server, traced_client, logged_server, logged_client, .. } = now;
    let Telemetry { metrics_server, metrics_client, .. } = now;
    let mut what = Vec::new();
    if then.requests != *requests {
        what.push(match requests {
            Requests::Seen => "requests to it are read wherever it speaks HTTP, to be seen".to_owned(),
            Requests::AsNeeded => "requests to it are read only where rules or policies ask for it".to_owned(),
        });
    }
    for (whose, then, now) in [
        ("requests to it", &then.traced_server, traced_server),
        ("its own requests", &then.traced_client, traced_client),
    ] {
        if then != now {
            let (was, is) = (traced(then), traced(now));
            let same = if was == is { "with other tags" } else { "" };
            what.push(format!("spans of {whose}: it was {was}, and is {is} {same}").trim_end().to_owned());
        }
    }
    for (whose, then, now) in [
        ("what comes to it", &then.logged_server, logged_server),
        ("what it asks and dials", &then.logged_client, logged_client),
    ] {
        if then != now {
            let (was, is) = (logged(then.as_ref()), logged(now.as_ref()));
            let same = if was == is { "by other conditions" } else { "" };
            what.push(format!("access log of {whose}: it was {was}, and is {is} {same}").trim_end().to_owned());
        }
    }
    for (whose, differs) in [
        ("what comes to it", then.metrics_server != *metrics_server),
        ("what it asks and dials", then.metrics_client != *metrics_client),
    ] {
        if differs {
            what.push(format!("which metrics and labels count {whose} changes"));
        }
    }
    what
}

fn traced(tracing: &Tracing) -> String {
    let Tracing { disabled, sampled, collector, tags: _ } = tracing;
    if *disabled {
        return "off".to_owned();
    }
    let share = sampled.map_or_else(|| "the agent's share".to_owned(), |share| format!("{} %", share.percent()));
    match collector {
        Some(collector) => format!("{share} to {}:{}", collector.host, collector.port),
        None => format!("{share} to the agent's collector"),
    }
}

fn logged(log: Option<&AccessLog>) -> String {
    match log {
        None => "what the agent's setting says".to_owned(),
        Some(AccessLog::Off) => "off".to_owned(),
        Some(AccessLog::On { only, sampled, collector }) => {
            let what = if only.is_empty() { "all" } else { "some" };
            let share = sampled.map(|share| format!(", {} %", share.percent())).unwrap_or_default();
            let to = collector.as_ref().map(|to| format!(", to {}:{} too", to.host, to.port)).unwrap_or_default();
            format!("{what}{share}{to}")
        }
    }
}

fn mode(target: &Target<'_>) -> &'static str {
    match target.local.map_or(Mode::None, |local| local.mode) {
        Mode::None => "none",
        Mode::Mesh => "mesh",
        Mode::Observe => "observe",
    }
}

fn strict(target: &Target<'_>) -> String {
    let by = target.local.and_then(|local| local.strict_by.as_ref());
    by.map_or_else(|| "PERMISSIVE".to_owned(), |by| format!("STRICT by {by}"))
}

fn policies(then: &[std::sync::Arc<Policy>], now: &[std::sync::Arc<Policy>]) -> Vec<String> {
    let find = |list: &'_ [std::sync::Arc<Policy>], name| list.iter().find(|policy| policy.name == name).cloned();
    let names: BTreeSet<_> = then.iter().chain(now).map(|policy| policy.name.clone()).collect();
    let differs = names.into_iter().filter_map(|name| {
        let (then, now) = (find(then, name.clone()), find(now, name));
        let policy = now.as_ref().or(then.as_ref())?;
        let how = match (&then, &now) {
            (None, _) => "begins to hold",
            (_, None) => "ends to hold",
            (Some(then), Some(now)) if then == now => return None,
            _ => "is changed",
        };
        let idle = if policy.is_enforced() || policy.action == Action::Audit { "" } else { ", dry run" };
        Some(match policy.is_strict_mtls() {
            true => format!("that it asks for an identity {how}"),
            false => format!("policy {} ({}{idle}) {how}", policy.name, policy.action.name()),
        })
    });
    differs.collect()
}

fn inbound(then: &Inbound, now: &Inbound) -> Vec<String> {
    let issuers = |inbound: &Inbound| -> Map<String, Value> {
        inbound.tokens.iter().map(|rule| (rule.issuer.clone(), plain(rule))).collect()
    };
    let (was, is) = (issuers(then), issuers(now));
    let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    let tokens = names.into_iter().filter_map(|issuer| match (was.get(issuer), is.get(issuer)) {
        (None, _) => Some(format!("tokens of {issuer} are taken")),
        (_, None) => Some(format!("tokens of {issuer} are no longer taken")),
        (then, now) => (then != now).then(|| format!("the rule for tokens of {issuer} is changed")),
    });
    let mut what: Vec<_> = tokens.collect();
    if what.is_empty() && plain(&then.tokens) != plain(&now.tokens) {
        what.push("the rules for its tokens are changed".to_owned());
    }
    if plain(&then.limits) != plain(&now.limits) {
        what.push("its rate limits are changed".to_owned());
    }
    what
}

fn workload(then: &Workload, now: &Workload) -> Vec<String> {
    let differs = [
        ("its identity changes", then.identity != now.identity),
        ("its addresses change", then.addresses != now.addresses),
        ("the services that it serves change", then.services != now.services),
        ("whether it is healthy changes", then.healthy != now.healthy),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what.to_owned()).collect()
}

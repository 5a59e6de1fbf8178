//! `meshctl config routes`: what is said of traffic to each service, a row a route in the order in which they are
//! asked, and a row for every policy of its endpoints. What this version cannot read is shown as it was told.

mod words;

use std::io::Write;

use mesh_common::{
    model::traffic::{ConnectionMatch, DestinationPolicy, For, Labels, Routes, Traffic, TrafficPolicy},
    proto::nodemesh::{TrafficInfo, item},
};

use crate::{
    client::Failure,
    output::{Cell, Mood, Screen, Table},
};

type Policies = Table<8>;
type Rows = Table<7>;

pub fn text<W: Write>(items: &[(String, item::Kind)], screen: &mut Screen<W>) -> Result<(), Failure> {
    let mut routes = Table::new(["SEEN BY", "SERVICE", "FOR", "ROUTE", "MATCH", "ACTION", "OPTIONS"]);
    let mut policies =
        Table::new(["SEEN BY", "SERVICE", "FOR", "ENDPOINTS", "LABELS", "BALANCING", "POOL", "OUTLIERS AND MORE"]);
    let mut unread = Vec::new();
    for (seen_by, kind) in items {
        let item::Kind::Traffic(TrafficInfo { service, rules }) = kind else { continue };
        match serde_json::from_slice::<Traffic>(rules) {
            Ok(traffic) => {
                let service = crate::words::short_service(service);
                traffic.routes.iter().for_each(|said| add_routes(seen_by, &service, said, &mut routes));
                traffic.policies.iter().for_each(|said| add_policies(seen_by, &service, said, &mut policies));
            }
            Err(error) => unread.push((seen_by, service, rules, error)),
        }
    }
    let is_routed = !routes.is_empty();
    if is_routed || policies.is_empty() && unread.is_empty() {
        screen.table(&mut routes)?;
    }
    if !policies.is_empty() {
        if is_routed {
            screen.line("", Mood::Plain)?;
        }
        screen.table(&mut policies)?;
    }
    for (seen_by, service, rules, error) in unread {
        let why = format!("{seen_by}: rules of {service} cannot be read by this version ({error}), as they were told:");
        screen.line(&why, Mood::Bad)?;
        screen.line(&String::from_utf8_lossy(rules), Mood::Plain)?;
    }
    Ok(())
}

fn add_routes(seen_by: &str, service: &str, said: &For<Routes>, table: &mut Rows) {
    let For { clients, value: Routes { http, faults, tls, tcp } } = said;
    let clients = words::clients(clients);
    let mut row = |name: &str, matched: String, action: Cell, options: String| {
        let [seen_by, service, clients] = [seen_by, service, &clients].map(Cell::from);
        table.push([seen_by, service, clients, name.into(), matched.into(), action, options.into()]);
    };
    for fault in faults {
        let name = format!("{} {}", fault.origin.object, fault.origin.field);
        let words = words::fault(&fault.fault);
        let options = if words.is_empty() { "no fault".into() } else { words.join(", ") };
        row(name.trim_end(), words::requests(&fault.matches), Cell::new("laid over all", Mood::Dim), options);
    }
    for route in http {
        let (action, mood) = words::action(&route.action);
        row(&route.name, words::requests(&route.matches), Cell::new(action, mood), words::options(route));
    }
    for route in tls {
        let names = format!("TLS {}", route.server_names.join(" "));
        let matched = [names].into_iter().chain(connections(&route.matches)).collect::<Vec<_>>().join(" ");
        let (action, mood) = words::backends(&route.backends, "refused");
        row(&route.name, matched, Cell::new(action, mood), String::new());
    }
    for route in tcp {
        let matched = ["TCP".to_owned()].into_iter().chain(connections(&route.matches)).collect::<Vec<_>>().join(" ");
        let (action, mood) = words::backends(&route.backends, "refused");
        row(&route.name, matched, Cell::new(action, mood), String::new());
    }
    if http.is_empty() && faults.is_empty() && tls.is_empty() && tcp.is_empty() {
        row("", "all".into(), Cell::new("as without rules", Mood::Dim), String::new());
    }
}

fn connections(matches: &[ConnectionMatch]) -> Option<String> {
    (!matches.is_empty()).then(|| matches.iter().map(words::connection).collect::<Vec<_>>().join(" | "))
}

fn add_policies(seen_by: &str, service: &str, said: &For<DestinationPolicy>, table: &mut Policies) {
    let For { clients, value: DestinationPolicy { origins: _, all, ports, subsets } } = said;
    let clients = words::clients(clients);
    let none = Labels::new();
    let mut row = |endpoints: String, labels: &Labels, policy: &TrafficPolicy| {
        let [seen_by, service, clients] = [seen_by, service, &clients].map(Cell::from);
        let TrafficPolicy { balancing, pool, outlier: _, tls: _, retry_budget: _, check: _ } = policy;
        table.push([
            seen_by,
            service,
            clients,
            endpoints.into(),
            words::labels(labels).into(),
            words::balancing(balancing).into(),
            words::pool(pool).into(),
            words::more(policy).into(),
        ]);
    };
    row("all".into(), &none, all);
    for (port, policy) in ports {
        row(format!("all, port {port}"), &none, policy);
    }
    for (name, subset) in subsets {
        row(format!("subset {name}"), &subset.labels, &subset.all);
        for (port, policy) in &subset.ports {
            row(format!("subset {name}, port {port}"), &subset.labels, policy);
        }
    }
}

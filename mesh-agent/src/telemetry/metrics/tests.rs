//! What Prometheus reads, and that no count is lost on the way.

mod bounded;
mod istio;
mod known;
mod udp;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use mesh_common::model::{Identity, ServiceName};

use super::*;
use crate::telemetry::flow::{Direction, Facts, Flow, HttpRequest, Party, Security};

const SHOP: &str = "shop";

fn party(workload: &str) -> Party {
    let facts = Facts {
        namespace: SHOP.into(),
        pod: format!("{workload}-1"),
        workload: workload.into(),
        canonical_service: workload.into(),
        canonical_revision: "v1".into(),
        cluster: "Kubernetes".into(),
    };
    let identity = format!("spiffe://cluster.local/ns/shop/sa/{workload}").parse::<Identity>().unwrap();
    Party { facts: facts.into(), identity: Some(identity.into()), address: Some(SocketAddr::from(([10, 0, 0, 1], 1))) }
}

/// A tunnelled connection of cart to the service web, that has ended.
fn connection(direction: Direction) -> Flow {
    let mut flow = Flow::new(1, SystemTime::now(), direction, party("cart"), party("web"));
    flow.service = Some(ServiceName { namespace: SHOP.into(), hostname: "web.shop.svc.cluster.local".into() }.into());
    flow.security = Security::MutualTls;
    (flow.sent, flow.received) = (5, 7);
    flow
}

/// A request on it, of 30 ms.
fn request(direction: Direction, status: u16) -> Flow {
    let mut flow = connection(direction);
    flow.end = flow.start + Duration::from_millis(30);
    let http = HttpRequest { method: "GET".into(), path: "/secret".into(), status, ..HttpRequest::default() };
    flow.http = Some(Box::new(http));
    flow
}

fn rendered(traffic: &Traffic) -> Vec<String> {
    traffic.render(Instant::now()).lines().map(str::to_owned).collect()
}

/// The lines of one metric, with the values.
fn series(lines: &[String], name: &str) -> Vec<(BTreeMap<String, String>, f64)> {
    let of_it = |line: &&String| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
    lines.iter().filter(of_it).map(|line| read(line)).collect()
}

/// A line of a metric, as Prometheus takes it apart.
fn read(line: &str) -> (BTreeMap<String, String>, f64) {
    let (labels, value) = line.rsplit_once(' ').unwrap();
    let inner = labels.split_once('{').map_or("", |(_, rest)| rest.strip_suffix('}').unwrap());
    let mut read = BTreeMap::new();
    let mut rest = inner;
    while !rest.is_empty() {
        let (name, after) = rest.split_once("=\"").unwrap();
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().unwrap() {
                (at, '"') => break at,
                (_, '\\') => match chars.next().unwrap().1 {
                    'n' => value.push('\n'),
                    c => value.push(c),
                },
                (_, c) => value.push(c),
            }
        };
        assert!(read.insert(name.to_owned(), value).is_none(), "{line}: {name} twice");
        rest = after[end + 1..].trim_start_matches(',');
    }
    (read, value.parse().unwrap())
}

fn sum(lines: &[String], name: &str) -> f64 {
    series(lines, name).iter().map(|(_, value)| value).sum()
}

#[test]
fn everything_is_described_and_told_in_one_piece() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let (traffic, udp, certificates) = Default::default();
    let metrics = Metrics { handle: recorder.handle(), traffic, udp, certificates };
    let text = ::metrics::with_local_recorder(&recorder, || {
        describe::all();
        // What is not there before it is first counted.
        for (name, ..) in describe::COUNTERS {
            counter!(name, "label" => "value").increment(1);
        }
        for (name, _) in describe::GAUGES {
            gauge!(name, "label" => "value").set(1.0);
        }
        metrics.certificates(vec![("spiffe://a".into(), 7.5), ("spiffe://b".into(), -1.0)]);
        metrics.traffic.ended(&request(Direction::Outbound, 200));
        metrics.traffic.ended(&connection(Direction::Outbound));
        metrics.render()
    });
    let names = traffic::ALL.iter().map(|(name, _)| *name).chain(process::ALL.map(|(name, _)| name));
    let names = names.chain(super::udp::ALL.map(|(name, _)| name));
    let names = names.chain(describe::COUNTERS.map(|(name, ..)| name)).chain(describe::GAUGES.map(|(name, _)| name));
    for name in names.chain([EXPIRY.0, SOONEST.0]) {
        for kind in ["HELP", "TYPE"] {
            let found = text.lines().filter(|line| line.starts_with(&format!("# {kind} {name} "))).count();
            assert_eq!(found, 1, "{kind} of {name} in:\n{text}");
        }
    }
    // A metric whose lines are apart is two to Prometheus, which takes the first.
    let mut seen = Vec::<&str>::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        assert!(!seen.contains(&name), "{name} twice");
        seen.push(name);
    }
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    assert_eq!(series(&lines, SOONEST.0), [(BTreeMap::new(), -1.0)]);
    assert_eq!(series(&lines, EXPIRY.0).len(), 2);
    assert_eq!(sum(&lines, "mesh_agent_info"), 2.0, "its own, and the one of this test");
    assert!(sum(&lines, "mesh_flow_events_lost_total") == 1.0 && sum(&lines, "mesh_retries_total") == 1.0);
}

#[test]
fn what_clients_send_is_no_label_and_what_people_name_is_escaped() {
    let traffic = Traffic::default();
    let mut flow = request(Direction::Inbound, 200);
    let facts = Facts { workload: "a\"b\\c\nd".into(), ..Facts::clone(&flow.source.facts) };
    flow.source.facts = facts.into();
    traffic.ended(&flow);
    let text = traffic.render(Instant::now());
    assert!(!text.contains("secret") && !text.contains("GET"), "{text}");
    assert!(text.contains(r#"source_workload="a\"b\\c\nd","#), "{text}");
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    assert_eq!(series(&lines, "istio_requests_total")[0].0["source_workload"], "a\"b\\c\nd");
}

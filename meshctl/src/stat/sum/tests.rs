//! Sums of several agents that saw the same from both ends.

use mesh_common::{
    model::Latency,
    proto::{
        nodemesh::{Direction, Path},
        seen,
    },
};

use super::*;

fn end(workload: &str) -> Option<Endpoint> {
    Some(Endpoint { namespace: "shop".into(), workload: workload.into(), ..Endpoint::default() })
}

/// Requests of 10 ms each, by one path.
fn row(reporter: Direction, path: Path, requests: u64) -> Stat {
    Stat {
        reporter: reporter.into(),
        source: end("cart"),
        destination: end("web"),
        service: "shop/web.shop.svc.cluster.local".into(),
        seconds: 60,
        requests,
        answers: vec![0, 0, requests],
        latency: seen::latency([(u32::from(Latency::bucket(Duration::from_millis(10))), requests)]),
        connections: 1,
        bytes_sent: 100,
        security: seen::by_number([(Security::MutualTls, requests)]),
        path: seen::by_number([(path, requests)]),
        ..Stat::default()
    }
}

fn summed(by: By, rows: &[(&str, Stat)]) -> Vec<(Key, Sum)> {
    let mut summed = Summed::new(by);
    rows.iter().for_each(|(node, row)| summed.add(node, row));
    summed.rows()
}

#[test]
fn what_both_ends_saw_counts_once() {
    use Direction::{Inbound, Outbound};
    let rows = [
        ("a", row(Outbound, Path::Tunnel, 30)),
        ("b", row(Inbound, Path::Tunnel, 29)),
        ("b", row(Outbound, Path::Local, 5)),
        ("c", row(Outbound, Path::Direct, 2)),
    ];
    // The request that never came to b is none of web's; who chose web's service knows of it.
    for (by, expected) in [(By::Workloads, 36), (By::Edges, 36), (By::Services, 37), (By::Routes, 37)] {
        let all = summed(by, &rows);
        assert_eq!(all.len(), 1, "{by:?}: {all:?}");
        let sum = &all[0].1;
        assert_eq!((sum.requests, sum.latency.count(), sum.answers[2]), (expected, expected, expected), "{by:?}");
        assert_eq!((sum.connections, sum.bytes_sent), (3, 300));
        assert_eq!(sum.path.iter().sum::<u64>(), expected);
    }
}

#[test]
fn one_end_alone_counts() {
    let client = [("a", row(Direction::Outbound, Path::Tunnel, 7))];
    let server = [("b", row(Direction::Inbound, Path::Passthrough, 7))];
    for by in By::ALL {
        assert_eq!(summed(by, &client)[0].1.requests, 7, "{by:?}");
        assert_eq!(summed(by, &server)[0].1.requests, 7, "{by:?}");
    }
}

#[test]
fn requests_that_one_end_alone_read_are_not_lost() {
    let client = row(Direction::Outbound, Path::Tunnel, 7);
    let server = Stat { connections: 3, latency: Default::default(), ..row(Direction::Inbound, Path::Tunnel, 0) };
    let sum = &summed(By::Workloads, &[("a", client), ("b", server)])[0].1;
    assert_eq!((sum.requests, sum.answers[2], sum.latency.count(), sum.connections), (7, 7, 7, 3));
    assert_eq!(sum.requests_per_second(), 7.0 / 60.0);
}

#[test]
fn quantiles_are_those_of_all_nodes() {
    let mut slow = row(Direction::Inbound, Path::Tunnel, 100);
    slow.latency = seen::latency([(u32::from(Latency::bucket(Duration::from_millis(400))), 100)]);
    let mut fast = row(Direction::Inbound, Path::Tunnel, 900);
    fast.seconds = 30;
    let sum = &summed(By::Workloads, &[("a", slow), ("b", fast)])[0].1;
    let ms = |share| sum.quantile(share).unwrap().as_millis();
    assert!((9..=11).contains(&ms(0.5)) && (9..=11).contains(&ms(0.9)), "{}", ms(0.5));
    assert!((375..=425).contains(&ms(0.95)), "{}", ms(0.95));
    // The agent of b is half a minute old.
    assert_eq!(sum.requests_per_second(), 100.0 / 60.0 + 30.0);
}

#[test]
fn shares_are_of_what_there_is() {
    let mut failing = row(Direction::Inbound, Path::Tunnel, 10);
    (failing.failed_requests, failing.refused_requests) = (2, 1);
    failing.security.resize(4, 0);
    failing.security[Security::KernelAttested as usize] = 30;
    let sum = &summed(By::Edges, &[("a", failing)])[0].1;
    assert_eq!(sum.success(), Some(0.7));
    assert_eq!(sum.secured(Security::MutualTls), Some(0.25));
    assert_eq!(sum.secured(Security::KernelAttested), Some(0.75));
    let connections = Stat { connections: 4, refused_connections: 1, ..Stat::default() };
    let sum = &summed(By::Edges, &[("a", connections)])[0].1;
    assert_eq!((sum.success(), sum.secured(Security::MutualTls)), (Some(0.75), None));
    assert_eq!(Sum::default().success(), None);
}

#[test]
fn ends_have_the_name_of_what_is_known() {
    let of = |namespace: &str, workload: &str, pod: &str, address: &str| {
        name(&Endpoint {
            namespace: namespace.into(),
            workload: workload.into(),
            pod: pod.into(),
            address: address.into(),
            ..Endpoint::default()
        })
    };
    assert_eq!(of("shop", "web", "web-1", "10.0.0.1:80"), "shop/web");
    assert_eq!(of("shop", "", "web-1", ""), "shop/web-1");
    assert_eq!(of("", "", "", "192.0.2.1:80"), "outside");
}

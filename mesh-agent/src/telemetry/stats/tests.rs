//! Windows with times from outside.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::telemetry::flow::{Counted, HttpRequest, Party, Path, Security, Tcp};

fn party(workload: &str) -> Party {
    let facts = Facts { namespace: format!("of-{workload}"), workload: workload.into(), ..Facts::default() };
    Party { facts: facts.into(), ..Party::default() }
}

fn at(second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_000_000 + second)
}

fn connection(start: u64, end: u64) -> Flow {
    let mut flow = Flow::new(1, at(start), Direction::Inbound, party("cart"), party("web"));
    flow.end = at(end);
    flow.service = Some(ServiceName { namespace: "shop".into(), hostname: "web".into() }.into());
    (flow.path, flow.security, flow.sent, flow.received) = (Some(Path::Tunnel), Security::MutualTls, 10, 20);
    flow
}

fn request(end: u64, status: u16, route: &str) -> Flow {
    let mut flow = connection(end, end);
    flow.start = at(end) - Duration::from_millis(40);
    let route = (!route.is_empty()).then(|| Arc::from(route));
    flow.http = Some(Box::new(HttpRequest { status, route, ..HttpRequest::default() }));
    flow
}

#[test]
fn what_is_older_than_the_window_does_not_count() {
    let stats = Stats::default();
    for second in [0, 100, 190, 195, 205] {
        stats.ended(&request(second, 200, ""));
    }
    let count = |seconds, now| -> u64 {
        stats.rows_at(By::Workload, "", seconds, &[], at(now)).iter().map(|row| row.sum.requests).sum()
    };
    assert_eq!([10, 60, 190, 600].map(|seconds| count(seconds, 205)), [3, 3, 4, 5]);
    assert_eq!(count(0, 205), count(60, 205), "what is not said is a minute");
    assert_eq!((count(9_999, 205), count(1, 205)), (5, 3), "whole slots, and as many as are kept");
    assert_eq!((count(600, 606), count(600, 620), count(600, 900)), (5, 4, 0));
    let [row] = &stats.rows_at(By::Workload, "", 61, &[], at(205))[..] else { panic!("one row") };
    assert_eq!(row.seconds, 70);
    stats.expire(at(900));
    assert_eq!((stats.keys.load(Ordering::Relaxed), stats.bytes.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn requests_are_summed_by_how_they_went() {
    let stats = Stats::default();
    for (status, times) in [(0, 1), (200, 5), (302, 1), (404, 2), (503, 3)] {
        for _ in 0..times {
            stats.ended(&request(5, status, "shop/web/0"));
        }
    }
    let mut refused = request(5, 403, "");
    refused.dropped("POLICY_DENY", "no");
    stats.ended(&refused);
    let mut grpc = request(5, 200, "");
    let http = grpc.http.as_mut().unwrap();
    (http.grpc, http.grpc_status) = (true, Some(14));
    stats.ended(&grpc);
    let [row] = &stats.rows_at(By::Service, "", 60, &[], at(9))[..] else { panic!("one service") };
    let sum = &row.sum;
    assert_eq!((sum.requests, sum.failed_requests, sum.refused_requests), (14, 5, 1));
    assert_eq!(sum.answers, [1, 0, 6, 1, 3, 3]);
    assert_eq!((sum.sent, sum.received, sum.connections), (140, 280, 0));
    assert_eq!(sum.latency().count(), 14);
    let median = sum.latency().quantile(0.5).unwrap();
    assert!(median.abs_diff(Duration::from_millis(40)) < Duration::from_millis(3), "{median:?}");
    assert_eq!(sum.by_security().collect::<Vec<_>>(), [(Security::MutualTls, 14)]);
    assert_eq!(sum.by_path().collect::<Vec<_>>(), [(Path::Tunnel, 14)]);
    let routes = stats.rows_at(By::Route, "", 60, &[], at(9));
    assert_eq!(
        routes.iter().map(|row| (&*row.route, row.sum.requests)).collect::<Vec<_>>(),
        [("", 2), ("shop/web/0", 12)]
    );
}

#[test]
fn connections_count_where_they_begin_and_their_bytes_as_they_pass() {
    let stats = Stats::default();
    let flow = connection(0, 100);
    stats.passed_at(&flow, 4, 5, at(50));
    let mut ended = flow.clone();
    ended.counted = Counted { opened: true, sent: 4, received: 5 };
    ended.tcp = Some(Tcp { rtt: Duration::from_micros(70), retransmits: 3 });
    stats.ended(&ended);
    let mut failed = connection(95, 96);
    failed.failed("CONNECT", "no");
    stats.ended(&failed);
    let open = [connection(98, 98), connection(20, 20)];
    let sum = |seconds| stats.rows_at(By::Edge, "", seconds, &open, at(100)).remove(0).sum;
    let last = sum(10);
    assert_eq!((last.connections, last.failed_connections, last.open), (2, 1, 2));
    assert_eq!((last.sent, last.received), (6 + 10, 15 + 20));
    assert_eq!((last.rtt_us, last.retransmits), (70, 3));
    let all = sum(600);
    assert_eq!((all.connections, all.open), (4, 2), "two that ended and two that are open");
    assert_eq!((all.sent, all.received), (20, 40));
    // One that lasted longer than the window is long gone where it began.
    stats.ended(&connection(0, 1000));
    assert_eq!(stats.rows_at(By::Edge, "", 600, &[], at(1000)).remove(0).sum.connections, 0);
}

#[test]
fn rows_are_of_what_was_asked_for() {
    let stats = Stats::default();
    stats.ended(&request(1, 200, ""));
    let mut other = request(1, 200, "");
    (other.source, other.service) = (party("batch"), None);
    stats.ended(&other);
    let mut outbound = request(1, 200, "");
    outbound.direction = Direction::Outbound;
    stats.ended(&outbound);
    let rows = |by, namespace| stats.rows_at(by, namespace, 60, &[], at(2));
    let name = |name: &Option<Name>| name.as_ref().map(|name| name.workload.clone());
    let workloads = rows(By::Workload, "of-web");
    assert_eq!(workloads.iter().map(|row| (row.reporter, row.sum.requests)).collect::<Vec<_>>().len(), 2);
    assert!(workloads.iter().all(|row| row.source.is_none() && name(&row.destination).as_deref() == Some("web")));
    assert!(rows(By::Workload, "of-cart").is_empty());
    let edges = rows(By::Edge, "of-batch");
    let [edge] = &edges[..] else { panic!("{edges:?}") };
    assert_eq!((name(&edge.source).as_deref(), edge.service.is_none()), (Some("batch"), true));
    assert_eq!((rows(By::Edge, "of-web").len(), rows(By::EdgeTo, "of-cart").len()), (0, 0));
    assert_eq!(rows(By::EdgeTo, "of-web"), rows(By::Edge, ""), "all of them lead there");
    assert_eq!(rows(By::Service, "").len(), 3, "with service at both ends, and without");
    assert_eq!(rows(By::Edge, "").iter().map(|row| row.sum.requests).sum::<u64>(), 3);
}

#[test]
fn what_finds_no_key_counts_without_a_name() {
    let stats = Stats::bounded(100, BYTES);
    for number in 0..1000 {
        let mut flow = request(1, 200, "");
        flow.source = party(&format!("client-{number}"));
        stats.ended(&flow);
    }
    let rows = stats.rows_at(By::Edge, "", 60, &[], at(2));
    assert_eq!(rows.len(), 101);
    let unnamed: Vec<_> = rows.iter().filter(|row| row.source == Some(Name::default())).collect();
    assert_eq!(unnamed.iter().map(|row| row.sum.requests).collect::<Vec<_>>(), [900]);
    assert_eq!(rows.iter().map(|row| row.sum.requests).sum::<u64>(), 1000);
    // Their keys are free again.
    stats.expire(at(2000));
    stats.ended(&request(2000, 200, ""));
    assert_eq!(
        stats.rows_at(By::Edge, "", 60, &[], at(2000))[0].source,
        Some(Name { namespace: "of-cart".into(), workload: "cart".into() })
    );
}

#[test]
fn memory_is_bounded_and_nothing_is_lost_by_it() {
    let most = 64 << 10;
    let stats = Stats::bounded(KEYS, most);
    let mut random = fastrand::Rng::with_seed(3);
    for number in 0..60_000_u64 {
        let mut flow = request(number / 100, 200, "");
        flow.start = flow.end - Duration::from_micros(1 << random.u32(0..30));
        flow.source = party(&format!("client-{}", number % 50));
        stats.ended(&flow);
    }
    let bytes = stats.bytes.load(Ordering::Relaxed);
    // One slot of each key may be beyond it.
    assert!(bytes < most + 50 * (size_of::<Slot>() + 280 * 8), "{bytes}");
    let rows = stats.rows_at(By::Workload, "", 600, &[], at(599));
    let sum: u64 = rows.iter().map(|row| row.sum.requests).sum();
    let latencies: u64 = rows.iter().map(|row| row.sum.latency().count()).sum();
    assert_eq!((sum, latencies), (60_000, 60_000));
    let real: usize = stats
        .shards
        .iter()
        .flat_map(|shard| {
            let of = |slots: &VecDeque<Slot>| {
                slots.capacity() * size_of::<Slot>() + slots.iter().map(|slot| slot.sum.allocated()).sum::<usize>()
            };
            locked(shard).values().flatten().map(|series| of(&series.slots)).collect::<Vec<_>>()
        })
        .sum();
    assert_eq!(bytes, real, "it is told as it is");
    println!("a slot takes {} bytes", size_of::<Slot>());
}

#[test]
fn the_time_that_a_record_takes() {
    let stats = Stats::default();
    let flows: Vec<_> = (0..100)
        .map(|number| {
            let mut flow = request(1, 200, "shop/web/0");
            flow.source = party(&format!("client-{number}"));
            flow
        })
        .collect();
    let start = std::time::Instant::now();
    let times = 20_000;
    for number in 0..times {
        stats.ended(&flows[number % flows.len()]);
    }
    println!("{} ns for a request", start.elapsed().as_nanos() / times as u128);
    let start = std::time::Instant::now();
    let rows = stats.rows_at(By::Edge, "", 600, &[], at(2));
    println!("{} rows in {:?}", rows.len(), start.elapsed());
    assert_eq!(rows.iter().map(|row| row.sum.requests).sum::<u64>(), times as u64);
}

#[test]
fn datagrams_are_in_no_other_sum_but_the_bytes() {
    let stats = Stats::default();
    let udp = |path| {
        let mut flow = connection(5, 5);
        (flow.direction, flow.path, flow.security) = (Direction::Outbound, Some(path), Security::Plaintext);
        flow
    };
    for (path, sent) in [(Path::Passthrough, 3), (Path::Passthrough, 4), (Path::Direct, 5)] {
        stats.datagrams(&udp(path), Udp { sent, received: 1 }, 100, 10);
    }
    let rows = stats.rows(By::Edge, "", 60, &[]);
    let mut told: Vec<_> = rows.iter().map(|row| (row.leaves, row.sum.datagrams, row.sum.sent)).collect();
    told.sort_unstable();
    assert_eq!(told, [(false, 6, 100), (true, 9, 200)], "what stays on the node stands by itself");
    for Row { sum, .. } in rows {
        assert_eq!((sum.connections, sum.requests, sum.security, sum.path), (0, 0, [0; 3], [0; 4]));
    }
    assert!(stats.costs().rows("of-cart", &[]).is_empty(), "the agent does not carry them");
}

#[test]
fn what_went_nowhere_did_not_go_in_plaintext() {
    let stats = Stats::default();
    let mut refused = request(1, 404, "");
    (refused.path, refused.security) = (None, Security::Plaintext);
    [request(1, 200, ""), refused].iter().for_each(|flow| stats.ended(flow));
    let [row] = &stats.rows_at(By::Workload, "", 60, &[], at(1))[..] else { panic!("one row") };
    assert_eq!((row.sum.requests, row.sum.by_security().collect::<Vec<_>>()), (2, vec![(Security::MutualTls, 1)]));
}

//! Series are bounded, shared out and go, and nothing that was counted is missing.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::telemetry::metrics::sets::{Room, Sets};

const IDLE: Duration = Duration::from_secs(900);

fn limited(series: usize) -> Traffic {
    Traffic::new(Limits { series, idle: IDLE })
}

fn from(workload: usize, flow: Flow) -> Flow {
    let source = party(&format!("client-{workload}"));
    Flow { source, ..flow }
}

#[test]
fn random_label_sets_overflow_and_their_sum_stays() {
    let traffic = limited(10_000);
    let mut random = fastrand::Rng::with_seed(7);
    let (mut requests, mut connections, mut bytes) = (0_u64, 0_u64, 0_u64);
    for number in 0..50_000 {
        let direction = if random.bool() { Direction::Outbound } else { Direction::Inbound };
        let mut flow = if random.bool() {
            requests += 1;
            request(direction, random.u16(100..600))
        } else {
            connections += 1;
            connection(direction)
        };
        flow.sent = random.u64(0..1000);
        if flow.http.is_none() {
            bytes += flow.sent;
        }
        // What nobody reaches a quarter of alone.
        flow.destination = party(&format!("server-{}", random.u8(..)));
        traffic.ended(&from(number, flow));
    }
    let lines = rendered(&traffic);
    assert_eq!(sum(&lines, "istio_requests_total"), requests as f64);
    assert_eq!(sum(&lines, "istio_request_duration_milliseconds_count"), requests as f64);
    assert_eq!(sum(&lines, "istio_tcp_connections_closed_total"), connections as f64);
    assert_eq!(sum(&lines, "istio_tcp_connections_opened_total"), connections as f64);
    assert_eq!(sum(&lines, "istio_tcp_received_bytes_total"), bytes as f64);
    assert_eq!(sum(&lines, "mesh_policy_verdicts_total"), 50_000.0);
    let all = series(&lines, "istio_requests_total");
    let (beyond, within): (Vec<_>, Vec<_>) = all.iter().partition(|(of, _)| of["source_workload"] == "overflow");
    assert!(beyond.len() <= 12, "by reporter and hundreds of the status: {beyond:?}");
    for (labels, _) in &beyond {
        let of = |label: &str| &*labels[label];
        assert!(
            ["source", "destination"].contains(&of("reporter")) && of("response_code").ends_with("xx"),
            "{labels:?}"
        );
        assert_eq!((of("destination_service"), of("source_principal")), ("overflow", "overflow"));
    }
    let told = |(_, count): &&(BTreeMap<_, _>, f64)| *count;
    let counted = |name: &str| {
        series(&lines, name).iter().filter(|(of, _)| of["source_workload"] == "overflow").map(|(_, n)| n).sum::<f64>()
    };
    let overflowed = counted("istio_requests_total") + counted("istio_tcp_connections_closed_total");
    assert_eq!(sum(&lines, "mesh_metrics_overflow_total"), overflowed);
    assert!(!within.is_empty() && within.iter().map(told).sum::<f64>() < requests as f64);
    let bound = lines.iter().filter(|line| line.starts_with("istio_") && !line.contains("\"overflow\"")).count();
    assert!(bound <= 10_000, "{bound}");
    assert!(sum(&lines, "mesh_metrics_series") <= 10_000.0);
}

#[test]
fn one_workload_that_floods_leaves_room_for_the_others() {
    let traffic = limited(10_000);
    for number in 0..10_000 {
        // All to web, of which this agent tells.
        traffic.ended(&from(number, connection(Direction::Inbound)));
    }
    let mut other = connection(Direction::Inbound);
    other.destination = party("quiet");
    traffic.ended(&other);
    let lines = rendered(&traffic);
    let all = series(&lines, "istio_tcp_connections_closed_total");
    assert!(all.iter().any(|(labels, _)| labels["destination_workload"] == "quiet"));
    let flood = all.iter().filter(|(labels, _)| labels["destination_workload"] == "web").count();
    assert!((400..=500).contains(&flood), "{flood}: a quarter of 10,000 series at 5 each");
}

#[test]
fn what_is_idle_goes_once_it_was_read_and_begins_anew() {
    let traffic = limited(1000);
    let start = Instant::now();
    let later = |times: u32| start + IDLE * times;
    traffic.ended(&request(Direction::Inbound, 200));
    traffic.ended(&request(Direction::Inbound, 200));
    traffic.expire(start);
    let _ = traffic.render(later(1));
    // Unread since
    traffic.ended(&request(Direction::Inbound, 200));
    traffic.expire(later(1));
    traffic.expire(later(2) - Duration::from_secs(1));
    assert_eq!(sum(&rendered(&traffic), "istio_requests_total"), 3.0);
    traffic.ended(&request(Direction::Inbound, 200));
    traffic.expire(later(2));
    let _ = traffic.render(later(2));
    let used = sum(&rendered(&traffic), "mesh_metrics_series");
    assert_eq!(used, 70.0, "the request's and its verdict's");
    traffic.expire(later(3));
    let lines = rendered(&traffic);
    assert!(series(&lines, "istio_requests_total").is_empty(), "{lines:#?}");
    assert_eq!((sum(&lines, "mesh_metrics_series"), sum(&lines, "mesh_metrics_expired_total")), (0.0, 2.0));
    // Prometheus takes a smaller number for a new beginning.
    traffic.ended(&request(Direction::Inbound, 200));
    assert_eq!(sum(&rendered(&traffic), "istio_requests_total"), 1.0);
}

#[test]
fn what_nobody_has_read_stays_while_somebody_reads() {
    let traffic = limited(1000);
    let start = Instant::now();
    traffic.ended(&request(Direction::Inbound, 200));
    traffic.expire(start);
    // It is read, then counted on, and the scraper is late.
    let _ = traffic.render(start + IDLE - Duration::from_secs(2));
    traffic.ended(&request(Direction::Inbound, 200));
    traffic.expire(start + Duration::from_secs(1));
    traffic.expire(start + Duration::from_secs(1) + IDLE);
    assert_eq!(sum(&rendered(&traffic), "istio_requests_total"), 2.0, "its last count was told to nobody");
    // Nobody reads any more: `rendered` above was long before.
    traffic.expire(start + IDLE * 9);
    assert_eq!(sum(&rendered(&traffic), "istio_requests_total"), 0.0);
}

/// What was read of sets before they went, and what is there at the end, is all that was counted.
#[test]
fn nobody_counts_in_a_set_that_is_gone() {
    const TIMES: u64 = 200_000;
    let sets = Arc::new(Sets::<(), u64>::new(Room::new(10), 1));
    let done = Arc::new(AtomicBool::new(false));
    let counts = {
        let (sets, done) = (Arc::clone(&sets), Arc::clone(&done));
        std::thread::spawn(move || {
            let owner = || "own".to_owned();
            for _ in 0..TIMES {
                let place = sets.count(1, |()| true, || ((), String::new()), Some(&owner), |count| *count += 1);
                assert!(place.is_some());
            }
            done.store(true, Ordering::Relaxed);
        })
    };
    let (mut gone, mut times) = (0, 0);
    while !done.load(Ordering::Relaxed) {
        let read: u64 = sets.read().iter().map(|(_, count)| count).sum();
        if sets.expire(Instant::now(), Duration::ZERO, true) > 0 {
            gone += read;
            times += 1;
        }
    }
    counts.join().unwrap();
    let left: u64 = sets.read().iter().map(|(_, count)| count).sum();
    println!("sets went {times} times");
    assert_eq!(gone + left, TIMES);
}

#[test]
fn the_time_that_a_scrape_takes() {
    let ten_thousand = limited(1_000_000);
    // 2,000 sets of five.
    for number in 0..2000 {
        let mut flow = from(number, connection(Direction::Inbound));
        flow.destination = party(&format!("server-{}", number % 10));
        ten_thousand.ended(&flow);
    }
    let start = Instant::now();
    let text = ten_thousand.render(start);
    let series = text.lines().filter(|line| line.starts_with("istio_tcp")).count();
    println!("{series} series, {} bytes in {:?}", text.len(), start.elapsed());
    assert_eq!(series, 10_000);
}

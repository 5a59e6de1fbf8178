//! Parts add up to what was measured.

use std::time::SystemTime;

use super::*;
use crate::telemetry::flow::{Counted, Facts, HttpRequest};

fn flow(pod: &str) -> Flow {
    let facts = Facts { namespace: "shop".into(), pod: pod.into(), ..Facts::default() };
    let source = Party { facts: facts.into(), ..Party::default() };
    Flow::new(1, SystemTime::now(), Direction::Outbound, source, Party::default())
}

fn used(cpu_ms: u64, memory: u64) -> Used {
    Used { cpu: Duration::from_millis(cpu_ms), memory }
}

#[test]
fn cpu_and_memory_are_shared_out_whole() {
    let costs = Costs::default();
    let start = Instant::now();
    // 5 ms before anybody came.
    costs.share(used(1000, 10 << 20), start);
    costs.share(used(1005, 10 << 20), start);
    for _ in 0..300 {
        let mut request = flow("busy");
        request.http = Some(Box::new(HttpRequest::default()));
        costs.ended(&request);
    }
    for _ in 0..100 {
        costs.ended(&flow("dials"));
    }
    costs.share(used(1041, 30 << 20), start);
    let mut moves = flow("moves");
    costs.passed(&moves, 40);
    (moves.sent, moves.received) = (30, 70);
    moves.counted = Counted { opened: true, sent: 10, received: 30 };
    costs.ended(&moves);
    costs.share(used(1044, 31 << 20), start);
    let open = [flow("dials"), flow("dials"), flow("new")];
    let rows = costs.rows("", &open);
    let names: Vec<_> = rows.iter().map(|row| &*row.pod).collect();
    assert_eq!(names, ["", "busy", "dials", "moves", "new"]);
    let sum = |of: fn(&Row) -> u64| rows.iter().map(of).sum::<u64>();
    assert_eq!(sum(|row| row.memory), 31 << 20, "{rows:#?}");
    let cpu = sum(|row| row.cpu_us);
    assert!((43_995..=44_000).contains(&cpu), "44 ms, but for rounding: {cpu}");
    let row = |pod: &str| rows.iter().find(|row| row.pod == pod).unwrap();
    // 300 requests and 100 connections weigh the same.
    assert_eq!(row("busy").cpu_us, row("dials").cpu_us);
    assert_eq!((row("busy").requests, row("dials").connections, row("moves").bytes), (300, 100, 100));
    assert_eq!((row("dials").open, row("new").open, row("busy").open), (2, 1, 0));
    assert!(row("dials").memory > row("new").memory && row("new").memory > row("busy").memory, "{rows:#?}");
    // One connection is not what took 3 ms.
    assert!(row("moves").cpu_us < 500 && row("").cpu_us > 7000, "{rows:#?}");
    assert_eq!(costs.rows("other", &open), []);
}

#[test]
fn pods_are_bounded_and_forgotten_and_their_costs_stay_in_the_sum() {
    let costs = Costs::default();
    let start = Instant::now();
    costs.share(used(0, 0), start);
    for number in 0..PODS + 10 {
        costs.ended(&flow(&format!("pod-{number}")));
    }
    costs.share(used(1000, 1 << 20), start);
    let rows = costs.rows("", &[]);
    assert_eq!(rows.len(), PODS + 1);
    assert_eq!(rows.iter().map(|row| row.connections).sum::<u64>(), (PODS + 10) as u64);
    costs.share(used(1000, 1 << 20), start + FORGOTTEN + Duration::from_secs(1));
    let rows = costs.rows("", &[]);
    let [own] = &rows[..] else { panic!("{} rows", rows.len()) };
    assert_eq!((own.cpu_us, own.connections), (1_000_000, (PODS + 10) as u64));
}

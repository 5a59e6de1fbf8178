//! Nothing that was said is counted twice or not at all, however much there is of it.

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use super::*;

const WINDOW: Duration = Duration::from_secs(5);
const BOUNDS: Bounds = Bounds { lines: 100, window: WINDOW, pairs: 20, of_source: 10 };

fn pod(name: &str, port: u16) -> Party {
    let text = |text: &str| Some(text.to_owned());
    Party { namespace: text("shop"), pod: text(name), address: Some(format!("10.0.0.1:{port}")), ..Party::default() }
}

fn stranger(address: &str) -> Party {
    Party { address: Some(address.to_owned()), ..Party::default() }
}

fn denied(source: Party, destination: Party, reason: &str) -> Record {
    let mut record = Record::new(Kind::Denied);
    record.reason = Some(reason.to_owned());
    let (source, destination) = (Some(source), Some(destination));
    record.denied = Some(Box::new(Denied { source, destination, flow: Some(7), ..Denied::default() }));
    record
}

fn changed() -> Record {
    Record::new(Kind::PolicyChanged)
}

fn events(lines: &[Record]) -> u64 {
    lines.iter().map(|line| line.count).sum()
}

#[test]
fn of_a_pair_the_first_has_its_line_and_the_rest_share_one() {
    let mut pending = Pending::new(BOUNDS);
    let now = Instant::now();
    let mut last = None;
    for port in 1..=1000 {
        let record = denied(pod("a", port), pod("b", 80), "POLICY_DENY");
        last = Some(record.time);
        pending.tell(record, now);
    }
    pending.tell(denied(pod("a", 1), pod("b", 80), "PLAINTEXT_STRICT"), now);
    pending.tell(denied(pod("a", 1), pod("b", 81), "POLICY_DENY"), now);
    let (lines, _) = pending.take(now, false);
    let reasons: Vec<_> = lines.iter().map(|line| (line.reason.as_deref().unwrap_or_default(), line.count)).collect();
    assert_eq!(reasons, [("POLICY_DENY", 1), ("PLAINTEXT_STRICT", 1), ("POLICY_DENY", 1)]);
    assert!(!pending.has_lines());
    assert_eq!(pending.due(), Some(now + WINDOW));
    assert!(pending.take(now + WINDOW - Duration::from_millis(1), false).0.is_empty(), "not yet");
    let (lines, lost) = pending.take(now + WINDOW, false);
    assert_eq!((lines.len(), lost), (1, 0), "{lines:?}");
    assert_eq!((lines[0].count, Some(lines[0].time)), (999, last));
    assert!(lines[0].since.is_some_and(|since| since <= lines[0].time));
    let source = lines[0].denied.as_ref().and_then(|denied| denied.source.as_ref()).expect("it is of a pair");
    assert_eq!(source.address.as_deref(), Some("10.0.0.1:1000"), "of the newest");

    // It goes on: still no line for each.
    pending.tell(denied(pod("a", 1), pod("b", 80), "POLICY_DENY"), now + WINDOW);
    assert!(!pending.has_lines());
    assert_eq!(events(&pending.take(now + 2 * WINDOW, false).0), 1);
    // And when nothing came for as long, the next one is a first one.
    assert!(pending.take(now + 3 * WINDOW, false).0.is_empty());
    assert_eq!(pending.due(), None);
    pending.tell(denied(pod("a", 1), pod("b", 80), "POLICY_DENY"), now + 3 * WINDOW);
    assert!(pending.has_lines());
}

#[test]
fn one_that_asks_for_everybody_is_counted_as_one_and_leaves_room_for_others() {
    let mut pending = Pending::new(BOUNDS);
    let now = Instant::now();
    for port in 1..=500 {
        pending.tell(denied(pod("scan", 9), pod("b", port), "POLICY_DENY"), now);
        pending.tell(denied(stranger(&format!("192.0.2.{}:9", port % 256)), pod("b", port), "PLAINTEXT_STRICT"), now);
    }
    for port in 1..=10 {
        pending.tell(denied(pod("quiet", 9), pod("c", port), "POLICY_DENY"), now);
    }
    let lines = [pending.take(now, false).0, pending.take(now, true).0].concat();
    assert_eq!(events(&lines), 1010);
    assert!(lines.len() <= 50, "{}", lines.len());
    let told = |fits: &dyn Fn(&Denied) -> bool| {
        lines.iter().filter(|line| line.denied.as_deref().is_some_and(fits)).map(|line| line.count).sum::<u64>()
    };
    let is = |denied: &Denied, name: &str| denied.source.as_ref().is_some_and(|s| s.pod.as_deref() == Some(name));
    assert_eq!(told(&|denied| is(denied, "scan")), 500, "known to be its doing, wherever it went");
    assert_eq!(told(&|denied| is(denied, "scan") && denied.destination.is_none()), 490);
    assert_eq!(told(&|denied| denied.source.is_none()), 490 + 10, "addresses are no way to more than one share");
    // All rooms are taken: the quiet one is counted too.
    assert_eq!(told(&|denied| denied.source.is_none() || is(denied, "quiet")), 490 + 10);
    // Who comes later has room.
    pending.take(now + WINDOW, true);
    pending.tell(denied(pod("quiet", 9), pod("c", 1), "POLICY_DENY"), now + 2 * WINDOW);
    let (lines, _) = pending.take(now + 2 * WINDOW, false);
    assert!(lines[0].denied.as_ref().is_some_and(|denied| denied.destination == Some(pod("c", 1))), "{lines:?}");
}

#[test]
fn what_does_not_fit_is_counted() {
    let mut pending = Pending::new(BOUNDS);
    let now = Instant::now();
    let lost: u64 = (0..250).map(|_| pending.tell(changed(), now)).sum();
    assert_eq!(lost, 150);
    let (lines, more) = pending.take(now, false);
    assert_eq!((lines.len(), more), (101, 0));
    assert_eq!((lines[100].kind, lines[100].count), (Kind::Lost, 150));
    // They could not be written either.
    pending.not_written(events(&lines));
    assert!(pending.has_lines());
    let (lines, _) = pending.take(now, false);
    assert_eq!((lines.len(), lines[0].kind, lines[0].count), (1, Kind::Lost, 250));
    assert!(!pending.has_lines());
}

#[test]
fn refused_callers_are_bounded_too() {
    let mut pending = Pending::new(BOUNDS);
    let now = Instant::now();
    for port in 0..300 {
        let mut record = Record::new(Kind::AgentRefused);
        (record.caller, record.reason) = (Some(format!("192.0.2.7:{port}")), Some("TOKEN_INVALID".to_owned()));
        pending.tell(record, now);
    }
    let (first, _) = pending.take(now, false);
    let (rest, _) = pending.take(now, true);
    assert_eq!([&first[..], &rest[..]].map(|lines| (lines.len(), events(lines))), [(1, 1), (1, 299)]);
}

static WRITTEN: AtomicU64 = AtomicU64::new(0);
static LOST: AtomicU64 = AtomicU64::new(0);

#[test]
fn a_flood_from_many_threads_is_written_whole() {
    let path = std::env::temp_dir().join(format!("mesh-audit-{}-flood", std::process::id()));
    let counting = Counting {
        written: |_, events| _ = WRITTEN.fetch_add(events, Ordering::Relaxed),
        lost: |events| _ = LOST.fetch_add(events, Ordering::Relaxed),
        failed: |error| panic!("{error}"),
    };
    let writer = Writer { program: "mesh-agent".into(), instance: "a".into(), counting };
    let sink = Sink::open(&Target::File(path.clone())).unwrap();
    let bounds = Bounds { lines: 50, window: Duration::from_millis(2), ..BOUNDS };
    let stream = Stream::to(sink, writer, bounds).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let stream = stream.clone();
            scope.spawn(move || {
                for event in 0..5000 {
                    stream.tell(match event % 2 {
                        0 => changed(),
                        _ => denied(pod(&format!("p{thread}"), event), pod("b", event % 32), "POLICY_DENY"),
                    });
                }
            });
        }
    });
    stream.end(Duration::from_secs(20));
    let text = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let lines: Vec<Record> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events(&lines), 20_000);
    let lost: Vec<_> = lines.iter().filter(|line| line.kind == Kind::Lost).cloned().collect();
    assert_eq!(events(&lost), LOST.load(Ordering::Relaxed));
    assert_eq!(WRITTEN.load(Ordering::Relaxed) + LOST.load(Ordering::Relaxed), 20_000);
    assert!(lines.iter().all(|line| line.program == "mesh-agent" && line.instance == "a"));
    assert!(lines.len() < 15_000, "{}", lines.len());
}

#[test]
fn nobody_waits_for_a_place_that_cannot_be_written_to_and_nothing_is_forgotten() {
    let counting = Counting { written: |_, _| {}, lost: |_| {}, failed: |_| {} };
    let writer = Writer { program: "p".into(), instance: "i".into(), counting };
    let path = std::env::temp_dir().join(format!("mesh-audit-{}-gone/audit.json", std::process::id()));
    let folder = path.parent().unwrap();
    fs::create_dir(folder).unwrap();
    let sink = Sink::open(&Target::File(path.clone())).unwrap();
    let stream = Stream::to(sink, writer, Bounds::default()).unwrap();
    stream.tell(changed());
    fs::remove_dir_all(folder).unwrap();
    for _ in 0..9 {
        stream.tell(changed());
    }
    std::thread::sleep(Duration::from_millis(50));
    fs::create_dir(folder).unwrap();
    stream.tell(changed());
    stream.end(Duration::from_secs(20));
    let lines: Vec<Record> =
        fs::read_to_string(&path).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    fs::remove_dir_all(folder).unwrap();
    // The first may have been written before.
    assert!((10..=11).contains(&events(&lines)), "{lines:?}");
    assert!(lines.iter().any(|line| line.kind == Kind::Lost), "{lines:?}");
}

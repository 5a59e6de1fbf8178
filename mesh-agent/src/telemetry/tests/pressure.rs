//! Records faster than anybody takes them: a follower that reads slowly, an access log into a pipe that is hardly read,
//! a collector that is away. Who writes a record waits for none of them, and each of them accounts for every record.

use std::{
    io::Read as _,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use mesh_common::model::{telemetry::OtlpProtocol, traffic::Percent};
use tokio::sync::broadcast::error::RecvError;

use super::{super::trace::Ids, *};

/// A busy node's.
const RATE: u32 = 50_000;
/// Written before anybody looks at the clock.
const AT_ONCE: u32 = 50;

/// What became of the records that were written.
#[derive(Debug)]
struct Outcome {
    written: u64,
    seconds: f64,
    /// Nanoseconds that [`FlowLog::write`] took, sorted.
    took: Vec<u64>,
    kept: u64,
    replaced: u64,
    followed: u64,
    missed: u64,
    lines: u64,
    lines_lost: u64,
    /// Made, sent, lost.
    spans: [u64; 3],
    counted: u64,
}

/// Writes so many, as fast as it can or `rate` a second.
async fn pressed(records: u64, rate: Option<u32>) -> Outcome {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    // Nobody listens there.
    let away = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).unwrap();
    let to = otlp::Settings {
        node: "n1".into(),
        cluster: String::new(),
        target: Some(otlp::Target::parse(&format!("http://{away}"), OtlpProtocol::Grpc).unwrap()),
        queue: 8192,
        patience: Duration::from_secs(60),
        resolve: Arc::new(|_, _| None),
        roots: None,
    };
    let (mut pipe, output) = std::io::pipe().unwrap();
    let settings =
        access::Settings { told: access::Told::All, format: access::Format::Json, sampled: Percent::ALL, otlp: false };
    let exporter = otlp::Exporter::new(otlp::Signal::Logs, to.clone());
    let access = access::AccessLog::writing(settings, exporter, output).unwrap();
    let spans = otlp::Spans::new(to);
    let traffic = Arc::<Traffic>::default();
    let (of, ends) = (Arc::clone(&traffic), (access.clone(), spans.clone()));
    let log = FlowLog::new(Sinks { traffic: of, access, spans, traced: Some(Percent::ALL), ..Sinks::default() });

    let over = Arc::new(AtomicBool::new(false));
    let reader = {
        let over = Arc::clone(&over);
        thread::spawn(move || {
            let (mut buffer, mut lines) = (vec![0; 4096], 0);
            loop {
                // Until all is written: a small part of what comes.
                if !over.load(Ordering::Relaxed) {
                    thread::sleep(Duration::from_millis(10));
                }
                match pipe.read(&mut buffer).unwrap() {
                    0 => return lines,
                    length => lines += buffer[..length].iter().filter(|byte| **byte == b'\n').count() as u64,
                }
            }
        })
    };
    let mut feed = log.follow();
    let follower = thread::spawn(move || {
        let (mut followed, mut missed) = (0, 0);
        loop {
            match feed.blocking_recv() {
                Ok(_) => followed += 1,
                Err(RecvError::Lagged(lost)) => missed += lost,
                Err(RecvError::Closed) => return (followed, missed),
            }
            if followed % 64 == 0 {
                thread::sleep(Duration::from_millis(20));
            }
        }
    });

    let writer = {
        let log = Arc::clone(&log);
        thread::spawn(move || ::metrics::with_local_recorder(&recorder, || write(&log, records, rate)))
    };
    let (seconds, mut took) = tokio::task::spawn_blocking(|| writer.join().unwrap()).await.unwrap();
    over.store(true, Ordering::Relaxed);
    took.sort_unstable();
    let (kept, replaced) = (log.newest().len() as u64, log.replaced().map_or(0, |replaced| replaced.count));
    drop(log);
    let (access, spans) = ends;
    access.end().await;
    spans.end().await;
    let tally = spans.tally();
    drop((access, spans));
    let ((followed, missed), lines) =
        tokio::task::spawn_blocking(|| (follower.join().unwrap(), reader.join().unwrap())).await.unwrap();
    let value = |line: &str, name: &str| line.strip_prefix(name)?.parse::<u64>().ok();
    let found = |text: &str, name: &str| text.lines().find_map(|line| value(line, name)).unwrap_or_default();
    let requests = |line: &str| line.strip_prefix("istio_requests_total{")?.rsplit(' ').next()?.parse::<u64>().ok();
    Outcome {
        written: records,
        seconds,
        took,
        kept,
        replaced,
        followed,
        missed,
        lines,
        lines_lost: found(&handle.render(), "mesh_access_log_lost_total{to=\"stdout\",why=\"full\"} "),
        spans: tally,
        counted: traffic.render(Instant::now()).lines().filter_map(requests).sum(),
    }
}

/// Seconds that all of it took, and nanoseconds that each record did.
fn write(log: &FlowLog, records: u64, rate: Option<u32>) -> (f64, Vec<u64>) {
    let (began, parties) = (Instant::now(), (0..20).map(|number| pod(&format!("web-{number}"))).collect::<Vec<_>>());
    let mut took = Vec::with_capacity(records as usize);
    for number in 0..records {
        if let Some(rate) = rate.filter(|_| number % u64::from(AT_ONCE) == 0) {
            let due = Duration::from_secs_f64(number as f64 / f64::from(rate));
            thread::sleep(due.saturating_sub(began.elapsed()));
        }
        let (source, destination) = (pod("cart"), parties[number as usize % parties.len()].clone());
        let mut flow = Flow::new(log.next_id(), SystemTime::now(), Direction::Inbound, source, destination);
        let trace = Some(Ids { trace: 1, span: number + 1, parent: None, sampled: true });
        let (method, path, host) = ("GET".to_owned(), "/items/17".to_owned(), "web".to_owned());
        flow.http = Some(Box::new(HttpRequest { method, path, host, status: 200, trace, ..HttpRequest::default() }));
        let start = Instant::now();
        log.write(flow);
        took.push(start.elapsed().as_nanos() as u64);
    }
    (began.elapsed().as_secs_f64(), took)
}

impl Outcome {
    /// Every record is accounted for by everybody.
    fn is_exact(&self) {
        let Self { written, kept, replaced, followed, missed, lines, lines_lost, spans, counted, .. } = self;
        let [made, sent, lost] = spans;
        assert_eq!(kept + replaced, *written, "kept or replaced");
        assert_eq!(followed + missed, *written, "followed or missed");
        assert_eq!(lines + lines_lost, *written, "logged or lost");
        assert_eq!((*made, sent + lost), (*written, *written), "sent or lost");
        assert_eq!(counted, written, "in metrics");
        assert!(*replaced > 0 && *missed > 0 && *lines_lost > 0 && *lost > 0, "no pressure: {self:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_who_is_slow_stops_who_writes_and_all_is_accounted_for() {
    pressed(60_000, None).await.is_exact();
}

/// CONTRIBUTING.md says how it is run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "five seconds of work for a release build; it prints what it measured"]
async fn fifty_thousand_records_a_second() {
    let outcome = pressed(5 * u64::from(RATE), Some(RATE)).await;
    outcome.is_exact();
    let Outcome { written, seconds, took, kept, replaced, followed, missed, lines, lines_lost, spans, .. } = &outcome;
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize] as f64 / 1e3;
    println!("{written} records in {seconds:.2} s: {:.0} a second", *written as f64 / seconds);
    println!(
        "FlowLog::write, us: p50 {:.1}, p99 {:.1}, p99.9 {:.1}, longest {:.1}",
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
    println!("kept {kept} + replaced {replaced}; followed {followed} + missed {missed}");
    println!("logged {lines} + lost {lines_lost}; spans made {}, sent {}, lost {}", spans[0], spans[1], spans[2]);
    assert!(*seconds < 5.5, "it fell behind");
}

//! What the bounds of telemetry come to in memory, when all that is bounded is full. It measures the process, so each
//! test is to run in a process of its own, as nextest runs them: see CONTRIBUTING.md.

use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use mesh_common::model::ServiceName;

use super::{
    edges::Edges,
    flows::KEPT,
    kept::Kept,
    stats::{By, Stats},
    *,
};

/// Pairs of workloads: more than any of the bounds.
const EDGES: u32 = 12_000;
const WORKLOADS: u32 = 1000;

/// What this process has allocated and touched, in MiB; its program's pages, which come in by the way, are not in it.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").expect("the status of this process");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib / 1024.0
}

/// What this adds to the memory of the process, while the result is held: at most so many MiB.
fn costs<T>(what: &str, bound: &str, most: f64, make: impl FnOnce() -> T) -> T {
    let (before, start) = (resident(), Instant::now());
    let made = make();
    let (more, took) = (resident() - before, start.elapsed().as_secs_f64());
    println!("{what:<52}{more:>7.1} MiB   ({bound}; filled in {took:.1} s)");
    assert!(more <= most, "{what}: {more} MiB, {most} is the most");
    made
}

fn party(number: u32) -> Party {
    let (namespace, workload) = (format!("namespace-{}", number % 20), format!("workload-{}", number % WORKLOADS));
    let facts = Facts {
        pod: format!("{workload}-6f5d8c7b9-x{}", number % 7),
        canonical_service: workload.clone(),
        canonical_revision: "v1".into(),
        cluster: "Kubernetes".into(),
        namespace,
        workload,
    };
    let identity = format!("spiffe://cluster.local/ns/{}/sa/{}", facts.namespace, facts.workload);
    let identity = Some(Arc::new(identity.parse().expect("an identity")));
    let address = Some(SocketAddr::from(([10, 244, (number / 250 % 250) as u8, (number % 250) as u8], 8080)));
    Party { facts: Arc::new(facts), identity, address }
}

/// A request of one pair, with texts of so many bytes that its client chose.
fn request(edge: u32, text: usize, end: SystemTime) -> Flow {
    let (source, destination) = (edge % WORKLOADS, (edge * 7 + edge / WORKLOADS + 1) % WORKLOADS);
    let start = end - Duration::from_micros(500 + u64::from(edge.wrapping_mul(7919) % 20_000));
    let direction = if edge.is_multiple_of(2) { Direction::Outbound } else { Direction::Inbound };
    let mut flow = Flow::new(u64::from(edge), start, direction, party(source), party(destination));
    flow.end = end;
    flow.path = Some(Path::Tunnel);
    flow.security = Security::MutualTls;
    let hostname = format!("workload-{destination}.namespace-{}.svc.cluster.local", destination % 20);
    let name = format!("namespace-{}/{hostname}", destination % 20);
    flow.service = name.split_once('/').map(|(namespace, hostname)| {
        ServiceName { namespace: namespace.to_owned(), hostname: hostname.to_owned() }.into()
    });
    flow.http = Some(Box::new(HttpRequest {
        method: "GET".into(),
        path: format!("/{}", "p".repeat(text)),
        host: "h".repeat(text.max(12)),
        status: 200,
        version: "HTTP/1.1",
        request_id: Some("6a1f2c9e-0000-4000-8000-000000000001".into()),
        route: Some("namespace/route/0".into()),
        ..HttpRequest::default()
    }));
    flow
}

#[test]
#[ignore = "measures the memory of its process: see CONTRIBUTING.md"]
fn sums_of_the_last_minutes_at_their_bound() {
    let now = SystemTime::now();
    let stats = costs(
        "sums of 10 minutes (meshctl stat, top, dashboard)",
        "8192 keys; 9 MiB, and 16 MiB of slots",
        32.0,
        || {
            let stats = Stats::default();
            for slot in (0..60).rev() {
                let end = now - Duration::from_secs(slot * 10);
                for edge in 0..EDGES {
                    let mut flow = request(edge, 20, end);
                    for _ in 0..3 {
                        stats.ended(&flow);
                        // Another bucket of durations.
                        flow.start -= Duration::from_millis(3);
                    }
                }
            }
            stats
        },
    );
    // What found no key has one row for each end.
    let rows = costs("an answer about edges", "while it is made", 12.0, || stats.rows(By::Edge, "", 600, &[]));
    assert!((8000..=8194).contains(&rows.len()), "{}", rows.len());
    assert_eq!(rows.iter().map(|row| row.sum.requests).sum::<u64>(), 60 * u64::from(EDGES) * 3, "nothing is lost");
}

#[test]
#[ignore = "measures the memory of its process: see CONTRIBUTING.md"]
fn totals_of_edges_at_their_bound() {
    let now = SystemTime::now();
    let edges = costs("totals by edge (meshctl edges)", "4096 edges", 12.0, || {
        let mut edges = Edges::new(4096);
        for edge in 0..EDGES {
            let mut flow = request(edge, 0, now + Duration::from_millis(edge.into()));
            flow.http = None;
            edges.ended(&Arc::new(flow));
        }
        edges
    });
    assert!(edges.all().len() <= 4096 && edges.dropped() > 0);
}

#[test]
#[ignore = "measures the memory of its process: see CONTRIBUTING.md"]
fn records_at_their_bound() {
    let now = SystemTime::now();
    for (what, text) in
        [("newest records (meshctl flows), paths of 40 bytes", 40), ("the same, every text as long as it may be", 1023)]
    {
        let kept = costs(what, "8192 records", 40.0, || {
            let mut kept = Kept::new(KEPT);
            (0..2 * EDGES).for_each(|edge| drop(kept.push(Arc::new(request(edge, text, now)))));
            kept
        });
        assert_eq!(kept.all().len(), KEPT);
        std::mem::forget(kept);
    }
}

#[test]
#[ignore = "measures the memory of its process: see CONTRIBUTING.md"]
fn time_series_at_their_bound() {
    let now = SystemTime::now();
    let limits = Limits { series: 50_000, idle: Duration::from_secs(900) };
    let traffic = costs("metrics", "--metrics-series 50,000", 16.0, || {
        let traffic = Traffic::new(limits);
        for edge in 0..EDGES {
            let mut flow = request(edge, 20, now);
            traffic.ended(&flow);
            flow.http = None;
            traffic.opened(&flow);
            flow.counted.opened = true;
            traffic.ended(&flow);
        }
        traffic
    });
    let text =
        costs("their text, while it is read", "what Prometheus is sent", 50.0, || traffic.render(Instant::now()));
    let series = text.lines().filter(|line| line.starts_with("istio_")).count();
    println!("{series} time series, {:.1} MiB of text", text.len() as f64 / f64::from(1 << 20));
    assert!(series <= 52_000, "{series}");
}

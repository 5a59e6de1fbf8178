//! Records, shares and edges.

mod pressure;

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use mesh_common::model::{Asked, Connection, Observation, ObservedAs, Passed, PolicyName, Reason, RequestFacts};

use super::{
    edges::Edges,
    flow::{Direction, Flow, Party, Verdict},
    flows::KEPT,
    kept::Kept,
    *,
};

fn pod(name: &str) -> Party {
    let address = Some(SocketAddr::from(([10, 0, 0, 1], 4711)));
    let facts = Facts { namespace: "shop".into(), pod: name.into(), ..Facts::default() };
    Party { facts: facts.into(), address, ..Party::default() }
}

/// A pod of a workload.
fn web() -> Party {
    let mut party = pod("web-1");
    party.workload = "web".into();
    party
}

fn stranger(last: u8, port: u16) -> Party {
    Party { address: Some(SocketAddr::from(([192, 0, 2, last], port))), ..Party::default() }
}

/// A record that was written.
fn flow(log: &Arc<FlowLog>, source: Party, destination: Party) -> Flow {
    Flow::clone(&log.begin(Direction::Inbound, source, destination))
}

#[test]
fn a_pod_that_floods_pushes_out_its_own_records_only() {
    let log = FlowLog::new(Default::default());
    let mut kept = Kept::new(100);
    let mut push = |source: Party| kept.push(Arc::new(flow(&log, source, pod("web")))).is_some();
    for _ in 0..10 {
        assert!(!push(pod("quiet")));
        assert!(!push(stranger(1, 1)));
    }
    let lost = (0..1000).filter(|_| push(pod("flood"))).count();
    assert_eq!(lost, 920);
    // Addresses are no way to more than one share.
    for last in 0..200 {
        push(stranger(last, last.into()));
    }
    let all = kept.all();
    let of = |name: &str| all.iter().filter(|flow| flow.source.pod == name).count();
    assert_eq!(all.len(), 100);
    assert_eq!(of("quiet"), 10, "flood {} strangers {}", of("flood"), of(""));
    assert!(of("flood") >= 33 && of("") >= 33, "flood {} strangers {}", of("flood"), of(""));
    assert!(all.is_sorted_by_key(|flow| flow.id), "oldest first, whoever wrote them");
    assert_eq!(kept.find(all[50].id).expect("kept").id, all[50].id);
    assert!(kept.find(21).is_none(), "the first of the flood is gone");
}

#[test]
fn requests_push_out_no_connections() {
    let log = FlowLog::new(Default::default());
    let mut kept = Kept::new(100);
    let mut lost = 0;
    for number in 0..1000 {
        for name in ["cart", "other"] {
            let mut flow = flow(&log, pod(name), pod("web"));
            if number >= 40 {
                flow.http = Some(Box::default());
            }
            lost += usize::from(kept.push(Arc::new(flow)).is_some());
        }
    }
    let all = kept.all();
    let of = |name: &str, http: bool| {
        all.iter().filter(|flow| flow.source.pod == name && flow.http.is_some() == http).count()
    };
    assert_eq!((all.len(), lost), (100, 1900), "every loss is told");
    for name in ["cart", "other"] {
        // A quarter each, but for one: among equals chance says who makes room.
        assert!(of(name, false) >= 24 && of(name, true) >= 24, "{name}: {} {}", of(name, false), of(name, true));
    }
}

/// 50,000 a second are to be written; asserted is that each was, and printed how long one takes.
#[test]
fn many_tasks_write_at_once_and_nothing_is_lost_uncounted() {
    const EACH: usize = 10_000;
    let log = FlowLog::new(Default::default());
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        for name in ["a", "b", "c", "d"] {
            let (log, recorder) = (&log, &recorder);
            scope.spawn(move || {
                ::metrics::with_local_recorder(recorder, || {
                    let (source, now) = (pod(name), SystemTime::now());
                    for _ in 0..EACH {
                        let mut flow =
                            Flow::new(log.next_id(), now, Direction::Outbound, source.clone(), Party::default());
                        flow.http = Some(Box::new(HttpRequest { path: "/".into(), ..HttpRequest::default() }));
                        log.write(flow);
                    }
                });
            });
        }
    });
    println!("{:?} a record, written by four at once", began.elapsed() / (4 * EACH as u32));
    assert_eq!(log.newest().len(), KEPT);
    let lost = 4 * EACH - KEPT;
    let line = format!("mesh_flow_events_lost_total{{why=\"replaced\"}} {lost}");
    assert!(handle.render().lines().any(|told| told == line), "{line}");
    assert_eq!(log.replaced().map(|replaced| replaced.count), Some(lost as u64));
}

#[test]
fn connections_are_listed_while_they_are_forwarded_and_found_afterwards() {
    let log = FlowLog::new(Default::default());
    let mut open = log.begin(Direction::Outbound, pod("cart"), pod("web"));
    assert!(log.connections().is_empty(), "it is not decided yet");
    let live = open.live();
    live.sent.store(5, std::sync::atomic::Ordering::Relaxed);
    let listed = log.connections();
    assert_eq!((listed.len(), listed[0].id, listed[0].sent), (1, open.id, 5));
    assert_eq!(log.find(open.id).expect("open").sent, 5);
    let [(_, totals, 1)] = log.edges(Vec::new())[..] else { panic!("one edge with one open connection") };
    assert_eq!((totals.connections, totals.sent), (1, 5));
    let id = open.id;
    live.sent.store(7, std::sync::atomic::Ordering::Relaxed);
    drop(open);
    assert!(log.connections().is_empty());
    assert_eq!(log.find(id).expect("written").sent, 7);
    let [(_, totals, 0)] = log.edges(Vec::new())[..] else { panic!("one edge, nothing open") };
    assert_eq!((totals.connections, totals.sent), (1, 7));
    assert!(log.find(id + 1).is_none());
}

#[test]
fn a_connection_that_is_given_up_is_no_forwarded_one() {
    let log = FlowLog::new(Default::default());
    let mut given_up = log.begin(Direction::Outbound, pod("a"), pod("b"));
    given_up.pending();
    let mut refused = log.begin(Direction::Outbound, pod("a"), pod("b"));
    refused.pending();
    refused.dropped("OTHER", "for another reason");
    let mut taken = log.begin(Direction::Outbound, pod("a"), pod("b"));
    taken.pending();
    taken.settled();
    drop((given_up, refused, taken));
    let seen: Vec<_> = log.newest().iter().map(|flow| (flow.verdict, flow.reason.clone())).collect();
    let expected = [
        (Verdict::Error, Some("CONNECT".into())),
        (Verdict::Dropped, Some("OTHER".into())),
        (Verdict::Forwarded, None),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn edges_are_of_pods_and_not_of_ports() {
    let log = FlowLog::new(Default::default());
    let mut edges = Edges::new(64);
    let mut end = |source: Party, verdict: Verdict| {
        let mut flow = flow(&log, source, pod("web"));
        (flow.verdict, flow.sent) = (verdict, 3);
        edges.ended(&Arc::new(flow))
    };
    for verdict in [Verdict::Forwarded, Verdict::Audit, Verdict::Dropped, Verdict::Error] {
        end(pod("cart"), verdict);
        end(stranger(1, verdict as u16), verdict);
    }
    let all = edges.all();
    assert_eq!(all.len(), 2);
    for totals in all.values() {
        assert_eq!((totals.connections, totals.refused, totals.failed, totals.sent), (4, 1, 1, 12));
    }
}

#[test]
fn the_number_of_edges_is_bounded() {
    let log = FlowLog::new(Default::default());
    let mut edges = Edges::new(64);
    let mut evicted = 0;
    for last in 0..=255 {
        evicted += edges.ended(&Arc::new(flow(&log, stranger(last, 1), pod("web"))));
        assert!(edges.all().len() <= 64);
    }
    assert_eq!(evicted + edges.all().len() as u64, 256);
    // The newest are there.
    let newest = Arc::new(flow(&log, stranger(255, 9), pod("web")));
    assert_eq!(edges.ended(&newest), 0);
}

/// The lines of `/metrics` that `act` leaves behind.
fn metrics_of(act: impl FnOnce(&Arc<FlowLog>)) -> Vec<String> {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let (handle, traffic) = (recorder.handle(), Arc::<Traffic>::default());
    let log = FlowLog::new(Sinks { traffic: Arc::clone(&traffic), ..Sinks::default() });
    ::metrics::with_local_recorder(&recorder, || act(&log));
    let text = handle.render() + &traffic.render(std::time::Instant::now());
    text.lines().map(str::to_owned).collect()
}

#[test]
fn while_telemetry_is_off_only_what_is_about_safety_is_counted() {
    let traffic = Arc::<Traffic>::default();
    let log = FlowLog::new(Sinks { off: true, traffic: Arc::clone(&traffic), ..Sinks::default() });
    let mut feed = log.follow();
    let mut open = log.begin(Direction::Outbound, pod("cart"), pod("web"));
    open.live().sent.store(5, std::sync::atomic::Ordering::Relaxed);
    assert!(log.connections().is_empty() && log.open() == 1, "it is counted, and not listed");
    log.count_live();
    drop(open);
    log.begin(Direction::Outbound, pod("cart"), pod("web")).dropped("POLICY_DENY", "no");
    let mut tried = flow(&log, pod("cart"), pod("web"));
    let policy = PolicyName { namespace: "shop".into(), name: "try".into() };
    tried.observations = vec![Observation { policy, observed_as: ObservedAs::DryRun, rule: None, would_refuse: true }];
    log.write(tried);
    log.opened(&flow(&log, pod("cart"), pod("web")));
    assert!(log.newest().is_empty() && log.edges(Vec::new()).is_empty() && log.replaced().is_none());
    assert!(log.stats().rows(stats::By::Edge, "", 600, &[]).is_empty());
    assert!(feed.try_recv().is_err());
    let text = traffic.render(std::time::Instant::now());
    let counted: Vec<_> = text.lines().filter(|line| !line.starts_with('#') && !line.ends_with(" 0")).collect();
    assert!(!counted.iter().any(|line| line.starts_with("istio_")), "{counted:#?}");
    for line in [
        "mesh_policy_verdicts_total{verdict=\"DROPPED\",policy=\"\",reason=\"POLICY_DENY\",dry_run=\"false\"} 1",
        "mesh_policy_verdicts_total{verdict=\"DROPPED\",policy=\"shop/try\",reason=\"\",dry_run=\"true\"} 1",
    ] {
        assert!(counted.contains(&line), "{line} in {counted:#?}");
    }
    let plain = counted.iter().filter_map(|line| line.strip_prefix("mesh_plaintext_connections_total{"));
    let plain: u64 = plain.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum();
    assert!(plain >= 2, "{counted:#?}");
}

#[test]
fn bytes_of_live_connections_are_counted_as_they_pass_and_once() {
    use std::sync::atomic::Ordering::Relaxed;
    let counted = |lines: &[String]| {
        ["istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total", "istio_tcp_received_bytes_total"]
            .map(|name| {
                let of_it = lines.iter().filter(|line| line.starts_with(&format!("{name}{{")));
                of_it
                    .map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok()).unwrap())
                    .sum::<u64>()
            })
    };
    let mut lines = metrics_of(|log| {
        let mut open = log.begin(Direction::Outbound, pod("cart"), pod("web"));
        open.live().sent.store(5, Relaxed);
        log.count_live();
        log.count_live();
        std::mem::forget(open);
    });
    assert_eq!(counted(&lines), [1, 0, 5]);
    lines = metrics_of(|log| {
        let mut open = log.begin(Direction::Outbound, pod("cart"), pod("web"));
        let live = open.live();
        live.sent.store(5, Relaxed);
        log.count_live();
        live.sent.store(8, Relaxed);
        drop(open);
        log.count_live();
        // Never live
        log.begin(Direction::Outbound, pod("cart"), pod("web")).dropped("POLICY_DENY", "no");
    });
    assert_eq!(counted(&lines), [2, 2, 8]);
}

#[test]
fn losses_are_counted() {
    let lines = metrics_of(|log| {
        for _ in 0..KEPT + 3 {
            log.begin(Direction::Inbound, pod("flood"), pod("web"));
        }
        assert_eq!(log.newest().len(), KEPT);
    });
    assert!(lines.contains(&"mesh_flow_events_lost_total{why=\"replaced\"} 3".to_owned()), "{lines:?}");
}

#[test]
fn every_refused_request_is_counted_by_its_reason() {
    let tokens = reason::ALL.iter().copied().filter(|code| code.starts_with("JWT_") || *code == "PATH_AMBIGUOUS");
    let codes: Vec<&str> = tokens.chain(Reason::ALL.map(Reason::code)).collect();
    assert!(codes.contains(&"JWT_EXPIRED") && codes.contains(&"POLICY_NO_ALLOW") && codes.len() > 12, "{codes:?}");
    let lines = metrics_of(|log| {
        for (times, code) in codes.iter().enumerate() {
            for _ in 0..=times {
                let mut flow = flow(log, pod("cart"), web());
                flow.http = Some(Box::default());
                flow.dropped(code, "a request");
                log.write(flow);
            }
        }
        // It was answered, and a connection is no request.
        let mut flow = flow(log, pod("cart"), pod("web"));
        flow.http = Some(Box::default());
        log.write(flow);
        log.begin(Direction::Inbound, pod("cart"), pod("web")).dropped("POLICY_DENY", "a connection");
    });
    for (times, code) in codes.iter().enumerate() {
        let labels = format!(
            "reporter=\"destination\",destination_workload=\"web\",destination_workload_namespace=\"shop\",\
             policy=\"\",reason=\"{code}\""
        );
        let line = format!("mesh_requests_refused_total{{{labels}}} {}", times + 1);
        assert!(lines.contains(&line), "{line} of {lines:?}");
    }
    let counted = lines.iter().filter(|line| line.starts_with("mesh_requests_refused_total{")).count();
    assert_eq!(counted, codes.len());
}

#[test]
fn verdicts_count_connections_and_idle_policies_beside_them() {
    let seen = |name: &str, observed_as, would_refuse| Observation {
        policy: PolicyName { namespace: "shop".into(), name: name.into() },
        observed_as,
        rule: Some(0),
        would_refuse,
    };
    let lines = metrics_of(|log| {
        let mut flow = log.begin(Direction::Inbound, pod("cart"), pod("web"));
        flow.verdict = Verdict::Audit;
        flow.observations = vec![seen("audit", ObservedAs::Audited, false), seen("dry", ObservedAs::DryRun, true)];
    });
    let verdicts: Vec<_> = lines.iter().filter(|line| line.starts_with("mesh_policy_verdicts_total{")).collect();
    let line = |verdict: &str, policy: &str, dry_run: bool| {
        format!(
            "mesh_policy_verdicts_total{{verdict=\"{verdict}\",policy=\"{policy}\",reason=\"\",dry_run=\"{dry_run}\"}} 1"
        )
    };
    assert_eq!(verdicts.len(), 3, "{verdicts:?}");
    for line in [line("AUDIT", "", false), line("AUDIT", "shop/audit", true), line("DROPPED", "shop/dry", true)] {
        assert!(verdicts.contains(&&line), "{line} of {verdicts:?}");
    }
    let failed = |line: &&String| line.starts_with("istio_tcp_connections_failed_total{") && !line.ends_with(" 0");
    assert_eq!(lines.iter().find(failed), None, "an audited connection went well");
}

#[test]
fn no_request_makes_its_record_long() {
    let log = FlowLog::new(Default::default());
    let address = SocketAddr::from(([10, 0, 0, 1], 80));
    let mut flow =
        Flow::new(1, SystemTime::now(), Direction::Inbound, Party::stranger(address), Party::stranger(address));
    let path = format!("/{}", "ä".repeat(30_000));
    flow.http = Some(Box::new(HttpRequest { path: path.clone(), ..HttpRequest::default() }));
    let (method, host, headers) = ("GET".to_owned(), "web".to_owned(), Default::default());
    let facts = RequestFacts { method, path, host, headers, token: None };
    let connection = Connection { source_identity: None, source_ip: address.ip(), destination: address };
    let passed = Passed::Request(Arc::new(facts));
    flow.asked = Some(Arc::new(Asked { policies: [].into(), unknown: None, strict_by: None, connection, passed }));
    log.write(flow);
    let kept = log.newest().remove(0);
    let path = &kept.http.as_ref().expect("of a request").path;
    assert!(path.len() <= 1024 + '…'.len_utf8() && path.ends_with('…'), "{}", path.len());
    assert!(kept.asked.is_none() && kept.error.as_deref().is_some_and(|error| error.contains("too long to keep")));
}

#[test]
fn a_record_of_datagrams_is_no_connection_to_anybody_else() {
    let lines = metrics_of(|log| {
        let record = |id| Flow::new(id, SystemTime::now(), Direction::Inbound, pod("cart"), pod("web"));
        log.write(Flow { udp: Some(Udp { sent: 3, received: 2 }), ..record(1) });
        let [(Edge(edge), totals, open)] = &log.edges(Vec::new())[..] else { panic!("one edge") };
        assert_eq!((edge.udp.is_some(), totals.datagrams, totals.connections, *open), (true, 5, 1, 0));
        log.write(record(2));
        assert_eq!(log.edges(Vec::new()).len(), 2, "connections are another edge");
        assert_eq!(log.newest().len(), 2);
    });
    let closed = lines.iter().filter(|line| line.starts_with("istio_tcp_connections_closed_total{"));
    assert!(closed.clone().count() == 1 && closed.clone().all(|line| line.ends_with(" 1")), "{lines:?}");
}

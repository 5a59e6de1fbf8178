//! Which records have a line, and what no line can do.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Condvar, Mutex},
    time::{Duration, SystemTime},
};

use mesh_common::model::{
    LocalPod, Mode,
    telemetry::{AccessLog as Said, LogAttribute, LogCondition as Only, Telemetry},
};
use proptest::prelude::*;

use super::{writer::WAITING, *};
use crate::telemetry::{
    flow::{HttpRequest, Party, Security},
    otlp,
    trace::Ids,
};

fn request(path: &str, status: u16) -> Flow {
    let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_860_800);
    let mut party = Party { address: Some(SocketAddr::from(([10, 0, 0, 1], 4711))), ..Party::default() };
    party.workload = "cart".into();
    let mut flow = Flow::new(7, start, Direction::Inbound, party, Party::default());
    flow.end = start + Duration::from_micros(1_234_567);
    flow.http = Some(Box::new(HttpRequest {
        method: "GET".into(),
        path: path.into(),
        host: "web".into(),
        status,
        version: "HTTP/1.1",
        trace: Some(Ids { trace: 1, span: 2, parent: None, sampled: false }),
        ..HttpRequest::default()
    }));
    flow
}

fn json(flow: &Flow) -> String {
    let mut line = String::new();
    line::json(flow, &mut line);
    line
}

const HOSTILE: &str = "\"} {\"log\":\"access\",\r\n\\\u{1b}[2J\u{9b}2J\u{7f}\u{2028}\u{202e}\u{0}ü😀\u{fffd} x=\"y";

#[test]
fn a_line_says_what_the_record_says() {
    let mut flow = request("/a b", 404);
    flow.dropped("POLICY_DENIED", "no");
    let time = "2026-01-31T12:00:01.234567Z";
    assert_eq!(
        line::text(&flow),
        format!(
            "{time} access verdict=\"DROPPED\" reason=\"POLICY_DENIED\" src.addr=\"10.0.0.1:4711\" \
             src.workload=\"cart\" direction=\"inbound\" connection_security_policy=\"none\" bytes_sent=0 \
             bytes_recv=0 duration=\"1234.567ms\" method=\"GET\" path=\"/a b\" authority=\"web\" \
             protocol=\"HTTP/1.1\" response_code=404 trace_id=\"00000000000000000000000000000001\" \
             span_id=\"0000000000000002\" retries=0 error=\"no\" flow=7"
        )
    );
    let read: serde_json::Value = serde_json::from_str(&json(&flow)).expect("JSON");
    for (name, value) in [
        ("time", serde_json::json!(time)),
        ("log", serde_json::json!("access")),
        ("src.addr", serde_json::json!("10.0.0.1:4711")),
        ("response_code", serde_json::json!(404)),
        ("duration", serde_json::json!("1234.567ms")),
        ("error", serde_json::json!("no")),
    ] {
        assert_eq!(read[name], value, "{name}");
    }
}

#[test]
fn nothing_gets_out_of_its_text() {
    let flow = request(HOSTILE, 200);
    let (json, text) = (json(&flow), line::text(&flow));
    for line in [&json, &text] {
        assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line}");
    }
    let read: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(read["path"], HOSTILE);
    assert!(
        text.contains(r#"path="\"} {\"log\":\"access\",\x0D\x0A\\\x1B[2J\xC2\x9B2J\x7F\xE2\x80\xA8\xE2\x80\xAE\x00"#)
    );
}

/// A field's text in a plain line, as who reads it takes it apart.
fn unescaped(line: &str, name: &str) -> String {
    let begin = line.find(&format!(" {name}=\"")).expect("it has the field") + name.len() + 3;
    let mut bytes = line[begin..].bytes();
    let mut text = Vec::new();
    loop {
        match bytes.next().expect("it ends") {
            b'"' => return String::from_utf8(text).expect("what it was"),
            b'\\' => match bytes.next().expect("escaped") {
                b'x' => {
                    let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                    text.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                }
                byte => text.push(byte),
            },
            byte => text.push(byte),
        }
    }
}

proptest! {
    #[test]
    fn one_record_is_one_line_that_reads_back_to_the_same(path in any::<String>(), host in "\\PC*|[\\x00-\\x1f\"\\\\]*") {
        let mut flow = request(&path, 200);
        flow.http.as_mut().unwrap().host = host.clone();
        let json = json(&flow);
        prop_assert!(json.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        let read: serde_json::Value = serde_json::from_str(&json).unwrap();
        let said = |name: &str| read[name].as_str().unwrap_or_default().to_owned();
        prop_assert_eq!((said("path"), said("authority")), (path.clone(), host.clone()));
        let text = line::text(&flow);
        prop_assert!(text.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        if !path.is_empty() {
            prop_assert_eq!(unescaped(&text, "path"), path);
        }
        if !host.is_empty() {
            prop_assert_eq!(unescaped(&text, "authority"), host);
        }
    }
}

#[test]
fn conditions_hold_for_what_they_say() {
    use LogAttribute::*;
    let is = |attribute, value: &str| Only::Is { attribute, value: value.into() };
    let begins = |attribute, value: &str| Only::Begins { attribute, value: value.into() };
    let mut flow = request("/admin/x", 404);
    flow.security = Security::MutualTls;
    flow.http.as_mut().unwrap().flags = Some("NR");
    let plain = Flow { http: None, ..request("", 0) };
    let mut failed = plain.clone();
    failed.failed("CONNECT", "refused");
    for (condition, of_request, of_connection, of_failed) in [
        (Only::Errors, true, false, true),
        (Only::Status { from: 404, to: 404 }, true, false, false),
        (Only::Status { from: 0, to: 403 }, false, false, false),
        (Only::Authenticated, true, false, false),
        (is(Method, "GET"), true, false, false),
        (is(Method, "get"), false, false, false),
        (is(Method, ""), false, false, false),
        (begins(Path, "/admin"), true, false, false),
        (begins(Path, "admin"), false, false, false),
        (is(Host, "web"), true, false, false),
        (is(SourceWorkload, "cart"), true, true, true),
        (is(DestinationWorkload, ""), false, false, false),
        (is(ResponseFlags, "NR"), true, false, false),
        (is(ResponseFlags, "CONNECT"), false, false, true),
        (Only::Not(Box::new(is(Method, "GET"))), false, true, true),
        (Only::Any(vec![]), false, false, false),
        (Only::Any(vec![Only::Status { from: 500, to: 599 }, Only::Authenticated]), true, false, false),
    ] {
        let found = [&flow, &plain, &failed].map(|flow| holds(&condition, flow));
        assert_eq!(found, [of_request, of_connection, of_failed], "{condition:?}");
    }
}

/// What was written, and whether it may go on.
#[derive(Clone, Default)]
struct Out(Arc<(Mutex<Taken>, Condvar)>);
/// Bytes, and whether more may go.
type Taken = (Vec<u8>, bool);

impl Out {
    fn blocked() -> Self {
        let out = Self::default();
        out.0.0.lock().unwrap().1 = true;
        out
    }

    fn go_on(&self) {
        self.0.0.lock().unwrap().1 = false;
        self.0.1.notify_all();
    }

    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.0.0.lock().unwrap().0.clone()).unwrap().lines().map(str::to_owned).collect()
    }
}

impl io::Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.0.1.wait_while(self.0.0.lock().unwrap(), |state| state.1).unwrap();
        state.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn log(told: Told, out: &Out) -> AccessLog {
    let exporter = Exporter::new(
        otlp::Signal::Logs,
        otlp::Settings {
            node: "n1".into(),
            cluster: String::new(),
            target: None,
            queue: 10,
            patience: Duration::from_secs(1),
            resolve: Arc::new(|_, _| None),
            roots: None,
        },
    );
    let settings = Settings { told, format: Format::Json, sampled: Percent::ALL, otlp: false };
    AccessLog::to(settings, exporter, Writer::new(Format::Json, out.clone()).unwrap())
}

fn told(flow: Flow, logged: Option<Said>) -> Arc<Flow> {
    Arc::new(Flow { told: Some(pod(Telemetry { logged_server: logged, ..Telemetry::default() })), ..flow })
}

fn pod(telemetry: Telemetry) -> Arc<LocalPod> {
    Arc::new(LocalPod {
        uid: "u".into(),
        pod_uid: String::new(),
        namespace: "shop".into(),
        name: "web-1".into(),
        service_account: "web".into(),
        addresses: Vec::new(),
        mode: Mode::Mesh,
        strict_by: None,
        probe_ports: Vec::new(),
        same_node: Default::default(),
        inbound: Default::default(),
        telemetry,
    })
}

fn on(only: Vec<Only>, sampled: Option<Percent>) -> Option<Said> {
    Some(Said::On { only, sampled, collector: None })
}

#[tokio::test]
async fn a_pods_setting_counts_before_the_agents() {
    let refused = || {
        let mut flow = request("/refused", 403);
        flow.dropped("POLICY_DENIED", "no");
        flow
    };
    for (agent, said, paths) in [
        (Told::All, None, &["/good", "/bad", "/refused"][..]),
        (Told::Errors, None, &["/bad", "/refused"]),
        // In the agent's own log.
        (Told::Refusals, None, &[]),
        (Told::Nothing, None, &[]),
        (Told::All, Some(Said::Off), &[]),
        (Told::Nothing, on(vec![], None), &["/good", "/bad", "/refused"]),
        (Told::Refusals, on(vec![Only::Status { from: 404, to: 404 }], None), &["/bad"]),
        (Told::All, on(vec![Only::Errors, Only::Not(Box::new(Only::Status { from: 403, to: 403 }))], None), &["/bad"]),
        (Told::All, on(vec![], Some(Percent(0))), &[]),
        (Told::All, on(vec![], Some(Percent::ALL)), &["/good", "/bad", "/refused"]),
    ] {
        let out = Out::default();
        let log = log(agent, &out);
        for flow in [request("/good", 200), request("/bad", 404), refused()] {
            log.ended(&told(flow, said.clone()));
        }
        log.end().await;
        let read = |line: String| serde_json::from_str::<serde_json::Value>(&line).unwrap()["path"].clone();
        assert_eq!(out.lines().into_iter().map(read).collect::<Vec<_>>(), paths, "{agent:?} {said:?}");
    }
}

#[tokio::test]
async fn a_blocked_output_stops_nobody_and_what_finds_no_room_is_counted() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let out = Out::blocked();
    let log = log(Told::All, &out);
    let flow = Arc::new(request("/", 200));
    let all = 3 * WAITING;
    metrics::with_local_recorder(&recorder, || (0..all).for_each(|_| log.ended(&flow)));
    let lost = "mesh_access_log_lost_total{to=\"stdout\",why=\"full\"} ";
    let text = handle.render();
    let lost: usize = text.lines().find_map(|line| line.strip_prefix(lost)).expect("some are lost").parse().unwrap();
    assert!((WAITING..=2 * WAITING).contains(&lost), "{lost}");
    out.go_on();
    log.end().await;
    assert_eq!(out.lines().len() + lost, all, "each is written or counted");
}

#[tokio::test]
async fn what_nobody_else_tells_of_is_logged_where_either_end_asks_for_it() {
    let off = || Some(Said::Off);
    for (client, server, lines) in [
        (None, None, 0),
        (None, on(vec![], None), 1),
        (off(), on(vec![], None), 1),
        (on(vec![], None), off(), 1),
        (on(vec![], None), on(vec![], None), 1),
        (on(vec![Only::Errors], None), on(vec![Only::Errors], None), 0),
        (None, on(vec![], Some(Percent(0))), 0),
        (off(), off(), 0),
    ] {
        let out = Out::default();
        let log = log(Told::Nothing, &out);
        let mut flow = Flow::new(1, SystemTime::now(), Direction::Outbound, Party::default(), Party::default());
        flow.told = Some(pod(Telemetry { logged_client: client.clone(), ..Telemetry::default() }));
        flow.told_there = Some(pod(Telemetry { logged_server: server.clone(), ..Telemetry::default() }));
        log.ended(&Arc::new(flow));
        log.end().await;
        assert_eq!(out.lines().len(), lines, "{client:?} {server:?}");
    }
}

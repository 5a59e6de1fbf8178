//! Tables of headers in and headers out.

use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_common::model::{telemetry::Tracing, traffic::Percent};

use super::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let line = |(name, value): &(&str, &str)| {
        (HeaderName::try_from(*name).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    let mut headers = HeaderMap::new();
    lines.iter().map(line).for_each(|(name, value)| {
        headers.append(name, value);
    });
    headers
}

/// `name: value` of all, sorted.
fn lines(headers: &HeaderMap) -> Vec<String> {
    let mut lines: Vec<_> =
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines
}

/// The numbers are 1, 2, 3 …, so no draw falls into a share below 100 %, nor outside of 100 %.
fn counted() -> impl FnMut() -> u64 {
    let mut next = 0;
    move || {
        next += 1;
        next
    }
}

fn share(millionths: u32) -> Tracing {
    Tracing { sampled: Some(Percent(millionths)), ..Tracing::default() }
}

fn at(headers: &mut HeaderMap, settings: &Tracing, peer: Peer) -> Option<Ids> {
    begin(headers, settings, Percent(0), counted(), peer)
}

#[test]
fn a_traceparent_is_read_as_strictly_as_its_recommendation_says() {
    let whole = format!("00-{TRACE}-{SPAN}-01");
    let zero = |digits| "0".repeat(digits);
    for (text, sampled) in [
        (whole.clone(), Some(true)),
        (format!(" {whole}\t"), Some(true)),
        (format!("00-{TRACE}-{SPAN}-00"), Some(false)),
        // Flags that nobody has defined say nothing.
        (format!("00-{TRACE}-{SPAN}-fe"), Some(false)),
        (format!("00-{TRACE}-{SPAN}-ff"), Some(true)),
        (format!("{whole}-more"), None),
        (format!("{whole}-"), None),
        (format!("{whole}0"), None),
        // Later versions
        (format!("01-{TRACE}-{SPAN}-01"), Some(true)),
        (format!("cc-{TRACE}-{SPAN}-01-what-comes"), Some(true)),
        (format!("cc-{TRACE}-{SPAN}-01-"), Some(true)),
        (format!("cc-{TRACE}-{SPAN}-01.what"), None),
        (format!("cc-{TRACE}-{SPAN}-0"), None),
        (format!("ff-{TRACE}-{SPAN}-01"), None),
        (format!("0-{TRACE}-{SPAN}-01"), None),
        (format!("+0-{TRACE}-{SPAN}-01"), None),
        (format!("00-{}-{SPAN}-01", zero(32)), None),
        (format!("00-{TRACE}-{}-01", zero(16)), None),
        (whole.to_uppercase(), None),
        (format!("00-{TRACE}-{SPAN}-0A"), None),
        (format!("00-{}-{SPAN}-01", TRACE.replace('4', "g")), None),
        (format!("00_{TRACE}-{SPAN}-01"), None),
        (format!("00-{TRACE}-{SPAN}-+1"), None),
        (format!("00-{TRACE}0-{SPAN}-1"), None),
        (format!("00-{TRACE}-{SPAN}-é"), None),
        (String::new(), None),
    ] {
        let came = came(&headers(&[("traceparent", &text)]));
        assert_eq!(came.map(|ids| ids.sampled), sampled, "{text:?}");
        if let Some(came) = came {
            assert_eq!((format!("{:032x}", came.trace), format!("{:016x}", came.span)), (TRACE.into(), SPAN.into()));
        }
    }
    let twice = headers(&[("traceparent", &whole), ("traceparent", &whole)]);
    assert_eq!(came(&twice), None, "duplicates are invalid, also equal ones");
}

#[test]
fn what_goes_on_has_the_new_span_in_each_format_that_came() {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let parent = parent.as_str();
    let w3c = |digits: &str, flags: &str| format!("traceparent: 00-{digits}-0000000000000001-{flags}");
    let short = &TRACE[16..];
    let padded = format!("{}{short}", "0".repeat(16));
    let single = format!("{TRACE}-{SPAN}-d-{SPAN}");
    let single = single.as_str();
    let one = "0000000000000001";
    for (came, mut goes) in [
        (
            vec![("traceparent", parent), ("tracestate", "a=1"), ("tracestate", "b=2"), ("x-amzn-trace-id", "Root=1")],
            vec![
                "tracestate: a=1".into(),
                "tracestate: b=2".into(),
                w3c(TRACE, "01"),
                "x-amzn-trace-id: Root=1".into(),
            ],
        ),
        (vec![("b3", single)], vec![format!("b3: {TRACE}-{one}-d-{SPAN}"), w3c(TRACE, "01")]),
        (
            vec![("x-b3-traceid", short), ("x-b3-spanid", SPAN), ("x-b3-sampled", "0")],
            vec![
                w3c(&padded, "00"),
                format!("x-b3-parentspanid: {SPAN}"),
                "x-b3-sampled: 0".into(),
                format!("x-b3-spanid: {one}"),
                format!("x-b3-traceid: {short}"),
            ],
        ),
        (
            vec![("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-parentspanid", one), ("x-b3-flags", "1")],
            vec![
                w3c(TRACE, "01"),
                "x-b3-flags: 1".into(),
                format!("x-b3-parentspanid: {SPAN}"),
                format!("x-b3-spanid: {one}"),
                format!("x-b3-traceid: {TRACE}"),
            ],
        ),
        // All three came: W3C's ids count, and all say the same afterwards.
        (
            vec![("traceparent", parent), ("b3", "0"), ("x-b3-traceid", short), ("x-b3-spanid", SPAN)],
            vec![
                format!("b3: {TRACE}-{one}-1-{SPAN}"),
                w3c(TRACE, "01"),
                format!("x-b3-parentspanid: {SPAN}"),
                "x-b3-sampled: 1".into(),
                format!("x-b3-spanid: {one}"),
                format!("x-b3-traceid: {TRACE}"),
            ],
        ),
        // `b3` counts before the several.
        (
            vec![("b3", single), ("x-b3-traceid", short), ("x-b3-spanid", one), ("x-b3-sampled", "0")],
            vec![
                format!("b3: {TRACE}-{one}-d-{SPAN}"),
                w3c(TRACE, "01"),
                "x-b3-flags: 1".into(),
                format!("x-b3-parentspanid: {SPAN}"),
                format!("x-b3-spanid: {one}"),
                format!("x-b3-traceid: {TRACE}"),
            ],
        ),
    ] {
        let mut headers = headers(&came);
        let ids = at(&mut headers, &share(0), Peer::Application).expect("a trace");
        assert_eq!(ids.parent, Some(u64::from_str_radix(SPAN, 16).unwrap()));
        goes.sort();
        assert_eq!(lines(&headers), goes, "{came:?}");
    }
}

#[test]
fn the_random_flag_is_carried_and_no_other() {
    for (came, goes) in [("02", "02"), ("03", "03"), ("fd", "01"), ("04", "00")] {
        let mut headers = headers(&[("traceparent", &format!("00-{TRACE}-{SPAN}-{came}"))]);
        at(&mut headers, &share(0), Peer::Agent);
        assert!(headers["traceparent"].to_str().unwrap().ends_with(goes), "{headers:?}");
    }
}

#[test]
fn what_is_invalid_begins_another_trace_and_goes_on_in_no_format() {
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let parent = parent.as_str();
    let trace = "00000000000000020000000000000003";
    for came in [
        vec![("traceparent", "00-0-0-01"), ("tracestate", "a=1")],
        vec![("tracestate", "a=1")],
        vec![("traceparent", parent), ("traceparent", parent), ("tracestate", "a=1")],
        vec![("b3", "2")],
        vec![("b3", "1"), ("b3", "1")],
        vec![("b3", parent)],
        vec![("b3", "4bf92f3577b34da6-00f067aa0ba902b7-1-0-0")],
        vec![("b3", "4bf92f3577b34da6-00f067aa0ba902b7-1-0")],
        vec![("b3", "4bf92f3577b34da6-0000000000000000-1")],
        vec![("b3", "bf92f3577b34da6-00f067aa0ba902b7-1")],
        vec![("x-b3-traceid", TRACE)],
        vec![("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-sampled", "yes")],
        vec![("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-spanid", SPAN)],
        vec![("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN), ("x-b3-parentspanid", "x")],
    ] {
        let mut headers = headers(&came);
        let ids = at(&mut headers, &share(0), Peer::Application).expect("a trace");
        assert_eq!((ids.parent, ids.sampled), (None, false), "{came:?}");
        let goes = lines(&headers);
        assert!(goes.contains(&format!("traceparent: 00-{trace}-0000000000000004-00")), "{came:?} {goes:?}");
        assert!(goes.iter().all(|line| !line.contains("tracestate") && !line.contains(TRACE)), "{came:?} {goes:?}");
    }
}

#[test]
fn the_senders_decision_stands_else_the_pods_share_else_the_agents() {
    let parent = |flags: &str| format!("00-{TRACE}-{SPAN}-{flags}");
    let undecided = format!("{TRACE}-{SPAN}");
    let (all, none) = (Percent::ALL, Percent(0));
    for (came, own, default, sampled) in [
        (vec![("traceparent", parent("01"))], Some(none), none, true),
        (vec![("traceparent", parent("00"))], Some(all), all, false),
        (vec![("b3", "0".to_owned())], Some(all), all, false),
        (vec![("b3", "1".to_owned())], Some(none), none, true),
        (vec![("b3", "d".to_owned())], Some(none), none, true),
        (vec![("x-b3-sampled", "true".to_owned())], Some(none), none, true),
        (vec![("x-b3-sampled", "0".to_owned())], Some(all), all, false),
        (vec![("x-b3-flags", "1".to_owned())], Some(none), none, true),
        (vec![("b3", undecided.clone())], Some(all), none, true),
        (vec![("b3", undecided.clone())], Some(none), all, false),
        (vec![], Some(all), none, true),
        (vec![], Some(none), all, false),
        (vec![], None, all, true),
        (vec![], None, none, false),
    ] {
        let came: Vec<_> = came.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let mut headers = headers(&came);
        let settings = Tracing { sampled: own, ..Tracing::default() };
        let ids = begin(&mut headers, &settings, default, counted(), Peer::Application).expect("a trace");
        assert_eq!(ids.sampled, sampled, "{came:?} {own:?} {default:?}");
        let flags = if sampled { "01" } else { "00" };
        assert!(headers["traceparent"].to_str().unwrap().ends_with(flags), "an unsampled trace is passed on too");
    }
}

#[test]
fn behind_an_agent_a_trace_begins_only_where_the_pod_is_told_a_share() {
    let mut none = HeaderMap::new();
    assert_eq!(begin(&mut none, &Tracing::default(), Percent::ALL, counted(), Peer::Agent), None);
    assert!(none.is_empty());
    let begun = begin(&mut none, &share(1_000_000), Percent(0), counted(), Peer::Agent).expect("its own share");
    assert!(begun.sampled && begun.parent.is_none());
    let continued = begin(&mut none, &Tracing::default(), Percent(0), counted(), Peer::Agent).expect("what came");
    assert_eq!((continued.trace, continued.parent, continued.sampled), (begun.trace, Some(begun.span), true));
}

#[test]
fn disabled_tracing_passes_on_what_came() {
    let settings = Tracing { disabled: true, ..share(1_000_000) };
    let came = [("traceparent", "what?"), ("tracestate", "a=1"), ("b3", "4bf92f3577b34da6-00f067aa0ba902b7-1")];
    let mut passed = headers(&came);
    let ids = at(&mut passed, &settings, Peer::Application).expect("B3's can be read");
    assert_eq!((ids.trace, ids.parent, ids.sampled), (0x4bf9_2f35_77b3_4da6, None, true));
    assert_eq!(lines(&passed), lines(&headers(&came)));
    assert_eq!(at(&mut HeaderMap::new(), &settings, Peer::Application), None);
}

#[test]
fn ids_are_never_zero() {
    let ids = begin(&mut HeaderMap::new(), &share(0), Percent(0), || 0, Peer::Application).expect("a trace");
    assert!(ids.trace != 0 && ids.span != 0);
}

#[test]
fn shares_are_of_a_million() {
    let mut drawn = fastrand::Rng::with_seed(7);
    let settings = share(10_000);
    let mut sampled = || at_chance(&mut drawn, &settings);
    let all = (0..100_000).filter(|_| sampled()).count();
    assert!((800..1200).contains(&all), "{all} of 100,000 at 1 %");
}

fn at_chance(drawn: &mut fastrand::Rng, settings: &Tracing) -> bool {
    let ids = begin(&mut HeaderMap::new(), settings, Percent(0), || drawn.u64(..), Peer::Application);
    ids.is_some_and(|ids| ids.sampled)
}

/// As a client's agent hands on what came in B3: the destination's agent must not make another form of it.
#[test]
fn what_only_b3_says_is_carried_beside_w3c_of_the_same_trace() {
    let short = "a3ce929d0e0e4737";
    let passed_on = |traceparent: String| {
        let said = [
            ("traceparent", traceparent.as_str()),
            ("x-b3-traceid", short),
            ("x-b3-spanid", "00f067aa0ba902b7"),
            ("x-b3-flags", "1"),
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in said {
            headers.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        begin(&mut headers, &Tracing::default(), Percent(0), || 7, Peer::Agent).unwrap();
        (headers["x-b3-traceid"].to_str().unwrap().to_owned(), headers.contains_key("x-b3-flags"))
    };
    assert_eq!(passed_on(format!("00-{short:0>32}-00f067aa0ba902b7-01")), (short.to_owned(), true));
    let (trace, debug) = passed_on("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    assert_eq!((trace.as_str(), debug), ("4bf92f3577b34da6a3ce929d0e0e4736", false), "another trace");
}

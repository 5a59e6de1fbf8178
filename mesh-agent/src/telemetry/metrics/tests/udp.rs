//! What is told of datagrams.

use super::{super::udp::UdpTraffic, *};
use crate::telemetry::flow::Udp;

fn told(traffic: &UdpTraffic) -> Vec<String> {
    let mut text = String::new();
    traffic.render(&mut text, Instant::now());
    text.lines().map(str::to_owned).collect()
}

#[test]
fn both_ways_add_up_under_the_names_of_both_ends() {
    let traffic = UdpTraffic::default();
    let mut flow = connection(Direction::Outbound);
    flow.security = Security::Plaintext;
    flow.destination.identity = None;
    traffic.passed(&flow, Udp { sent: 3, received: 2 }, 300, 1000);
    traffic.passed(&flow, Udp { sent: 1, received: 0 }, 7, 0);
    let lines = told(&traffic);
    for (name, there, back) in [("mesh_udp_datagrams_total", 4.0, 2.0), ("mesh_udp_bytes_total", 307.0, 1000.0)] {
        let series = series(&lines, name);
        assert_eq!(series.len(), 2, "{series:?}");
        for (labels, value) in series {
            let expected = if labels["direction"] == "to_destination" { there } else { back };
            assert_eq!(value, expected, "{labels:?}");
            for (label, value) in [
                ("reporter", "source"),
                ("source_workload", "cart"),
                ("destination_workload", "web"),
                ("destination_service_name", "web"),
                ("destination_principal", "unknown"),
                ("connection_security_policy", "none"),
            ] {
                assert_eq!(labels[label], value, "{labels:?}");
            }
            assert!(!labels.contains_key("request_protocol") && !labels.contains_key("response_flags"), "{labels:?}");
        }
    }
}

#[test]
fn what_finds_no_room_counts_under_overflow_and_nothing_is_lost() {
    // Room for two sets of a workload; a quarter of it is one's.
    let traffic = UdpTraffic::new(Limits { series: 4 * 4 * 4, ..Limits::default() });
    for number in 0..10 {
        let mut flow = connection(Direction::Outbound);
        flow.destination.facts = Facts { workload: format!("w{number}"), ..Facts::default() }.into();
        traffic.passed(&flow, Udp { sent: 1, received: 1 }, 10, 20);
    }
    let lines = told(&traffic);
    assert_eq!((sum(&lines, "mesh_udp_datagrams_total"), sum(&lines, "mesh_udp_bytes_total")), (20.0, 300.0));
    let overflow = sum(&lines, "mesh_udp_overflow_total");
    assert_eq!(overflow, 9.0, "one workload has a quarter of the room");
    let beyond: f64 = series(&lines, "mesh_udp_datagrams_total")
        .into_iter()
        .filter(|(labels, _)| labels["destination_workload"] == "overflow")
        .map(|(_, value)| value)
        .sum();
    assert_eq!(beyond, 18.0);
}

#[test]
fn what_was_not_used_for_long_goes() {
    let traffic = UdpTraffic::new(Limits { idle: Duration::ZERO, ..Limits::default() });
    traffic.passed(&connection(Direction::Outbound), Udp { sent: 1, received: 0 }, 1, 0);
    assert_eq!(series(&told(&traffic), "mesh_udp_bytes_total").len(), 2);
    traffic.expire(Instant::now());
    traffic.expire(Instant::now() + Duration::from_secs(1));
    assert!(series(&told(&traffic), "mesh_udp_bytes_total").is_empty());
}

//! What the figures of `bench same-node` are held against.

use serde_json::Value;

use super::CHANGES;
use crate::bench::{
    figures::{Samples, Side},
    goals::{gigabits, key, wake_ups},
    revoked::REVOKED,
    table::{
        Better::{self, Less, More},
        Row,
    },
};

pub fn rows(samples: &Samples) -> Vec<Row> {
    let mut rows = wake_ups(samples);
    // Against no mesh, round by round.
    let mut against = |what, item, unit, figure: &dyn Fn(&Value) -> Option<f64>, must, goal, better| {
        rows.push(Row::against(samples, what, item, unit, figure, (must, goal, better)));
    };
    against("1 KB ping-pong p50", "ping-pong", "us", &key("p50"), Some(1.05), Some(1.0), Less);
    against("1 KB ping-pong p99", "ping-pong", "us", &key("p99"), None, None, Less);
    against("bulk, 1 connection", "bulk", "Gb/s", &gigabits, Some(0.95), Some(1.0), More);
    against("connects, 16 threads", "connects", "/s", &key("rate"), Some(0.9), Some(1.0), More);
    against("connects, 16 threads, p99", "connects", "us", &key("p99"), None, None, Less);
    against("connects, serial", "serial", "/s", &key("rate"), Some(0.9), Some(1.0), More);

    // By itself; what there is of no mesh stands beside it.
    let mut alone = |what, item, unit, figure: &dyn Fn(&Value) -> Option<f64>, must, goal, better: Better| {
        let [plain, mesh] = [Side::Plain, Side::Mesh].map(|side| samples.median(item, side, figure));
        rows.push(Row { what, plain, mesh, judged: mesh, unit, must, goal, better, errors: samples.errors(item) });
    };
    let millis = |name: &'static str| move |figures: &Value| Some(figures[name].as_f64()? / 1e3);
    alone("first connect to a port, p50", "first", "ms", &millis("p50"), None, None, Less);
    alone("first connect to a port, p99", "first", "ms", &millis("p99"), Some(5.0), Some(1.0), Less);
    alone("1,000 at once to one new port, connected", "at-once", "ms", &millis("connected"), None, None, Less);
    alone(
        "1,000 at once to one new port, answered",
        "at-once",
        "ms",
        &millis("answered"),
        Some(100.0),
        Some(20.0),
        Less,
    );

    alone("denied by a policy: ended, p50", REVOKED, "ms", &millis("p50"), None, None, Less);
    alone("denied by a policy: ended, p99", REVOKED, "ms", &millis("p99"), Some(250.0), None, Less);

    // Of the mesh alone.
    let mut only = |what, item, unit, figure: fn(&Value) -> Option<f64>, must, goal, better| {
        let (mesh, errors) = (samples.median(item, Side::Mesh, figure), samples.errors(item));
        rows.push(Row { what, plain: None, mesh, judged: mesh, unit, must, goal, better, errors });
    };
    only("CPU of the agent while bulk runs", "bulk", "ms/s", cpu, Some(10.0), Some(1.0), Less);
    only("connects straight to the pod", "connects", "%", direct, None, None, More);
    only("the same, 30 pod changes a second", CHANGES, "%", direct, Some(99.0), Some(99.9), More);
    rows
}

/// Milliseconds a second, of the node's agent.
fn cpu(figures: &Value) -> Option<f64> {
    Some(figures["cpu_a"].as_f64()? * 1e3 / figures["seconds"].as_f64()?)
}

/// Percent of the connects that the kernel sent straight to the pod. One that the kernel did not count was not.
pub fn direct(figures: &Value) -> Option<f64> {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let (direct, redirected) = (figures["direct"].as_f64()?, figures["redirected"].as_f64()?);
    let errors = &figures["errors"];
    let dialled = figures["count"].as_f64()? + number(&errors["connect"]) + number(&errors["exchange"]);
    Some(direct * 100.0 / dialled.max(direct + redirected))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::{figures::Sample, table};

    #[test]
    fn only_what_the_kernel_sent_straight_is_direct() {
        let of = |direct: u32, redirected: u32| {
            let errors = json!({ "connect": 2, "exchange": 0 });
            super::direct(&json!({ "direct": direct, "redirected": redirected, "count": 998, "errors": errors }))
        };
        assert_eq!((of(1000, 0), of(990, 10), of(0, 1000)), (Some(100.0), Some(99.0), Some(0.0)));
        // Some went past both; others dialled too.
        assert_eq!((of(500, 0), of(1000, 1000)), (Some(50.0), Some(50.0)));
        assert_eq!(super::direct(&json!({})), None);
    }

    #[test]
    fn a_share_below_the_must_and_an_agent_that_works_are_missed() {
        let mut samples = Samples::default();
        let figures = json!({ "direct": 989, "redirected": 11, "count": 1000 });
        samples.add(Sample { item: CHANGES, side: Side::Mesh, round: 0, figures });
        let figures = json!({ "bytes_per_second": 1e9, "seconds": 2.0, "cpu_a": 0.03 });
        samples.add(Sample { item: "bulk", side: Side::Mesh, round: 0, figures });
        let lines = table::lines(&rows(&samples));
        let of = |what: &str| lines.iter().find(|line| line[0].contains(what)).unwrap()[1..].join("|");
        assert_eq!(of("changes a second"), "|98.9 %|98.9|99.0|99.9|MISSED");
        assert_eq!(of("CPU of the agent"), "|15.0 ms/s|15.0|10.0|1.00|MISSED");
    }
}

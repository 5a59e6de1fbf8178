//! What the figures of `bench l4` are held against. A rival's ratio to no mesh stands for the rival: must and goal of
//! such rows are shares of what an Envoy pair and no mesh did on one machine, in one run.

use serde_json::Value;

use super::{
    figures::{Samples, Side},
    items::WAKE_UP,
    table::{
        Better::{Less, More},
        Row,
    },
};

pub fn rows(samples: &Samples) -> Vec<Row> {
    let mut rows = wake_ups(samples);
    // Against no mesh, round by round.
    let mut against = |what, item, unit, figure: &dyn Fn(&Value) -> Option<f64>, must, goal, better| {
        rows.push(Row::against(samples, what, item, unit, figure, (must, goal, better)));
    };
    against("bulk, 1 connection", "bulk-1", "Gb/s", &gigabits, Some(0.24), Some(0.30), More);
    against("bulk, 8 connections", "bulk-8", "Gb/s", &gigabits, None, None, More);
    against("bulk, 16 connections", "bulk-16", "Gb/s", &gigabits, None, None, More);
    // 0.95 and 0.6 of Envoy's 114 / 52 and 295 / 99.
    against("1 KB ping-pong p50", "ping-pong", "us", &key("p50"), Some(2.08), Some(1.32), Less);
    against("1 KB ping-pong p99", "ping-pong", "us", &key("p99"), Some(2.83), Some(1.79), Less);
    // 1.0 and 1.4 of Envoy's 0.24.
    against("connects, 16 threads", "connects", "/s", &key("rate"), Some(0.24), Some(0.34), More);
    against("connects, 16 threads, p99", "connects", "us", &key("p99"), None, None, Less);
    // Envoy's 531 / 75.
    against("connects, serial, p50", "serial", "us", &key("p50"), Some(7.1), None, Less);
    against("100,000 in a row, last against first", "churn", "", &fall, Some(0.9), Some(1.0), More);
    // 0.95 and 1.1 of Envoy's 0.72.
    against("HTTP as L4, wrk 32 connections", "http", "rps", &key("rate"), Some(0.68), Some(0.79), More);
    against("same node: bulk", "near-bulk", "Gb/s", &gigabits, Some(0.95), Some(1.0), More);
    against("same node: ping-pong p50", "near-ping-pong", "us", &key("p50"), Some(1.05), Some(1.0), Less);
    against("same node: 100,000 in a row", "near-churn", "", &fall, Some(0.9), Some(1.0), More);

    // What the agents use for a unit of work, beside what the pods themselves use for it without a mesh.
    let of = |item, figure: &dyn Fn(&Value) -> Option<f64>| samples.median(item, Side::Mesh, figure);
    let mut cost = |what, item, unit, work: &'static str, scale: f64, must, goal| {
        let each = |seconds: Option<f64>, f: &Value| Some(seconds? * scale / f[work].as_f64()?);
        let plain = samples.median(item, Side::Plain, |f| each(f["cpu_apps"].as_f64(), f));
        let mesh = of(item, &|f: &Value| each(cpu(f), f));
        rows.push(Row { what, plain, mesh, judged: mesh, unit, must, goal, better: Less, errors: 0 });
    };
    cost("CPU a GB, 1 connection", "bulk-1", "s", "bytes", 1e9, Some(0.90), Some(0.75));
    cost("CPU a GB, 8 connections", "bulk-8", "s", "bytes", 1e9, Some(0.90), Some(0.75));
    cost("CPU a GB, same node", "near-bulk", "s", "bytes", 1e9, None, Some(0.0));
    cost("CPU a ping-pong", "ping-pong", "us", "exchanges", 1e6, Some(83.0), Some(45.0));
    cost("CPU a ping-pong, same node", "near-ping-pong", "us", "exchanges", 1e6, None, Some(0.0));
    cost("CPU a connect, 16 threads", "connects", "ms", "count", 1e3, Some(0.22), Some(0.18));
    cost("CPU an HTTP request as L4", "http", "us", "count", 1e6, Some(33.0), Some(31.0));

    // By themselves.
    let mut alone = |what, unit, mesh: Option<f64>, must, goal, better| {
        rows.push(Row { what, plain: None, mesh, judged: mesh, unit, must, goal, better, errors: 0 });
    };
    let sixteen = quotient(of("bulk-16", &gigabits), of("bulk-1", &gigabits));
    alone("bulk, 16 against 1", "", sixteen, Some(0.9), Some(1.1), More);
    alone("bulk, 16: furthest from the mean", "%", of("bulk-16", &unfairness), None, Some(5.0), Less);
    let larger =
        |name: &'static str, scale: f64| move |f: &Value| Some(f[name][0].as_f64()?.max(f[name][1].as_f64()?) / scale);
    alone("RSS, idle, 10 pods", "MB", of("idle", &larger("fresh", 1e6)), Some(20.0), Some(14.0), Less);
    alone("RSS after load", "MB", of("idle", &larger("loaded", 1e6)), Some(30.0), Some(20.0), Less);
    alone("RSS a held connection, an agent", "KB", of("held", &larger("each", 1e3)), Some(5.0), Some(3.0), Less);
    alone("RSS after 20,000 closed", "x", of("closed", &growth), Some(1.2), Some(1.1), Less);
    alone("hooks, listener and link of a pod", "ms", of("join", &hook), Some(10.0), Some(2.0), Less);
    alone("label to first mTLS answer, 1 pod", "s", of("join", &key("one")), Some(0.5), Some(0.1), Less);
    alone("the same, 110 pods at once", "s", of("join", &key("all")), Some(2.0), Some(1.0), Less);
    rows
}

/// Of the machine itself: how to read the others.
pub fn wake_ups(samples: &Samples) -> Vec<Row> {
    [("a wake-up and its answer, one CPU", "same_cpu"), ("a wake-up and its answer, two CPUs", "other_cpu")]
        .map(|(what, name)| {
            let plain = samples.median(WAKE_UP, Side::Plain, key(name));
            let (mesh, judged, must, goal) = (None, None, None, None);
            Row { what, plain, mesh, judged, unit: "us", must, goal, better: Less, errors: 0 }
        })
        .into()
}

pub fn gigabits(figures: &Value) -> Option<f64> {
    Some(figures["bytes_per_second"].as_f64()? * 8.0 / 1e9)
}

pub fn key(name: &'static str) -> impl Fn(&Value) -> Option<f64> {
    move |figures| figures[name].as_f64()
}

fn quotient(over: Option<f64>, under: Option<f64>) -> Option<f64> {
    Some(over? / under?)
}

/// Seconds, both agents.
fn cpu(figures: &Value) -> Option<f64> {
    Some(figures["cpu_a"].as_f64()? + figures["cpu_b"].as_f64()?)
}

/// The rate of the last tenth over that of the first.
fn fall(figures: &Value) -> Option<f64> {
    let rates = figures["rates"].as_array()?;
    Some(rates.last()?.as_f64()? / rates.first()?.as_f64()?)
}

/// Percent.
fn unfairness(figures: &Value) -> Option<f64> {
    let each: Vec<f64> = figures["each"].as_array()?.iter().filter_map(Value::as_f64).collect();
    let mean = each.iter().sum::<f64>() / each.len() as f64;
    each.iter().map(|rate| (rate - mean).abs() / mean * 100.0).reduce(f64::max)
}

/// Of the agent that grew more.
fn growth(figures: &Value) -> Option<f64> {
    let of = |agent: usize| Some(figures["after"][agent].as_f64()? / figures["before"][agent].as_f64()?);
    Some(of(0)?.max(of(1)?))
}

fn hook(figures: &Value) -> Option<f64> {
    let mut all: Vec<f64> = figures["hook_ms"].as_array()?.iter().filter_map(Value::as_f64).collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::{figures::Sample, table};

    #[test]
    fn a_missed_must_is_called_so_and_what_was_not_measured_is_left_out() {
        let mut samples = Samples::default();
        for (side, rate) in [(Side::Plain, 10e9), (Side::Mesh, 1e9)] {
            let figures =
                json!({ "bytes_per_second": rate, "bytes": 2e9, "cpu_a": 0.5, "cpu_b": 0.9, "cpu_apps": 0.8 });
            samples.add(Sample { item: "bulk-1", side, round: 0, figures });
        }
        let lines = table::lines(&rows(&samples));
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert_eq!(lines[0], ["bulk, 1 connection", "80.0 Gb/s", "8.00 Gb/s", "0.10", "0.24", "0.30", "MISSED"]);
        assert_eq!(lines[1][1..], ["0.40 s", "0.70 s", "0.70", "0.90", "0.75", "goal"]);
    }

    #[test]
    fn fairness_is_the_furthest_from_the_mean() {
        assert_eq!(unfairness(&json!({ "each": [90.0, 100.0, 110.0] })), Some(10.0));
        assert_eq!(fall(&json!({ "rates": [100.0, 80.0, 50.0] })), Some(0.5));
        assert_eq!(growth(&json!({ "before": [10, 10], "after": [11, 15] })), Some(1.5));
    }
}

//! Work that is measured with and without the mesh, turn by turn.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    cold,
    figures::{Sample, Samples, Side},
    machine, meter,
    stage::{Cast, ECHO, HTTP, SINK, Stage},
};

/// Not of the mesh: what the others are to be read by.
pub const WAKE_UP: &str = "wake-up";

/// Beyond the seconds of a measurement: starting, warming up, draining.
const MARGIN: f64 = 30.0;

#[derive(Debug)]
pub struct Item {
    pub name: &'static str,
    /// The server is on the client's node.
    pub near: bool,
    pub work: Work,
}

#[derive(Clone, Copy, Debug)]
pub enum Work {
    Bulk {
        connections: usize,
    },
    PingPong,
    Connects {
        threads: usize,
    },
    Http,
    /// The first connection to each of the round's cold ports.
    First,
    /// This many connections at once to one port that nobody dialled before.
    AtOnce {
        connections: usize,
    },
}

/// Of `bench l4`.
pub const ITEMS: &[Item] = &[
    Item { name: "bulk-1", near: false, work: Work::Bulk { connections: 1 } },
    Item { name: "bulk-8", near: false, work: Work::Bulk { connections: 8 } },
    Item { name: "bulk-16", near: false, work: Work::Bulk { connections: 16 } },
    Item { name: "ping-pong", near: false, work: Work::PingPong },
    Item { name: "connects", near: false, work: Work::Connects { threads: 16 } },
    Item { name: "serial", near: false, work: Work::Connects { threads: 1 } },
    Item { name: "http", near: false, work: Work::Http },
    Item { name: "near-bulk", near: true, work: Work::Bulk { connections: 1 } },
    Item { name: "near-ping-pong", near: true, work: Work::PingPong },
];

/// Every item once, on both sides; which round it is, from 0, of how many.
pub fn one_round<'a>(
    stage: &Stage,
    samples: &mut Samples,
    items: impl Iterator<Item = &'a Item>,
    (round, rounds): (u32, u32),
    seconds: f64,
) -> Result<()> {
    let figures = machine::wake_ups()?;
    eprintln!("bench: round {}/{rounds} {:<15}  {figures} us", round + 1, WAKE_UP);
    samples.add(Sample { item: WAKE_UP, side: Side::Plain, round, figures });
    for item in items {
        // Neither side is always the one that comes second.
        let order = if round % 2 == 0 { [Side::Plain, Side::Mesh] } else { [Side::Mesh, Side::Plain] };
        let mut told = String::new();
        for side in order {
            let figures = measured(stage, side, || item.run(stage, side, round, seconds))
                .with_context(|| format!("{}, {}", item.name, side.name()))?;
            told += &format!("  {} {}", side.name(), item.work.short(&figures));
            samples.add(Sample { item: item.name, side, round, figures });
        }
        eprintln!("bench: round {}/{rounds} {:<15}{told}", round + 1, item.name);
    }
    Ok(())
}

/// Adds `cpu_a`, `cpu_b` and `cpu_apps`, what the agents and the side's pods have used meanwhile, in seconds, and
/// `direct` and `redirected`, the connects of the client's node as its kernel counted them.
pub fn measured(stage: &Stage, side: Side, work: impl FnOnce() -> Result<Value>) -> Result<Value> {
    let Cast { client, near, far } = stage.cast(side);
    let used = || Ok::<_, anyhow::Error>((meter::cpu(&stage.world)?, meter::cpu_of_pods(&[client, near, far])?));
    // Asking the agent costs it something: not between the two looks at its CPU.
    let connects = meter::connects(&stage.world)?;
    let (agents, apps) = used()?;
    let mut figures = work()?;
    let (agents_after, apps_after) = used()?;
    let connects_after = meter::connects(&stage.world)?;
    figures["direct"] = json!(connects_after.direct.saturating_sub(connects.direct));
    figures["redirected"] = json!(connects_after.redirected.saturating_sub(connects.redirected));
    figures["cpu_a"] = json!(agents_after[0] - agents[0]);
    figures["cpu_b"] = json!(agents_after[1] - agents[1]);
    figures["cpu_apps"] = json!(apps_after - apps);
    Ok(figures)
}

impl Item {
    fn run(&self, stage: &Stage, side: Side, round: u32, seconds: f64) -> Result<Value> {
        let (limit, length) = (seconds + MARGIN, seconds.to_string());
        let to = |port| stage.target(side, self.near, port).to_string();
        match self.work {
            Work::Bulk { connections } => {
                let words =
                    ["bulk", "--to", &to(SINK), "--seconds", &length, "--connections", &connections.to_string()];
                stage.client(side, &words, limit)
            }
            Work::PingPong => stage.client(side, &["ping-pong", "--to", &to(ECHO), "--seconds", &length], limit),
            Work::Connects { threads } => {
                let words = ["connects", "--to", &to(ECHO), "--seconds", &length, "--threads", &threads.to_string()];
                stage.client(side, &words, limit)
            }
            Work::First => {
                let ports = cold::DIALLED.to_string();
                stage.client(side, &["first", "--to", &to(cold::first_of(round)), "--ports", &ports], limit)
            }
            Work::AtOnce { connections } => {
                let (to, count) = (to(cold::last_of(round)), connections.to_string());
                stage.client(side, &["at-once", "--to", &to, "--connections", &count], limit)
            }
            Work::Http => {
                let program =
                    crate::shell::find("wrk").context("wrk is not installed: cargo xtask bench l4 does it")?;
                let whole = format!("{}s", seconds.ceil());
                let words = ["-t1", "-c32", "--latency", &format!("-d{whole}"), &format!("http://{}/", to(HTTP))];
                wrk(&stage.program(side, &program, &words, limit)?)
            }
        }
    }
}

impl Work {
    fn short(&self, figures: &Value) -> String {
        let number = |key: &str| figures[key].as_f64().unwrap_or(f64::NAN);
        match self {
            Self::Bulk { .. } => format!("{:.2} Gb/s", number("bytes_per_second") * 8.0 / 1e9),
            Self::PingPong => format!("p50 {:.0} us", number("p50")),
            Self::Connects { .. } => format!("{:.0}/s, errors {}", number("rate"), figures["errors"]),
            Self::Http => format!("{:.0}/s", number("rate")),
            Self::First => format!("p99 {:.0} us, errors {}", number("p99"), figures["errors"]),
            Self::AtOnce { .. } => format!("{:.1} ms, errors {}", number("answered") / 1e3, figures["errors"]),
        }
    }
}

/// `rate`, `count`, `p50` and `p99` in microseconds, and `failed`, the lines about errors, from what wrk prints.
fn wrk(text: &str) -> Result<Value> {
    let after = |prefix: &str| text.lines().find_map(|line| line.trim().strip_prefix(prefix)).map(str::trim);
    let rate: f64 = after("Requests/sec:").and_then(|rate| rate.parse().ok()).context("wrk says no rate")?;
    let count: Option<f64> = text.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
    let micros = |text: &str| {
        let split = text.find(|c: char| c.is_alphabetic())?;
        let unit = match &text[split..] {
            "us" => 1.0,
            "ms" => 1e3,
            "s" => 1e6,
            _ => return None,
        };
        Some(text[..split].parse::<f64>().ok()? * unit)
    };
    let failed: Vec<&str> =
        text.lines().map(str::trim).filter(|l| l.starts_with("Socket errors") || l.starts_with("Non-2xx")).collect();
    Ok(json!({
        "rate": rate,
        "count": count,
        "p50": after("50%").and_then(micros),
        "p99": after("99%").and_then(micros),
        "failed": failed,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_prints_is_understood() {
        let text = "Running 2s test @ http://10.244.2.10:8080/\n  1 threads and 32 connections\n  \
                    Latency Distribution\n     50%  752.00us\n     75%    1.10ms\n     99%    2.50ms\n  \
                    52812 requests in 2.00s, 58.47MB read\n  Socket errors: connect 0, read 3, write 0, timeout 0\n\
                    Requests/sec:  26400.11\nTransfer/sec:     29.23MB\n";
        let figures = wrk(text).unwrap();
        assert_eq!(figures["rate"], 26400.11);
        assert_eq!(figures["count"], 52812.0);
        assert_eq!((figures["p50"].as_f64(), figures["p99"].as_f64()), (Some(752.0), Some(2500.0)));
        assert_eq!(figures["failed"][0], "Socket errors: connect 0, read 3, write 0, timeout 0");
        assert!(wrk("unable to connect").is_err());
    }
}

//! What the figures of `bench http` are held against: Envoy's of the same rounds, and the mesh's own of bytes.

use serde_json::Value;

use super::{LOAD, PING_PONG};
use crate::bench::{
    figures::{Samples, Side},
    goals::key,
    table::{
        self,
        Better::{self, Less, More},
        Row,
    },
};

/// A line of this table: between no mesh and mesh there are the mesh's bytes, behind it Envoy.
type Line = [String; 9];

pub fn print(samples: &Samples) {
    let header = ["", "no mesh", "mesh, L4", "mesh", "Envoy", "judged", "must", "goal", ""];
    table::aligned(header, &lines(samples));
}

fn lines(samples: &Samples) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut line = |what, item: &str, unit, figure: &dyn Fn(&Value) -> Option<f64>, judged, bounds: Bounds| {
        let of = |side| samples.median(item, side, figure);
        let (must, goal, better) = bounds;
        let (plain, mesh) = (of(Side::Plain), of(Side::Mesh));
        let row = Row { what, plain, mesh, judged, unit, must, goal, better, errors: samples.errors(item) };
        let [bytes, envoy] = [Side::Bytes, Side::Envoy].map(|side| of(side).map(table::shown).unwrap_or_default());
        let [what, plain, mesh, judged, must, goal, verdict] = row.cells();
        if row.mesh.is_some() {
            lines.push([what, plain, bytes, mesh, envoy, judged, must, goal, verdict]);
        }
    };
    let ratio = |item, figure: &dyn Fn(&Value) -> Option<f64>| {
        samples.compared(item, Side::Envoy, figure, |mesh, envoy| mesh / envoy)
    };
    let rate = key("rate");
    let (more, none) = ((Some(1.3), Some(2.0), More), (None, None, Less));
    line("32 connections: requests", LOAD, "/s", &rate, ratio(LOAD, &rate), more);
    line("32 connections: CPU a request", LOAD, "us", &cpu, ratio(LOAD, &cpu), (Some(0.7), Some(0.4), Less));
    for (what, name) in [("32 connections: p50", "p50"), ("32 connections: p99", "p99")] {
        line(what, LOAD, "us", &key(name), ratio(LOAD, &key(name)), none);
    }
    line("1 connection: p50", PING_PONG, "us", &key("p50"), ratio(PING_PONG, &key("p50")), none);
    line("1 connection: p99", PING_PONG, "us", &key("p99"), ratio(PING_PONG, &key("p99")), none);
    let added = samples.compared(PING_PONG, Side::Bytes, key("p50"), |rules, bytes| rules - bytes);
    line(
        "1 connection: what rules add to L4, p50",
        PING_PONG,
        "us",
        &key("p50"),
        added,
        (Some(25.0), Some(12.0), Less),
    );
    line("1 connection: CPU a request", PING_PONG, "us", &cpu, ratio(PING_PONG, &cpu), none);
    lines
}

type Bounds = (Option<f64>, Option<f64>, Better);

/// Microseconds that the proxies of both sides used for a request; no mesh has none.
fn cpu(figures: &Value) -> Option<f64> {
    Some(figures["cpu"].as_f64().filter(|cpu| *cpu > 0.0)? * 1e6 / figures["count"].as_f64()?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::figures::Sample;

    #[test]
    fn mesh_is_held_against_envoy_and_against_its_own_bytes_round_by_round() {
        let mut samples = Samples::default();
        for (side, rate, p50) in [
            (Side::Plain, 40_000.0, 20.0),
            (Side::Mesh, 15_000.0, 130.0),
            (Side::Bytes, 20_000.0, 100.0),
            (Side::Envoy, 10_000.0, 200.0),
        ] {
            let cpu = if side == Side::Plain { 0.0 } else { 1.0 };
            let figures = json!({ "rate": rate, "count": rate, "p50": p50, "p99": 2.0 * p50, "cpu": cpu });
            for item in [LOAD, PING_PONG] {
                samples.add(Sample { item, side, round: 0, figures: figures.clone() });
            }
        }
        let lines = lines(&samples);
        let found = |what: &str| lines.iter().find(|line| line[0].contains(what)).cloned().unwrap();
        assert_eq!(found("requests")[1..], ["40000 /s", "20000", "15000 /s", "10000", "1.50", "1.30", "2.00", "must"]);
        assert_eq!(found("32 connections: CPU")[1..6], ["", "50.0", "66.7 us", "100", "0.67"]);
        assert_eq!(found("rules add")[5..], ["30.0", "25.0", "12.0", "MISSED"]);
        assert!(super::lines(&Samples::default()).is_empty());
    }
}

//! What the figures of `bench telemetry` are held against: the same agents that tell nothing, round by round.

use serde_json::Value;

use super::{CONNECTIONS, REQUESTS, SCRAPE};
use crate::bench::{
    figures::{Samples, Side},
    goals::key,
    table::{self, Better::Less, Row},
};

/// A line of this table: off, on, and on with a log.
type Line = [String; 8];

pub fn print(samples: &Samples) {
    let header = ["", "off", "on", "and log 1 %", "judged", "must", "goal", ""];
    table::aligned(header, &lines(samples));
}

fn lines(samples: &Samples) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut line = |row: &Row, logged: Option<f64>| {
        let [what, plain, mesh, judged, must, goal, verdict] = row.cells();
        if row.mesh.is_some() {
            lines.push([what, plain, mesh, logged.map(table::shown).unwrap_or_default(), judged, must, goal, verdict]);
        }
    };
    let ratio = |item, side| samples.between(item, side, Side::Unseen, cpu, |seen, unseen| seen / unseen);
    for (item, on, logged) in [
        (REQUESTS, "CPU a request, on against off", "the same, with the log"),
        (CONNECTIONS, "CPU a connection, on against off", "the same, with the log"),
    ] {
        let of = |side| samples.median(item, side, cpu);
        // No other figure than a request's was promised.
        let (must, goal) = if item == REQUESTS { (Some(1.10), Some(1.03)) } else { (None, None) };
        for (what, side) in [(on, Side::Mesh), (logged, Side::Logged)] {
            let (plain, mesh, judged) = (of(Side::Unseen), of(Side::Mesh), ratio(item, side));
            let errors = samples.errors(item);
            line(&Row { what, plain, mesh, judged, unit: "us", must, goal, better: Less, errors }, of(Side::Logged));
        }
        let rate = |side| samples.median(item, side, key("rate"));
        let what = if item == REQUESTS { "requests" } else { "connections" };
        let judged = samples.between(item, Side::Mesh, Side::Unseen, key("rate"), |seen, unseen| seen / unseen);
        let (plain, mesh) = (rate(Side::Unseen), rate(Side::Mesh));
        let row = Row { what, plain, mesh, judged, unit: "/s", must: None, goal: None, better: Less, errors: 0 };
        line(&row, rate(Side::Logged));
    }
    let ms = samples.median(SCRAPE, Side::Mesh, key("ms"));
    let (what, must, goal) = ("a scrape of 10,000 series", Some(200.0), None);
    line(&Row { what, plain: None, mesh: ms, judged: ms, unit: "ms", must, goal, better: Less, errors: 0 }, None);
    lines
}

/// Microseconds that both agents used for a request or a connection.
pub fn cpu(figures: &Value) -> Option<f64> {
    Some(figures["cpu"].as_f64()? * 1e6 / figures["count"].as_f64().filter(|count| *count > 0.0)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bench::figures::Sample;

    #[test]
    fn what_is_seen_is_held_against_what_is_not_round_by_round() {
        let mut samples = Samples::default();
        // The second round met a busy machine.
        for (round, load) in [(0, 1.0), (1, 3.0), (2, 1.0)] {
            for (side, cpu) in [(Side::Unseen, 0.5), (Side::Mesh, 0.52), (Side::Logged, 0.6)] {
                let figures = json!({ "cpu": cpu * load, "count": 10_000, "rate": 5000.0 });
                samples.add(Sample { item: REQUESTS, side, round, figures });
            }
        }
        samples.add(Sample { item: SCRAPE, side: Side::Mesh, round: 0, figures: json!({ "ms": 250.0 }) });
        let lines = lines(&samples);
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert_eq!(lines[0][1..], ["50.0 us", "52.0 us", "60.0", "1.04", "1.10", "1.03", "must"]);
        assert_eq!(lines[1][4..], ["1.20", "1.10", "1.03", "MISSED"]);
        assert_eq!(lines[2][1..5], ["5000 /s", "5000 /s", "5000", "1.00"]);
        assert_eq!(lines[3][2..], ["250 ms", "", "250", "200", "", "MISSED"]);
        assert!(super::lines(&Samples::default()).is_empty());
    }
}

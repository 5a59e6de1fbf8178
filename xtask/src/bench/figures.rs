//! Raw figures, and their medians.

use serde_json::{Value, json};

/// With the mesh, or the same work by pods outside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Plain,
    Mesh,
    /// The mesh, where the other is HTTP by rules: as bytes.
    Bytes,
    Envoy,
    /// The mesh, with agents that tell nothing of what they carry.
    Unseen,
    /// The mesh, with agents that also log one request or connection in a hundred.
    Logged,
}

/// One measurement.
#[derive(Debug)]
pub struct Sample {
    pub item: &'static str,
    pub side: Side,
    pub round: u32,
    /// As the client printed it, and `cpu_a`, `cpu_b`, `cpu_apps` in seconds.
    pub figures: Value,
}

#[derive(Debug, Default)]
pub struct Samples(Vec<Sample>);

impl Side {
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "no mesh",
            Self::Mesh => "mesh",
            Self::Bytes => "mesh, L4",
            Self::Envoy => "Envoy",
            Self::Unseen => "off",
            Self::Logged => "with log",
        }
    }
}

impl Samples {
    pub fn add(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// For the file.
    pub fn all(&self) -> Vec<Value> {
        let one = |sample: &Sample| {
            let Sample { item, side, round, figures } = sample;
            json!({ "item": item, "side": side.name(), "round": round, "figures": figures })
        };
        self.0.iter().map(one).collect()
    }

    /// The median of what `figure` finds in the item's measurements; `None`: there are none.
    pub fn median(&self, item: &str, side: Side, figure: impl Fn(&Value) -> Option<f64>) -> Option<f64> {
        let of_item = self.0.iter().filter(|sample| sample.item == item && sample.side == side);
        median(of_item.filter_map(|sample| figure(&sample.figures)).collect())
    }

    /// Connections and requests of the item that failed, on either side.
    pub fn errors(&self, item: &str) -> u64 {
        let of = |figures: &Value| {
            let counted = |kind: &str| figures["errors"][kind].as_u64().unwrap_or_default();
            let lines = figures["failed"].as_array().map_or(0, Vec::len) as u64;
            counted("connect") + counted("exchange") + lines
        };
        self.0.iter().filter(|sample| sample.item == item).map(|sample| of(&sample.figures)).sum()
    }

    /// The median of mesh divided by no mesh, round by round.
    pub fn ratio(&self, item: &str, figure: impl Fn(&Value) -> Option<f64>) -> Option<f64> {
        self.compared(item, Side::Plain, figure, |mesh, plain| mesh / plain)
    }

    /// The median of what `compare` makes of mesh and another side, round by round.
    pub fn compared(
        &self,
        item: &str,
        other: Side,
        figure: impl Fn(&Value) -> Option<f64>,
        compare: impl Fn(f64, f64) -> f64,
    ) -> Option<f64> {
        self.between(item, Side::Mesh, other, figure, compare)
    }

    /// Likewise of any two sides.
    pub fn between(
        &self,
        item: &str,
        one: Side,
        other: Side,
        figure: impl Fn(&Value) -> Option<f64>,
        compare: impl Fn(f64, f64) -> f64,
    ) -> Option<f64> {
        let find = |side, round| {
            let found = self.0.iter().find(|s| s.item == item && s.side == side && s.round == round)?;
            figure(&found.figures)
        };
        let rounds = self.0.iter().filter(|sample| sample.item == item && sample.side == one);
        let compared = rounds.filter_map(|s| Some(compare(find(one, s.round)?, find(other, s.round)?)));
        median(compared.collect())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_within_each_round() {
        let mut samples = Samples::default();
        // Round 1 met a busy machine: both sides were slow.
        for (round, plain, mesh) in [(0, 100.0, 25.0), (1, 10.0, 3.0), (2, 100.0, 50.0)] {
            for (side, rate) in [(Side::Plain, plain), (Side::Mesh, mesh)] {
                samples.add(Sample { item: "bulk", side, round, figures: json!({ "rate": rate }) });
            }
        }
        let rate = |figures: &Value| figures["rate"].as_f64();
        assert_eq!(samples.ratio("bulk", rate), Some(0.3));
        assert_eq!(samples.median("bulk", Side::Mesh, rate), Some(25.0));
        assert_eq!(samples.ratio("none", rate), None);
        assert_eq!(samples.errors("bulk"), 0);
        let figures = json!({ "errors": { "connect": 2, "exchange": 1 }, "failed": ["Non-2xx"] });
        samples.add(Sample { item: "bulk", side: Side::Mesh, round: 3, figures });
        assert_eq!(samples.errors("bulk"), 4);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }
}

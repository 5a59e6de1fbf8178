//! Histograms with bounds that are the same for every series of a metric.

use super::text;

/// Envoy's, which Istio keeps: of milliseconds and of bytes alike.
pub const BOUNDS: [f64; 19] =
    [0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4, 3e5, 6e5, 1.8e6, 3.6e6];
/// As they are told.
const TOLD: [&str; 19] = [
    "0.5", "1", "5", "10", "25", "50", "100", "250", "500", "1000", "2500", "5000", "10000", "30000", "60000",
    "300000", "600000", "1800000", "3600000",
];
/// Upper bounds in seconds: from two pods of a node to the other side of the world.
pub const RTT_BOUNDS: [f64; 13] =
    [0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0];
const RTT_TOLD: [&str; 13] =
    ["0.00005", "0.0001", "0.00025", "0.0005", "0.001", "0.0025", "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "1"];

/// Of milliseconds or bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Histogram {
    counts: [u64; BOUNDS.len()],
    beyond: u64,
    sum: f64,
}

/// Of round-trip times.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rtts {
    counts: [u64; RTT_BOUNDS.len()],
    beyond: u64,
    sum: f64,
}

/// Lines of one series.
pub const SERIES: usize = BOUNDS.len() + 3;
pub const RTT_SERIES: usize = RTT_BOUNDS.len() + 3;

fn record(bounds: &[f64], counts: &mut [u64], beyond: &mut u64, value: f64) {
    *counts.get_mut(bounds.partition_point(|bound| *bound < value)).unwrap_or(beyond) += 1;
}

fn tell(text: &mut String, name: &str, labels: &str, told: &[&str], counts: &[u64], beyond: u64, sum: f64) {
    let mut sum_of_counts = 0;
    for (le, count) in told.iter().zip(counts) {
        sum_of_counts += count;
        text::line_with(text, name, "_bucket", labels, Some(("le", le)), sum_of_counts);
    }
    sum_of_counts += beyond;
    text::line_with(text, name, "_bucket", labels, Some(("le", "+Inf")), sum_of_counts);
    text::line(text, name, "_sum", labels, sum);
    text::line(text, name, "_count", labels, sum_of_counts);
}

impl Histogram {
    pub fn record(&mut self, value: f64) {
        record(&BOUNDS, &mut self.counts, &mut self.beyond, value);
        self.sum += value;
    }

    pub fn tell(&self, text: &mut String, name: &str, labels: &str) {
        tell(text, name, labels, &TOLD, &self.counts, self.beyond, self.sum);
    }
}

impl Rtts {
    pub fn record(&mut self, seconds: f64) {
        record(&RTT_BOUNDS, &mut self.counts, &mut self.beyond, seconds);
        self.sum += seconds;
    }

    pub fn tell(&self, text: &mut String, name: &str, labels: &str) {
        tell(text, name, labels, &RTT_TOLD, &self.counts, self.beyond, self.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_told_as_they_are() {
        for (bounds, told) in [(&BOUNDS[..], &TOLD[..]), (&RTT_BOUNDS[..], &RTT_TOLD[..])] {
            let read: Vec<f64> = told.iter().map(|told| told.parse().unwrap()).collect();
            assert_eq!(read, bounds);
            assert!(bounds.is_sorted());
        }
    }

    #[test]
    fn a_bound_belongs_to_its_bucket_and_what_is_beyond_counts_too() {
        let mut histogram = Histogram::default();
        for value in [0.0, 0.5, 0.6, 1.0, 3.6e6, 3.7e6, f64::MAX] {
            histogram.record(value);
        }
        let mut text = String::new();
        histogram.tell(&mut text, "h", "a=\"b\"");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), SERIES);
        assert_eq!(lines[..2], ["h_bucket{a=\"b\",le=\"0.5\"} 2", "h_bucket{a=\"b\",le=\"1\"} 4"]);
        assert_eq!(lines[18..20], ["h_bucket{a=\"b\",le=\"3600000\"} 5", "h_bucket{a=\"b\",le=\"+Inf\"} 7"]);
        assert_eq!(lines[21], "h_count{a=\"b\"} 7");
    }
}

//! A histogram of durations that is the same everywhere, so that what several agents counted can be added up and a
//! quantile of the sum is as good as one of a part: buckets of an eighth of a power of two, no value is off by more
//! than 6.3 %.

use std::{collections::BTreeMap, time::Duration};

/// Durations below this many microseconds have a bucket each.
const EXACT: u64 = 16;
/// Buckets of each power of two above it.
const PARTS: u64 = 8;
/// The last power of two, 19 hours; what takes longer counts as that.
const LAST: u32 = 36;

/// How many buckets there are.
pub const LATENCY_BUCKETS: u16 = (EXACT + (LAST as u64 - 4 + 1) * PARTS) as u16;

/// Counts by bucket; buckets without any are not there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency(BTreeMap<u16, u64>);

impl Latency {
    /// The bucket of a duration, below [`LATENCY_BUCKETS`].
    pub fn bucket(duration: Duration) -> u16 {
        let us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).min((2 << LAST) - 1);
        if us < EXACT {
            return us as u16;
        }
        let power = us.ilog2();
        let part = (us >> (power - 3)) & (PARTS - 1);
        (EXACT + u64::from(power - 4) * PARTS + part) as u16
    }

    /// The duration that stands for a bucket: its middle.
    fn middle(bucket: u16) -> Duration {
        let bucket = u64::from(bucket);
        if bucket < EXACT {
            return Duration::from_micros(bucket);
        }
        let (power, part) = ((bucket - EXACT) / PARTS + 4, (bucket - EXACT) % PARTS);
        let width = 1_u64 << (power - 3);
        Duration::from_micros((PARTS + part) * width + width / 2)
    }

    pub fn record(&mut self, duration: Duration) {
        *self.0.entry(Self::bucket(duration)).or_default() += 1;
    }

    /// Adds `count` to a bucket; one that there is not counts as the last.
    pub fn add(&mut self, bucket: u32, count: u64) {
        if count > 0 {
            let bucket = u16::try_from(bucket).unwrap_or(u16::MAX).min(LATENCY_BUCKETS - 1);
            *self.0.entry(bucket).or_default() += count;
        }
    }

    pub fn merge(&mut self, other: &Self) {
        other.buckets().for_each(|(bucket, count)| self.add(bucket, count));
    }

    /// Those that have any, in order.
    pub fn buckets(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.0.iter().map(|(bucket, count)| (u32::from(*bucket), *count))
    }

    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// What that share of all durations (0 to 1) does not exceed; `None`: there is none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        self.0.iter().find_map(|(bucket, count)| {
            seen += count;
            (seen >= rank).then(|| Self::middle(*bucket))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_close() {
        let mut last = 0;
        for us in (0..5_000).chain((5_000..40_000_000).step_by(9_973)) {
            let bucket = Latency::bucket(Duration::from_micros(us));
            assert!(bucket >= last && bucket < LATENCY_BUCKETS, "{us}");
            last = bucket;
            let off = Latency::middle(bucket).as_micros().abs_diff(us.into()) as f64;
            assert!(off <= us as f64 * 0.063, "{us}: off by {off}");
        }
        assert_eq!(Latency::bucket(Duration::MAX), LATENCY_BUCKETS - 1);
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let (mut whole, mut parts) = (Latency::default(), [Latency::default(), Latency::default()]);
        for ms in 1..=1000_u64 {
            whole.record(Duration::from_millis(ms));
            parts[(ms % 3 == 0) as usize].record(Duration::from_millis(ms));
        }
        let [mut sum, other] = parts;
        sum.merge(&other);
        assert_eq!(sum, whole);
        assert_eq!(sum.count(), 1000);
        for (share, ms) in [(0.5, 500), (0.95, 950), (0.99, 990), (1.0, 1000)] {
            let found = sum.quantile(share).expect("there are some").as_micros() as f64;
            assert!((found / (ms * 1000) as f64 - 1.0).abs() < 0.064, "{share}: {found}");
        }
        assert_eq!(Latency::default().quantile(0.5), None);
        let mut strange = Latency::default();
        strange.add(u32::MAX, 1);
        assert_eq!(strange.buckets().collect::<Vec<_>>(), [(u32::from(LATENCY_BUCKETS) - 1, 1)]);
    }
}

//! A histogram of durations that is the same everywhere, so that what several agents counted can be added up and a
//! quantile of the sum is as good as one of a part: buckets of an eighth of a power of two, no value is off by more
//! than 6.3 %.

use std::{cmp::Ordering, time::Duration};

/// Durations below this many microseconds have a bucket each.
const EXACT: u64 = 16;
/// Buckets of each power of two above it.
const PARTS: u64 = 8;
/// The last power of two, 19 hours; what takes longer counts as that.
const LAST: u32 = 36;

/// How many buckets there are.
pub const LATENCY_BUCKETS: u16 = (EXACT + (LAST as u64 - 4 + 1) * PARTS) as u16;

/// Counts by bucket, in their order; buckets without any are not there. A list: tens of thousands are made and added up
/// for one page, each of some dozen buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latency(Vec<(u16, u64)>);

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
        self.count_in(Self::bucket(duration), 1);
    }

    /// Adds `count` to a bucket; one that there is not counts as the last.
    pub fn add(&mut self, bucket: u32, count: u64) {
        if count > 0 {
            self.count_in(u16::try_from(bucket).unwrap_or(u16::MAX).min(LATENCY_BUCKETS - 1), count);
        }
    }

    fn count_in(&mut self, bucket: u16, count: u64) {
        // Mostly they come in order.
        let place = match self.0.last() {
            Some((last, _)) if *last >= bucket => self.0.partition_point(|(other, _)| *other < bucket),
            _ => self.0.len(),
        };
        match self.0.get_mut(place) {
            Some((other, sum)) if *other == bucket => *sum = sum.saturating_add(count),
            _ => self.0.insert(place, (bucket, count)),
        }
    }

    pub fn merge(&mut self, other: &Self) {
        if self.0.is_empty() {
            self.0.clone_from(&other.0);
            return;
        }
        let own = std::mem::take(&mut self.0);
        self.0.reserve_exact(own.len() + other.0.len());
        let (mut own, mut others) = (own.into_iter().peekable(), other.0.iter().copied().peekable());
        while let (Some((a, _)), Some((b, _))) = (own.peek(), others.peek()) {
            let next = match a.cmp(b) {
                Ordering::Less => own.next(),
                Ordering::Greater => others.next(),
                Ordering::Equal => {
                    own.next().zip(others.next()).map(|((bucket, a), (_, b))| (bucket, a.saturating_add(b)))
                }
            };
            self.0.extend(next);
        }
        self.0.extend(own);
        self.0.extend(others);
    }

    /// Those that have any, in order.
    pub fn buckets(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.0.iter().map(|(bucket, count)| (u32::from(*bucket), *count))
    }

    pub fn count(&self) -> u64 {
        self.0.iter().fold(0, |all, (_, count)| all.saturating_add(*count))
    }

    /// What that share of all durations (0 to 1) does not exceed; `None`: there is none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let rank = ((self.count() as f64 * share).ceil() as u64).max(1);
        let mut seen = 0_u64;
        self.0.iter().find_map(|(bucket, count)| {
            seen = seen.saturating_add(*count);
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
        // In whatever order they come.
        let [mut one, mut other] = [Latency::default(), Latency::default()];
        for bucket in [7, 3, 9, 3, 200, 7, 0] {
            one.add(bucket, 2);
        }
        assert_eq!(one.buckets().collect::<Vec<_>>(), [(0, 2), (3, 4), (7, 4), (9, 2), (200, 2)]);
        [(8, u64::MAX), (3, u64::MAX), (201, 1)].into_iter().for_each(|(bucket, count)| other.add(bucket, count));
        one.merge(&other);
        let all = [(0, 2), (3, u64::MAX), (7, 4), (8, u64::MAX), (9, 2), (200, 2), (201, 1)];
        assert_eq!((one.buckets().collect::<Vec<_>>(), one.count()), (all.to_vec(), u64::MAX));
        let mut strange = Latency::default();
        strange.add(u32::MAX, 1);
        assert_eq!(strange.buckets().collect::<Vec<_>>(), [(u32::from(LATENCY_BUCKETS) - 1, 1)]);
    }
}

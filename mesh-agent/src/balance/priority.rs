//! How much each level of endpoints gets, by the health of all of them (Envoy's priority levels): the first level all,
//! until too few of it are well; what it cannot take goes to the next.

use mesh_common::model::traffic::Percent;

/// Envoy's overprovisioning factor, 1.4, in percent: a level is whole while 72 % of it are well.
const PROVISION: u64 = 140;
const ALL: u64 = Percent::ALL.0 as u64;

/// Endpoints of one level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    pub healthy: usize,
    pub all: usize,
}

/// What a level gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Millionths; those of all levels are 1,000,000 together.
    pub share: u64,
    /// So few are well that all are used.
    pub panic: bool,
}

impl Health {
    /// Millionths, with what a level has to spare.
    pub fn available(self) -> u64 {
        self.parts(ALL * PROVISION / 100).min(ALL)
    }

    /// The healthy share of a number.
    fn parts(self, whole: u64) -> u64 {
        let [healthy, all] = [self.healthy, self.all].map(|count| u64::try_from(count).unwrap_or(u64::MAX));
        (healthy.saturating_mul(whole)).checked_div(all).unwrap_or(0)
    }

    fn is_below(self, least: Percent) -> bool {
        self.parts(ALL) < u64::from(least.0)
    }
}

/// From the first level to the last. There is no panic while the levels together can take everything.
pub fn loads(levels: &[Health], min_health: Percent) -> Vec<Load> {
    let available = levels.iter().map(|level| level.available()).sum::<u64>().min(ALL);
    if available == 0 {
        // Nobody is well: the first level answers for all, or nobody does.
        let load = |level| Load { share: if level == 0 { ALL } else { 0 }, panic: level == 0 && min_health.0 > 0 };
        return (0..levels.len()).map(load).collect();
    }
    let panics = |level: &Health| available < ALL && level.is_below(min_health);
    if levels.iter().all(panics) {
        let endpoints = levels.iter().map(|level| level.all).sum::<usize>();
        let shares = levels.iter().map(|level| Health { healthy: level.all, all: endpoints }.parts(ALL));
        return whole(shares.map(|share| Load { share, panic: true }).collect());
    }
    let mut left = ALL;
    let load = |level: &Health| {
        let share = (level.available() * ALL / available).min(left);
        left -= share;
        Load { share, panic: panics(level) }
    };
    whole(levels.iter().map(load).collect())
}

/// What division left over goes to the first that gets something.
fn whole(mut loads: Vec<Load>) -> Vec<Load> {
    let given = loads.iter().map(|load| load.share).sum::<u64>();
    if let Some(first) = loads.iter_mut().find(|load| load.share > 0) {
        first.share += ALL.saturating_sub(given);
    }
    loads
}

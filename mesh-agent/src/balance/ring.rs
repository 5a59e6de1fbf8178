//! The same endpoint for the same key: multi-probe consistent hashing (Appleton and O'Reilly, 2015). Endpoints are
//! points on a ring; a key looks from several places and takes the endpoint that comes soonest after one of them. Even
//! with a single point each, endpoints get equal parts within a few percent; who comes or goes moves its own keys only.

use super::draws::{mix, nth};

/// Looks of one key.
const PROBES: u64 = 21;
/// Points of the heaviest endpoint at most, if they do not weigh the same.
const POINTS: u64 = 64;

#[derive(Debug)]
pub struct Ring {
    /// Where, and whose; in order.
    points: Vec<(u64, u32)>,
}

impl Ring {
    /// `members`: the hash and the weight of each.
    pub fn new(members: &[(u64, u64)]) -> Self {
        let heaviest = members.iter().map(|(_, weight)| *weight).max().unwrap_or(0).max(1);
        let points_of = |weight: u64| {
            // Each weight by itself, where that can be: then the others' points do not depend on who is there.
            if heaviest <= POINTS { weight } else { (weight.saturating_mul(POINTS) / heaviest).max(1) }
        };
        let mut points = (0_u32..)
            .zip(members)
            .flat_map(|(member, (hash, weight))| (0..points_of(*weight)).map(move |point| (nth(*hash, point), member)))
            .collect::<Vec<_>>();
        points.sort_unstable();
        Self { points }
    }

    /// Whose a key is among those that may have it.
    pub fn find(&self, key: u64, may: impl Fn(usize) -> bool) -> Option<usize> {
        let seed = mix(key);
        let best = (0..PROBES).filter_map(|probe| self.after(nth(seed, probe), &may)).min()?;
        usize::try_from(best.1).ok()
    }

    /// The next that may, and how far it is.
    fn after(&self, place: u64, may: &impl Fn(usize) -> bool) -> Option<(u64, u32)> {
        let first = self.points.partition_point(|(point, _)| *point < place);
        let (before, from) = self.points.split_at(first);
        let may = |(_, member): &&(u64, u32)| usize::try_from(*member).is_ok_and(may);
        let (point, member) = from.iter().chain(before).find(may)?;
        Some((point.wrapping_sub(place), *member))
    }
}

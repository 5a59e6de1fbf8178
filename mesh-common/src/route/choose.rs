//! The choice of a backend by weight.

use crate::model::traffic::WeightedBackend;

/// The backend into whose share a number falls that was drawn by chance from all of `u32`; `None`: all weigh nothing.
///
/// A share is its weight of the sum of weights, but for less than one part in 2^32.
pub fn choose(backends: &[WeightedBackend], drawn: u32) -> Option<usize> {
    let total: u128 = backends.iter().map(|backend| u128::from(backend.weight)).sum();
    let mut point = (u128::from(drawn) * total) >> 32;
    backends.iter().position(|backend| {
        let weight = u128::from(backend.weight);
        let falls = point < weight;
        point = point.saturating_sub(weight);
        falls
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::traffic::Target;

    fn backends(weights: &[u32]) -> Vec<WeightedBackend> {
        let target = Target::Invalid { status: 500, why: String::new() };
        weights
            .iter()
            .map(|weight| WeightedBackend { weight: *weight, target: target.clone(), headers: None })
            .collect()
    }

    #[test]
    fn each_backend_gets_its_share() {
        for weights in [&[90, 10][..], &[1, 0, 2, 5], &[1, 1, 1], &[0, 7], &[100]] {
            let backends = backends(weights);
            let total: u32 = weights.iter().sum();
            let mut got = vec![0; weights.len()];
            // Draws at even distances over all of u32.
            for n in 0..u64::from(total) * 100 {
                let drawn = ((n << 32) / (u64::from(total) * 100)) as u32;
                got[choose(&backends, drawn).unwrap()] += 1;
            }
            for (got, weight) in got.into_iter().zip(weights) {
                assert!(i64::abs(got - i64::from(weight * 100)) <= 1, "{weights:?}: {got} of {weight}00");
            }
        }
    }

    #[test]
    fn the_ends_of_what_is_drawn_belong_to_somebody() {
        let backends = backends(&[0, u32::MAX, u32::MAX, 0]);
        assert_eq!(choose(&backends, 0), Some(1));
        assert_eq!(choose(&backends, u32::MAX / 2), Some(1));
        assert_eq!(choose(&backends, u32::MAX / 2 + 1), Some(2));
        assert_eq!(choose(&backends, u32::MAX), Some(2));
    }

    #[test]
    fn nothing_is_chosen_where_nothing_weighs() {
        assert_eq!(choose(&[], 7), None);
        assert_eq!(choose(&backends(&[0, 0]), 7), None);
    }
}

//! The part of its weight that a new endpoint has (Envoy's slow start).

use std::time::Duration;

use mesh_common::model::traffic::Warmup;

/// Envoy's formula: `max(minimum, (max(age, 1 s) / duration)^(1 / aggression))`, from 0 to 1.
pub fn part(Warmup { duration, minimum, aggression }: &Warmup, age: Duration) -> f64 {
    let duration = Duration::from(*duration);
    if age >= duration {
        return 1.0;
    }
    let time = age.max(Duration::from_secs(1)).as_secs_f64() / duration.as_secs_f64();
    let aggression = f64::from((*aggression).max(1)) / 1000.0;
    let minimum = f64::from(minimum.0) / 1_000_000.0;
    time.powf(1.0 / aggression).max(minimum).min(1.0)
}

/// How often a part is reckoned again.
pub fn step(warmup: &Warmup) -> Duration {
    (Duration::from(warmup.duration) / 64).max(Duration::from_millis(10))
}

//! By hand, optimised: `cargo test --release -p mesh-agent balance::tests::speed -- --ignored --nocapture`.

use super::*;

#[test]
#[ignore = "a measurement"]
fn what_a_choice_costs() {
    let ways = [
        ("random", balanced(Algorithm::Random)),
        ("round robin", balanced(Algorithm::RoundRobin)),
        ("least request", balanced(Algorithm::LeastRequest)),
        ("peak ewma", balanced(Algorithm::PeakEwma)),
        ("hash", hashed()),
    ];
    for (name, policy) in ways {
        for (kind, weights) in [("alike", vec![1; 1000]), ("weighted", (1..1001).collect())] {
            let mut world = World::new(policy.clone(), &weighted(&weights));
            let start = Instant::now();
            const PICKS: u32 = 1_000_000;
            for key in 0..PICKS {
                let picked = world.try_pick(Some(u64::from(key)), &[]).expect("somebody is there");
                picked.done(Outcome::Status(200), world.now);
            }
            println!("{name}, 1000 {kind}: {:?} a choice", start.elapsed() / PICKS);
        }
    }
    let start = Instant::now();
    let world = World::new(hashed(), &endpoints(0..1000));
    (0..100).for_each(|_| world.set(&endpoints(0..1000)));
    println!("1000 endpoints told anew (hash): {:?}", start.elapsed() / 100);
}

//! What is remembered of where records were counted changes no count.

use mesh_common::model::{Observation, ObservedAs, PolicyName};

use super::*;
use crate::telemetry::flow::Verdict;

/// Of few kinds, as alike as they can be and still be told apart.
fn any(random: &mut fastrand::Rng, shared: &[Party]) -> Flow {
    let direction = if random.bool() { Direction::Outbound } else { Direction::Inbound };
    let mut flow =
        if random.bool() { request(direction, [200, 404, 503][random.usize(..3)]) } else { connection(direction) };
    let mut end = || match random.u8(..4) {
        // The same in another place, a stranger, and an identity that is not the configuration's.
        0 => Party { facts: Arc::new(Facts::clone(&shared[0].facts)), ..shared[0].clone() },
        1 => Party::stranger(SocketAddr::from(([192, 0, 2, 1], random.u16(..)))),
        2 => Party { identity: shared[1].identity.clone(), ..shared[0].clone() },
        _ => shared[random.usize(..shared.len())].clone(),
    };
    (flow.source, flow.destination) = (end(), end());
    if random.u8(..4) == 0 {
        flow.service = None;
    }
    if random.u8(..4) == 0 {
        flow.security = [Security::Plaintext, Security::KernelAttested][random.usize(..2)];
    }
    if random.bool() {
        flow.policy = Some(PolicyName { namespace: SHOP.into(), name: format!("policy-{}", random.u8(..3)) });
    }
    if let (Some(http), true) = (&mut flow.http, random.bool()) {
        (http.grpc, http.grpc_status) = (random.bool(), Some(random.u32(..2)));
        (http.flags, http.messages) = (random.bool().then_some("UF"), (2, 3));
    }
    match random.u8(..8) {
        0 => flow.dropped("POLICY_DENY", "no"),
        1 => flow.failed("CONNECT", "nobody"),
        2 => flow.failed("OVERFLOW", "too many"),
        3 => flow.verdict = Verdict::Audit,
        4 => {
            let policy = PolicyName { namespace: SHOP.into(), name: "try".into() };
            let seen = Observation { policy, observed_as: ObservedAs::DryRun, rule: None, would_refuse: random.bool() };
            flow.observations.push(seen);
        }
        _ => {}
    }
    flow.sent = random.u64(..1000);
    flow
}

/// Bounded, expiring and all: told is the same, line by line, with and without it, and with hardly any room for it.
#[test]
fn what_is_told_is_the_same_whether_or_not_it_is_remembered() {
    let shared: Vec<_> = (0..6).map(|number| party(&format!("w{number}"))).collect();
    for (seed, series) in [(1, 1_000_000), (2, 5000), (3, 1000)] {
        let limits = Limits { series, idle: Duration::from_secs(30) };
        let all = [0, 1, 4, 1024].map(|kinds| Traffic::remembering(limits, kinds));
        let mut random = fastrand::Rng::with_seed(seed);
        let (mut now, mut gone, mut beyond) = (Instant::now(), 0.0, 0.0);
        for _ in 0..15 {
            // What is asked about changes, so that some goes.
            let few = &shared[..random.usize(2..=shared.len())];
            for _ in 0..150 {
                let flow = any(&mut random, few);
                for traffic in &all {
                    if flow.http.is_none() {
                        traffic.opened(&flow);
                        traffic.passed(&flow, 1, 2);
                    }
                    traffic.ended(&flow);
                }
            }
            now += Duration::from_secs(random.u64(1..20));
            all.iter().for_each(|traffic| traffic.expire(now));
            let [told, others @ ..] = all.each_ref().map(|traffic| traffic.render(now));
            for (number, other) in others.into_iter().enumerate() {
                assert!(told == other, "{number} of seed {seed}:\n{told}\nis not\n{other}");
            }
            let lines: Vec<_> = told.lines().map(str::to_owned).collect();
            gone = sum(&lines, "mesh_metrics_expired_total");
            beyond = sum(&lines, "mesh_metrics_overflow_total");
        }
        assert!(gone > 0.0 && (beyond > 0.0) == (series < 1_000_000), "seed {seed}: {gone} went, {beyond} had no room");
    }
}

/// Printed, and asserted nowhere: CONTRIBUTING.md says how it is run.
#[test]
fn the_time_of_a_record() {
    let times = 50_000;
    for (kinds, how) in [(0, "looked up each time"), (1024, "remembered")] {
        for (what, of) in [("request", 0), ("connection", 1)] {
            let traffic = Traffic::remembering(Limits::default(), kinds);
            let flows: Vec<_> = (0..100)
                .map(|number| {
                    let mut flow =
                        if of == 0 { request(Direction::Inbound, 200) } else { connection(Direction::Inbound) };
                    flow.source = party(&format!("client-{number}"));
                    flow.policy = Some(PolicyName { namespace: SHOP.into(), name: "clients-may-ask".into() });
                    flow
                })
                .collect();
            flows.iter().for_each(|flow| traffic.ended(flow));
            let start = Instant::now();
            for number in 0..times {
                traffic.ended(&flows[number % flows.len()]);
            }
            println!("{} ns for a {what}, {how}", start.elapsed().as_nanos() / times as u128);
        }
    }
}

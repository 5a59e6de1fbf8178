//! Numbers by chance, all from one that the caller drew, and a hash that is the same in every agent.

use std::net::{IpAddr, SocketAddr};

/// Steele, Lea and Flood's SplitMix64.
#[derive(Clone, Debug)]
pub struct Draws(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Draws {
    pub fn new(drawn: u64) -> Self {
        Self(drawn)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// From 0 to one below `bound`; 0 if that is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        scale(self.next(), bound)
    }
}

/// A number of all of `u64`, brought to 0..bound.
pub fn scale(number: u64, bound: u64) -> u64 {
    u64::try_from((u128::from(number) * u128::from(bound)) >> 64).unwrap_or(0)
}

/// SplitMix64's finalizer: every bit changes every other, and none is lost.
pub fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The number with this index of the sequence that begins at `seed`.
pub fn nth(seed: u64, index: u64) -> u64 {
    mix(seed.wrapping_add(STEP.wrapping_mul(index.wrapping_add(1))))
}

/// The same in every agent, so that clients on different nodes find the same endpoint for a key.
pub fn of_address(address: SocketAddr) -> u64 {
    let ip = match address.ip().to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let bits = ip.to_bits();
    let halves = [bits >> 64, bits & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or(0));
    halves.into_iter().chain([u64::from(address.port())]).fold(STEP, |hash, word| mix(hash ^ word).wrapping_add(STEP))
}

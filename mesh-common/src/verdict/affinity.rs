//! Which endpoint of a service a client keeps. Chooses for the first time, and says when a choice is too old; whether
//! the endpoint still serves is for others to say.

use super::connect::hash;
use crate::abi::{Affinity, Ip, SockAddr};

/// The client of that epoch still has it, `seconds` after a connect asked last. `now` is in nanoseconds since boot.
#[inline(always)]
pub fn keeps(kept: &Affinity, epoch: u32, seconds: u32, now: u64) -> bool {
    // Another CPU may have written it a moment after this one looked at the clock.
    kept.epoch == epoch && now.saturating_sub(kept.used) < u64::from(seconds) * 1_000_000_000
}

/// The place among `count` endpoints, which must not be 0, of a client that keeps none. It is the same each time: two
/// connects at once choose alike, and so does a client whose choice was forgotten while the endpoints stayed.
#[inline(always)]
pub fn first(client: Ip, service: &SockAddr, count: u32) -> u32 {
    let (Ip([a, b, c, d]), Ip([w, x, y, z])) = (client, service.ip);
    hash(SockAddr { ip: Ip([a ^ w, b ^ x, c ^ y, d ^ z]), port: service.port }) % count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u32) -> Ip {
        Ip::v4((0x0a00_0000 | last).to_be())
    }

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn it_is_kept_from_use_to_use_and_by_one_client() {
        let kept = Affinity { used: 100 * SECOND, epoch: 7, list: 1, slot: 0, endpoint: SockAddr::NONE };
        let at = |now| keeps(&kept, 7, 10, now);
        assert!(at(100 * SECOND) && at(110 * SECOND - 1));
        assert!(!at(110 * SECOND) && !at(u64::MAX));
        assert!(at(99 * SECOND), "it was used by another CPU just now");
        assert!(!keeps(&kept, 8, 10, 100 * SECOND), "another pod in the slot");
        assert!(keeps(&kept, 7, u32::MAX, 4_000_000_000 * SECOND));
    }

    #[test]
    fn clients_spread_over_the_endpoints_and_each_has_one() {
        let service = SockAddr { ip: Ip::v4(0x0a60_0001_u32.to_be()), port: 80 };
        let mut seen = [0_u32; 5];
        for client in 0..1000 {
            let place = first(v4(client), &service, 5);
            assert_eq!(place, first(v4(client), &service, 5));
            seen[place as usize] += 1;
        }
        assert!(seen.iter().all(|n| *n > 150), "{seen:?}");
        // Of two services a client has not always the same place.
        let other = SockAddr { port: 81, ..service };
        assert!((0..100).any(|client| first(v4(client), &service, 5) != first(v4(client), &other, 5)));
        assert_eq!(first(v4(1), &service, 1), 0);
    }
}

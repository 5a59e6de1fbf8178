//! The maps as the decision on a connect asks them.

use aya_ebpf::helpers::{bpf_get_prandom_u32, bpf_ktime_get_ns};
use mesh_common::{
    abi::{Affinity, AffinityKey, Backend, BackendKey, Counter, Service, SockAddr, Verdict, VerdictKey, table},
    verdict::Routes,
};

use crate::maps::{AFFINITY, BACKENDS, Maps, SERVICES, VERDICTS, count, is_overflowed};

/// A verdict's last use is written this often, in nanoseconds: a busy one shall not wander from CPU to CPU.
const USED_ABOUT: u64 = 1_000_000_000;

impl Routes for Maps {
    #[inline(always)]
    fn service(&self, at: &SockAddr) -> Option<Service> {
        // SAFETY: a value that was exchanged while it was read leads to an endpoint of another service, which says so
        unsafe { SERVICES.get(at) }.copied()
    }

    #[inline(always)]
    fn backend(&self, key: &BackendKey) -> Option<Backend> {
        // SAFETY: entries are never replaced by others of their key
        unsafe { BACKENDS.get(key) }.copied()
    }

    #[inline(always)]
    fn kept(&self, key: &AffinityKey, holds: impl FnOnce(&Affinity) -> bool) -> Option<Affinity> {
        let entry = AFFINITY.get_ptr_mut(key)?;
        // SAFETY: as large as the map's values; one that was exchanged while it was read leads to an endpoint of the
        // service all the same, as every place of its list does
        let kept = unsafe { entry.read() };
        if !holds(&kept) {
            return None;
        }
        // SAFETY: as above, aligned
        unsafe { (&raw mut (*entry).used).write_volatile(self.now()) };
        Some(kept)
    }

    #[inline(always)]
    fn keep(&self, key: &AffinityKey, kept: &Affinity) {
        if AFFINITY.insert(key, kept, 0).is_err() {
            count(Counter::AffinityLost);
        }
    }

    #[inline(always)]
    fn verdict(&self, key: &VerdictKey) -> Option<Verdict> {
        let entry = VERDICTS.get_ptr_mut(key)?;
        // Each word is read once: the sum is about what is acted on.
        macro_rules! word {
            // SAFETY: as large as the map's values; its sum tells one that was exchanged while it was read
            ($field:ident) => {
                unsafe { (&raw const (*entry).$field).read_volatile() }
            };
        }
        let verdict = Verdict {
            expires: word!(expires),
            used: word!(used),
            action: word!(action),
            source_epoch: word!(source_epoch),
            target: word!(target),
            target_epoch: word!(target_epoch),
            generation: word!(generation),
            decision: word!(decision),
            sum: word!(sum),
            zero: 0,
        };
        let now = self.now();
        if now.wrapping_sub(verdict.used) > USED_ABOUT {
            // SAFETY: as above, aligned; a word that no sum is about
            unsafe { (&raw mut (*entry).used).write_volatile(now) };
        }
        Some(verdict)
    }

    #[inline(always)]
    fn has_room(&self) -> bool {
        !is_overflowed(table::DIRECT)
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: the helper only reads the clock
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper only draws a number
        unsafe { bpf_get_prandom_u32() }
    }
}

//! sk_lookup in a pod's network namespace: who gets a connection that arrives. A listener that is gone must be a
//! drop, or the SYN would reach the application.

use aya_ebpf::{bindings::sk_action, macros::sk_lookup, programs::SkLookupContext};
use mesh_common::{
    abi::{ANY_PORT, Attestation, Counter, FlowKey, Ip, ListenKey, PodEntry, SockAddr, Tuple, table},
    verdict::{self, Lookup, Steer, Tables},
};

use crate::{
    events::refused,
    maps::{
        ATTESTED, HBONE_PORT, LISTENERS, LISTENING, Maps, OUTBOUND_PORT, PENDING, POD_EPOCH, POD_INDEX, POD_IP4,
        POD_IP6, POD_NETNS, count, is_overflowed,
    },
};

const AF_INET: u32 = 2;

#[sk_lookup]
pub fn ingress(ctx: SkLookupContext) -> u32 {
    let index = POD_INDEX.load();
    let tuple = tuple(&ctx);
    // SAFETY: the context is valid while the program runs
    let protocol = unsafe { (*ctx.lookup).protocol };
    let facts = Lookup {
        protocol,
        tuple,
        pod: PodEntry { ip4: Ip(POD_IP4.load()), ip6: Ip(POD_IP6.load()), index, epoch: POD_EPOCH.load(), observed: 0 },
        netns: POD_NETNS.load(),
        outbound_port: OUTBOUND_PORT.load(),
        hbone_port: HBONE_PORT.load(),
    };
    match verdict::steer(&facts, &Maps) {
        Steer::Pass(counter) => {
            count(counter);
            sk_action::SK_PASS
        }
        // Counted only: it is what any host does, and a scan of ports would fill the ring.
        Steer::Drop(counter) => {
            count(counter);
            sk_action::SK_DROP
        }
        Steer::Agent(counter) => match LISTENERS.redirect_sk_lookup(&ctx, index, 0) {
            Ok(()) => {
                count(counter);
                sk_action::SK_PASS
            }
            Err(_) => {
                refused(Counter::AgentDown, 0, index, tuple.destination, tuple.source);
                sk_action::SK_DROP
            }
        },
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn pending(&self, key: &FlowKey) -> Option<u32> {
        // SAFETY: entries are replaced, not changed in place
        unsafe { PENDING.get(key) }.map(|state| state.kind)
    }

    #[inline(always)]
    fn attested(&self, tuple: &Tuple) -> Option<Attestation> {
        // SAFETY: as above
        unsafe { ATTESTED.get(tuple) }.copied()
    }

    #[inline(always)]
    fn may_listen(&self, port: u32) -> bool {
        let listed = |port| {
            let key = ListenKey { netns: POD_NETNS.load(), port, zero: 0 };
            // SAFETY: only the presence is looked at
            unsafe { LISTENING.get(key) }.is_some()
        };
        listed(port) || listed(ANY_PORT) || is_overflowed(table::LISTENING)
    }
}

#[inline(always)]
fn tuple(ctx: &SkLookupContext) -> Tuple {
    let lookup = ctx.lookup;
    // SAFETY: the context is valid while the program runs; the verifier wants each word read on its own
    unsafe {
        let (remote, local) = if (*lookup).family == AF_INET {
            (Ip::v4((*lookup).remote_ip4), Ip::v4((*lookup).local_ip4))
        } else {
            (Ip(words(&raw const (*lookup).remote_ip6)), Ip(words(&raw const (*lookup).local_ip6)))
        };
        Tuple {
            source: SockAddr { ip: remote, port: u32::from(u16::from_be((*lookup).remote_port)) },
            destination: SockAddr { ip: local, port: (*lookup).local_port },
        }
    }
}

/// # Safety
/// `ip` must point into the program's context.
#[inline(always)]
unsafe fn words(ip: *const [u32; 4]) -> [u32; 4] {
    let ip = ip.cast::<u32>();
    // SAFETY: by contract
    unsafe { [ip.read_volatile(), ip.add(1).read_volatile(), ip.add(2).read_volatile(), ip.add(3).read_volatile()] }
}

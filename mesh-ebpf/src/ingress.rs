//! sk_lookup in a pod's network namespace: who gets a connection that arrives. A listener that is gone must be a
//! drop, or the SYN would reach the application.

use aya_ebpf::{bindings::sk_action, macros::sk_lookup, programs::SkLookupContext};
use mesh_common::{
    abi::{Counter, Ip, PodEntry, SockAddr, Tuple},
    verdict::{self, Lookup, Steer},
};

use crate::{
    events::refused,
    maps::{ATTESTED, EPOCHS, HBONE_PORT, LISTENERS, OUTBOUND_PORT, POD_EPOCH, POD_INDEX, POD_IP, count},
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
        pod: PodEntry { ip: Ip(POD_IP.load()), index, epoch: POD_EPOCH.load() },
        outbound_port: OUTBOUND_PORT.load(),
        hbone_port: HBONE_PORT.load(),
    };
    // SAFETY: entries are replaced, not changed in place
    let attested = |tuple: &Tuple| unsafe { ATTESTED.get(tuple) }.copied();
    match verdict::steer(&facts, attested, |pod| EPOCHS.get(pod).copied()) {
        Steer::Pass(counter) => {
            count(counter);
            sk_action::SK_PASS
        }
        Steer::Drop(counter) => {
            refused(counter, 0, index, tuple.destination, tuple.source);
            sk_action::SK_DROP
        }
        Steer::Agent => match LISTENERS.redirect_sk_lookup(&ctx, index, 0) {
            Ok(()) => {
                count(Counter::SteeredAgent);
                sk_action::SK_PASS
            }
            Err(_) => {
                refused(Counter::AgentDown, 0, index, tuple.destination, tuple.source);
                sk_action::SK_DROP
            }
        },
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

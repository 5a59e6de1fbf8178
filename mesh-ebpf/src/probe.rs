//! Health probes: attached to the kubelet's cgroup alone, which lies outside that of the pods. A connection to a port
//! that a pod declares in a probe is attested as the node's, and the pod's `sk_lookup` lets exactly that one pass,
//! whatever the policy and whether or not the agent runs.

use aya_ebpf::{
    bindings::{BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE},
    macros::{cgroup_sock_addr, sock_ops},
    programs::{SockAddrContext, SockOpsContext},
};
use mesh_common::{
    abi::{AGENT_WATCHES, Attestation, Counter, Ip, NODE, SockAddr, SocketState, kind},
    verdict::TCP,
};

use crate::{
    connect::port,
    events::refused,
    maps::{PROBES, clear_socket_state, count, set_socket_state},
    sockops::{flow, stored, vouch, watch_state, withdraw},
};

const ALLOW: i32 = 1;
const DONE: u32 = 1;

#[cgroup_sock_addr(connect4)]
pub fn probe_connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context is valid while the program runs
    let address = unsafe { &*ctx.sock_addr };
    mark(&ctx, SockAddr { ip: Ip::v4(address.user_ip4), port: port(address.user_port) });
    ALLOW
}

#[cgroup_sock_addr(connect6)]
pub fn probe_connect6(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context is valid while the program runs
    let address = unsafe { &*ctx.sock_addr };
    let ip = Ip([address.user_ip6[0], address.user_ip6[1], address.user_ip6[2], address.user_ip6[3]]);
    mark(&ctx, SockAddr { ip, port: port(address.user_port) });
    ALLOW
}

/// Every connect overwrites or deletes what an earlier one of the socket left. Without memory the probe is a
/// connection without identity, like any other of a host process.
#[inline(always)]
fn mark(ctx: &SockAddrContext, destination: SockAddr) {
    // SAFETY: the context is valid while the program runs, and its socket a full one
    let (sk, protocol) = unsafe { ((*ctx.sock_addr).__bindgen_anon_1.sk, (*ctx.sock_addr).protocol) };
    if protocol != TCP {
        return;
    }
    // SAFETY: entries are replaced, not changed in place
    let Some(target) = (unsafe { PROBES.get(destination) }).copied() else {
        // SAFETY: as above
        unsafe { clear_socket_state(sk) };
        return;
    };
    let state = SocketState {
        kind: kind::PROBE,
        pod: NODE,
        epoch: 0,
        target: target.index,
        target_epoch: target.epoch,
        address: destination,
        ..SocketState::EMPTY
    };
    // SAFETY: as above
    if !unsafe { set_socket_state(sk, || state) } {
        count(Counter::StorageFull);
    }
}

#[sock_ops]
pub fn probe_events(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => dialled(&ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => closed(&ctx),
        _ => {}
    }
    DONE
}

#[inline(always)]
fn dialled(ctx: &SockOpsContext) {
    let Some((_, state)) = stored(ctx) else { return };
    let key = flow(ctx);
    // Another program may have rewritten the destination after ours.
    if state.kind != kind::PROBE || key.remote != state.address {
        return;
    }
    let entry = Attestation {
        source: NODE,
        source_epoch: 0,
        target: state.target,
        target_epoch: state.target_epoch,
        generation: AGENT_WATCHES,
    };
    match vouch(&key, entry) {
        Ok(counter) => {
            count(counter);
            watch_state(ctx);
        }
        Err(counter) => refused(counter, key.netns, state.target, key.remote, key.local),
    }
}

/// Nobody accepted, or it was accepted and is gone already.
#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    if let Some((_, state)) = stored(ctx)
        && state.kind == kind::PROBE
    {
        withdraw(&flow(ctx), NODE);
    }
}

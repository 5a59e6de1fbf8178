//! sockops: connections that the agent does not carry, the direct ones and those of observed pods. Each stands in a
//! table while it is open, so that a change of policy finds it and no restart of the agent loses it, and leaves its
//! last word in a ring.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_NOEXIST, BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG,
    },
    helpers::{
        bpf_ktime_get_ns,
        generated::{bpf_get_socket_cookie, bpf_ringbuf_query},
    },
    programs::SockOpsContext,
};
use mesh_common::{
    abi::{
        AGENT_WATCHES, Attestation, CLOSED_RING, Closed, Counter, Direct, FlowKey, PodEntry, SocketState, direction,
        kind, table,
    },
    verdict::{self, Last},
};

use crate::{
    maps::{CLOSED, DIRECT, GENERATIONS, count, overflowed, set_socket_state, socket_state},
    sockops::{attest, full_socket, watch_state},
};

/// include/net/tcp.h
const TCPHDR_FIN: u32 = 1;

/// Before the SYN leaves. The entry comes first: whoever changes a decision raises the generation and then reads the
/// table, so that either it finds the connection there or `sk_lookup` finds the attestation to be late.
#[inline(always)]
pub fn dialled(ctx: &SockOpsContext, key: &FlowKey, state: &SocketState) -> Result<Counter, Counter> {
    let cookie = cookie(ctx);
    if record(cookie, key, state, direction::DIRECT).is_err() {
        overflowed(table::DIRECT);
        return Err(Counter::DirectFull);
    }
    if let Err(why) = attest(key, state, state.generation) {
        let _ = DIRECT.remove(cookie);
        return Err(why);
    }
    Ok(Counter::DirectOpened)
}

/// A connection of an observed pod begins. It goes on as it would without a mesh, whatever happens here.
#[inline(always)]
pub fn observed(ctx: &SockOpsContext, key: &FlowKey, state: &SocketState, direction: u32) {
    if record(cookie(ctx), key, state, direction).is_ok() {
        count(if direction == direction::INBOUND { Counter::ObservedAccepted } else { Counter::ObservedOpened });
        watch_state(ctx);
    } else {
        // What could be direct shall not find out by failing.
        overflowed(table::DIRECT);
        count(Counter::ObservedFull);
    }
}

#[inline(always)]
fn record(cookie: u64, key: &FlowKey, state: &SocketState, direction: u32) -> Result<(), i32> {
    // SAFETY: the helper only reads the clock
    let started = unsafe { bpf_ktime_get_ns() };
    let connection = Direct {
        started,
        pod: state.pod,
        epoch: state.epoch,
        target: state.target,
        target_epoch: state.target_epoch,
        decision: state.decision,
        local: key.local,
        remote: key.remote,
        dialled: state.address,
        direction,
        zero: 0,
    };
    DIRECT.insert(cookie, connection, BPF_NOEXIST.into())
}

/// An attested connection was accepted: by the application, or by the agent if the decision changed meanwhile, which
/// shall know then who dialled.
#[inline(always)]
pub fn accepted(ctx: &SockOpsContext, entry: &Attestation) {
    if entry.generation == AGENT_WATCHES || GENERATIONS.get(entry.target) == Some(&entry.generation) {
        return;
    }
    let Some(sk) = full_socket(ctx) else { return };
    let state = SocketState {
        kind: kind::LATE,
        pod: entry.source,
        epoch: entry.source_epoch,
        target: entry.target,
        target_epoch: entry.target_epoch,
        ..SocketState::EMPTY
    };
    // Without memory it is a connection without identity.
    // SAFETY: not null
    if !unsafe { set_socket_state(sk, || state) } {
        count(Counter::StorageFull);
    }
}

/// An observed pod accepted a connection.
#[inline(always)]
pub fn observed_accept(ctx: &SockOpsContext, here: &FlowKey, pod: &PodEntry) {
    let Some(sk) = full_socket(ctx) else { return };
    let state = SocketState {
        kind: kind::OBSERVED_SERVED,
        pod: pod.index,
        epoch: pod.epoch,
        address: here.local,
        ..SocketState::EMPTY
    };
    // SAFETY: not null
    if unsafe { set_socket_state(sk, || state) } {
        observed(ctx, here, &state, direction::INBOUND);
    } else {
        count(Counter::ObservedFull);
    }
}

/// It closed its side first. From now on segments are looked at for the peer's FIN, which the last change of state does
/// not tell from its absence.
#[inline(always)]
pub fn finishes(ctx: &SockOpsContext) {
    let Some(sk) = full_socket(ctx) else { return };
    // SAFETY: not null
    let state = unsafe { socket_state(sk) };
    if state.is_null() {
        return;
    }
    // SAFETY: not null, and as large as the map's values
    if matches!(unsafe { (*state).kind }, kind::DIRECT | kind::OBSERVED | kind::OBSERVED_SERVED) {
        let _ = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_PARSE_ALL_HDR_OPT_CB_FLAG) as i32);
    }
}

/// The peer acknowledged that: from now on a segment without payload is its FIN or its reset.
#[inline(always)]
pub fn finished(ctx: &SockOpsContext) {
    let Some(sk) = full_socket(ctx) else { return };
    // SAFETY: not null
    let state = unsafe { socket_state(sk) };
    if !state.is_null() {
        // SAFETY: not null, and as large as the map's values; the socket's lock is held
        unsafe { (*state).controls = controls(ctx) };
    }
}

/// Segments without payload that came until now.
#[inline(always)]
fn controls(ctx: &SockOpsContext) -> u32 {
    // SAFETY: the context is valid while the program runs
    unsafe { (*ctx.ops).segs_in.wrapping_sub((*ctx.ops).data_segs_in) }
}

/// A segment arrived after [`finishes`].
#[inline(always)]
pub fn heard(ctx: &SockOpsContext) {
    // SAFETY: the context is valid while the program runs
    if unsafe { (*ctx.ops).skb_tcp_flags } & TCPHDR_FIN == 0 {
        return;
    }
    let Some(sk) = full_socket(ctx) else { return };
    // SAFETY: not null
    let state = unsafe { socket_state(sk) };
    if !state.is_null() {
        // SAFETY: not null, and as large as the map's values; the socket's lock is held
        unsafe { (*state).ended = 1 };
    }
}

/// The last word.
#[inline(always)]
pub fn closed(ctx: &SockOpsContext, state: &SocketState) {
    let cookie = cookie(ctx);
    // SAFETY: of this socket alone: nobody else replaces it
    let Some(connection) = (unsafe { DIRECT.get(cookie) }) else { return };
    match CLOSED.reserve(0) {
        Some(mut entry) => {
            // SAFETY: the context is valid while the program runs
            let ops = unsafe { &*ctx.ops };
            let (ending, sent, received) = verdict::ending(&Last {
                state: ctx.arg(0),
                dialled: connection.direction != direction::INBOUND,
                fin_seen: state.ended != 0,
                heard_since: controls(ctx) != state.controls,
                acked: ops.bytes_acked,
                received: ops.bytes_received,
                all_acked: ops.snd_una == ops.snd_nxt,
            });
            // SAFETY: the helper only reads the clock
            let ended = unsafe { bpf_ktime_get_ns() };
            entry.write(Closed {
                cookie,
                ended,
                sent,
                received,
                connection: *connection,
                // Eighths of a microsecond (tcp_rtt_estimator)
                rtt: ops.srtt_us >> 3,
                retransmits: ops.total_retrans,
                ending,
            });
            entry.submit(wakeup().into());
        }
        None => count(Counter::ClosedLost),
    }
    let _ = DIRECT.remove(cookie);
}

/// The agent reads now and then by itself: it is woken only if that may be too late. A wake-up for each connection
/// would cost more than the rest of its accounting.
#[inline(always)]
fn wakeup() -> u32 {
    // SAFETY: the helper only reads
    let waiting =
        unsafe { bpf_ringbuf_query(core::ptr::from_ref(&CLOSED).cast_mut().cast(), BPF_RB_AVAIL_DATA.into()) };
    if waiting > u64::from(CLOSED_RING / 4) { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP }
}

#[inline(always)]
fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the helper only reads
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

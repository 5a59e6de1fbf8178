//! sockops: what a dialling socket knows reaches the socket that accepts it, before anybody can accept; and the
//! attestation of same-node connections; and which ports of redirected pods are listened on.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{
        BPF_ANY, BPF_NOEXIST, BPF_SOCK_OPS_PARSE_HDR_OPT_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB,
        BPF_TCP_CLOSE, BPF_TCP_FIN_WAIT1, BPF_TCP_FIN_WAIT2, BPF_TCP_LISTEN, bpf_sock,
    },
    helpers::generated::{bpf_get_netns_cookie, bpf_setsockopt},
    macros::sock_ops,
    programs::SockOpsContext,
};
use mesh_common::abi::{
    AGENT_WATCHES, Attestation, Counter, FlowKey, Ip, ListenKey, SockAddr, SocketState, Tuple, direction, kind, table,
};

use crate::{
    direct,
    events::refused,
    maps::{ATTESTED, LISTENING, PENDING, PODS, clear_socket_state, count, overflowed, set_socket_state, socket_state},
};

const AF_INET: u32 = 2;
/// The return value is not looked at for these callbacks.
const DONE: u32 = 1;
// include/uapi/asm-generic/socket.h
pub const SOL_SOCKET: i32 = 1;
pub const SO_BINDTOIFINDEX: i32 = 62;
/// No device has this number: to a socket that is bound to it no route leads, and no segment either.
pub const NO_DEVICE: u32 = i32::MAX as u32;

#[sock_ops]
pub fn socket_events(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => dialled(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(&ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => listens(&ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE && ctx.arg(0) == BPF_TCP_LISTEN => no_longer_listens(&ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_CLOSE => closed(&ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_FIN_WAIT1 => direct::finishes(&ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.arg(1) == BPF_TCP_FIN_WAIT2 => direct::finished(&ctx),
        BPF_SOCK_OPS_PARSE_HDR_OPT_CB => direct::heard(&ctx),
        _ => {}
    }
    DONE
}

/// Before the SYN leaves; the local port is known.
#[inline(always)]
fn dialled(ctx: &SockOpsContext) {
    let Some((sk, state)) = stored(ctx) else { return };
    let key = flow(ctx);
    let published = match state.kind {
        kind::REDIRECTED | kind::UPSTREAM | kind::OWN => publish(&key, state),
        kind::ATTEST => attest(&key, state, AGENT_WATCHES),
        kind::DIRECT if has_left(&key) => {
            // It goes on as it would, had the pod left a moment before its connect: it proves nothing, and the target's
            // policies decide about a stranger.
            // SAFETY: checked for null in `stored`
            return unsafe { clear_socket_state(sk) };
        }
        kind::DIRECT => direct::dialled(ctx, &key, state),
        kind::OBSERVED => return direct::observed(ctx, &key, state, direction::OUTBOUND),
        _ => return,
    };
    match published {
        Ok(counter) => {
            count(counter);
            // To take the entry back if nobody accepts. Without the callback it would stay until it is overwritten
            // by the next connection of the same 4-tuple.
            watch_state(ctx);
        }
        Err(counter) => {
            let pod = state.pod;
            // connect fails with EHOSTUNREACH (tcp_connect looks for a route after this callback): over IPv6, the SYN
            // would reach whoever in the pod listens on the port that it was sent to.
            bind(ctx, NO_DEVICE);
            // The mark is what the agent looks for after its connect: without it, it gives up.
            // SAFETY: checked for null in `stored`
            unsafe { clear_socket_state(sk) };
            refused(counter, key.netns, pod, key.local, key.remote);
        }
    }
}

/// The agent has taken the pod out of the mesh since the connect hook let it dial.
#[inline(always)]
fn has_left(key: &FlowKey) -> bool {
    // SAFETY: only whether there is one
    unsafe { PODS.get(key.netns) }.is_none()
}

#[inline(always)]
fn publish(key: &FlowKey, state: &SocketState) -> Result<Counter, Counter> {
    PENDING.insert(key, state, BPF_ANY.into()).map(|()| Counter::PendingPublished).map_err(|_| Counter::PendingFull)
}

/// Only for the address that the decision was about, and only from an address that is the pod's: a pod can add a
/// neighbour's address to its own loopback device.
#[inline(always)]
pub fn attest(key: &FlowKey, state: &SocketState, generation: u32) -> Result<Counter, Counter> {
    // SAFETY: entries are replaced, not changed in place
    let own = match unsafe { PODS.get(key.netns) } {
        Some(pod) => pod.owns(key.local.ip) && pod.index == state.pod && pod.epoch == state.epoch,
        None => false,
    };
    let permitted = if state.kind == kind::DIRECT { state.backend } else { state.address };
    if !own || key.remote != permitted {
        return Err(Counter::AttestForeignAddress);
    }
    let entry = Attestation {
        source: state.pod,
        source_epoch: state.epoch,
        target: state.target,
        target_epoch: state.target_epoch,
        generation,
    };
    vouch(key, entry)
}

/// An entry of somebody else is never overwritten.
#[inline(always)]
pub fn vouch(key: &FlowKey, entry: Attestation) -> Result<Counter, Counter> {
    let tuple = Tuple { source: key.local, destination: key.remote };
    if ATTESTED.insert(tuple, entry, BPF_NOEXIST.into()).is_ok() {
        return Ok(Counter::Attested);
    }
    // SAFETY: as above
    match unsafe { ATTESTED.get(tuple) } {
        // What an earlier connection of the same pod left behind
        Some(old) if old.source == entry.source => {
            ATTESTED.insert(tuple, entry, BPF_ANY.into()).map(|()| Counter::Attested).map_err(|_| Counter::AttestFull)
        }
        Some(_) => Err(Counter::AttestTaken),
        None => Err(Counter::AttestFull),
    }
}

/// The last ACK of the handshake arrived; nobody has accepted yet.
#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    let here = flow(ctx);
    // As its dialler sees it
    let key = FlowKey { netns: here.netns, local: here.remote, remote: here.local };
    // SAFETY: entries are replaced, not changed in place, and this one by nobody before it is removed below
    if let Some(left) = unsafe { PENDING.get(key) } {
        // Both ends see true addresses anyway.
        if left.kind != kind::OWN {
            take(ctx, &here, left);
        }
        let _ = PENDING.remove(key);
        return;
    }
    let tuple = Tuple { source: here.remote, destination: here.local };
    // SAFETY: entries are replaced, not changed in place
    let Some(pod) = (unsafe { PODS.get(here.netns) }) else { return };
    // SAFETY: as above
    if let Some(entry) = unsafe { ATTESTED.get(tuple) }.copied()
        // Any namespace can have a connection of these addresses within itself.
        && (entry.target, entry.target_epoch) == (pod.index, pod.epoch)
    {
        let _ = ATTESTED.remove(tuple);
        direct::accepted(ctx, &entry);
    }
    if pod.observed != 0 && !here.remote.ip.is_loopback() {
        direct::observed_accept(ctx, &here, pod);
    }
}

/// What the dialler left becomes the accepted socket's.
#[inline(always)]
fn take(ctx: &SockOpsContext, here: &FlowKey, left: &SocketState) {
    let Some(sk) = full_socket(ctx) else { return };
    let kind = if left.kind == kind::REDIRECTED { kind::ACCEPTED } else { kind::SERVED };
    // SAFETY: checked for null above
    if unsafe { set_socket_state(sk, || SocketState { kind, ..*left }) } {
        count(Counter::PendingTaken);
        return;
    }
    // The application would take its agent's loopback address for its client: nothing that the client says must reach
    // it. The agent sees it by itself that its own end has no state.
    if kind == kind::SERVED {
        bind(ctx, NO_DEVICE);
    }
    refused(Counter::TakenStorageFull, here.netns, left.pod, here.local, here.remote);
}

/// The dialler is gone; what nobody took must not wait for another connection of the same 4-tuple.
#[inline(always)]
fn closed(ctx: &SockOpsContext) {
    let Some((_, state)) = stored(ctx) else { return };
    let key = flow(ctx);
    match state.kind {
        kind::REDIRECTED | kind::UPSTREAM | kind::OWN => {
            let _ = PENDING.remove(key);
        }
        kind::ATTEST => withdraw(&key, state.pod),
        kind::DIRECT => {
            withdraw(&key, state.pod);
            direct::closed(ctx, state);
        }
        kind::OBSERVED | kind::OBSERVED_SERVED => direct::closed(ctx, state),
        _ => {}
    }
}

/// Takes an attestation back, if it is `source`'s.
#[inline(always)]
pub fn withdraw(key: &FlowKey, source: u32) {
    let tuple = Tuple { source: key.local, destination: key.remote };
    // SAFETY: entries are replaced, not changed in place
    if unsafe { ATTESTED.get(tuple) }.is_some_and(|entry| entry.source == source) {
        let _ = ATTESTED.remove(tuple);
    }
}

/// A listener opened. Its end is watched in every namespace: the pod may be enrolled later.
#[inline(always)]
fn listens(ctx: &SockOpsContext) {
    let here = flow(ctx);
    // Nobody else can reach it, and the agent's own listeners are such.
    if here.local.ip.is_loopback() {
        return;
    }
    watch_state(ctx);
    let Some(index) = redirected(&here) else { return };
    let key = ListenKey { netns: here.netns, port: here.local.port, zero: 0 };
    if LISTENING.insert(key, index, BPF_ANY.into()).is_err() {
        count(Counter::ListeningFull);
        overflowed(table::LISTENING);
    }
}

/// Others may listen on the same port, which only the agent can see.
#[inline(always)]
fn no_longer_listens(ctx: &SockOpsContext) {
    let here = flow(ctx);
    if here.local.ip.is_loopback() {
        return;
    }
    let Some(index) = redirected(&here) else { return };
    refused(Counter::ListenerClosed, here.netns, index, here.local, here.remote);
}

/// The slot of the redirected pod in whose namespace this is. Nobody asks which ports of an observed one are open.
#[inline(always)]
fn redirected(here: &FlowKey) -> Option<u32> {
    // SAFETY: entries are replaced, not changed in place
    unsafe { PODS.get(here.netns) }.filter(|pod| pod.observed == 0).map(|pod| pod.index)
}

/// Binds the socket to a device.
#[inline(always)]
fn bind(ctx: &SockOpsContext, device: u32) {
    let mut index = device;
    let length = size_of::<u32>() as i32;
    // SAFETY: the kernel reads `length` bytes of `index`
    let _ = unsafe { bpf_setsockopt(ctx.as_ptr(), SOL_SOCKET, SO_BINDTOIFINDEX, (&raw mut index).cast(), length) };
}

#[inline(always)]
pub fn watch_state(ctx: &SockOpsContext) {
    let _ = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG) as i32);
}

/// The socket and its state, where it lies: the stack of 512 bytes, of all calls together, has no room for copies.
#[inline(always)]
pub fn stored(ctx: &SockOpsContext) -> Option<(*mut bpf_sock, &SocketState)> {
    let sk = full_socket(ctx)?;
    // SAFETY: not null
    let state = unsafe { socket_state(sk) };
    // SAFETY: null or as large as the map's values; it lives with the socket, which outlives the callback
    (!state.is_null()).then(|| (sk, unsafe { &*state }))
}

#[inline(always)]
pub fn full_socket(ctx: &SockOpsContext) -> Option<*mut bpf_sock> {
    // SAFETY: the context is valid while the program runs
    let sk = unsafe { (*ctx.ops).__bindgen_anon_2.sk };
    (!sk.is_null()).then_some(sk)
}

#[inline(always)]
pub fn flow(ctx: &SockOpsContext) -> FlowKey {
    // SAFETY: the helper only reads
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let (local, remote) = if ctx.family() == AF_INET {
        (Ip::v4(ctx.local_ip4()), Ip::v4(ctx.remote_ip4()))
    } else {
        (Ip(local_ip6(ctx)), Ip(remote_ip6(ctx)))
    };
    FlowKey {
        netns,
        // local_port is in host byte order, remote_port in network byte order in its upper half.
        local: SockAddr { ip: local, port: ctx.local_port() },
        remote: SockAddr { ip: remote, port: u32::from_be(ctx.remote_port()) },
    }
}

// The verifier wants each word of the context read on its own.
#[inline(always)]
fn local_ip6(ctx: &SockOpsContext) -> [u32; 4] {
    // SAFETY: the context is valid while the program runs
    let ip = unsafe { &raw const (*ctx.ops).local_ip6 }.cast::<u32>();
    // SAFETY: as above
    unsafe { [ip.read_volatile(), ip.add(1).read_volatile(), ip.add(2).read_volatile(), ip.add(3).read_volatile()] }
}

#[inline(always)]
fn remote_ip6(ctx: &SockOpsContext) -> [u32; 4] {
    // SAFETY: the context is valid while the program runs
    let ip = unsafe { &raw const (*ctx.ops).remote_ip6 }.cast::<u32>();
    // SAFETY: as above
    unsafe { [ip.read_volatile(), ip.add(1).read_volatile(), ip.add(2).read_volatile(), ip.add(3).read_volatile()] }
}

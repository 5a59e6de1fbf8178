//! cgroup/connect4 and connect6: where a pod's connections go.

use aya_ebpf::{
    EbpfContext as _,
    bindings::bpf_sock,
    helpers::{
        bpf_get_current_cgroup_id,
        generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie, bpf_set_retval, bpf_setsockopt},
    },
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use aya_log_ebpf::warn;
use mesh_common::{
    abi::{Counter, Ip, MAX_PODS, SockAddr, SocketState, kind},
    verdict::{self, Connect, Outcome, Permit},
};

use crate::{
    events::{denied, refused},
    maps::{AGENT_CGROUP, CGROUPS, HBONE_PORT, Maps, OUTBOUND_PORT, PODS, clear_socket_state, count, set_socket_state},
    sockops::{NO_DEVICE, SO_BINDTOIFINDEX, SOL_SOCKET},
};

/// Deepest level of a pod's cgroup that is looked for.
pub const MAX_CGROUP_LEVEL: i32 = 16;
const ALLOW: i32 = 1;
/// The caller gets EPERM, unless bpf_set_retval said otherwise.
const REFUSE: i32 = 0;
/// include/uapi/asm-generic/errno.h
const ENETUNREACH: i32 = 101;
const ECONNREFUSED: i32 = 111;

/// For connections of which no verdict is kept.
const NOBODY: Permit = Permit { target: MAX_PODS, target_epoch: 0, generation: 0, decision: 0 };

/// What to dial instead; an error: the connect is refused.
type Decided = Result<Option<SockAddr>, ()>;

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context is valid while the program runs
    let address = unsafe { &mut *ctx.sock_addr };
    let destination = SockAddr { ip: Ip::v4(address.user_ip4), port: port(address.user_port) };
    // SAFETY: the socket is a full one
    match decide(&ctx, destination, |sk| Ip::v4(unsafe { (*sk).src_ip4 })) {
        Ok(None) => ALLOW,
        Ok(Some(to)) => {
            address.user_ip4 = to.ip.0[3];
            address.user_port = wire_port(to.port);
            ALLOW
        }
        Err(()) => REFUSE,
    }
}

/// A v6 socket that dials a v4-mapped address is a v4 connection. Any other goes to ::1: a V6ONLY socket, which cannot
/// be told here, and one that is bound to a native address could not go to a v4-mapped one.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context is valid while the program runs
    let address = unsafe { &mut *ctx.sock_addr };
    let ip = Ip([address.user_ip6[0], address.user_ip6[1], address.user_ip6[2], address.user_ip6[3]]);
    match decide(&ctx, SockAddr { ip, port: port(address.user_port) }, source_of_v6) {
        Ok(None) => ALLOW,
        Ok(Some(to)) => {
            address.user_ip6[0] = to.ip.0[0];
            address.user_ip6[1] = to.ip.0[1];
            address.user_ip6[2] = to.ip.0[2];
            address.user_ip6[3] = to.ip.0[3];
            address.user_port = wire_port(to.port);
            ALLOW
        }
        Err(()) => REFUSE,
    }
}

/// `Some`: dial that instead. Every outcome overwrites or deletes what an earlier connect of the socket left.
#[inline(always)]
fn decide(ctx: &SockAddrContext, destination: SockAddr, bound: impl FnOnce(*mut bpf_sock) -> Ip) -> Decided {
    // SAFETY: the context is valid while the program runs, and its socket a full one
    let (sk, protocol, bound_device) = unsafe {
        let sk = (*ctx.sock_addr).__bindgen_anon_1.sk;
        (sk, (*ctx.sock_addr).protocol, (*sk).bound_dev_if)
    };
    let bound_device = if bound_device == NO_DEVICE { unbind(ctx) } else { bound_device };
    // SAFETY: helpers that only read
    let (netns, cgroup) = unsafe { (bpf_get_netns_cookie(ctx.as_ptr()), bpf_get_current_cgroup_id()) };
    // SAFETY: entries are replaced, not changed in place; a reader sees the old one or the new one
    let pod = unsafe { PODS.get(netns) };
    let facts = Connect {
        protocol,
        destination,
        by_agent: cgroup == AGENT_CGROUP.load(),
        pod,
        bound: bound(sk),
        bound_device,
        outbound_port: OUTBOUND_PORT.load(),
        hbone_port: HBONE_PORT.load(),
    };
    let (index, epoch) = pod.map_or((MAX_PODS, 0), |pod| (pod.index, pod.epoch));
    let mark = |kind, local, backend, permit: Permit| {
        let Permit { target, target_epoch, generation, decision } = permit;
        let address = destination;
        let state = || SocketState {
            kind,
            pod: index,
            epoch,
            target,
            target_epoch,
            address,
            local,
            backend,
            decision,
            generation,
            ended: 0,
            controls: 0,
        };
        // SAFETY: as above
        unsafe { set_socket_state(sk, state) }
    };
    let (to, counter, marked) = match verdict::connect(&facts, &Maps, below_a_pod) {
        Outcome::Agent => {
            count(Counter::ConnectAgent);
            return Ok(None);
        }
        Outcome::Pass(counter) => {
            // SAFETY: as above
            unsafe { clear_socket_state(sk) };
            count(counter);
            return Ok(None);
        }
        Outcome::Own(to) if to == destination && to.ip.as_v4().is_some() => {
            // SAFETY: as above
            unsafe { clear_socket_state(sk) };
            count(Counter::ConnectOwnPod);
            return Ok(None);
        }
        Outcome::Refuse(counter) => return refuse(ctx, sk, counter, netns, index, destination, 0, None),
        Outcome::Unreachable(counter) => {
            return refuse(ctx, sk, counter, netns, index, destination, 0, Some(ENETUNREACH));
        }
        Outcome::Denied(counter, at, decision) => {
            return refuse(ctx, sk, counter, netns, index, at, decision, Some(ECONNREFUSED));
        }
        Outcome::Observe => {
            if !mark(kind::OBSERVED, Ip::NONE, SockAddr::NONE, NOBODY) {
                count(Counter::ObservedFull);
            }
            count(Counter::ConnectObserved);
            return Ok(None);
        }
        Outcome::Own(to) => (to, Counter::ConnectOwnPod, mark(kind::OWN, Ip::NONE, to, NOBODY)),
        Outcome::Direct(to, permit) => (to, Counter::ConnectDirect, mark(kind::DIRECT, Ip::NONE, to, permit)),
        Outcome::Redirect(to, local, hint) => {
            (to, Counter::ConnectRedirected, mark(kind::REDIRECTED, local, hint, NOBODY))
        }
    };
    if !marked {
        refused(Counter::StorageFull, netns, index, SockAddr::NONE, destination);
        return Err(());
    }
    count(counter);
    Ok((to != destination).then_some(to))
}

/// Refuses a connect, with this error number; `None`: EPERM, which is also what a kernel without the helper leaves.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "each is a register or two; a struct would be on the small stack")]
fn refuse(
    ctx: &SockAddrContext,
    sk: *mut bpf_sock,
    counter: Counter,
    netns: u64,
    pod: u32,
    destination: SockAddr,
    decision: u32,
    number: Option<i32>,
) -> Decided {
    // SAFETY: the caller has it from the context
    unsafe { clear_socket_state(sk) };
    // What a policy denies is in the flows already.
    if decision == 0 {
        warn!(ctx, "connect refused: {}", counter.name());
    }
    denied(counter, netns, pod, SockAddr::NONE, destination, decision);
    if let Some(number) = number {
        // SAFETY: the helper only takes a number
        let _ = unsafe { bpf_set_retval(-number) };
    }
    Err(())
}

/// A socket whose last connect was refused for want of room may dial again.
#[inline(always)]
fn unbind(ctx: &SockAddrContext) -> u32 {
    let mut none: u32 = 0;
    let length = size_of::<u32>() as i32;
    // SAFETY: the kernel reads `length` bytes of `none`
    let _ = unsafe { bpf_setsockopt(ctx.as_ptr(), SOL_SOCKET, SO_BINDTOIFINDEX, (&raw mut none).cast(), length) };
    none
}

/// The address to which a v6 socket is bound.
#[inline(always)]
fn source_of_v6(sk: *mut bpf_sock) -> Ip {
    // SAFETY: a full socket, by contract of the hook; the verifier wants each word read on its own
    let ip = unsafe { &raw const (*sk).src_ip6 }.cast::<u32>();
    // SAFETY: as above
    unsafe { Ip([ip.read_volatile(), ip.add(1).read_volatile(), ip.add(2).read_volatile(), ip.add(3).read_volatile()]) }
}

/// Does the calling process run below the cgroup of a redirected pod?
#[inline(always)]
fn below_a_pod() -> bool {
    for level in 1..=MAX_CGROUP_LEVEL {
        // SAFETY: the helper only reads
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        if id == 0 {
            return false;
        }
        // SAFETY: only the presence is looked at
        if unsafe { CGROUPS.get(id) }.is_some() {
            return true;
        }
    }
    false
}

/// `user_port` holds a 16-bit port in network byte order.
#[inline(always)]
pub fn port(user_port: u32) -> u32 {
    u32::from(u16::from_be(user_port as u16))
}

#[inline(always)]
pub fn wire_port(port: u32) -> u32 {
    u32::from((port as u16).to_be())
}

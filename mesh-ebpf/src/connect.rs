//! cgroup/connect4 and connect6: where a pod's connections go.

use aya_ebpf::{
    EbpfContext as _,
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
    verdict::{self, Connect, Outcome},
};

use crate::{
    events::refused,
    maps::{AGENT_CGROUP, CGROUPS, HBONE_PORT, OUTBOUND_PORT, PODS, clear_socket_state, count, set_socket_state},
    sockops::{NO_DEVICE, SO_BINDTOIFINDEX, SOL_SOCKET},
};

/// Deepest level of a pod's cgroup that is looked for.
const MAX_CGROUP_LEVEL: i32 = 16;
const ALLOW: i32 = 1;
/// The caller gets EPERM, unless bpf_set_retval said otherwise.
const REFUSE: i32 = 0;
/// include/uapi/asm-generic/errno.h
const ENETUNREACH: i32 = 101;
const NOWHERE: SockAddr = SockAddr { ip: Ip([0; 4]), port: 0 };

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context is valid while the program runs
    let address = unsafe { &mut *ctx.sock_addr };
    let destination = SockAddr { ip: Ip::v4(address.user_ip4), port: port(address.user_port) };
    match decide(&ctx, destination) {
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
    match decide(&ctx, SockAddr { ip, port: port(address.user_port) }) {
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
fn decide(ctx: &SockAddrContext, destination: SockAddr) -> Result<Option<SockAddr>, ()> {
    // SAFETY: the context is valid while the program runs, and its socket a full one
    let (sk, protocol, bound_device) = unsafe {
        let sk = (*ctx.sock_addr).__bindgen_anon_1.sk;
        (sk, (*ctx.sock_addr).protocol, (*sk).bound_dev_if)
    };
    let bound_device = if bound_device == NO_DEVICE { unbind(ctx) } else { bound_device };
    // SAFETY: helpers that only read
    let (netns, cgroup) = unsafe { (bpf_get_netns_cookie(ctx.as_ptr()), bpf_get_current_cgroup_id()) };
    // SAFETY: entries are replaced, not changed in place; a reader sees the old one or the new one
    let pod = unsafe { PODS.get(netns) }.copied();
    let facts = Connect {
        protocol,
        destination,
        by_agent: cgroup == AGENT_CGROUP.load(),
        pod,
        bound_device,
        outbound_port: OUTBOUND_PORT.load(),
        hbone_port: HBONE_PORT.load(),
    };
    let mark = |kind, local| {
        let (index, epoch) = pod.map_or((MAX_PODS, 0), |pod| (pod.index, pod.epoch));
        let state = SocketState { kind, pod: index, epoch, target: 0, target_epoch: 0, address: destination, local };
        // SAFETY: as above
        if unsafe { set_socket_state(sk, &state) } {
            return Ok(());
        }
        refused(Counter::StorageFull, netns, index, NOWHERE, destination);
        Err(())
    };
    match verdict::connect(&facts, below_a_pod) {
        Outcome::Agent => {
            count(Counter::ConnectAgent);
            Ok(None)
        }
        Outcome::Pass(counter) => {
            // SAFETY: as above
            unsafe { clear_socket_state(sk) };
            count(counter);
            Ok(None)
        }
        Outcome::Own(pod) => {
            mark(kind::OWN, pod.ip6)?;
            count(Counter::ConnectOwnPod);
            Ok(None)
        }
        outcome @ (Outcome::Refuse(counter) | Outcome::Unreachable(counter)) => {
            // SAFETY: as above
            unsafe { clear_socket_state(sk) };
            let index = pod.map_or(MAX_PODS, |p| p.index);
            warn!(ctx, "connect refused: {}", counter.name());
            refused(counter, netns, index, NOWHERE, destination);
            if matches!(outcome, Outcome::Unreachable(_)) {
                // EPERM is as good a refusal, and what a kernel without the helper leaves.
                // SAFETY: the helper only takes a number
                let _ = unsafe { bpf_set_retval(-ENETUNREACH) };
            }
            Err(())
        }
        Outcome::Redirect(to, local, _) => {
            mark(kind::REDIRECTED, local)?;
            count(Counter::ConnectRedirected);
            Ok(Some(to))
        }
    }
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

//! cgroup/getpeername and getsockname: applications see the addresses that they would see without a mesh.
//! getpeername also runs for the address that accept() returns.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use mesh_common::abi::{Ip, SockAddr, SocketState, kind};

use crate::{
    connect::{port, wire_port},
    maps::socket_state,
};

const KEEP: i32 = 1;

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    if let Some(peer) = state(&ctx).and_then(peer) {
        set_v4(&ctx, peer);
    }
    KEEP
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    if let Some(peer) = state(&ctx).and_then(peer) {
        set_v6(&ctx, peer);
    }
    KEEP
}

#[cgroup_sock_addr(getsockname4)]
pub fn getsockname4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context is valid while the program runs
    let address = unsafe { &*ctx.sock_addr };
    let now = SockAddr { ip: Ip::v4(address.user_ip4), port: port(address.user_port) };
    if let Some(own) = state(&ctx).and_then(|state| own(state, now)) {
        set_v4(&ctx, own);
    }
    KEEP
}

#[cgroup_sock_addr(getsockname6)]
pub fn getsockname6(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context is valid while the program runs
    let address = unsafe { &*ctx.sock_addr };
    let ip = Ip([address.user_ip6[0], address.user_ip6[1], address.user_ip6[2], address.user_ip6[3]]);
    let now = SockAddr { ip, port: port(address.user_port) };
    if let Some(own) = state(&ctx).and_then(|state| own(state, now)) {
        set_v6(&ctx, own);
    }
    KEEP
}

#[inline(always)]
fn state(ctx: &SockAddrContext) -> Option<SocketState> {
    // SAFETY: the context is valid while the program runs, and its socket a full one
    let state = unsafe { socket_state((*ctx.sock_addr).__bindgen_anon_1.sk) };
    // SAFETY: null or as large as the map's values
    (!state.is_null()).then(|| unsafe { *state })
}

/// The address to show as the peer's: what was dialled, or who really called.
#[inline(always)]
fn peer(state: SocketState) -> Option<SockAddr> {
    matches!(state.kind, kind::REDIRECTED | kind::SERVED | kind::DIRECT | kind::OWN).then_some(state.address)
}

/// A redirected socket got a loopback source; the pod's own address stands for it.
#[inline(always)]
fn own(state: SocketState, now: SockAddr) -> Option<SockAddr> {
    (state.kind == kind::REDIRECTED && now.ip.is_loopback()).then_some(SockAddr { ip: state.local, port: now.port })
}

#[inline(always)]
fn set_v4(ctx: &SockAddrContext, to: SockAddr) {
    if let Some(v4) = to.ip.as_v4() {
        // SAFETY: the context is valid while the program runs
        let address = unsafe { &mut *ctx.sock_addr };
        address.user_ip4 = v4;
        address.user_port = wire_port(to.port);
    }
}

#[inline(always)]
fn set_v6(ctx: &SockAddrContext, to: SockAddr) {
    // SAFETY: the context is valid while the program runs
    let address = unsafe { &mut *ctx.sock_addr };
    address.user_ip6[0] = to.ip.0[0];
    address.user_ip6[1] = to.ip.0[1];
    address.user_ip6[2] = to.ip.0[2];
    address.user_ip6[3] = to.ip.0[3];
    address.user_port = wire_port(to.port);
}

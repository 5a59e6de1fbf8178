//! The eBPF programs: one small file a hook. Decisions are those of `mesh_common::verdict`; here is only how the
//! kernel is asked and told. Every path that cannot do its work refuses and counts.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(unsafe_code, reason = "kernel helpers and contexts are raw pointers")]

mod connect;
mod datagrams;
mod direct;
mod events;
mod ingress;
mod maps;
mod names;
mod probe;
mod routes;
mod sockops;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

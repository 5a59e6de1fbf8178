//! cgroup_skb: UDP of redirected pods is counted, by who serves whom. Every packet passes, whatever happens here, and
//! what is no UDP after a look at one byte.

use aya_ebpf::{
    bindings::{BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::HashMap,
    helpers::{
        bpf_ktime_get_ns,
        generated::{bpf_sk_fullsock, bpf_sk_storage_get, bpf_skb_ancestor_cgroup_id},
    },
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use mesh_common::{
    abi::{Counter, DatagramKey, DatagramSocket, Datagrams, Ip, MAX_DATAGRAMS, MAX_PODS, SockAddr, role},
    verdict::{self, Headers, Reach, UDP, Way},
};

use crate::{
    connect::MAX_CGROUP_LEVEL,
    maps::{CGROUPS, DATAGRAM_SOCKETS, DATAGRAMS_EVEN, DATAGRAMS_ODD, EPOCHS, ROUND, add, count, count_many},
};

type Table = HashMap<DatagramKey, Datagrams, { MAX_DATAGRAMS as usize }>;

const PASS: i32 = 1;
/// include/linux/net.h
const SOCK_DGRAM: u32 = 2;
// Bytes of headers: RFC 791, RFC 8200, RFC 768.
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP_HEADER: u32 = 8;

/// What the first bytes of a packet say.
enum Packet {
    Ipv4,
    Ipv6,
    /// IPv6 with headers between its own and that of the transport.
    Extended,
}

/// Whose a socket is. Every word has a value, whoever it is: the verifier wants none copied that was never written.
struct Whose {
    /// Of [`role::NOBODY`]: no redirected pod's.
    socket: DatagramSocket,
    /// Its role is known at its next datagram too; if not, there was no memory for it.
    kept: bool,
}

#[cgroup_skb(egress)]
pub fn datagrams_out(ctx: SkBuffContext) -> i32 {
    if let Some(packet) = udp(&ctx) {
        seen(&ctx, &packet, Way::Out);
    }
    PASS
}

#[cgroup_skb(ingress)]
pub fn datagrams_in(ctx: SkBuffContext) -> i32 {
    if let Some(packet) = udp(&ctx) {
        seen(&ctx, &packet, Way::In);
    }
    PASS
}

/// `None`: it is no UDP. The packet begins with the header of IP, and what the kernel handles of it has that in one
/// piece.
#[inline(always)]
fn udp(ctx: &SkBuffContext) -> Option<Packet> {
    // SAFETY: the context is valid while the program runs
    let (start, end) = unsafe { ((*ctx.skb.skb).data as usize, (*ctx.skb.skb).data_end as usize) };
    if start + IPV4 > end {
        return None;
    }
    let bytes = start as *const u8;
    // SAFETY: there are 20
    let (version, protocol4, next6) = unsafe { (*bytes >> 4, *bytes.add(9), *bytes.add(6)) };
    match (version, protocol4, next6) {
        (4, 17, _) => Some(Packet::Ipv4),
        (6, _, 17) => Some(Packet::Ipv6),
        // Hop-by-hop, routing, fragment and destination options
        (6, _, 0 | 43 | 44 | 60) => Some(Packet::Extended),
        _ => None,
    }
}

#[inline(always)]
fn seen(ctx: &SkBuffContext, packet: &Packet, way: Way) {
    let Some((headers, before)) = headers(ctx, packet) else {
        if whose(ctx, way, round()).socket.role != role::NOBODY {
            count(Counter::UdpUnread);
        }
        return;
    };
    let reach = verdict::reach(&headers);
    if reach == Reach::Own {
        return;
    }
    let round = round();
    let Whose { socket, kept } = whose(ctx, way, round);
    if socket.role == role::NOBODY {
        return;
    }
    // SAFETY: the context is valid while the program runs
    let (length, segment) = unsafe { ((*ctx.skb.skb).len, (*ctx.skb.skb).gso_size) };
    let payload = length.saturating_sub(before + UDP_HEADER);
    let datagrams = verdict::datagrams(payload, segment);
    if reach == Reach::Group {
        return count_many(Counter::UdpGroup, datagrams);
    }
    let key = verdict::key(&socket, &headers, way);
    let named = match (kept, round & 1) {
        (false, _) => false,
        (true, 0) => put(&DATAGRAMS_EVEN, &key, way, datagrams, payload),
        (true, _) => put(&DATAGRAMS_ODD, &key, way, datagrams, payload),
    };
    if !named {
        count_many(Counter::UdpUnnamed, datagrams);
        count_many(Counter::UdpUnnamedBytes, payload.into());
    }
}

/// Addresses and ports, and the bytes before the header of UDP; `None`: they are not read.
#[inline(always)]
fn headers(ctx: &SkBuffContext, packet: &Packet) -> Option<(Headers, u32)> {
    let word = |bytes: &[u8], at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let (source, destination, before) = match packet {
        Packet::Ipv4 => {
            let header: [u8; IPV4] = ctx.load(0).ok()?;
            // A part of a datagram: only what programs write themselves comes in parts here.
            if u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0 {
                return None;
            }
            let before = u32::from(header[0] & 0xf) * 4;
            (Ip::v4(word(&header, 12)), Ip::v4(word(&header, 16)), before)
        }
        Packet::Ipv6 => {
            let header: [u8; IPV6] = ctx.load(0).ok()?;
            let ip = |at| Ip([word(&header, at), word(&header, at + 4), word(&header, at + 8), word(&header, at + 12)]);
            (ip(8), ip(24), IPV6 as u32)
        }
        Packet::Extended => return None,
    };
    let ports: [u8; 4] = ctx.load(before as usize).ok()?;
    let port = |at: usize| u32::from(u16::from_be_bytes([ports[at], ports[at + 1]]));
    let source = SockAddr { ip: source, port: port(0) };
    Some((Headers { source, destination: SockAddr { ip: destination, port: port(2) } }, before))
}

/// The agent raises it now and then: from then on the other table is written.
#[inline(always)]
fn round() -> u32 {
    ROUND.get(0).copied().unwrap_or_default()
}

/// Whose the packet's socket is, by what was kept of it, or else by its cgroup.
#[inline(always)]
fn whose(ctx: &SkBuffContext, way: Way, round: u32) -> Whose {
    // SAFETY: the context is valid while the program runs
    let sk = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return Whose { socket: nobodys(round), kept: false };
    }
    // SAFETY: not null
    let mut kept = unsafe { storage(sk, 0) };
    if !kept.is_null() {
        // SAFETY: not null, and as large as the map's values
        let socket = unsafe { *kept };
        if verdict::holds(&socket, EPOCHS.get(socket.pod).copied(), round) {
            return Whose { socket, kept: true };
        }
    }
    let socket = match pod(ctx, sk) {
        Some((pod, epoch)) => DatagramSocket { role: verdict::role(way), pod, epoch, round },
        None => nobodys(round),
    };
    if kept.is_null() {
        // SAFETY: not null
        kept = unsafe { storage(sk, BPF_SK_STORAGE_GET_F_CREATE.into()) };
    }
    if !kept.is_null() {
        // SAFETY: not null, and as large as the map's values
        unsafe { *kept = socket };
    }
    Whose { socket, kept: !kept.is_null() }
}

/// A socket of no redirected pod.
#[inline(always)]
fn nobodys(round: u32) -> DatagramSocket {
    DatagramSocket { role: role::NOBODY, pod: MAX_PODS, epoch: 0, round }
}

/// The redirected pod (index and epoch) in whose cgroup the socket was made. Programs of this kind cannot ask for its
/// network namespace before Linux 6.15.
#[inline(always)]
fn pod(ctx: &SkBuffContext, sk: *mut bpf_sock) -> Option<(u32, u32)> {
    // SAFETY: not null; the kernel answers a full socket or null
    let full = unsafe { bpf_sk_fullsock(sk) };
    // A raw socket may carry UDP too: what it hears others hear as well.
    // SAFETY: checked for null first
    if full.is_null() || unsafe { (*full).protocol != UDP || (*full).type_ != SOCK_DGRAM } {
        return None;
    }
    for level in 1..=MAX_CGROUP_LEVEL {
        // SAFETY: the helper only reads
        let id = unsafe { bpf_skb_ancestor_cgroup_id(ctx.skb.skb, level) };
        if id == 0 {
            return None;
        }
        // SAFETY: entries are replaced, not changed in place
        if let Some(index) = unsafe { CGROUPS.get(id) }.copied() {
            return EPOCHS.get(index).copied().filter(|epoch| *epoch != 0).map(|epoch| (index, epoch));
        }
    }
    None
}

/// # Safety
/// `sk` must be a socket pointer that the verifier knows.
#[inline(always)]
unsafe fn storage(sk: *mut bpf_sock, flags: u64) -> *mut DatagramSocket {
    let map = core::ptr::from_ref(&DATAGRAM_SOCKETS).cast_mut().cast();
    // SAFETY: by contract
    unsafe { bpf_sk_storage_get(map, sk.cast(), core::ptr::null_mut(), flags).cast() }
}

/// Counts under the key; `false`: the table is full.
#[inline(always)]
fn put(table: &Table, key: &DatagramKey, way: Way, datagrams: u64, payload: u32) -> bool {
    // SAFETY: the helper only reads the clock
    let now = unsafe { bpf_ktime_get_ns() };
    if more(table, key, way, datagrams, payload, now) {
        return true;
    }
    let entry = match way {
        Way::Out => Datagrams { sent: datagrams, sent_bytes: payload.into(), ..Datagrams::NONE },
        Way::In => Datagrams { received: datagrams, received_bytes: payload.into(), ..Datagrams::NONE },
    };
    let entry = Datagrams { first: now, last: now, ..entry };
    // Another CPU may have been first.
    table.insert(key, entry, BPF_NOEXIST.into()).is_ok() || more(table, key, way, datagrams, payload, now)
}

/// `false`: there is no entry.
#[inline(always)]
fn more(table: &Table, key: &DatagramKey, way: Way, datagrams: u64, payload: u32, now: u64) -> bool {
    let Some(entry) = table.get_ptr_mut(key) else { return false };
    // SAFETY: the entry is aligned, and the agent takes it out a round after the last program that writes to it
    unsafe {
        let (number, bytes) = match way {
            Way::Out => (&raw mut (*entry).sent, &raw mut (*entry).sent_bytes),
            Way::In => (&raw mut (*entry).received, &raw mut (*entry).received_bytes),
        };
        add(number, datagrams);
        add(bytes, payload.into());
        (&raw mut (*entry).last).write_volatile(now);
    }
    true
}

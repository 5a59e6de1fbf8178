//! The maps and the settings that the agent patches in at load. Who writes and who reads which: ARCHITECTURE.md.

use core::arch::asm;

use aya_ebpf::{
    Global,
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SkStorage, SockMap},
    helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get},
    macros::btf_map,
};
use mesh_common::{
    abi::{
        Affinity, AffinityKey, Attestation, Backend, BackendKey, CLOSED_RING, Closed, Counter, DatagramKey,
        DatagramSocket, Datagrams, Direct, EVENT_RING, Event, FlowKey, ListenKey, MAX_AFFINITIES, MAX_ATTESTED,
        MAX_BACKENDS, MAX_DATAGRAMS, MAX_DIRECT, MAX_LISTENING, MAX_PENDING, MAX_PODS, MAX_PROBES, MAX_SERVICES,
        MAX_VERDICTS, PodEntry, ProbeTarget, Service, SockAddr, SocketState, Tuple, Verdict, VerdictKey, table,
    },
    verdict::Lives,
};

#[btf_map]
pub static PODS: HashMap<u64, PodEntry, { MAX_PODS as usize }> = HashMap::new();

/// Cgroups of redirected pods, by id.
#[btf_map]
pub static CGROUPS: HashMap<u64, u32, { MAX_PODS as usize }> = HashMap::new();

/// The epoch in force of each pod index; 0: nobody's.
#[btf_map]
pub static EPOCHS: Array<u32, { MAX_PODS as usize }> = Array::new();

/// The agent's listening socket of each pod. An entry vanishes with its socket.
#[btf_map]
pub static LISTENERS: SockMap<{ MAX_PODS as usize }> = SockMap::new();

#[btf_map]
pub static SOCKETS: SkStorage<SocketState> = SkStorage::new();

/// What a dialling socket left for the socket that accepts it.
#[btf_map]
pub static PENDING: HashMap<FlowKey, SocketState, { MAX_PENDING as usize }> = HashMap::new();

#[btf_map]
pub static ATTESTED: HashMap<Tuple, Attestation, { MAX_ATTESTED as usize }> = HashMap::new();

/// The ports of redirected pods that somebody listens on.
#[btf_map]
pub static LISTENING: HashMap<ListenKey, u32, { MAX_LISTENING as usize }> = HashMap::new();

/// Not 0: the [`table`] was full and may be full still.
#[btf_map]
pub static OVERFLOWED: Array<u32, { table::COUNT as usize }> = Array::new();

/// What was decided on connections between pods of this node.
#[btf_map]
pub static VERDICTS: HashMap<VerdictKey, Verdict, { MAX_VERDICTS as usize }> = HashMap::new();

/// Of the decisions about each pod: one of another generation is none.
#[btf_map]
pub static GENERATIONS: Array<u32, { MAX_PODS as usize }> = Array::new();

#[btf_map]
pub static SERVICES: HashMap<SockAddr, Service, { MAX_SERVICES as usize }> = HashMap::new();

#[btf_map]
pub static BACKENDS: HashMap<BackendKey, Backend, { MAX_BACKENDS as usize }> = HashMap::new();

/// The endpoints that clients keep, of services that ask for it.
#[btf_map]
pub static AFFINITY: LruHashMap<AffinityKey, Affinity, { MAX_AFFINITIES as usize }> = LruHashMap::new();

/// Open connections that the agent does not carry and keeps account of, by the socket's cookie.
#[btf_map]
pub static DIRECT: HashMap<u64, Direct, { MAX_DIRECT as usize }> = HashMap::new();

/// Those that ended.
#[btf_map]
pub static CLOSED: RingBuf<Closed, { CLOSED_RING as usize }> = RingBuf::new();

/// Its parity says which of the two tables of datagrams is written. The other one is at rest, and the agent empties it.
#[btf_map]
pub static ROUND: Array<u32, 1> = Array::new();

#[btf_map]
pub static DATAGRAMS_EVEN: HashMap<DatagramKey, Datagrams, { MAX_DATAGRAMS as usize }> = HashMap::new();

#[btf_map]
pub static DATAGRAMS_ODD: HashMap<DatagramKey, Datagrams, { MAX_DATAGRAMS as usize }> = HashMap::new();

#[btf_map]
pub static DATAGRAM_SOCKETS: SkStorage<DatagramSocket> = SkStorage::new();

/// What the kubelet may reach past the agent.
#[btf_map]
pub static PROBES: HashMap<SockAddr, ProbeTarget, { MAX_PROBES as usize }> = HashMap::new();

#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { Counter::ALL.len() }> = PerCpuArray::new();

#[btf_map]
pub static EVENTS: RingBuf<Event, { EVENT_RING as usize }> = RingBuf::new();

/// Id of the cgroup in which the agent runs.
#[unsafe(no_mangle)]
pub static AGENT_CGROUP: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
pub static OUTBOUND_PORT: Global<u32> = Global::new(15001);
#[unsafe(no_mangle)]
pub static HBONE_PORT: Global<u32> = Global::new(15008);
/// sk_lookup is loaded once a pod, with the pod that it serves.
#[unsafe(no_mangle)]
pub static POD_IP4: Global<[u32; 4]> = Global::new([0; 4]);
#[unsafe(no_mangle)]
pub static POD_IP6: Global<[u32; 4]> = Global::new([0; 4]);
#[unsafe(no_mangle)]
pub static POD_NETNS: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
pub static POD_INDEX: Global<u32> = Global::new(MAX_PODS);
#[unsafe(no_mangle)]
pub static POD_EPOCH: Global<u32> = Global::new(0);

/// The maps as the decisions ask them.
pub struct Maps;

impl Lives for Maps {
    #[inline(always)]
    fn epoch(&self, pod: u32) -> Option<u32> {
        EPOCHS.get(pod).copied()
    }

    #[inline(always)]
    fn generation(&self, pod: u32) -> Option<u32> {
        GENERATIONS.get(pod).copied()
    }
}

#[inline(always)]
pub fn count(counter: Counter) {
    count_many(counter, 1);
}

#[inline(always)]
pub fn count_many(counter: Counter, amount: u64) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the slot is aligned and lives as long as the map
        unsafe { add(slot, amount) }
    }
}

/// One instruction: neither another CPU nor a program that preempts this one loses anything of what it counted.
///
/// # Safety
/// `slot` must be in a map's value that the verifier knows, and aligned.
#[inline(always)]
pub unsafe fn add(slot: *mut u64, amount: u64) {
    // SAFETY: by contract
    unsafe { asm!("lock *(u64 *)({slot} + 0) += {amount}", slot = in(reg) slot, amount = in(reg) amount) }
}

/// From now on the [`table`] counts as full, until the agent finds room in it.
#[inline(always)]
pub fn overflowed(table: u32) {
    if let Some(flag) = OVERFLOWED.get_ptr_mut(table) {
        // SAFETY: the slot is aligned and lives as long as the map; programs only ever set it
        unsafe { flag.write_volatile(1) };
    }
}

#[inline(always)]
pub fn is_overflowed(table: u32) -> bool {
    OVERFLOWED.get(table).is_none_or(|flag| *flag != 0)
}

/// The state of a full socket, or null.
///
/// # Safety
/// `sk` must be a socket pointer that the verifier knows.
#[inline(always)]
pub unsafe fn socket_state(sk: *mut bpf_sock) -> *mut SocketState {
    // SAFETY: by contract
    unsafe { bpf_sk_storage_get(sockets(), sk.cast(), core::ptr::null_mut(), 0).cast() }
}

/// Sets the state of a full socket, whatever it held; false: no memory.
///
/// # Safety
/// `sk` must be a socket pointer that the verifier knows.
#[inline(always)]
pub unsafe fn set_socket_state(sk: *mut bpf_sock, state: impl FnOnce() -> SocketState) -> bool {
    // SAFETY: by contract
    let slot = unsafe {
        bpf_sk_storage_get(sockets(), sk.cast(), core::ptr::null_mut(), BPF_SK_STORAGE_GET_F_CREATE.into())
            .cast::<SocketState>()
    };
    if slot.is_null() {
        return false;
    }
    // In place: the stack has no room for another copy.
    // SAFETY: not null, and as large as the map's values
    unsafe { *slot = state() };
    true
}

/// # Safety
/// `sk` must be a socket pointer that the verifier knows.
#[inline(always)]
pub unsafe fn clear_socket_state(sk: *mut bpf_sock) {
    // ENOENT is the usual answer and fine.
    // SAFETY: by contract
    let _ = unsafe { bpf_sk_storage_delete(sockets(), sk.cast()) };
}

#[inline(always)]
fn sockets() -> *mut core::ffi::c_void {
    core::ptr::from_ref(&SOCKETS).cast_mut().cast()
}

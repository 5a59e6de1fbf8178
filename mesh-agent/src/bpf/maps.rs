//! The maps with their types. Writers are serialised; nothing here waits for anything but the kernel.

use std::{
    os::fd::AsRawFd,
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, SkStorage, SockMap};
use mesh_common::abi::{Counter, ListenKey, PodEntry, ProbeTarget, SockAddr, SocketState, table};

use super::programs::{DatapathError, Settings};

/// Names of all maps of the object, as they are pinned. AYA_LOGS is aya-log's.
pub const NAMES: &[&str] = &[
    "PODS",
    "CGROUPS",
    "EPOCHS",
    "LISTENERS",
    "SOCKETS",
    "PENDING",
    "ATTESTED",
    "LISTENING",
    "OVERFLOWED",
    "PROBES",
    "COUNTERS",
    "EVENTS",
    "VERDICTS",
    "GENERATIONS",
    "SERVICES",
    "BACKENDS",
    "AFFINITY",
    "DIRECT",
    "CLOSED",
    "ROUND",
    "DATAGRAMS_EVEN",
    "DATAGRAMS_ODD",
    "DATAGRAM_SOCKETS",
    "AYA_LOGS",
];

pub struct Maps {
    pods: Mutex<HashMap<MapData, u64, PodEntry>>,
    cgroups: Mutex<HashMap<MapData, u64, u32>>,
    epochs: Mutex<Array<MapData, u32>>,
    listeners: Mutex<SockMap<MapData>>,
    sockets: Mutex<SkStorage<MapData, SocketState>>,
    listening: Mutex<HashMap<MapData, ListenKey, u32>>,
    overflowed: Mutex<Array<MapData, u32>>,
    /// The log says that it is so.
    told: AtomicBool,
    /// How often the agent found the table of listening ports full, beside the hooks.
    found_full: AtomicU64,
    probes: Mutex<HashMap<MapData, SockAddr, ProbeTarget>>,
    counters: PerCpuArray<MapData, u64>,
}

impl Maps {
    pub fn open(dir: &Path) -> Result<Self, DatapathError> {
        let pinned = |name: &'static str| MapData::from_pin(dir.join(name)).map_err(|e| DatapathError::map(name, e));
        Ok(Self {
            pods: Mutex::new(typed("PODS", Map::HashMap(pinned("PODS")?))?),
            cgroups: Mutex::new(typed("CGROUPS", Map::HashMap(pinned("CGROUPS")?))?),
            epochs: Mutex::new(typed("EPOCHS", Map::Array(pinned("EPOCHS")?))?),
            listeners: Mutex::new(typed("LISTENERS", Map::SockMap(pinned("LISTENERS")?))?),
            sockets: Mutex::new(typed("SOCKETS", Map::SkStorage(pinned("SOCKETS")?))?),
            listening: Mutex::new(typed("LISTENING", Map::HashMap(pinned("LISTENING")?))?),
            overflowed: Mutex::new(typed("OVERFLOWED", Map::Array(pinned("OVERFLOWED")?))?),
            told: AtomicBool::new(false),
            found_full: AtomicU64::new(0),
            probes: Mutex::new(typed("PROBES", Map::HashMap(pinned("PROBES")?))?),
            counters: typed("COUNTERS", Map::PerCpuArray(pinned("COUNTERS")?))?,
        })
    }

    /// A pinned map keeps the size with which it was made; the log says where another one was asked for.
    pub fn compare_sizes(&self, dir: &Path, settings: &Settings) {
        let asked = [
            ("PENDING", "--max-pending", settings.max_pending),
            ("ATTESTED", "--max-pending", settings.max_pending),
            ("LISTENING", "--max-listening", settings.max_listening),
            ("DIRECT", "--max-direct", settings.max_direct),
            ("VERDICTS", "--max-verdicts", settings.max_verdicts),
            ("DATAGRAMS_EVEN", "--max-datagrams", settings.max_datagrams),
        ];
        for (map, option, asked) in asked {
            let info = MapData::from_pin(dir.join(map)).and_then(|map| map.info());
            if let Some(has) = info.ok().map(|info| info.max_entries()).filter(|has| *has != asked) {
                let why = "a pinned map keeps its size until mesh-agent uninstall";
                tracing::warn!(map, option, asked, has, why);
            }
        }
    }

    pub fn set_pod(&self, netns_cookie: u64, entry: PodEntry) -> Result<(), MapError> {
        lock(&self.pods).insert(netns_cookie, entry, 0)
    }

    /// Removing what is not there is fine.
    pub fn remove_pod(&self, netns_cookie: u64) -> Result<(), MapError> {
        absent_is_fine(lock(&self.pods).remove(&netns_cookie))
    }

    pub fn pods(&self) -> Vec<(u64, PodEntry)> {
        lock(&self.pods).iter().filter_map(Result::ok).collect()
    }

    pub fn pod(&self, netns_cookie: u64) -> Result<Option<PodEntry>, MapError> {
        present(lock(&self.pods).get(&netns_cookie, 0))
    }

    pub fn set_cgroup(&self, id: u64, index: u32) -> Result<(), MapError> {
        lock(&self.cgroups).insert(id, index, 0)
    }

    pub fn cgroups(&self) -> Vec<(u64, u32)> {
        lock(&self.cgroups).iter().filter_map(Result::ok).collect()
    }

    pub fn cgroup(&self, id: u64) -> Result<Option<u32>, MapError> {
        present(lock(&self.cgroups).get(&id, 0))
    }

    pub fn remove_cgroup(&self, id: u64) -> Result<(), MapError> {
        absent_is_fine(lock(&self.cgroups).remove(&id))
    }

    /// By the pod's index: the folder, and with it the id, may be gone before the pod is taken out.
    pub fn remove_cgroups_of(&self, index: u32) -> Result<(), MapError> {
        let mut cgroups = lock(&self.cgroups);
        let own: Vec<u64> =
            cgroups.iter().filter_map(Result::ok).filter(|(_, i)| *i == index).map(|(id, _)| id).collect();
        own.into_iter().try_for_each(|id| absent_is_fine(cgroups.remove(&id)))
    }

    pub fn set_epoch(&self, index: u32, epoch: u32) -> Result<(), MapError> {
        lock(&self.epochs).set(index, epoch, 0)
    }

    pub fn epoch(&self, index: u32) -> Result<u32, MapError> {
        lock(&self.epochs).get(&index, 0)
    }

    pub fn set_listener(&self, index: u32, listener: &impl AsRawFd) -> Result<(), MapError> {
        lock(&self.listeners).set(index, listener, 0)
    }

    pub fn clear_listener(&self, index: u32) -> Result<(), MapError> {
        match lock(&self.listeners).clear_index(&index) {
            // What a sockmap answers for an empty slot (sock_map_delete_elem, net/core/sock_map.c).
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            other => other,
        }
    }

    /// The ports that are listened on in the namespace, as far as the table knows.
    pub fn listening(&self, netns: u64) -> Vec<u32> {
        lock(&self.listening)
            .keys()
            .filter_map(Result::ok)
            .filter(|key| key.netns == netns)
            .map(|key| key.port)
            .collect()
    }

    /// `false`: the table is full, and from then on a port that is not in it may be open.
    pub fn add_listening(&self, netns: u64, port: u32, index: u32) -> Result<bool, MapError> {
        match lock(&self.listening).insert(ListenKey { netns, port, zero: 0 }, index, 0) {
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::E2BIG) => {
                self.overflow().map(|()| false)
            }
            other => other.map(|()| true),
        }
    }

    pub fn is_listening(&self, netns: u64, port: u32) -> Result<bool, MapError> {
        present(lock(&self.listening).get(&ListenKey { netns, port, zero: 0 }, 0)).map(|value| value.is_some())
    }

    /// All ports that are listened on, by namespace.
    pub fn all_listening(&self) -> Vec<(u64, u32)> {
        lock(&self.listening).keys().filter_map(Result::ok).map(|key| (key.netns, key.port)).collect()
    }

    pub fn remove_listening(&self, netns: u64, port: u32) -> Result<(), MapError> {
        absent_is_fine(lock(&self.listening).remove(&ListenKey { netns, port, zero: 0 }))
    }

    fn overflow(&self) -> Result<(), MapError> {
        if !self.overflowed()? {
            self.found_full.fetch_add(1, Ordering::Relaxed);
        }
        lock(&self.overflowed).set(table::LISTENING, 1, 0)?;
        self.tell_overflow();
        Ok(())
    }

    /// A port that is not in the table of listening ports may be open, in every pod.
    pub fn overflowed(&self) -> Result<bool, MapError> {
        let overflowed = self.flag(table::LISTENING)?;
        if overflowed {
            // A hook may have found out.
            self.tell_overflow();
        }
        Ok(overflowed)
    }

    /// A [`table`] was full.
    pub fn flag(&self, table: u32) -> Result<bool, MapError> {
        Ok(lock(&self.overflowed).get(&table, 0)? != 0)
    }

    pub fn clear_flag(&self, table: u32) -> Result<(), MapError> {
        lock(&self.overflowed).set(table, 0, 0)
    }

    fn tell_overflow(&self) {
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the table LISTENING is full (--max-listening): closed ports of pods look open until it is not"
            );
        }
    }

    /// The table holds every port that is listened on.
    pub fn clear_overflow(&self) -> Result<(), MapError> {
        self.clear_flag(table::LISTENING)?;
        if self.told.swap(false, Ordering::Relaxed) {
            tracing::info!("the table LISTENING has room for every port again");
        }
        Ok(())
    }

    pub fn set_probe(&self, at: SockAddr, target: ProbeTarget) -> Result<(), MapError> {
        lock(&self.probes).insert(at, target, 0)
    }

    /// Those of the pod's index that `stay` does not name.
    pub fn remove_probes(&self, index: u32, stay: &[SockAddr]) -> Result<(), MapError> {
        let mut probes = lock(&self.probes);
        let gone: Vec<SockAddr> = probes
            .iter()
            .filter_map(Result::ok)
            .filter(|(at, target)| target.index == index && !stay.contains(at))
            .map(|(at, _)| at)
            .collect();
        gone.into_iter().try_for_each(|at| absent_is_fine(probes.remove(&at)))
    }

    pub fn socket_state(&self, socket: &impl AsRawFd) -> Result<Option<SocketState>, MapError> {
        present(lock(&self.sockets).get(socket, 0))
    }

    pub fn set_socket_state(&self, socket: &impl AsRawFd, state: SocketState) -> Result<(), MapError> {
        lock(&self.sockets).insert(socket, state, 0)
    }

    pub fn probes(&self) -> Vec<(SockAddr, ProbeTarget)> {
        lock(&self.probes).iter().filter_map(Result::ok).collect()
    }

    /// Summed over CPUs.
    pub fn counter(&self, counter: Counter) -> u64 {
        let hooks: u64 = self.counters.get(&(counter as u32), 0).map_or(0, |values| values.iter().sum());
        match counter {
            Counter::ListeningFull => hooks + self.found_full.load(Ordering::Relaxed),
            _ => hooks,
        }
    }
}

pub(super) fn typed<T: TryFrom<Map, Error = MapError>>(name: &'static str, map: Map) -> Result<T, DatapathError> {
    T::try_from(map).map_err(|e| DatapathError::map(name, e))
}

pub(super) fn present<V>(found: Result<V, MapError>) -> Result<Option<V>, MapError> {
    match found {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(e) => Err(e),
    }
}

pub(super) fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// A panic while a map was written leaves nothing half done: each write is one system call.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

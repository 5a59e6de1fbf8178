//! The maps by which the kernel decides itself: endpoints of services, verdicts and their generations, and the
//! connections that no agent carries.

use std::{path::Path, sync::Mutex, time::Duration};

use aya::maps::{Array, HashMap, Map, MapData, MapError, RingBuf};
use mesh_common::abi::{
    Affinity, AffinityKey, Backend, BackendKey, Direct, NO_LIST, Service, SockAddr, Verdict, VerdictKey, table,
};

use super::{
    events::since_boot,
    maps::{absent_is_fine, lock, present, typed},
    programs::{Datapath, DatapathError},
};

/// Open, and writers serialised by a lock each.
pub(super) struct DirectMaps {
    verdicts: Mutex<HashMap<MapData, VerdictKey, Verdict>>,
    generations: Mutex<Array<MapData, u32>>,
    services: Mutex<HashMap<MapData, SockAddr, Service>>,
    backends: Mutex<HashMap<MapData, BackendKey, Backend>>,
    affinity: Mutex<HashMap<MapData, AffinityKey, Affinity>>,
    direct: Mutex<HashMap<MapData, u64, Direct>>,
    max_direct: u32,
}

impl DirectMaps {
    pub fn open(dir: &Path) -> Result<Self, DatapathError> {
        let pinned = |name: &'static str| MapData::from_pin(dir.join(name)).map_err(|e| DatapathError::map(name, e));
        let direct = pinned("DIRECT")?;
        let max_direct = direct.info().map_err(|e| DatapathError::map("DIRECT", e))?.max_entries();
        Ok(Self {
            max_direct,
            verdicts: Mutex::new(typed("VERDICTS", Map::HashMap(pinned("VERDICTS")?))?),
            generations: Mutex::new(typed("GENERATIONS", Map::Array(pinned("GENERATIONS")?))?),
            services: Mutex::new(typed("SERVICES", Map::HashMap(pinned("SERVICES")?))?),
            backends: Mutex::new(typed("BACKENDS", Map::HashMap(pinned("BACKENDS")?))?),
            affinity: Mutex::new(typed("AFFINITY", Map::LruHashMap(pinned("AFFINITY")?))?),
            direct: Mutex::new(typed("DIRECT", Map::HashMap(direct))?),
        })
    }
}

/// Now, by the clock of leases: nanoseconds since boot.
pub fn kernel_now() -> u64 {
    u64::try_from(since_boot().as_nanos()).unwrap_or(u64::MAX)
}

/// The length of a lease in the unit of that clock.
pub fn nanoseconds(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

impl Datapath {
    /// `false`: the table is full, and the agent carries such connections.
    pub fn set_verdict(&self, key: &VerdictKey, verdict: Verdict) -> Result<bool, DatapathError> {
        room(lock(&self.direct.verdicts).insert(key, verdict.sealed(key), 0), "VERDICTS")
    }

    pub fn remove_verdict(&self, key: &VerdictKey) -> Result<(), DatapathError> {
        absent_is_fine(lock(&self.direct.verdicts).remove(key)).map_err(|e| DatapathError::map("VERDICTS", e))
    }

    pub fn verdict(&self, key: &VerdictKey) -> Option<Verdict> {
        lock(&self.direct.verdicts).get(key, 0).ok()
    }

    pub fn verdicts(&self) -> Vec<(VerdictKey, Verdict)> {
        lock(&self.direct.verdicts).iter().filter_map(Result::ok).collect()
    }

    /// The generation of the decisions about a pod; 0: none was decided yet.
    pub fn generation(&self, pod: u32) -> Result<u32, DatapathError> {
        lock(&self.direct.generations).get(&pod, 0).map_err(|e| DatapathError::map("GENERATIONS", e))
    }

    pub fn set_generation(&self, pod: u32, generation: u32) -> Result<(), DatapathError> {
        lock(&self.direct.generations).set(pod, generation, 0).map_err(|e| DatapathError::map("GENERATIONS", e))
    }

    pub fn services(&self) -> Vec<(SockAddr, Service)> {
        lock(&self.direct.services).iter().filter_map(Result::ok).collect()
    }

    /// `false`: the table is full, and the agent chooses the endpoints of this service.
    pub fn set_service(&self, at: SockAddr, service: Service) -> Result<bool, DatapathError> {
        room(lock(&self.direct.services).insert(at, service, 0), "SERVICES")
    }

    pub fn remove_service(&self, at: SockAddr) -> Result<(), DatapathError> {
        absent_is_fine(lock(&self.direct.services).remove(&at)).map_err(|e| DatapathError::map("SERVICES", e))
    }

    /// The list of endpoints with this id, which no service names yet. `false`: the table is full, and nothing of the
    /// list stays in it.
    pub fn add_backends(&self, id: u32, service: SockAddr, addresses: &[SockAddr]) -> Result<bool, DatapathError> {
        let mut backends = lock(&self.direct.backends);
        for (slot, address) in (0..).zip(addresses) {
            let added =
                room(backends.insert(BackendKey { id, slot }, Backend { address: *address, service }, 0), "BACKENDS");
            if !matches!(added, Ok(true)) {
                for slot in 0..slot {
                    let _ = backends.remove(&BackendKey { id, slot });
                }
                return added;
            }
        }
        Ok(true)
    }

    pub fn remove_backends(&self, id: u32, count: u32) -> Result<(), DatapathError> {
        let mut backends = lock(&self.direct.backends);
        (0..count)
            .try_for_each(|slot| absent_is_fine(backends.remove(&BackendKey { id, slot })))
            .map_err(|e| DatapathError::map("BACKENDS", e))
    }

    pub fn remove_backend(&self, key: BackendKey) -> Result<(), DatapathError> {
        absent_is_fine(lock(&self.direct.backends).remove(&key)).map_err(|e| DatapathError::map("BACKENDS", e))
    }

    /// Every place of every list of endpoints.
    pub fn backend_ids(&self) -> Vec<BackendKey> {
        lock(&self.direct.backends).keys().filter_map(Result::ok).collect()
    }

    /// The endpoint that a client keeps of a service, if it does.
    pub fn kept(&self, key: &AffinityKey) -> Result<Option<Affinity>, DatapathError> {
        present(lock(&self.direct.affinity).get(key, 0)).map_err(|e| DatapathError::map("AFFINITY", e))
    }

    /// From now on the client, in this life of its slot, keeps that endpoint, which is probably at this place of the
    /// list that the kernel has. Where it is not, the kernel will ask again.
    pub fn keep(&self, key: &AffinityKey, epoch: u32, endpoint: SockAddr, slot: u32) -> Result<(), DatapathError> {
        let list = present(lock(&self.direct.services).get(&key.service, 0))
            .map_err(|e| DatapathError::map("SERVICES", e))?
            .map_or(NO_LIST, |service| service.id);
        let there = present(lock(&self.direct.backends).get(&BackendKey { id: list, slot }, 0))
            .map_err(|e| DatapathError::map("BACKENDS", e))?;
        let is_there = there.is_some_and(|there| there.address == endpoint && there.service == key.service);
        let list = if is_there { list } else { NO_LIST };
        let kept = Affinity { used: kernel_now(), epoch, list, slot, endpoint };
        lock(&self.direct.affinity).insert(key, kept, 0).map_err(|e| DatapathError::map("AFFINITY", e))
    }

    /// The connections that no agent carries and that are open, by the cookies of their sockets.
    pub fn direct_connections(&self) -> Vec<(u64, Direct)> {
        lock(&self.direct.direct).iter().filter_map(Result::ok).collect()
    }

    /// How many of them the table holds at most.
    pub fn max_direct(&self) -> u32 {
        self.direct.max_direct
    }

    /// Connections that could be direct go through the agent, since the table was full.
    pub fn direct_full(&self) -> Result<bool, DatapathError> {
        self.maps.flag(table::DIRECT).map_err(|e| DatapathError::map("OVERFLOWED", e))
    }

    /// There is room in it again.
    pub fn direct_has_room(&self) -> Result<(), DatapathError> {
        self.maps.clear_flag(table::DIRECT).map_err(|e| DatapathError::map("OVERFLOWED", e))
    }

    /// The ring of connections that ended; one reader only.
    pub fn closed(&self) -> Result<RingBuf<MapData>, DatapathError> {
        let data = MapData::from_pin(self.dir.join("maps/CLOSED")).map_err(|e| DatapathError::map("CLOSED", e))?;
        RingBuf::try_from(Map::RingBuf(data)).map_err(|e| DatapathError::map("CLOSED", e))
    }
}

/// Whether the table had room.
fn room(written: Result<(), MapError>, name: &'static str) -> Result<bool, DatapathError> {
    match written {
        Ok(()) => Ok(true),
        Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::E2BIG) => Ok(false),
        Err(e) => Err(DatapathError::map(name, e)),
    }
}

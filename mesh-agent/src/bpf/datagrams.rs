//! The two tables of datagrams. Programs write one of them, for a round; the other one is at rest, and is emptied here.
//! So nothing that is taken out can change any more, and nothing is told twice, by which agent ever.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    sync::Mutex,
};

use aya::maps::{Array, Map, MapData};
use mesh_common::abi::{DatagramKey, Datagrams, Ip, MAX_DATAGRAMS};

use super::{
    link::bpf,
    maps::{lock, typed},
    programs::{Datapath, DatapathError},
};

/// enum bpf_cmd, include/uapi/linux/bpf.h
const BPF_MAP_LOOKUP_AND_DELETE_BATCH: libc::c_long = 25;
/// Entries that one call takes at least: more than a bucket of the kernel's table ever has.
const BATCH: usize = 2048;
const TABLES: [&str; 2] = ["DATAGRAMS_EVEN", "DATAGRAMS_ODD"];

/// Open, the writer of the round serialised.
pub(super) struct DatagramMaps {
    round: Mutex<Array<MapData, u32>>,
    tables: [MapData; 2],
}

/// `union bpf_attr` of the commands that handle many entries
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

impl DatagramMaps {
    pub fn open(dir: &Path) -> Result<Self, DatapathError> {
        let pinned = |name: &'static str| MapData::from_pin(dir.join(name)).map_err(|e| DatapathError::map(name, e));
        Ok(Self {
            round: Mutex::new(typed("ROUND", Map::Array(pinned("ROUND")?))?),
            tables: [pinned(TABLES[0])?, pinned(TABLES[1])?],
        })
    }
}

impl Datapath {
    /// What passed in the round before the one that runs, each pair once; another round begins. To be called by one
    /// task of one agent, with pauses that are longer than a program ever takes.
    ///
    /// # Errors
    /// The kernel does not give it; what is not taken stays, and the round goes on.
    pub fn take_datagrams(&self) -> Result<Vec<(DatagramKey, Datagrams)>, DatapathError> {
        let failed = |e| DatapathError::map("ROUND", e);
        let mut word = lock(&self.datagrams.round);
        let round = word.get(&0, 0).map_err(failed)?;
        // The one that is not written.
        let resting = usize::from(round & 1 == 0);
        let taken = take_all(&self.datagrams.tables[resting])
            .map_err(|e| DatapathError::io("empty the table", TABLES[resting].as_ref(), e))?;
        word.set(0, round.wrapping_add(1), 0).map_err(failed)?;
        Ok(taken)
    }
}

/// Every entry; none is left.
fn take_all(table: &MapData) -> io::Result<Vec<(DatagramKey, Datagrams)>> {
    let no_key = DatagramKey { pod: 0, epoch: 0, role: 0, port: 0, remote: Ip::NONE };
    let (mut keys, mut values) = (vec![no_key; BATCH], vec![Datagrams::NONE; BATCH]);
    let mut taken = Vec::new();
    // A bucket's number, which the kernel hands from call to call.
    let mut place = 0_u32;
    let mut begun = false;
    loop {
        let mut batch = Batch {
            in_batch: if begun { (&raw const place) as u64 } else { 0 },
            out_batch: (&raw mut place) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: keys.len() as u32,
            map_fd: table.fd().as_fd().as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        let last = match bpf(BPF_MAP_LOOKUP_AND_DELETE_BATCH, &mut batch) {
            Ok(_) => false,
            // The end of the table; what was found before it is there.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => true,
            // A bucket has more.
            Err(e) if e.raw_os_error() == Some(libc::ENOSPC) && keys.len() < MAX_DATAGRAMS as usize => {
                let more = keys.len() * 2;
                keys.resize(more, no_key);
                values.resize(more, Datagrams::NONE);
                continue;
            }
            Err(e) if taken.is_empty() => return Err(e),
            // What is left is taken another time.
            Err(_) => return Ok(taken),
        };
        begun = true;
        let count = (batch.count as usize).min(keys.len());
        taken.extend(keys.iter().copied().zip(values.iter().copied()).take(count));
        if last {
            return Ok(taken);
        }
    }
}

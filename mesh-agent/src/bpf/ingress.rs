//! The one program that is loaded for each pod: parsed and linked once, so that a pod costs its own constants, the
//! verifier's run and a link, and not a reading of the object and of the kernel's types.

use std::{
    collections::{HashMap, HashSet},
    io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
    path::Path,
};

use aya::EbpfError;
use aya_obj::{EbpfSectionKind, Object, generated::bpf_insn};
use mesh_common::abi::PodEntry;

use super::{
    link::{bpf, create_fd, open_pinned, pin, replace},
    maps::NAMES,
    programs::{DatapathError, OBJECT, Settings},
};

const NAME: &str = "ingress";

// enum bpf_cmd, bpf_map_type, bpf_prog_type, bpf_attach_type and flags, include/uapi/linux/bpf.h
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_MAP_FREEZE: libc::c_long = 22;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_F_RDONLY_PROG: u32 = 1 << 7;
const BPF_PROG_TYPE_SK_LOOKUP: u32 = 30;
const BPF_SK_LOOKUP: u32 = 36;
const BPF_LD_IMM64: u8 = 0x18;
const BPF_PSEUDO_MAP_VALUE: u8 = 2;

/// The verifier gives up with EAGAIN if a signal arrives (bpf_check).
const LOAD_ATTEMPTS: usize = 5;

/// `union bpf_attr` of BPF_MAP_CREATE
#[repr(C)]
#[derive(Default)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// `union bpf_attr` of BPF_MAP_UPDATE_ELEM
#[repr(C)]
#[derive(Default)]
struct MapUpdate {
    map_fd: u32,
    _padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `union bpf_attr` of BPF_MAP_FREEZE
#[repr(C)]
struct MapFreeze {
    map_fd: u32,
}

/// `union bpf_attr` of BPF_PROG_LOAD
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// `union bpf_attr` of BPF_LINK_CREATE
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// The linked program. What differs between pods are the constants that it reads.
pub struct Ingress {
    /// With the settings in its constants; the code is taken out.
    object: Object,
    /// Descriptors of shared maps are in them already; those of constants are [`Ingress::constants`]' stand-ins.
    instructions: Vec<bpf_insn>,
    /// Maps of constants, by name, with the number that stands for its descriptor.
    constants: Vec<(String, RawFd)>,
    /// Keeps the descriptors in the instructions alive.
    _maps: Vec<OwnedFd>,
}

impl Ingress {
    /// `maps` is the folder of the pinned maps, all of which exist.
    pub fn link(maps: &Path, settings: &Settings) -> Result<Self, DatapathError> {
        let mut object = Object::parse(OBJECT).map_err(failed)?;
        let agent_cgroup = settings.agent_cgroup.to_ne_bytes();
        let outbound_port = u32::from(settings.outbound_port).to_ne_bytes();
        let hbone_port = u32::from(settings.hbone_port).to_ne_bytes();
        let globals: [(&str, (&[u8], bool)); 3] = [
            ("AGENT_CGROUP", (&agent_cgroup, true)),
            ("OUTBOUND_PORT", (&outbound_port, true)),
            ("HBONE_PORT", (&hbone_port, true)),
        ];
        object.patch_map_data(HashMap::from(globals)).map_err(failed)?;
        let (mut descriptors, mut held, mut constants) = (HashMap::new(), Vec::new(), Vec::new());
        for (name, map) in &object.maps {
            let fd = if NAMES.contains(&name.as_str()) {
                let path = maps.join(name);
                let map = open_pinned(&path).map_err(|e| DatapathError::io("open", &path, e))?;
                held.push(map);
                held.last().map_or(-1, |map| map.as_raw_fd())
            } else if map.section_kind() == EbpfSectionKind::Rodata {
                let stand_in = RawFd::MAX - constants.len() as RawFd;
                constants.push((name.clone(), stand_in));
                stand_in
            } else {
                return Err(DatapathError::Missing("only shared maps and constants"));
            };
            descriptors.insert(name.clone(), fd);
        }
        let mut linked = object.clone();
        let code: HashSet<usize> = linked.functions.keys().map(|(section, _)| *section).collect();
        let maps = object.maps.iter().map(|(name, map)| (name.as_str(), descriptors[name], map));
        linked.relocate_maps(maps, &code).map_err(failed)?;
        linked.relocate_calls(&code).map_err(failed)?;
        let program = linked.programs.get(NAME).ok_or(DatapathError::Missing(NAME))?;
        let function = linked.functions.get(&program.function_key()).ok_or(DatapathError::Missing(NAME))?;
        let instructions = function.instructions.clone();
        object.functions.clear();
        object.programs.clear();
        (object.btf, object.btf_ext) = (None, None);
        object.maps.retain(|name, _| constants.iter().any(|(constant, _)| constant == name));
        Ok(Self { object, instructions, constants, _maps: held })
    }

    /// Steers what arrives in the namespace by the pod's own copy of the program, from the link pinned at `path`.
    pub fn attach(
        &self,
        path: &Path,
        netns: BorrowedFd<'_>,
        netns_cookie: u64,
        pod: PodEntry,
    ) -> Result<(), DatapathError> {
        let program = self.load(netns_cookie, pod)?;
        if replace(path, &program, None)? {
            return Ok(());
        }
        let mut attr = LinkCreate {
            prog_fd: program.as_raw_fd() as u32,
            target_fd: netns.as_raw_fd() as u32,
            attach_type: BPF_SK_LOOKUP,
            flags: 0,
        };
        let link =
            create_fd(BPF_LINK_CREATE, &mut attr).map_err(|e| DatapathError::io("attach a program for", path, e))?;
        // The pin keeps the link; the descriptor may go.
        pin(&link, path).map_err(|e| DatapathError::io("pin", path, e))
    }

    fn load(&self, netns_cookie: u64, pod: PodEntry) -> Result<OwnedFd, DatapathError> {
        let mut object = self.object.clone();
        let (ip4, ip6) = (bytes(pod.ip4.0), bytes(pod.ip6.0));
        let (netns, index, epoch) = (netns_cookie.to_ne_bytes(), pod.index.to_ne_bytes(), pod.epoch.to_ne_bytes());
        let globals: [(&str, (&[u8], bool)); 5] = [
            ("POD_IP4", (&ip4, true)),
            ("POD_IP6", (&ip6, true)),
            ("POD_NETNS", (&netns, true)),
            ("POD_INDEX", (&index, true)),
            ("POD_EPOCH", (&epoch, true)),
        ];
        object.patch_map_data(HashMap::from(globals)).map_err(failed)?;
        let mut instructions = self.instructions.clone();
        let mut held = Vec::new();
        for (name, stand_in) in &self.constants {
            let data = object.maps.get(name).map_or(&[][..], |map| map.data());
            let map = constants(data).map_err(|e| DatapathError::io("make the map", Path::new(name), e))?;
            let of_it =
                |i: &&mut bpf_insn| i.code == BPF_LD_IMM64 && i.src_reg() == BPF_PSEUDO_MAP_VALUE && i.imm == *stand_in;
            instructions.iter_mut().filter(of_it).for_each(|i| i.imm = map.as_raw_fd());
            held.push(map);
        }
        program(&instructions, &object.license).map_err(|e| DatapathError::io("load", Path::new(NAME), e))
    }
}

/// An array of one value that nobody can change any more, so that the verifier knows it.
fn constants(data: &[u8]) -> io::Result<OwnedFd> {
    let mut attr = MapCreate {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: size_of::<u32>() as u32,
        value_size: data.len() as u32,
        max_entries: 1,
        map_flags: BPF_F_RDONLY_PROG,
    };
    let map = create_fd(BPF_MAP_CREATE, &mut attr)?;
    let key: u32 = 0;
    let mut attr = MapUpdate {
        map_fd: map.as_raw_fd() as u32,
        key: (&raw const key) as u64,
        value: data.as_ptr() as u64,
        ..MapUpdate::default()
    };
    bpf(BPF_MAP_UPDATE_ELEM, &mut attr)?;
    bpf(BPF_MAP_FREEZE, &mut MapFreeze { map_fd: map.as_raw_fd() as u32 })?;
    Ok(map)
}

fn program(instructions: &[bpf_insn], license: &std::ffi::CStr) -> io::Result<OwnedFd> {
    let mut prog_name = [0; 16];
    prog_name[..NAME.len()].copy_from_slice(NAME.as_bytes());
    let mut attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_SK_LOOKUP,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        prog_name,
        expected_attach_type: BPF_SK_LOOKUP,
        ..ProgLoad::default()
    };
    let mut attempts = 0;
    loop {
        attempts += 1;
        match create_fd(BPF_PROG_LOAD, &mut attr) {
            Err(e) if e.raw_os_error() == Some(libc::EAGAIN) && attempts < LOAD_ATTEMPTS => {}
            other => return other,
        }
    }
}

/// Words that are in network byte order already.
fn bytes(words: [u32; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (bytes, word) in bytes.chunks_exact_mut(4).zip(words) {
        bytes.copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

fn failed(e: impl Into<EbpfError>) -> DatapathError {
    DatapathError::Load(Box::new(e.into()))
}

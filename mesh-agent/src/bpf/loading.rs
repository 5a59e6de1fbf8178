//! From the object to pinned maps and links, and back: loads and attaches what all pods share, and takes it all away.

use std::{
    fs, io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSockAddr, Program, ProgramError, SkLookup, SockOps,
        links::{FdLink, LinkError},
    },
};
use mesh_common::abi::LAYOUT_VERSION;

use super::{
    link::attach_or_replace,
    maps::NAMES,
    programs::{ADDRESS_HOOKS, DatapathError, OBJECT, PACKET_HOOKS, SOCKET_EVENTS, Settings},
};

/// include/uapi/linux/magic.h
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Removes every link and map of an agent, of any layout; how many. What they were attached to is free at once.
/// Touches nothing but `v<layout>/{links,maps}`, and only on a bpf file system.
pub fn uninstall(bpffs: &Path) -> io::Result<usize> {
    if !bpffs.exists() {
        return Ok(0);
    }
    if rustix::fs::statfs(bpffs)?.f_type as u64 != BPF_FS_MAGIC {
        return Err(io::Error::other("it is not on a bpf file system"));
    }
    let mut removed = 0;
    for layout in fs::read_dir(bpffs)? {
        let layout = layout?;
        let name = layout.file_name();
        let version = name.to_str().and_then(|name| name.strip_prefix('v'));
        if version.is_none_or(|v| v.parse::<u32>().is_err()) || !layout.file_type()?.is_dir() {
            continue;
        }
        // Links first: what they were attached to must not run with half of its maps.
        for folder in ["links", "maps"] {
            removed += remove_pins(&layout.path().join(folder))?;
        }
        fs::remove_dir(layout.path())?;
    }
    // Not ours alone if something else is left in it.
    let _ = fs::remove_dir(bpffs);
    Ok(removed)
}

fn remove_pins(folder: &Path) -> io::Result<usize> {
    let entries = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries?,
    };
    let mut removed = 0;
    for entry in entries {
        fs::remove_file(entry?.path())?;
        removed += 1;
    }
    fs::remove_dir(folder)?;
    Ok(removed)
}

pub(super) fn layout_dir(bpffs: &Path) -> PathBuf {
    bpffs.join(format!("v{LAYOUT_VERSION}"))
}

/// The programs of the pods' cgroup, checked by the kernel.
pub(super) fn load_shared(dir: &Path, settings: &Settings) -> Result<Ebpf, DatapathError> {
    let mut ebpf = load_object(dir, settings)?;
    for name in ADDRESS_HOOKS {
        let program: &mut CgroupSockAddr = program(&mut ebpf, name)?;
        program.load().map_err(|e| DatapathError::program("load", Path::new(name), e))?;
    }
    for name in PACKET_HOOKS {
        let program: &mut CgroupSkb = program(&mut ebpf, name)?;
        program.load().map_err(|e| DatapathError::program("load", Path::new(name), e))?;
    }
    let sockops: &mut SockOps = program(&mut ebpf, SOCKET_EVENTS)?;
    sockops.load().map_err(|e| DatapathError::program("load", Path::new(SOCKET_EVENTS), e))?;
    // Only to hear here, with the verifier's words, if a pod's program would not load.
    let trial: &mut SkLookup = program(&mut ebpf, "ingress")?;
    trial.load().map_err(|e| DatapathError::program("load", Path::new("ingress"), e))?;
    Ok(ebpf)
}

/// The hooks of the pods' cgroup: those of an earlier agent get the new programs.
pub(super) fn attach_shared(ebpf: &mut Ebpf, dir: &Path, settings: &Settings) -> Result<(), DatapathError> {
    let cgroup = fs::File::open(&settings.cgroup).map_err(|e| DatapathError::io("open", &settings.cgroup, e))?;
    // A cgroup's id is the inode number of its folder.
    let cgroup_id = cgroup.metadata().map_err(|e| DatapathError::io("read", &settings.cgroup, e))?.ino();
    for name in ADDRESS_HOOKS {
        let program: &mut CgroupSockAddr = program(ebpf, name)?;
        let fd = fd_of(program.fd(), name)?;
        attach_or_replace(&dir.join("links").join(name), fd.as_fd(), Some(cgroup_id), || {
            // No flags: a bpf_link of a cgroup allows others beside it anyway (cgroup_bpf_link_attach).
            let id = program.attach(&cgroup, CgroupAttachMode::Single)?;
            fd_link(program.take_link(id)?.try_into())
        })?;
    }
    for name in PACKET_HOOKS {
        let program: &mut CgroupSkb = program(ebpf, name)?;
        let way = (*program.expected_attach_type()).ok_or(DatapathError::Missing(name))?;
        let fd = fd_of(program.fd(), name)?;
        attach_or_replace(&dir.join("links").join(name), fd.as_fd(), Some(cgroup_id), || {
            let id = program.attach(&cgroup, way, CgroupAttachMode::Single)?;
            fd_link(program.take_link(id)?.try_into())
        })?;
    }
    let sockops: &mut SockOps = program(ebpf, SOCKET_EVENTS)?;
    let fd = fd_of(sockops.fd(), SOCKET_EVENTS)?;
    attach_or_replace(&dir.join("links").join(SOCKET_EVENTS), fd.as_fd(), Some(cgroup_id), || {
        let id = sockops.attach(&cgroup, CgroupAttachMode::Single)?;
        fd_link(sockops.take_link(id)?.try_into())
    })
}

/// Parses the object with its maps bound to the pinned ones.
pub(super) fn load_object(dir: &Path, settings: &Settings) -> Result<Ebpf, DatapathError> {
    let (outbound, hbone) = (u32::from(settings.outbound_port), u32::from(settings.hbone_port));
    let mut loader = EbpfLoader::new();
    for name in NAMES {
        loader.map_pin_path(name, dir.join("maps").join(name));
    }
    loader
        .map_max_entries("PENDING", settings.max_pending)
        .map_max_entries("ATTESTED", settings.max_pending)
        .map_max_entries("LISTENING", settings.max_listening)
        .map_max_entries("DIRECT", settings.max_direct)
        .map_max_entries("VERDICTS", settings.max_verdicts)
        .map_max_entries("DATAGRAMS_EVEN", settings.max_datagrams)
        .map_max_entries("DATAGRAMS_ODD", settings.max_datagrams)
        .override_global("AGENT_CGROUP", &settings.agent_cgroup, true)
        .override_global("OUTBOUND_PORT", &outbound, true)
        .override_global("HBONE_PORT", &hbone, true);
    loader.load(OBJECT).map_err(|e| DatapathError::Load(Box::new(e)))
}

pub(super) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, DatapathError>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    ebpf.program_mut(name).and_then(|p| p.try_into().ok()).ok_or(DatapathError::Missing(name))
}

pub(super) fn fd_of(
    fd: Result<&aya::programs::ProgramFd, ProgramError>,
    name: &str,
) -> Result<std::os::fd::OwnedFd, DatapathError> {
    let fd = fd.map_err(|e| DatapathError::program("load", Path::new(name), e))?;
    fd.as_fd().try_clone_to_owned().map_err(|e| DatapathError::io("clone the descriptor of", Path::new(name), e))
}

/// Kernels before 5.7 have no links; they are not supported anyway.
pub(super) fn fd_link(link: Result<FdLink, LinkError>) -> Result<FdLink, ProgramError> {
    link.map_err(|_| ProgramError::NotAttached)
}

//! Attaches a program through a pinned bpf_link, or swaps the program of the link that an earlier agent pinned: then
//! there is no moment without a program and none with two.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use aya::programs::{ProgramError, links::FdLink};

use super::programs::DatapathError;

// enum bpf_cmd, include/uapi/linux/bpf.h
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_UPDATE: libc::c_long = 29;

// enum bpf_link_type, likewise
const LINK_TYPE_CGROUP: u32 = 3;
const LINK_TYPE_NETNS: u32 = 5;

/// `union bpf_attr` of BPF_OBJ_GET and BPF_OBJ_PIN
#[repr(C)]
#[derive(Default)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `union bpf_attr` of BPF_LINK_UPDATE
#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// `union bpf_attr` of BPF_OBJ_GET_INFO_BY_FD
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The first words of `struct bpf_link_info`; what follows `prog_id` depends on the kind.
#[repr(C)]
#[derive(Default)]
struct RawInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    _padding: u32,
    // A cgroup's id and then the type, or a namespace's inode and the type.
    words: [u32; 4],
}

/// What a pinned link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A cgroup, by its id; 0: it is gone.
    Cgroup(u64),
    /// A network namespace, by its inode; 0: it is gone.
    Netns(u32),
    /// Nothing of ours.
    Other,
}

/// Makes `program` the one that the link pinned at `path` runs; `attach` makes the link if there is none, or if what
/// it was attached to is gone. A link to another cgroup than `cgroup` (its id) is not ours to keep: the pods' sockets
/// would pass it by.
pub fn attach_or_replace(
    path: &Path,
    program: BorrowedFd<'_>,
    cgroup: Option<u64>,
    attach: impl FnOnce() -> Result<FdLink, ProgramError>,
) -> Result<(), DatapathError> {
    if replace(path, program, cgroup)? {
        return Ok(());
    }
    let link = attach().map_err(|e| DatapathError::program("attach", path, e))?;
    // The pin keeps the link; the descriptor may go.
    link.pin(path).map_err(|e| DatapathError::Pin { path: path.to_owned(), source: Box::new(e) })?;
    Ok(())
}

/// The first half of [`attach_or_replace`]: `false` if there is no link, or no longer one that could be used.
pub fn replace(path: &Path, program: impl AsFd, cgroup: Option<u64>) -> Result<bool, DatapathError> {
    let elsewhere = |link: &OwnedFd| match cgroup {
        Some(want) => attached_cgroup(link.as_fd()).map(|is| is != want),
        None => Ok(false),
    };
    match open_pinned(path) {
        Ok(link) if elsewhere(&link).map_err(|e| DatapathError::io("look at the link", path, e))? => {
            std::fs::remove_file(path).map_err(|e| DatapathError::io("remove", path, e))?;
        }
        Ok(link) => match update(link.as_fd(), program.as_fd()) {
            Ok(()) => return Ok(true),
            // The cgroup or the namespace of the old link is gone (ENOLINK), and with it its effect.
            Err(e) if e.raw_os_error() == Some(libc::ENOLINK) => {
                std::fs::remove_file(path).map_err(|e| DatapathError::io("remove", path, e))?;
            }
            Err(e) => return Err(DatapathError::io("update the link", path, e)),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(DatapathError::io("open the link", path, e)),
    }
    Ok(false)
}

pub fn open_pinned(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    create_fd(BPF_OBJ_GET, &mut ObjGet { pathname: name.as_ptr() as u64, ..ObjGet::default() })
}

pub fn pin(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjGet { pathname: name.as_ptr() as u64, bpf_fd: object.as_raw_fd() as u32, file_flags: 0 };
    bpf(BPF_OBJ_PIN, &mut attr).map(drop)
}

/// For commands that answer a new descriptor.
pub fn create_fd<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the kernel just gave this descriptor to us alone
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn attached_cgroup(link: BorrowedFd<'_>) -> io::Result<u64> {
    match target(link)? {
        Target::Cgroup(id) => Ok(id),
        Target::Netns(_) | Target::Other => Err(io::Error::other("it is no link to a cgroup")),
    }
}

/// What the link pinned at `path` is attached to; `None`: nothing is pinned there.
pub fn pinned_target(path: &Path) -> io::Result<Option<Target>> {
    match open_pinned(path) {
        Ok(link) => target(link.as_fd()).map(Some),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn target(link: BorrowedFd<'_>) -> io::Result<Target> {
    let mut info = RawInfo::default();
    let mut attr = GetInfo {
        bpf_fd: link.as_raw_fd() as u32,
        info_len: size_of::<RawInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    let [first, second, ..] = info.words;
    Ok(match info.kind {
        LINK_TYPE_CGROUP => {
            let [a, b, c, d] = first.to_ne_bytes();
            let [e, f, g, h] = second.to_ne_bytes();
            Target::Cgroup(u64::from_ne_bytes([a, b, c, d, e, f, g, h]))
        }
        LINK_TYPE_NETNS => Target::Netns(first),
        _ => Target::Other,
    })
}

fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate {
        link_fd: link.as_raw_fd() as u32,
        new_prog_fd: program.as_raw_fd() as u32,
        ..LinkUpdate::default()
    };
    bpf(BPF_LINK_UPDATE, &mut attr).map(|_| ())
}

pub fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<i32> {
    // SAFETY: `attr` is the repr(C) prefix of `union bpf_attr` that the command reads, and its size is passed
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as i32) }
}

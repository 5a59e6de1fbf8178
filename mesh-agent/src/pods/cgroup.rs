//! Cgroup v2: the agent's own leaf, and the pods' folders.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result, bail};

/// The agent's leaf below the cgroup of the pods.
const LEAF: &str = "nodemesh-agent";

/// Moves this process into its leaf below `cgroup` and returns the leaf's id. Must run before any socket is opened:
/// a socket belongs to the cgroup in which it was made, and outside the pods' cgroup the hooks do not see it.
pub fn enter_agent_cgroup(cgroup: &Path) -> Result<u64> {
    if !cgroup.join("cgroup.procs").exists() {
        bail!("--cgroup {}: not a cgroup v2 folder (it has no cgroup.procs)", cgroup.display());
    }
    let leaf = cgroup.join(LEAF);
    match fs::create_dir(&leaf) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return Err(e).with_context(|| format!("cannot create {}", leaf.display()));
        }
        _ => {}
    }
    fs::write(leaf.join("cgroup.procs"), process::id().to_string())
        .with_context(|| format!("cannot enter {}", leaf.display()))?;
    // Without this the exclusion of the agent would silently miss, and it would redirect itself.
    let entered = fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
    let inside = entered
        .lines()
        .filter_map(|line| line.strip_prefix("0::"))
        .any(|path| path.ends_with(&format!("/{LEAF}")) || path == format!("/{LEAF}"));
    if !inside {
        bail!("entered {} but /proc/self/cgroup does not say so: {entered}", leaf.display());
    }
    id(&leaf).with_context(|| format!("cannot read {}", leaf.display()))
}

/// Pids in the agent's leaf below `cgroup`.
pub fn agents_in(cgroup: &Path) -> io::Result<Vec<u32>> {
    match fs::read_to_string(cgroup.join(LEAF).join("cgroup.procs")) {
        Ok(pids) => Ok(pids.lines().filter_map(|pid| pid.parse().ok()).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// Removes the leaf, once no agent runs in it.
pub fn remove_agent_cgroup(cgroup: &Path) -> io::Result<()> {
    match fs::remove_dir(cgroup.join(LEAF)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The id that the kernel's helpers return: the inode number of the folder (kernfs, 64-bit kernels).
pub fn id(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.ino())
}

/// The canonical path of a pod's cgroup, which must lie below `attached`, where the hooks are.
pub fn below(attached: &Path, pod: &Path) -> Result<PathBuf, String> {
    let real = |path: &Path| fs::canonicalize(path).map_err(|e| format!("cgroup {}: {e}", path.display()));
    let (attached, pod) = (real(attached)?, real(pod)?);
    if pod == attached || !pod.starts_with(&attached) {
        return Err(format!(
            "cgroup {} is not below {}, where the programs are attached",
            pod.display(),
            attached.display()
        ));
    }
    Ok(pod)
}

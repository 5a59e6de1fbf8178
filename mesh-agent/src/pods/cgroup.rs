//! Cgroup v2: the agent's own leaf, and the pods' folders, by the names that the kubelet gives them.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process,
    sync::OnceLock,
};

use anyhow::{Context as _, Result, bail};

/// The agent's leaf below the cgroup of the pods.
const LEAF: &str = "nodemesh-agent";

/// The leaf's id, once this process is in it.
static OWN: OnceLock<u64> = OnceLock::new();

/// The cgroup of this node's agents, by id; `None`: this process is none.
pub fn agent() -> Option<u64> {
    OWN.get().copied()
}

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
    let id = id(&leaf).with_context(|| format!("cannot read {}", leaf.display()))?;
    Ok(*OWN.get_or_init(|| id))
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

/// Folders between the pods' root and a pod's own: the kubelet's classes burstable and besteffort.
const CLASSES: usize = 1;

/// Where pods' cgroups are, by UID. The kubelet makes them before a pod's network.
///
/// Its two drivers name them so (pkg/kubelet/cm in Kubernetes' sources), pods of class guaranteed directly below the
/// root:
/// `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid, _ for ->.slice`,
/// `kubepods/burstable/pod<uid>`.
pub struct PodCgroups {
    root: PathBuf,
    found: HashMap<String, PathBuf>,
}

impl PodCgroups {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), found: HashMap::new() }
    }

    /// The folder of the pod; one walk tells of all pods.
    pub fn of(&mut self, uid: &str) -> Option<PathBuf> {
        if uid.is_empty() {
            return None;
        }
        if !self.found.get(uid).is_some_and(|path| path.exists()) {
            self.found.clear();
            walk(&self.root, CLASSES, &mut self.found);
        }
        self.found.get(uid).cloned()
    }
}

fn walk(folder: &Path, deeper: usize, found: &mut HashMap<String, PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        match pod_uid(&entry.file_name().to_string_lossy()) {
            Some(uid) => drop(found.insert(uid, entry.path())),
            None if deeper > 0 => walk(&entry.path(), deeper - 1, found),
            None => {}
        }
    }
}

/// The UID in the name of a pod's folder.
fn pod_uid(name: &str) -> Option<String> {
    let uid = match name.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod")?.1.replace('_', "-"),
        None => name.strip_prefix("pod")?.to_owned(),
    };
    // A static pod's UID is a digest without dashes.
    let is_uid = uid.len() >= 8 && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    is_uid.then_some(uid)
}

/// Some processes of the cgroup and of those below it, `most` at most.
pub fn processes(folder: &Path, most: usize) -> Vec<u32> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop().filter(|_| found.len() < most) {
        let pids = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        // 0: a process that is not seen from here.
        found.extend(pids.lines().filter_map(|pid| pid.parse::<u32>().ok()).filter(|pid| *pid != 0));
        let below = fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.extend(below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
    }
    found.truncate(most);
    found
}

/// Processes run in it, or below it.
pub fn is_populated(folder: &Path) -> bool {
    let events = fs::read_to_string(folder.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "populated 1")
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "0e9e1f2c-1d8b-4b4e-9a53-5f2a7c6d8e90";

    #[test]
    fn pods_are_found_by_the_names_of_both_drivers() {
        let (one, other) = (UID.replace('-', "_"), "11111111-2222-4333-8444-555555555555");
        let digest = "d2c5e8f3a1b04c6d9e7f8a0b1c2d3e4f";
        for (root, folders) in [
            (
                "kubepods.slice",
                [
                    format!("kubepods-burstable.slice/kubepods-burstable-pod{one}.slice/cri-containerd-1.scope"),
                    format!("kubepods-pod{}.slice", other.replace('-', "_")),
                    format!("kubepods-besteffort.slice/kubepods-besteffort-pod{digest}.slice"),
                ],
            ),
            // As kind has it.
            (
                "kubelet-kubepods.slice",
                [
                    format!("kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{one}.slice"),
                    format!("kubelet-kubepods-pod{}.slice", other.replace('-', "_")),
                    format!("kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{digest}.slice"),
                ],
            ),
            ("kubepods", [format!("burstable/pod{UID}/abc"), format!("pod{other}"), format!("besteffort/pod{digest}")]),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let root = folder.path().join(root);
            for path in &folders {
                fs::create_dir_all(root.join(path)).unwrap();
            }
            // Neither the agent's own leaf nor a container's folder is a pod's.
            fs::create_dir_all(root.join(LEAF)).unwrap();
            let mut cgroups = PodCgroups::new(&root);
            for uid in [UID, other, digest] {
                let found = cgroups.of(uid).unwrap_or_else(|| panic!("{uid} below {}", root.display()));
                assert!(found.is_dir() && found.to_string_lossy().contains("pod"), "{}", found.display());
            }
            assert_eq!(cgroups.found.len(), 3, "{:?}", cgroups.found);
            assert_eq!(cgroups.of("22222222-2222-4333-8444-555555555555"), None);
            assert_eq!(cgroups.of(""), None);
        }
    }

    #[test]
    fn a_pod_that_went_is_not_found_and_a_new_one_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut cgroups = PodCgroups::new(folder.path());
        assert_eq!(cgroups.of(UID), None);
        let first = folder.path().join(format!("pod{UID}"));
        fs::create_dir(&first).unwrap();
        assert_eq!(cgroups.of(UID), Some(first.clone()));
        // In another class after a change.
        fs::remove_dir(&first).unwrap();
        let second = folder.path().join(format!("burstable/pod{UID}"));
        fs::create_dir_all(&second).unwrap();
        assert_eq!(cgroups.of(UID), Some(second.clone()));
        fs::remove_dir(&second).unwrap();
        assert_eq!(cgroups.of(UID), None);
    }

    #[test]
    fn what_is_no_pods_folder_is_none() {
        for name in
            ["kubepods-burstable.slice", "burstable", "podman", "pod", "x-pod.slice", "system.slice", "podzzzzzzzz"]
        {
            assert_eq!(pod_uid(name), None, "{name}");
        }
    }
}

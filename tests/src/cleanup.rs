//! Removing worlds: the own one when it is dropped, and those of processes that died, found by their names.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{config, network};

const RUN: &str = "/run";
const NETNS: &str = "/run/netns";
const BPFFS: &str = "/sys/fs/bpf";
const PREFIX: &str = "nodemesh-";

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// What a world's name says: `<pid>x<start time>x<number>`, where the start time makes a reused pid another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorldId {
    pub pid: u32,
    /// Clock ticks after boot, as in /proc/<pid>/stat.
    pub started: u64,
    pub number: u32,
}

/// A process that outlives this one for a moment and removes what it left. It is there until this one ends: one that
/// went between two worlds would take the second for left behind.
static JANITOR: Mutex<Option<Child>> = Mutex::new(None);

impl WorldId {
    /// The id of this process's next world.
    pub(crate) fn next() -> Result<Self> {
        let (pid, number) = (config::own_pid(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let started = start_time(pid).context("this process has no start time in /proc")?;
        Ok(Self { pid, started, number })
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, 'x');
        let id = Self {
            pid: parts.next()?.parse().ok()?,
            started: parts.next()?.parse().ok()?,
            number: parts.next()?.parse().ok()?,
        };
        Some(id)
    }

    fn owner_lives(&self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

impl std::fmt::Display for WorldId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}x{}", self.pid, self.started, self.number)
    }
}

/// Sees to it that the worlds of this process are removed, however it ends.
pub(crate) fn hire_janitor() -> Result<()> {
    let mut janitor = JANITOR.lock().unwrap_or_else(PoisonError::into_inner);
    if janitor.is_none() {
        let child = Command::new(config::built("mesh-test-app")?)
            .args(["janitor", "--pid", &config::own_pid().to_string()])
            // Its end is the end of this process.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start the janitor")?;
        *janitor = Some(child);
    }
    Ok(())
}

/// Removes the worlds of processes that live no more.
pub(crate) fn sweep_dead() -> Result<()> {
    sweep(|world| !world.owner_lives())
}

/// Removes every world that `which` names. One at a time on this machine.
pub fn sweep(which: impl Fn(&WorldId) -> bool) -> Result<()> {
    let _one_at_a_time = lock()?;
    let mut worlds: Vec<WorldId> = found().into_values().filter(|id| which(id)).collect();
    worlds.dedup();
    let errors: Vec<String> =
        worlds.iter().filter_map(|id| remove(&id.to_string()).err()).map(|error| format!("{error:#}")).collect();
    if !errors.is_empty() {
        bail!("not everything could be removed: {}", errors.join("; "));
    }
    Ok(())
}

/// Everything on this machine that bears a world's name, as paths.
pub fn leftovers() -> Vec<PathBuf> {
    found().into_keys().collect()
}

/// The folder and the cgroup of a world.
pub(crate) fn places(id: &str) -> Result<(PathBuf, PathBuf)> {
    let name = format!("{PREFIX}{id}");
    Ok((Path::new(RUN).join(&name), cgroup2()?.join(name)))
}

/// Removes one world: processes first, then what the kernel holds for them, its folder last.
pub(crate) fn remove(id: &str) -> Result<()> {
    let (run, cgroup) = places(id)?;
    kill_all(&cgroup)?;
    for entry in entries(Path::new(BPFFS)).filter(|path| world_of(path).as_deref() == Some(id)) {
        fs::remove_dir_all(&entry).with_context(|| format!("remove {}", entry.display()))?;
    }
    remove_cgroups(&cgroup)?;
    let namespaces: String = entries(Path::new(NETNS))
        .filter(|path| world_of(path).as_deref() == Some(id))
        .filter_map(|path| Some(format!("netns del {}\n", path.file_name()?.to_str()?)))
        .collect();
    if !namespaces.is_empty() {
        network::ip(None, &namespaces)?;
    }
    match fs::remove_dir_all(&run) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", run.display()))
        }
        _ => Ok(()),
    }
}

/// Where cgroup v2 is mounted, beside v1 or alone.
pub(crate) fn cgroup2() -> Result<PathBuf> {
    mount_of("cgroup2")?.context("cgroup v2 is not mounted: mount -t cgroup2 cgroup2 /sys/fs/cgroup")
}

/// Mounts the BPF file system where it belongs, if nobody has.
pub(crate) fn mount_bpffs() -> Result<()> {
    let _one_at_a_time = lock()?;
    if fs::read_to_string("/proc/mounts").context("read /proc/mounts")?.contains(" /sys/fs/bpf bpf ") {
        return Ok(());
    }
    let mut mount = Command::new(config::installed("mount")?);
    mount.args(["-t", "bpf", "bpf", BPFFS]);
    crate::place::succeed(mount, Duration::from_secs(5)).map(drop)
}

/// A folder can be locked too, and leaves no file behind.
fn lock() -> Result<File> {
    let folder = File::open(RUN).with_context(|| format!("open {RUN}"))?;
    folder.lock().with_context(|| format!("lock {RUN}"))?;
    Ok(folder)
}

fn mount_of(kind: &str) -> Result<Option<PathBuf>> {
    let mounts = fs::read_to_string("/proc/mounts").context("read /proc/mounts")?;
    Ok(mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let at = fields.next()?;
        (fields.next()? == kind).then(|| PathBuf::from(at))
    }))
}

fn found() -> BTreeMap<PathBuf, WorldId> {
    [Some(PathBuf::from(NETNS)), Some(PathBuf::from(BPFFS)), Some(PathBuf::from(RUN)), cgroup2().ok()]
        .into_iter()
        .flatten()
        .flat_map(|folder| entries(&folder).collect::<Vec<_>>())
        .filter_map(|path| {
            let id = WorldId::parse(&world_of(&path)?)?;
            Some((path, id))
        })
        .collect()
}

/// `nm-<id>-<part>` of a namespace, `nodemesh-<id>` or `nodemesh-<id>-<part>` of everything else.
fn world_of(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let rest = name.strip_prefix(PREFIX).or_else(|| name.strip_prefix("nm-"))?;
    let id = rest.split('-').next()?;
    WorldId::parse(id).map(|_| id.to_owned())
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn kill_all(cgroup: &Path) -> Result<()> {
    if !cgroup.exists() {
        return Ok(());
    }
    fs::write(cgroup.join("cgroup.kill"), "1").with_context(|| format!("kill what is in {}", cgroup.display()))
}

/// Killed processes leave their cgroup when they are reaped or adopted, a moment later.
fn remove_cgroups(folder: &Path) -> Result<()> {
    for child in entries(folder).filter(|path| path.is_dir()) {
        remove_cgroups(&child)?;
    }
    let (start, limit) = (Instant::now(), Duration::from_secs(3) * config::patience());
    loop {
        match fs::remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && start.elapsed() < limit => {
                thread::sleep(Duration::from_millis(2));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove cgroup {}", folder.display()));
            }
            _ => return Ok(()),
        }
    }
}

/// Field 22 of /proc/<pid>/stat; the name before it, in brackets, may contain anything.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut after_name = stat.rsplit_once(')')?.1.split_whitespace();
    // A zombie owns nothing any more.
    (after_name.next()? != "Z").then_some(())?;
    after_name.nth(18)?.parse().ok()
}

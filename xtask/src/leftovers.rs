//! What tests and demo may not leave on a machine. Looks by names only, and independently of the harness that cleans.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// A process that was killed a moment ago may still be on its way out.
const PATIENCE: Duration = Duration::from_secs(5);
const PROGRAMS: &[&str] = &["mesh-agent", "mesh-controller", "mesh-test-app", "minikapi"];

/// Everything that bears a name of the tests, as text for people.
pub fn found() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut add = |what: &str, folder: &str, prefix: &str| {
        found.extend(named(Path::new(folder), prefix).iter().map(|path| format!("{what} {}", path.display())));
    };
    add("network namespace", "/run/netns", "nm-");
    add("link", "/sys/class/net", "nm");
    add("pins", "/sys/fs/bpf", "nodemesh-");
    add("folder", "/run", "nodemesh-");
    if let Some(cgroups) = mount_of("cgroup2") {
        let mut folders = vec![cgroups];
        while let Some(folder) = folders.pop() {
            found.extend(named(&folder, "nodemesh-").iter().map(|path| format!("cgroup {}", path.display())));
            folders.extend(entries(&folder).into_iter().filter(|path| path.is_dir() && !path.is_symlink()));
        }
    }
    for process in entries(Path::new("/proc")) {
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
        // A zombie has no command line; its parent has yet to look at it.
        if PROGRAMS.contains(&name.trim()) && fs::read(process.join("cmdline")).is_ok_and(|line| !line.is_empty()) {
            found.insert(format!("process {} ({})", name.trim(), process.display()));
        }
    }
    found
}

/// What is there beyond `before`; waits a little for what is going.
pub fn beyond(before: &BTreeSet<String>) -> Vec<String> {
    let start = Instant::now();
    loop {
        let left = found().difference(before).cloned().collect::<Vec<_>>();
        if left.is_empty() || start.elapsed() > PATIENCE {
            return left;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Fails if anything is there.
pub fn none() -> Result<()> {
    let left = beyond(&BTreeSet::new());
    if !left.is_empty() {
        bail!("left behind (or still running):\n  {}", left.join("\n  "));
    }
    println!("leftovers: none");
    Ok(())
}

/// Where a file system of this kind is mounted.
pub fn mount_of(kind: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let at = fields.next()?;
        (fields.next()? == kind).then(|| PathBuf::from(at))
    })
}

fn named(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let bears = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix));
    entries(folder).into_iter().filter(bears).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_the_tests_count() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["nodemesh-1x2x0-a", "nodemesh", "other"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        assert_eq!(named(dir.path(), "nodemesh-"), [dir.path().join("nodemesh-1x2x0-a")]);
        assert!(named(Path::new("/nonexistent"), "x").is_empty());
    }
}

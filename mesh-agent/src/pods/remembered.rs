//! Which pods joined, on the node's disk, and where their network namespaces are after a restart. A name or a process
//! id proves nothing here: a namespace is the pod's if device, inode and cookie are, in the same boot.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    net::IpAddr,
    os::{fd::OwnedFd, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::durable;

/// Of the file's form.
const VERSION: u32 = 1;
/// Epochs are written down ahead, so that not each pod that is hooked writes the file.
const EPOCHS: u32 = 256;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// Where network namespaces are bound to names: by ip(8) and CNI, and by Docker.
const NAMED: &[&str] = &["/run/netns", "/run/docker/netns"];

/// A pod that joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub namespace: String,
    pub name: String,
    pub pod_uid: String,
    pub cgroup: PathBuf,
    /// The runtime's name for its sandbox; empty: nobody said.
    #[serde(default)]
    pub container: String,
    /// What CNI gave its namespace; empty: those of the configuration count.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Its connections that are older than its enrolment: SO_COOKIE, and whether somebody else dialled it.
    #[serde(default)]
    pub older: Vec<(u64, bool)>,
    /// SO_NETNS_COOKIE of its namespace.
    pub cookie: u64,
    /// Of its namespace's file, as stat(2) tells.
    pub device: u64,
    pub inode: u64,
}

/// The file.
#[derive(Debug)]
pub struct Remembered {
    path: PathBuf,
    boot: String,
    /// What it says.
    saved: Option<(Vec<Entry>, u32)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    boot: String,
    /// No pod was given this epoch or a later one.
    #[serde(default)]
    next_epoch: u32,
    pods: Vec<Entry>,
}

impl Remembered {
    pub fn new(folder: &Path) -> io::Result<Self> {
        let boot = fs::read_to_string(BOOT_ID)?.trim().to_owned();
        Ok(Self { path: folder.join("pods.json"), boot, saved: None })
    }

    /// The pods that joined since the node was booted, and the first epoch that no pod had. A file that cannot be read
    /// is reported, kept aside, and counts as none: its pods stay refused until they are joined again.
    pub fn load(&mut self) -> (Vec<Entry>, u32) {
        let content = durable::read(&self.path).and_then(|bytes| {
            let Some(bytes) = bytes else { return Ok(None) };
            let content: Content = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
            if content.version != VERSION {
                return Err(io::Error::other(format!("version {} is not {VERSION}", content.version)));
            }
            Ok(Some(content))
        });
        let content = match content {
            // After a boot no namespace is what it was.
            Ok(content) => content.filter(|content| content.boot == self.boot),
            Err(error) => {
                let kept = durable::keep_aside(&self.path).map(|path| path.display().to_string());
                tracing::error!(
                    file = %self.path.display(), %error, kept = kept.unwrap_or_default(),
                    "which pods joined cannot be read; they stay as they are until they join again"
                );
                None
            }
        };
        content.map(|content| (content.pods, content.next_epoch)).unwrap_or_default()
    }

    /// Epochs below this one were given, and the file does not say so.
    pub fn wants(&self, next_epoch: u32) -> bool {
        self.saved.as_ref().is_none_or(|(_, saved)| next_epoch > *saved)
    }

    /// Writes the file if it says something else.
    pub fn save(&mut self, pods: Vec<Entry>, next_epoch: u32) {
        let wants = self.wants(next_epoch);
        let next_epoch = match &self.saved {
            Some((saved, _)) if *saved == pods && !wants => return,
            Some((_, saved)) if !wants => *saved,
            _ => next_epoch.saturating_add(EPOCHS),
        };
        let content = Content { version: VERSION, boot: self.boot.clone(), next_epoch, pods };
        let written = serde_json::to_vec_pretty(&content)
            .map_err(io::Error::other)
            .and_then(|text| durable::replace(&self.path, &text));
        match written {
            Ok(()) => self.saved = Some((content.pods, next_epoch)),
            Err(error) => tracing::error!(
                file = %self.path.display(), %error, "a restart would not find the pods that joined"
            ),
        }
    }
}

/// Opens the namespaces of these pods, by device and inode, wherever a process or a name holds them. The node's
/// processes are seen in `host_proc`.
pub fn find(entries: &[Entry], host_proc: &Path) -> BTreeMap<(u64, u64), OwnedFd> {
    let mut found = BTreeMap::new();
    let mut missing: Vec<(u64, u64)> = entries.iter().map(|entry| (entry.device, entry.inode)).collect();
    let mut look = |path: PathBuf| -> bool {
        if let Some(identity) = identity(fs::metadata(&path))
            && let Some(at) = missing.iter().position(|wanted| *wanted == identity)
            && let Ok(file) = File::open(&path)
            // What the path means may have changed between the two looks.
            && self::identity(file.metadata()) == Some(identity)
        {
            missing.swap_remove(at);
            found.insert(identity, file.into());
        }
        missing.is_empty()
    };
    if entries.is_empty() {
        return found;
    }
    // Names first: they are few, processes may be thousands.
    let named = NAMED.iter().flat_map(|folder| paths(Path::new(folder)));
    let processes = paths(host_proc).filter(|path| is_process(path)).map(|path| path.join("ns/net"));
    for path in named.chain(processes) {
        if look(path) {
            break;
        }
    }
    found
}

fn identity(metadata: io::Result<fs::Metadata>) -> Option<(u64, u64)> {
    metadata.ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn paths(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

fn is_process(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(identity: (u64, u64)) -> Entry {
        Entry {
            namespace: "shop".into(),
            name: "cart".into(),
            pod_uid: "u".into(),
            cgroup: "/sys/fs/cgroup/x".into(),
            container: "c1".into(),
            addresses: vec![IpAddr::from([10, 0, 0, 2])],
            older: vec![(5, true)],
            cookie: 7,
            device: identity.0,
            inode: identity.1,
        }
    }

    #[test]
    fn pods_are_remembered_for_this_boot_only() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let mut remembered = Remembered::new(folder.path())?;
        assert_eq!(remembered.load(), (vec![], 0));
        remembered.save(vec![entry((1, 2))], 3);
        assert_eq!(Remembered::new(folder.path())?.load().0, [entry((1, 2))]);
        let mut later = Remembered { boot: "another".into(), ..Remembered::new(folder.path())? };
        assert_eq!(later.load(), (vec![], 0));
        Ok(())
    }

    #[test]
    fn epochs_are_never_given_twice() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let mut remembered = Remembered::new(folder.path())?;
        remembered.save(vec![], 1);
        for next_epoch in 2..2 * EPOCHS {
            // As the registry does after each pod that it hooks.
            if remembered.wants(next_epoch) {
                remembered.save(vec![], next_epoch);
            }
            let (_, after) = Remembered::new(folder.path())?.load();
            assert!(after >= next_epoch, "{after} would be given again: {next_epoch} is the first that was not");
        }
        // A file that knows nothing of them.
        let text = format!(r#"{{"version":1,"boot":"{}","pods":[]}}"#, remembered.boot);
        fs::write(folder.path().join("pods.json"), text)?;
        assert_eq!(Remembered::new(folder.path())?.load(), (vec![], 0));
        Ok(())
    }

    #[test]
    fn a_damaged_file_is_kept_aside() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        for text in ["{", r#"{"version":2,"boot":"","pods":[]}"#] {
            fs::write(folder.path().join("pods.json"), text)?;
            assert_eq!(Remembered::new(folder.path())?.load(), (vec![], 0));
            assert_eq!(fs::read_to_string(folder.path().join("pods.json.unreadable"))?, text);
            assert!(!folder.path().join("pods.json").exists());
        }
        Ok(())
    }

    #[test]
    fn a_namespace_is_found_by_its_processes() -> io::Result<()> {
        let own = identity(fs::metadata("/proc/self/ns/net")).expect("this process has one");
        let found = find(&[entry(own), entry((own.0, 1))], Path::new("/proc"));
        assert_eq!(found.keys().collect::<Vec<_>>(), [&own]);
        Ok(())
    }
}

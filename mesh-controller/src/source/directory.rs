//! A folder of manifests, followed as it changes. A file that does not parse keeps its last good objects, and so does
//! an object that no longer fits its kind: a slip of the pen must not take pods out of the mesh.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use notify::{RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};

use super::{Object, Update, documents};
use crate::status::Problem;

/// How long a folder must be quiet before it is read: editors and `kubectl` write in several steps.
const QUIET: Duration = Duration::from_millis(50);
/// It is read at the latest after this many quiet periods were asked for.
const PATIENCE: u32 = 10;
/// It is read this often without being told: notifications get lost on some file systems.
const RESCAN: Duration = Duration::from_secs(5);
/// Deeper folders are not read: a folder that links to itself must end somewhere.
const DEPTH: usize = 16;
/// Larger files are refused.
const SIZE: u64 = 16 << 20;

/// The state of a folder as last read.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    files: BTreeMap<PathBuf, File>,
    /// Problems of the folder itself.
    problems: Vec<Problem>,
}

#[derive(Debug, Default)]
struct File {
    text: Vec<u8>,
    objects: Vec<Arc<Object>>,
    problems: Vec<Problem>,
}

/// What a walk found.
#[derive(Debug, Default)]
struct Listing {
    files: Vec<PathBuf>,
    /// What could not be read: nothing is known to be gone below it.
    unreadable: Vec<(PathBuf, io::Error)>,
}

impl Directory {
    /// Reads the folder for the first time.
    ///
    /// # Errors
    /// If it is not a folder that can be read. Bad files in it are no error: see [`Update::problems`].
    pub fn open(root: &Path) -> Result<(Self, Update)> {
        fs::read_dir(root).with_context(|| format!("--source dir:{}: cannot read the folder", root.display()))?;
        let mut directory = Self { root: root.to_owned(), files: BTreeMap::new(), problems: Vec::new() };
        directory.scan();
        let update = directory.update();
        Ok((directory, update))
    }

    /// Sends an update after every change, until nobody listens.
    pub async fn follow(mut self, updates: watch::Sender<Update>) {
        let (wake, mut woken) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading must not wake us.
            if event.is_ok_and(|e| e.kind.is_access()) {
                return;
            }
            // Full: it is awake already.
            let _ = wake.try_send(());
        })
        .and_then(|mut watcher| watcher.watch(&self.root, RecursiveMode::Recursive).map(|()| watcher));
        if let Err(error) = &watcher {
            tracing::warn!(%error, every = ?RESCAN, "no change notifications: the folder is only re-read now and then");
        }
        loop {
            // A failed watcher has dropped its end: then only time wakes us.
            if let Ok(None) = tokio::time::timeout(RESCAN, woken.recv()).await {
                tokio::time::sleep(RESCAN).await;
            }
            for _ in 0..PATIENCE {
                if !matches!(tokio::time::timeout(QUIET, woken.recv()).await, Ok(Some(()))) {
                    break;
                }
            }
            let scanned = tokio::task::spawn_blocking(move || {
                let changed = self.scan();
                (self, changed)
            });
            let changed;
            (self, changed) = match scanned.await {
                Ok(scanned) => scanned,
                Err(error) => {
                    tracing::error!(%error, "reading the folder failed; it is no longer followed");
                    return;
                }
            };
            if changed && updates.send(self.update()).is_err() {
                return;
            }
        }
    }

    /// Reads what changed; whether anything did.
    fn scan(&mut self) -> bool {
        let mut listing = Listing::default();
        walk(&self.root, DEPTH, &mut listing);
        let mut changed = false;
        let mut kept = std::mem::take(&mut self.files);
        for path in listing.files {
            let mut file = kept.remove(&path).unwrap_or_default();
            let name = self.name(&path);
            match read(&path) {
                Ok(text) if text == file.text && file.problems.iter().all(|p| !p.why.starts_with(UNREADABLE)) => {}
                Ok(text) => {
                    file.replace(&name, text);
                    changed = true;
                }
                // Gone between listing and reading.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    changed = true;
                    continue;
                }
                Err(error) => {
                    let problem = Problem::of_file(&name, format_args!("{UNREADABLE}: {error}"));
                    changed |= file.problems != [problem.clone()];
                    file.problems = vec![problem];
                }
            }
            self.files.insert(path, file);
        }
        let below = |path: &Path| listing.unreadable.iter().any(|(folder, _)| path.starts_with(folder));
        for (path, file) in kept {
            if below(&path) {
                self.files.insert(path, file);
            } else {
                changed = true;
            }
        }
        let problems = listing
            .unreadable
            .iter()
            .map(|(path, error)| {
                Problem::of_file(&self.name(path), format_args!("{UNREADABLE}: {error}; what was read before stays"))
            })
            .collect();
        changed |= self.problems != problems;
        self.problems = problems;
        changed
    }

    fn update(&self) -> Update {
        let problems = self.files.values().flat_map(|file| &file.problems).chain(&self.problems).cloned().collect();
        Update::new(self.files.values().flat_map(|file| &file.objects).cloned(), problems)
    }

    fn name(&self, path: &Path) -> String {
        match path.strip_prefix(&self.root) {
            Ok(relative) if !relative.as_os_str().is_empty() => relative.display().to_string(),
            _ => path.display().to_string(),
        }
    }
}

const UNREADABLE: &str = "cannot be read";

impl File {
    fn replace(&mut self, name: &str, text: Vec<u8>) {
        let parsed = match std::str::from_utf8(&text) {
            Ok(text) => documents::parse(name, text),
            Err(error) => Err(Problem::of_file(name, error)),
        };
        self.text = text;
        match parsed {
            Ok(documents) => {
                let refused = documents.refused.iter().filter_map(|(key, _)| key.as_ref());
                let last_good = refused.filter_map(|key| self.objects.iter().find(|o| o.key() == *key)).cloned();
                let last_good: Vec<_> = last_good.collect();
                self.objects = documents.objects.into_iter().map(Arc::new).chain(last_good).collect();
                self.problems = documents.refused.into_iter().map(|(_, problem)| problem).collect();
            }
            Err(mut problem) => {
                problem.why.push_str("; what the file said before stays");
                self.problems = vec![problem];
            }
        }
    }
}

fn walk(folder: &Path, depth: usize, listing: &mut Listing) {
    let entries = fs::read_dir(folder).and_then(|entries| entries.collect::<io::Result<Vec<_>>>());
    let entries = match entries {
        Ok(entries) => entries,
        Err(error) => return listing.unreadable.push((folder.to_owned(), error)),
    };
    for entry in entries {
        let path = entry.path();
        // Hidden: editors' files, and the generations behind the links of a mounted ConfigMap.
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() && depth > 0 => walk(&path, depth - 1, listing),
            Ok(metadata) if metadata.is_file() && is_manifest(&path) => listing.files.push(path),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => listing.unreadable.push((path, error)),
        }
    }
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let size = fs::metadata(path)?.len();
    if size > SIZE {
        return Err(io::Error::other(format!("{size} bytes are more than {SIZE}")));
    }
    fs::read(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(directory: &Directory) -> Vec<String> {
        directory.update().objects.iter().map(|object| object.key().to_string()).collect()
    }

    fn said(directory: &Directory) -> Vec<String> {
        directory.update().problems.iter().map(ToString::to_string).collect()
    }

    const TWO: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: a}}\n---\n\
                       {apiVersion: v1, kind: Pod, metadata: {name: p, namespace: a}, spec: {nodeName: n}}\n";

    #[test]
    fn what_was_good_stays() {
        let root = tempfile::tempdir().expect("folder");
        let inner = root.path().join("inner");
        fs::create_dir(&inner).expect("folder");
        let file = inner.join("a.yml");
        fs::write(&file, TWO).expect("file");
        fs::write(inner.join(".hidden.yaml"), TWO).expect("file");
        fs::write(inner.join("notes.txt"), "[").expect("file");
        let (mut directory, _) = Directory::open(root.path()).expect("opened");
        assert_eq!(keys(&directory), ["Namespace a", "Pod a/p"]);
        assert!(!directory.scan());

        fs::write(&file, "[").expect("file");
        assert!(directory.scan());
        assert_eq!(keys(&directory), ["Namespace a", "Pod a/p"]);
        assert!(said(&directory)[0].starts_with("inner/a.yml: document 1: "), "{:?}", said(&directory));
        assert!(!directory.scan());

        // One object is wrong, the other one is gone.
        fs::write(&file, TWO.replace("nodeName: n", "nodeName: 7").replace("name: a}}", "name: b}}")).expect("file");
        assert!(directory.scan());
        assert_eq!(keys(&directory), ["Namespace b", "Pod a/p"]);
        assert!(said(&directory)[0].starts_with("inner/a.yml: Pod a/p: spec.nodeName: "), "{:?}", said(&directory));

        fs::remove_file(&file).expect("file");
        assert!(directory.scan());
        assert!(keys(&directory).is_empty() && said(&directory).is_empty());
    }

    #[test]
    fn the_first_of_two_with_one_name_is_read() {
        let root = tempfile::tempdir().expect("folder");
        for name in ["a.yaml", "b.json"] {
            fs::write(
                root.path().join(name),
                "{\"apiVersion\": \"v1\", \"kind\": \"Node\", \"metadata\": {\"name\": \"n\"}}",
            )
            .expect("file");
        }
        let (directory, _) = Directory::open(root.path()).expect("opened");
        assert_eq!(keys(&directory), ["Node n"]);
        assert_eq!(said(&directory), ["b.json: Node n: is defined in a.yaml already; this one is not read"]);
    }

    #[test]
    fn a_folder_that_vanishes_changes_nothing() {
        let root = tempfile::tempdir().expect("folder");
        let path = root.path().join("config");
        fs::create_dir(&path).expect("folder");
        fs::write(path.join("a.yaml"), TWO).expect("file");
        let (mut directory, _) = Directory::open(&path).expect("opened");
        fs::rename(&path, root.path().join("away")).expect("moved");
        assert!(directory.scan());
        assert_eq!(keys(&directory).len(), 2);
        assert!(said(&directory)[0].contains("what was read before stays"));
    }
}

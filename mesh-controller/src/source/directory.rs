//! A folder of manifests, followed as it changes. A file that does not parse keeps its last good objects, and so does
//! an object that no longer fits its kind: a slip of the pen must not take pods out of the mesh. At the start there is
//! nothing to keep. What is missing then would be taken from the agents, who still have it:
//!
//! - without policies access widens, and pods leave the mesh without themselves or their namespace. So a file that
//!   cannot be read, or a Pod or Namespace that does not fit its kind, is an error;
//! - policies are never missing: one that does not fit is translated into what refuses;
//! - without a ServiceAccount its pods are refused, also if it is the only one;
//! - without a Service, an EndpointSlice or any other object less is reached, and nobody gets in: that is reported.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use notify::{RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};

use super::{
    Hidden, Key, Object, Update,
    documents::{self, Documents},
};
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
    /// There was a ServiceAccount since the start. The end of the last one must not be the return of all the others.
    has_accounts: bool,
}

#[derive(Debug, Default)]
struct File {
    /// As last read; `None` if that failed.
    text: Option<Vec<u8>>,
    objects: Vec<Arc<Object>>,
    /// Objects that do not fit their kind. One that did before is still among `objects`.
    refused: Vec<(Option<Key>, Problem)>,
    /// The file as it is now cannot be read: `objects` and `refused` are from before.
    broken: Option<Problem>,
}

/// Manifests that are read once.
#[derive(Debug, Default)]
pub struct Manifests {
    pub objects: Vec<Object>,
    pub problems: Vec<Problem>,
    /// How many objects are none of the mesh's business.
    pub others: usize,
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
    /// If it is not a folder that can be read, or something in it is bad that must not be missing: every file is
    /// named. What else is bad is no error: see [`Update::problems`].
    pub fn open(root: &Path) -> Result<(Self, Update)> {
        let place = || format!("--source dir:{}", root.display());
        fs::read_dir(root).with_context(|| format!("{}: cannot read the folder", place()))?;
        let mut directory =
            Self { root: root.to_owned(), files: BTreeMap::new(), problems: Vec::new(), has_accounts: false };
        directory.scan();
        let missing: Vec<_> = directory.missing().map(ToString::to_string).collect();
        ensure!(
            missing.is_empty(),
            "{}: cannot be read in full; to serve the rest of it would let agents drop policies and pods:\n  {}",
            place(),
            missing.join("\n  ")
        );
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
                Ok(text) if file.text.as_ref() == Some(&text) => {}
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
                    let broken = Some(unreadable(&name, &error));
                    changed |= file.broken != broken;
                    (file.text, file.broken) = (None, broken);
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
        let problems = listing.unreadable.iter().map(|(path, error)| unreadable(&self.name(path), error)).collect();
        changed |= self.problems != problems;
        self.problems = problems;
        let unfit = self.refused().any(|(key, _)| key.as_ref().is_some_and(Key::is_account));
        let fit = || self.files.values().flat_map(|file| &file.objects).any(|object| object.key().is_account());
        self.has_accounts = self.has_accounts || unfit || fit();
        changed
    }

    /// Files and folders of which it is not known what they say.
    fn broken(&self) -> impl Iterator<Item = &Problem> {
        self.files.values().filter_map(|file| file.broken.as_ref()).chain(&self.problems)
    }

    fn refused(&self) -> impl Iterator<Item = &(Option<Key>, Problem)> {
        self.files.values().flat_map(|file| &file.refused)
    }

    /// What was never read, and must have been before anything is served.
    fn missing(&self) -> impl Iterator<Item = &Problem> {
        let needed = |key: &Key| matches!(key.kind.as_str(), "Pod" | "Namespace");
        let objects = self.refused().filter(move |(key, _)| key.as_ref().is_some_and(needed));
        self.broken().chain(objects.map(|(_, problem)| problem))
    }

    fn update(&self) -> Update {
        let stays = |problem: &Problem| {
            let why = format!("{}; what was read before stays", problem.why);
            Problem { why, ..problem.clone() }
        };
        let problems = self.broken().map(stays).chain(self.refused().map(|(_, problem)| problem.clone())).collect();
        let pods = self.refused().filter_map(|(key, _)| key.clone().filter(Key::is_pod)).collect();
        let hidden = Hidden { any: self.broken().next().is_some(), pods };
        let objects = self.files.values().flat_map(|file| &file.objects).cloned();
        Update { hidden, has_accounts: self.has_accounts, ..Update::new(objects, problems) }
    }

    fn name(&self, path: &Path) -> String {
        match path.strip_prefix(&self.root) {
            Ok(relative) if !relative.as_os_str().is_empty() => relative.display().to_string(),
            _ => path.display().to_string(),
        }
    }
}

/// What a file holds, whatever its name, or a folder, as [`Directory`] reads it. Files are named from here, not from
/// the folder.
pub fn manifests(path: &Path) -> Manifests {
    let mut listing = Listing::default();
    if path.is_dir() {
        walk(path, DEPTH, &mut listing);
        listing.files.sort();
    } else {
        listing.files.push(path.to_owned());
    }
    let mut found = Manifests::default();
    for (path, error) in &listing.unreadable {
        found.problems.push(unreadable(&path.display().to_string(), error));
    }
    for path in &listing.files {
        let name = path.display().to_string();
        match read(path).map(|text| parsed(&name, &text)) {
            Ok(Ok(Documents { objects, refused, others })) => {
                found.objects.extend(objects);
                found.problems.extend(refused.into_iter().map(|(_, problem)| problem));
                found.others += others;
            }
            Ok(Err(problem)) => found.problems.push(problem),
            Err(error) => found.problems.push(unreadable(&name, &error)),
        }
    }
    found
}

fn parsed(name: &str, text: &[u8]) -> Result<Documents, Problem> {
    match std::str::from_utf8(text) {
        Ok(text) => documents::parse(name, text),
        Err(error) => Err(Problem::of_file(name, error)),
    }
}

fn unreadable(name: &str, error: &io::Error) -> Problem {
    Problem::of_file(name, format_args!("cannot be read: {error}"))
}

impl File {
    fn replace(&mut self, name: &str, text: Vec<u8>) {
        let parsed = parsed(name, &text);
        self.text = Some(text);
        match parsed {
            Ok(documents) => {
                let refused = documents.refused.iter().filter_map(|(key, _)| key.as_ref());
                let last_good = refused.filter_map(|key| self.objects.iter().find(|o| o.key() == *key)).cloned();
                let last_good: Vec<_> = last_good.collect();
                self.objects = documents.objects.into_iter().map(Arc::new).chain(last_good).collect();
                self.refused = documents.refused;
                self.broken = None;
            }
            Err(problem) => self.broken = Some(problem),
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
            // Gone, unless it is a link to nothing: that is there, but what it says is not.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !(is_manifest(&path) && path.is_symlink()) => {}
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
mod tests;

//! Puts the plugin and its configuration where the node's runtime looks, and keeps them there. Files of others are
//! read and never touched. Only an agent that speaks for the node does this.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::{
    net::unix::pipe::Receiver,
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    call::{Conf, NAME},
    list::{Choice, FILE, Outcome, choose, is_other},
};
use crate::{
    config::{Places, Run},
    durable,
};

/// The program that runs, also if its file was replaced.
const OWN: &str = "/proc/self/exe";
/// A folder is looked at again this long after it changed: a change is seldom one event.
const SETTLE: Duration = Duration::from_millis(100);
/// And at least so often: a folder may be mounted over.
const LOOK: Duration = Duration::from_secs(10);
/// Between two looks, should somebody undo each repair at once.
const REST: Duration = Duration::from_millis(500);

/// The one that keeps them there.
#[derive(Debug)]
pub struct Installer {
    conf_dir: PathBuf,
    bin_dir: PathBuf,
    entry: Conf,
    /// What is missing or wrong, for people; empty: all is in its place.
    state: watch::Sender<String>,
    /// The installed binary that was compared with the own one last.
    compared: Option<(u64, u64, i64, i64)>,
    /// What was said of other files last.
    said: Vec<(String, String)>,
}

impl Installer {
    /// `None`: no plugin is to be installed. The receiver says what is missing or wrong; empty: nothing.
    pub fn new(settings: &Run) -> (Option<Self>, watch::Receiver<String>) {
        let cni = &settings.cni;
        let (Some(conf_dir), Some(bin_dir)) = (&cni.cni_conf_dir, &cni.cni_bin_dir) else {
            return (None, watch::channel(String::new()).1);
        };
        let Places { run_dir, state_dir, .. } = &settings.places;
        let entry = Conf {
            socket: run_dir.join("cni.sock"),
            namespaces: namespaces_file(state_dir),
            exclude: vec!["kube-system".to_owned(), settings.own_namespace.clone()],
            timeout_seconds: settings.cni_timeout.as_secs(),
            status_without_agent: true,
        };
        let (state, seen) = watch::channel("its CNI plugin is not installed yet".to_owned());
        let (conf_dir, bin_dir) = (conf_dir.clone(), bin_dir.clone());
        (Some(Self { conf_dir, bin_dir, entry, state, compared: None, said: Vec::new() }), seen)
    }

    /// Installs, and repairs for ever.
    pub async fn run(mut self) {
        loop {
            // Before the look: what changes after it is seen.
            let watched = self.watch();
            let state = match self.install() {
                Ok(None) => String::new(),
                Ok(Some(why)) => why,
                Err(e) => format!("its CNI plugin cannot be installed: {e}"),
            };
            self.state.send_if_modified(|old| {
                let changed = *old != state;
                if changed && !state.is_empty() {
                    tracing::warn!(why = state, "CNI");
                }
                *old = state;
                changed
            });
            sleep(REST).await;
            match watched {
                Ok(watched) => {
                    // Only that something changed matters; an error is looked at in the next round.
                    let _ = timeout(LOOK, changed(&watched)).await;
                    sleep(SETTLE).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot watch the folders of CNI; they are looked at now and then");
                    sleep(LOOK).await;
                }
            }
        }
    }

    fn watch(&self) -> io::Result<Receiver> {
        for folder in [&self.conf_dir, &self.bin_dir] {
            fs::create_dir_all(folder)?;
        }
        let watched = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let changes = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::DELETE;
        let changes = changes | WatchFlags::ATTRIB | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        for folder in [&self.conf_dir, &self.bin_dir] {
            inotify::add_watch(&watched, folder, changes)?;
        }
        // Of a pipe only that it is readable and read.
        Receiver::from_owned_fd_unchecked(watched)
    }

    /// One look: brings everything to what it should be. What else is missing or wrong, for people.
    fn install(&mut self) -> io::Result<Option<String>> {
        let folder = self.conf_dir.display().to_string();
        let Choice { outcome, skipped } = choose(others(&self.conf_dir)?, &self.entry);
        if skipped != self.said {
            for (file, why) in &skipped {
                tracing::warn!(folder, file, why, "is no CNI configuration, and is passed over");
            }
            self.said = skipped;
        }
        let own = self.conf_dir.join(FILE);
        match outcome {
            Outcome::Chained { base, list } => {
                // The plugin first: a configuration without it would stop every pod.
                self.install_binary()?;
                let text = serde_json::to_vec_pretty(&list)?;
                if durable::read(&own)?.as_deref() != Some(&text) {
                    durable::replace(&own, &text)?;
                    tracing::info!(file = %own.display(), base, "the CNI configuration was written");
                }
                let first = base.as_str() < FILE;
                Ok(first.then(|| format!("{folder}/{base} comes before {FILE}, so runtimes do not call the plugin")))
            }
            Outcome::Nothing => {
                // What made the network is gone, and ours alone makes none.
                gone(&own)?;
                Ok(Some(format!("there is no other CNI configuration in {folder} yet")))
            }
            Outcome::Impossible { base, why } => {
                gone(&own)?;
                Ok(Some(format!("{folder}/{base}: {why}")))
            }
        }
    }

    fn install_binary(&mut self) -> io::Result<()> {
        let path = self.bin_dir.join(NAME);
        let looks = |path: &Path| match fs::metadata(path) {
            // The time of the last change, of mode or content, to the nanosecond.
            Ok(m) => Ok(Some((m.ino(), m.len(), m.ctime(), m.ctime_nsec()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        };
        let now = looks(&path)?;
        if now.is_some() && now == self.compared {
            return Ok(());
        }
        if !same(Path::new(OWN), &path)? {
            let draft = self.bin_dir.join(format!(".{NAME}.new"));
            gone(&draft)?;
            let mut file = File::options().write(true).create_new(true).open(&draft)?;
            io::copy(&mut File::open(OWN)?, &mut file)?;
            file.set_permissions(fs::Permissions::from_mode(0o755))?;
            // Before the name: a name without its content would be a damaged program.
            file.sync_all()?;
            // Closed: what is open for writing cannot be executed.
            drop(file);
            fs::rename(&draft, &path)?;
            File::open(&self.bin_dir)?.sync_all()?;
            tracing::info!(file = %path.display(), "the CNI plugin was installed");
        }
        // What it looked like before it was compared: what changed meanwhile is looked at once more, and so is what was
        // just installed.
        self.compared = now;
        Ok(())
    }
}

/// The file in which the plugin finds the namespaces' modes.
pub fn namespaces_file(state_dir: &Path) -> PathBuf {
    state_dir.join("namespaces.json")
}

/// Takes our files away; those of others stay, and the first of them counts again.
pub fn remove(conf_dir: Option<&Path>, bin_dir: Option<&Path>) -> io::Result<()> {
    // The configuration first: one without its plugin would stop every pod.
    let conf = conf_dir.map(|folder| [folder.join(FILE), folder.join(format!("{FILE}.new"))]);
    let binary = bin_dir.map(|folder| [folder.join(NAME), folder.join(format!(".{NAME}.new"))]);
    conf.into_iter().chain(binary).flatten().try_for_each(|file| gone(&file))
}

fn gone(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn others(folder: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut others = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // Gone meanwhile is as if it had never been; a folder is no file.
        if is_other(&name)
            && entry.path().is_file()
            && let Ok(text) = fs::read(entry.path())
        {
            others.push((name, text));
        }
    }
    Ok(others)
}

/// Both have the same content, and the second may be executed.
fn same(own: &Path, other: &Path) -> io::Result<bool> {
    let (mut own, mut other) = match File::open(other) {
        Ok(other) => (File::open(own)?, other),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    let (own_is, other_is) = (own.metadata()?, other.metadata()?);
    if own_is.len() != other_is.len() || other_is.permissions().mode() & 0o7777 != 0o755 {
        return Ok(false);
    }
    let (mut one, mut two) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let read = own.read(&mut one)?;
        if read == 0 {
            return Ok(true);
        }
        match other.read_exact(&mut two[..read]) {
            Ok(()) if one[..read] == two[..read] => {}
            Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(e),
            _ => return Ok(false),
        }
    }
}

/// Resolves once something changed, and takes what is told of it.
async fn changed(watched: &Receiver) -> io::Result<()> {
    watched.readable().await?;
    let mut events = [0; 4096];
    loop {
        match watched.try_read(&mut events) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(e) => return Err(e),
        }
    }
}

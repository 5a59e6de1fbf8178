//! A Kubernetes API without a world, on this machine's own loopback: for tests of programs that need no nodes. It has a
//! folder, a cgroup and a name as worlds have, and goes as they go.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    ops::Deref,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use super::{KubeApi, server, unpack};
use crate::{
    Place,
    cleanup::{self, WorldId},
    process::Crew,
};

/// A Kubernetes API and whatever a test starts beside it. Dropping it ends and removes all of that.
#[derive(Debug)]
pub struct HostApi {
    id: String,
    place: Place,
    folder: PathBuf,
    api: KubeApi,
    spare: u16,
}

impl HostApi {
    /// Serving when this returns, without CRDs. `None`: this machine has none, which was said.
    ///
    /// # Errors
    /// It does not start, or there is none and `CI` says that everything must run.
    pub fn start() -> Result<Option<Self>> {
        Self::start_with(&[])
    }

    /// The same; `options` are more of the API server's, also when it starts again.
    pub fn start_with(options: &[&str]) -> Result<Option<Self>> {
        let Some(scripts) = server::scripts()? else { return Ok(None) };
        ensure!(rustix::process::geteuid().is_root(), "needs root: what it starts is put into a cgroup");
        cleanup::sweep_dead()?;
        cleanup::hire_janitor()?;
        let id = WorldId::next()?.to_string();
        let made = Self::build(&id, &scripts, options);
        if made.is_err() {
            // The first error is the one to tell.
            let _ = cleanup::remove(&id);
        }
        made.map(Some)
    }

    fn build(id: &str, scripts: &Path, options: &[&str]) -> Result<Self> {
        let (root, cgroup) = cleanup::places(id)?;
        let (logs, folder) = (root.join("logs"), root.join("test"));
        for folder in [&logs, &folder, &cgroup] {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let place = Place { netns: None, cgroup, logs, crew: Crew::default() };
        let port = server::free_ports()?;
        let data = root.join("kube-api");
        unpack(scripts, &data.join("bin"), options)?;
        let api = KubeApi::start_bare(scripts, &place, None, &data, port)?;
        Ok(Self { id: id.to_owned(), place, folder, api, spare: port + 3 })
    }

    /// The id that all of its names bear.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Where programs of the test run that are to end with it.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Empty, for the test's own files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where a server of the test may listen.
    pub fn spare_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.spare).into()
    }
}

impl Deref for HostApi {
    type Target = KubeApi;

    fn deref(&self) -> &KubeApi {
        &self.api
    }
}

impl Drop for HostApi {
    fn drop(&mut self) {
        for program in self.place.crew.take() {
            if let Some(words) = program.last_words() {
                eprintln!("{words}");
            }
            // It may have ended by itself.
            let _ = program.kill();
        }
        self.api.end();
        if let Err(error) = cleanup::remove(&self.id) {
            eprintln!("the API {}: {error:#}", self.id);
        }
    }
}

//! The programs at the kubelet's cgroup, which lies outside that of the pods: health probes of declared ports pass
//! whatever the policy. The cgroup may come late and may be another one after the kubelet was restarted.

use std::{
    fs, io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, TryLockError},
    time::Duration,
};

use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSockAddr, SockOps},
};
use tokio::task::block_in_place;

use super::{
    inspect::Fault,
    link::attach_or_replace,
    loading::{fd_link, fd_of, program},
    programs::{Datapath, DatapathError},
};
use crate::telemetry;

/// How often the cgroup is looked for.
const INTERVAL: Duration = Duration::from_secs(2);
const CONNECT_HOOKS: &[&str] = &["probe_connect4", "probe_connect6"];
const SOCKET_HOOK: &str = "probe_events";
/// As the audit calls them.
const CHECK: &str = "kubelet";

/// The loaded programs.
struct Probes {
    ebpf: Ebpf,
    links: PathBuf,
}

/// What is at the kubelet's cgroup.
#[derive(Default)]
pub(super) struct Kubelet {
    probes: Option<Probes>,
    /// Id of the cgroup to which the programs were attached last.
    attached: Option<u64>,
    /// Why they cannot be attached, though the cgroup is there.
    trouble: Option<String>,
}

/// Keeps the programs at the kubelet's cgroup. Without them probes are connections without identity.
pub async fn keep_probes(datapath: Arc<Datapath>) {
    let mut reported = None;
    loop {
        for Fault { check, why } in datapath.kubelet_faults() {
            // Trouble is told below, once.
            if reported.is_none() {
                telemetry::audit_fault(check);
                tracing::error!(check, why);
            }
        }
        let mended = match datapath.probes_settled() {
            Ok(true) => Ok(()),
            // Reading the object takes its time. Not every time: it moves all work to another thread.
            Ok(false) => block_in_place(|| datapath.mend_probes()),
            Err(e) => Err(e),
        };
        let problem = mended.err().map(|e| format!("{:#}", anyhow::Error::from(e)));
        if problem.is_some() && problem != reported {
            let why = problem.as_deref().unwrap_or_default();
            tracing::warn!(why, "health probes are connections without identity until the kubelet's cgroup is there");
        }
        reported = problem;
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Takes away what an agent with another setting left: then nobody's probes pass.
pub fn remove_probes(datapath: &Datapath) -> Result<(), DatapathError> {
    for name in hooks() {
        let path = datapath.links().join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(DatapathError::io("remove", &path, e)),
            _ => {}
        }
    }
    Ok(())
}

fn hooks() -> impl Iterator<Item = &'static str> {
    CONNECT_HOOKS.iter().copied().chain([SOCKET_HOOK])
}

impl Datapath {
    /// What is wrong with the programs at the kubelet's cgroup. That it is not there, or came a moment ago, is no
    /// fault.
    pub(super) fn kubelet_faults(&self) -> Vec<Fault> {
        let Some(cgroup) = &self.settings.kubelet_cgroup else { return Vec::new() };
        let kubelet = match self.kubelet.try_lock() {
            Ok(kubelet) => kubelet,
            Err(TryLockError::Poisoned(kubelet)) => kubelet.into_inner(),
            // They are being attached.
            Err(TryLockError::WouldBlock) => return Vec::new(),
        };
        let Ok(folder) = fs::metadata(cgroup) else { return Vec::new() };
        match &kubelet.trouble {
            Some(why) => vec![Fault { check: CHECK, why: why.clone() }],
            None if kubelet.attached == Some(folder.ino()) => self.link_faults(CHECK, hooks(), cgroup, folder.ino()),
            None => Vec::new(),
        }
    }

    /// Whether they are where they should be, or shall not be anywhere.
    fn probes_settled(&self) -> Result<bool, DatapathError> {
        let Some(cgroup) = &self.settings.kubelet_cgroup else { return Ok(true) };
        let id = fs::metadata(cgroup).map_err(|e| DatapathError::io("find", cgroup, e))?.ino();
        let attached = self.kubelet.lock().unwrap_or_else(PoisonError::into_inner).attached;
        Ok(attached == Some(id) && self.link_faults(CHECK, hooks(), cgroup, id).is_empty())
    }

    /// Attaches what of them is not where it should be.
    pub(super) fn mend_probes(&self) -> Result<(), DatapathError> {
        let Some(cgroup) = &self.settings.kubelet_cgroup else { return Ok(()) };
        let mut kubelet = self.kubelet.lock().unwrap_or_else(PoisonError::into_inner);
        // A cgroup's id is the inode number of its folder.
        let id = fs::metadata(cgroup).map_err(|e| DatapathError::io("find", cgroup, e))?.ino();
        let outcome = self.attach_probes(&mut kubelet, cgroup, id);
        kubelet.trouble = match &outcome {
            Ok(()) => None,
            Err(DatapathError::Io { action, path, source }) => {
                Some(format!("cannot {action} {}: {source}", path.display()))
            }
            Err(e) => Some(e.to_string()),
        };
        outcome
    }

    fn attach_probes(&self, kubelet: &mut Kubelet, cgroup: &Path, id: u64) -> Result<(), DatapathError> {
        if let Err(e) = outside_the_pods(self.cgroup(), cgroup) {
            // An earlier agent may have put them there.
            remove_probes(self)?;
            return Err(DatapathError::io("use", cgroup, e));
        }
        if kubelet.attached == Some(id) && self.link_faults(CHECK, hooks(), cgroup, id).is_empty() {
            return Ok(());
        }
        let probes = match &mut kubelet.probes {
            Some(probes) => probes,
            none => none.insert(Probes::load(self)?),
        };
        probes.attach(cgroup, id)?;
        tracing::info!(cgroup = %cgroup.display(), "health probes of declared ports pass");
        kubelet.attached = Some(id);
        Ok(())
    }
}

/// The hooks of an ancestor run after those of a descendant: below the pods' cgroup each mark of a probe would be taken
/// away, and above it every pod's process would count as the kubelet.
fn outside_the_pods(pods: &Path, kubelet: &Path) -> io::Result<()> {
    let (pods, kubelet) = (fs::canonicalize(pods)?, fs::canonicalize(kubelet)?);
    if kubelet.starts_with(&pods) {
        return Err(io::Error::other("--kubelet-cgroup must not lie below --cgroup"));
    }
    if pods.starts_with(&kubelet) {
        return Err(io::Error::other("--kubelet-cgroup must not lie above --cgroup"));
    }
    Ok(())
}

impl Probes {
    fn load(datapath: &Datapath) -> Result<Self, DatapathError> {
        let mut ebpf = datapath.object()?;
        for name in CONNECT_HOOKS {
            let program: &mut CgroupSockAddr = program(&mut ebpf, name)?;
            program.load().map_err(|e| DatapathError::program("load", Path::new(name), e))?;
        }
        let sockops: &mut SockOps = program(&mut ebpf, SOCKET_HOOK)?;
        sockops.load().map_err(|e| DatapathError::program("load", Path::new(SOCKET_HOOK), e))?;
        Ok(Self { ebpf, links: datapath.links() })
    }

    fn attach(&mut self, folder: &Path, id: u64) -> Result<(), DatapathError> {
        let cgroup = fs::File::open(folder).map_err(|e| DatapathError::io("open", folder, e))?;
        // What acts on a mark before what makes one.
        let sockops: &mut SockOps = program(&mut self.ebpf, SOCKET_HOOK)?;
        let fd = fd_of(sockops.fd(), SOCKET_HOOK)?;
        attach_or_replace(&self.links.join(SOCKET_HOOK), fd.as_fd(), Some(id), || {
            let link = sockops.attach(&cgroup, CgroupAttachMode::Single)?;
            fd_link(sockops.take_link(link)?.try_into())
        })?;
        for name in CONNECT_HOOKS {
            let program: &mut CgroupSockAddr = program(&mut self.ebpf, name)?;
            let fd = fd_of(program.fd(), name)?;
            attach_or_replace(&self.links.join(name), fd.as_fd(), Some(id), || {
                let link = program.attach(&cgroup, CgroupAttachMode::Single)?;
                fd_link(program.take_link(link)?.try_into())
            })?;
        }
        Ok(())
    }
}

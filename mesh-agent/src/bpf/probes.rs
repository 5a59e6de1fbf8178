//! The programs at the kubelet's cgroup, which lies outside that of the pods: health probes of declared ports pass
//! whatever the policy. The cgroup may come late and may be another one after the kubelet was restarted.

use std::{
    fs, io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSockAddr, SockOps},
};
use tokio::task::block_in_place;

use super::{
    link::attach_or_replace,
    programs::{Datapath, DatapathError, fd_link, fd_of, program},
};

/// How often the cgroup is looked for.
const INTERVAL: Duration = Duration::from_secs(2);
const CONNECT_HOOKS: &[&str] = &["probe_connect4", "probe_connect6"];
const SOCKET_HOOK: &str = "probe_events";

/// The loaded programs.
struct Probes {
    ebpf: Ebpf,
    links: PathBuf,
}

/// Keeps the programs at the cgroup in this folder. Without them probes are connections without identity.
pub async fn keep_probes(datapath: Arc<Datapath>, cgroup: PathBuf) {
    let mut attached = None;
    let mut reported = None;
    let mut probes = None;
    loop {
        let outcome = match fs::metadata(&cgroup) {
            Ok(folder) if attached == Some(folder.ino()) => Ok(()),
            // A cgroup's id is the inode number of its folder.
            // Reading the object takes its time.
            Ok(folder) => block_in_place(|| attach(&datapath, &mut probes, &cgroup, folder.ino())).map(|()| {
                tracing::info!(cgroup = %cgroup.display(), "health probes of declared ports pass");
                attached = Some(folder.ino());
            }),
            Err(e) => Err(DatapathError::io("find", &cgroup, e)),
        };
        let problem = outcome.err().map(|e| format!("{:#}", anyhow::Error::from(e)));
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
    for name in CONNECT_HOOKS.iter().copied().chain([SOCKET_HOOK]) {
        let path = datapath.links().join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(DatapathError::io("remove", &path, e)),
            _ => {}
        }
    }
    Ok(())
}

/// The hooks of an ancestor run later and would take each mark away.
fn outside_the_pods(datapath: &Datapath, cgroup: &Path) -> io::Result<()> {
    if fs::canonicalize(cgroup)?.starts_with(fs::canonicalize(datapath.cgroup())?) {
        return Err(io::Error::other("--kubelet-cgroup must not lie below --cgroup"));
    }
    Ok(())
}

fn attach(datapath: &Datapath, probes: &mut Option<Probes>, cgroup: &Path, id: u64) -> Result<(), DatapathError> {
    outside_the_pods(datapath, cgroup).map_err(|e| DatapathError::io("use", cgroup, e))?;
    let probes = match probes {
        Some(probes) => probes,
        None => probes.insert(Probes::load(datapath)?),
    };
    probes.attach(cgroup, id)
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

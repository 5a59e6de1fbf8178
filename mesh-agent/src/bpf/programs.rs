//! What the agent says to the kernel of its pods and of its own sockets.

use std::{
    fs, io,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    sync::Mutex,
};

use aya::{
    Ebpf, include_bytes_aligned,
    maps::{Map, MapData, MapError, RingBuf},
    programs::ProgramError,
};
use mesh_common::abi::{ANY_PORT, Counter, Ip, PodEntry, ProbeTarget, SockAddr, SocketState, kind};

use super::{
    datagrams::DatagramMaps,
    direct::DirectMaps,
    events::Lives,
    ingress::Ingress,
    loading::{attach_shared, layout_dir, load_object, load_shared},
    maps::Maps,
    probes::Kubelet,
};

pub(super) static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/mesh-ebpf"));

/// The socket address hooks, by program name.
pub(super) const ADDRESS_HOOKS: &[&str] =
    &["connect4", "connect6", "getpeername4", "getpeername6", "getsockname4", "getsockname6"];
/// The hook of sockets' events, likewise.
pub(super) const SOCKET_EVENTS: &str = "socket_events";
/// The hooks of packets, likewise.
pub(super) const PACKET_HOOKS: &[&str] = &["datagrams_out", "datagrams_in"];

#[derive(Clone, Debug)]
pub struct Settings {
    /// Folder of this agent on a bpf file system.
    pub bpffs: PathBuf,
    /// Cgroup v2 folder below which the pods and the agent run.
    pub cgroup: PathBuf,
    /// Id of the agent's own cgroup.
    pub agent_cgroup: u64,
    pub outbound_port: u16,
    pub hbone_port: u16,
    /// Size of the tables of connections between connect and accept, as they are made; pinned ones keep theirs.
    pub max_pending: u32,
    /// Size of the table of listening ports, likewise.
    pub max_listening: u32,
    /// Size of the table of connections that no agent carries, likewise.
    pub max_direct: u32,
    /// Size of the table of verdicts, likewise.
    pub max_verdicts: u32,
    /// Size of each of the two tables of datagrams, likewise.
    pub max_datagrams: u32,
    /// The kubelet's cgroup v2 folder; `None`: nobody's probes pass.
    pub kubelet_cgroup: Option<PathBuf>,
}

/// What the agent needs to know of a pod to hook it.
#[derive(Debug)]
pub struct PodHooks<'a> {
    pub entry: PodEntry,
    pub netns: BorrowedFd<'a>,
    pub netns_cookie: u64,
    pub cgroup: u64,
    pub listener: BorrowedFd<'a>,
    /// Ports that others can reach and somebody listens on; `None`: it cannot be known.
    pub listening: Option<&'a [u16]>,
    /// Ports that the kubelet may reach past the agent.
    pub probe_ports: &'a [u16],
}

/// The programs of the hooks that all pods share: the kernel has taken them, and runs them nowhere yet.
pub struct Shared(Ebpf);

/// The programs' log lines; one reader only.
pub type Logs = aya_log::EbpfLogger<&'static dyn log::Log>;

/// The loaded data path of one node.
pub struct Datapath {
    pub(super) dir: PathBuf,
    pub(super) settings: Settings,
    pub(super) maps: Maps,
    pub(super) kubelet: Mutex<Kubelet>,
    pub(super) lives: Lives,
    pub(super) direct: DirectMaps,
    pub(super) datagrams: DatagramMaps,
    ingress: Ingress,
}

#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    #[error("cannot {action} {path}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("the eBPF object does not load; is the kernel 6.1 or newer, with CONFIG_BPF_SYSCALL and BTF?")]
    Load(#[source] Box<aya::EbpfError>),
    #[error("cannot {action} an eBPF program for {path}")]
    Program { action: &'static str, path: PathBuf, source: Box<ProgramError> },
    #[error("cannot pin {path}")]
    Pin { path: PathBuf, source: Box<aya::pin::PinError> },
    #[error("eBPF map {name}")]
    Map { name: &'static str, source: Box<MapError> },
    #[error("the log ring of the eBPF programs")]
    Logs(#[source] Box<aya_log::Error>),
    #[error("the eBPF object has no program {0} of the expected type")]
    Missing(&'static str),
}

impl DatapathError {
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    pub(super) fn map(name: &'static str, source: MapError) -> Self {
        Self::Map { name, source: Box::new(source) }
    }

    pub(super) fn program(action: &'static str, path: &Path, source: ProgramError) -> Self {
        Self::Program { action, path: path.to_owned(), source: Box::new(source) }
    }
}

impl Shared {
    /// Attaches them; those of an earlier agent are exchanged. To be called once that one has let go: the reader of log
    /// lines keeps in mind how far it read, and what another one read meanwhile it would take for lines again, long
    /// overwritten.
    pub fn attach(mut self, datapath: &Datapath) -> Result<Logs, DatapathError> {
        attach_shared(&mut self.0, &datapath.dir, &datapath.settings)?;
        aya_log::EbpfLogger::init(&mut self.0).map_err(|e| DatapathError::Logs(Box::new(e)))
    }
}

impl Datapath {
    /// Loads and pins what all pods share; [`Shared::attach`] is to follow. Maps and links of an earlier agent with the
    /// same layout are kept.
    pub fn load(settings: Settings) -> Result<(Self, Shared), DatapathError> {
        let dir = layout_dir(&settings.bpffs);
        for sub in ["maps", "links"] {
            let path = dir.join(sub);
            fs::create_dir_all(&path).map_err(|e| DatapathError::io("create", &path, e))?;
        }
        let shared = Shared(load_shared(&dir, &settings)?);
        let maps = Maps::open(&dir.join("maps"))?;
        let direct = DirectMaps::open(&dir.join("maps"))?;
        let datagrams = DatagramMaps::open(&dir.join("maps"))?;
        maps.compare_sizes(&dir.join("maps"), &settings);
        let ingress = Ingress::link(&dir.join("maps"), &settings)?;
        let (kubelet, lives) = (Mutex::default(), Lives::default());
        Ok((Self { dir, settings, maps, kubelet, lives, direct, datagrams, ingress }, shared))
    }

    /// Attaches again what of the shared hooks and the kubelet's is not where it should be.
    pub fn mend_shared(&self) -> Result<(), DatapathError> {
        if !self.cgroup_faults().is_empty() {
            attach_shared(&mut load_shared(&self.dir, &self.settings)?, &self.dir, &self.settings)?;
        }
        // What fails stays a fault, which says why.
        let _ = self.mend_probes();
        Ok(())
    }

    /// Redirects a pod: inbound first, so that nothing that it dials is answered past the agent.
    pub fn attach_pod(&self, pod: &PodHooks<'_>) -> Result<(), DatapathError> {
        let PodHooks { entry, netns, netns_cookie, cgroup, listener, listening, probe_ports } = *pod;
        let PodEntry { index, epoch, .. } = entry;
        let failed = |e| DatapathError::map("EPOCHS", e);
        if self.maps.epoch(index).map_err(failed)? != epoch {
            self.lives.begins(index);
        }
        self.maps.set_epoch(index, epoch).map_err(failed)?;
        self.maps.set_listener(index, &listener).map_err(|e| DatapathError::map("LISTENERS", e))?;
        // Before anything asks which ports are open.
        match listening {
            Some(ports) => {
                self.add_listening(index, netns_cookie, ports)?;
                self.ports_known(netns_cookie)?;
            }
            None => self.ports_unknown(index, netns_cookie)?,
        }
        self.ingress.attach(&self.pod_link(netns_cookie), netns, netns_cookie, entry)?;
        // The namespace first: a process of the pod's cgroup in a namespace that is not known is refused.
        self.maps.set_pod(netns_cookie, entry).map_err(|e| DatapathError::map("PODS", e))?;
        self.maps.set_cgroup(cgroup, index).map_err(|e| DatapathError::map("CGROUPS", e))?;
        self.set_probes(entry, probe_ports)
    }

    /// What the kubelet may reach past the agent, instead of what it might before.
    pub fn set_probes(&self, pod: PodEntry, ports: &[u16]) -> Result<(), DatapathError> {
        let at: Vec<SockAddr> = declared(pod, ports).collect();
        let target = ProbeTarget { index: pod.index, epoch: pod.epoch };
        let failed = |e| DatapathError::map("PROBES", e);
        self.maps.remove_probes(pod.index, &at).map_err(failed)?;
        at.into_iter().try_for_each(|at| self.maps.set_probe(at, target)).map_err(failed)
    }

    /// The ports on which somebody in the namespace listens, as far as the kernel's table knows.
    pub fn listening(&self, netns_cookie: u64) -> Vec<u16> {
        // Only the kernel and this crate write ports, from 16 bits each.
        self.maps.listening(netns_cookie).into_iter().map(|port| port as u16).collect()
    }

    /// `false`: the table is full; closed ports of every pod look open from then on.
    pub fn add_listening(&self, index: u32, netns_cookie: u64, ports: &[u16]) -> Result<bool, DatapathError> {
        let mut room = true;
        for port in ports {
            let added = self.maps.add_listening(netns_cookie, u32::from(*port), index);
            room &= added.map_err(|e| DatapathError::map("LISTENING", e))?;
        }
        Ok(room)
    }

    /// Every port of the namespace may be open, until [`Datapath::ports_known`].
    pub fn ports_unknown(&self, index: u32, netns_cookie: u64) -> Result<(), DatapathError> {
        let added = self.maps.add_listening(netns_cookie, ANY_PORT, index);
        added.map(drop).map_err(|e| DatapathError::map("LISTENING", e))
    }

    /// Its open ports are in the table.
    pub fn ports_known(&self, netns_cookie: u64) -> Result<(), DatapathError> {
        self.maps.remove_listening(netns_cookie, ANY_PORT).map_err(|e| DatapathError::map("LISTENING", e))
    }

    pub fn remove_listening(&self, netns_cookie: u64, ports: &[u16]) -> Result<(), DatapathError> {
        let mut ports = ports.iter().map(|port| u32::from(*port));
        ports
            .try_for_each(|port| self.maps.remove_listening(netns_cookie, port))
            .map_err(|e| DatapathError::map("LISTENING", e))
    }

    /// Gives a pod that an earlier agent redirected a listener again, in its slot. Entries and programs stay as they
    /// are.
    pub fn resume_pod(&self, index: u32, listener: BorrowedFd<'_>) -> Result<(), DatapathError> {
        self.maps.set_listener(index, &listener).map_err(|e| DatapathError::map("LISTENERS", e))
    }

    /// Of the cgroups that the slot has, only this one stays.
    pub fn keep_cgroup(&self, index: u32, cgroup: u64) -> Result<(), DatapathError> {
        let mut others = self.maps.cgroups().into_iter().filter(|(id, of)| *of == index && *id != cgroup);
        others.try_for_each(|(id, _)| self.maps.remove_cgroup(id)).map_err(|e| DatapathError::map("CGROUPS", e))
    }

    /// Leaves alone what a pod dials. What arrives there is steered as before; the hooks do not see any more which of
    /// its ports open.
    pub fn outbound_off(&self, index: u32, netns_cookie: u64) -> Result<(), DatapathError> {
        let unknown = self.ports_unknown(index, netns_cookie);
        // The cgroup first: see `attach_pod`.
        let cgroup = self.maps.remove_cgroups_of(index).map_err(|e| DatapathError::map("CGROUPS", e));
        let pod = self.maps.remove_pod(netns_cookie).map_err(|e| DatapathError::map("PODS", e));
        unknown.and(cgroup).and(pod)
    }

    /// Leaves alone what arrives at a pod. The kernel takes the program away a moment later, and until then it steers:
    /// the listener must stay in its slot.
    pub fn inbound_off(&self, netns_cookie: u64) -> Result<(), DatapathError> {
        let path = self.pod_link(netns_cookie);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(DatapathError::io("remove", &path, e)),
            _ => Ok(()),
        }
    }

    /// Leaves a pod alone again: outbound first, and every step is tried.
    pub fn detach_pod(&self, index: u32, netns_cookie: u64) -> Result<(), DatapathError> {
        let cgroup = self.maps.remove_cgroups_of(index).map_err(|e| DatapathError::map("CGROUPS", e));
        let pod = self.maps.remove_pod(netns_cookie).map_err(|e| DatapathError::map("PODS", e));
        let link = self.inbound_off(netns_cookie);
        let epoch = self.maps.set_epoch(index, 0).map_err(|e| DatapathError::map("EPOCHS", e));
        let listener = self.maps.clear_listener(index).map_err(|e| DatapathError::map("LISTENERS", e));
        let listening = self.remove_listening(netns_cookie, &self.listening(netns_cookie));
        let probes = self.maps.remove_probes(index, &[]).map_err(|e| DatapathError::map("PROBES", e));
        pod.and(cgroup).and(link).and(epoch).and(listener).and(listening).and(probes)
    }

    /// Namespaces (by cookie) that an earlier agent redirected.
    pub fn known_pods(&self) -> Vec<(u64, PodEntry)> {
        self.maps.pods()
    }

    /// What the kernel carried to an accepted socket; `None`: it was never redirected.
    pub fn accepted(&self, socket: &impl AsRawFd) -> Result<Option<Accepted>, DatapathError> {
        let state = self.maps.socket_state(socket).map_err(|e| DatapathError::map("SOCKETS", e))?;
        Ok(state.filter(|s| s.kind == kind::ACCEPTED).map(|s| Accepted {
            original_destination: s.address.into(),
            backend: (s.backend.port != 0).then(|| s.backend.into()),
            pod: s.pod,
            epoch: s.epoch,
        }))
    }

    /// The pod (index and epoch) that dialled an accepted socket, if the kernel attested it and left the decision to
    /// the agent.
    pub fn attested_late(&self, socket: &impl AsRawFd) -> Result<Option<(u32, u32)>, DatapathError> {
        let state = self.maps.socket_state(socket).map_err(|e| DatapathError::map("SOCKETS", e))?;
        Ok(state.filter(|s| s.kind == kind::LATE).map(|s| (s.pod, s.epoch)))
    }

    /// Before the agent dials an application of `pod` (index and epoch): whom the application shall see.
    pub fn carry_client(
        &self,
        socket: &impl AsRawFd,
        pod: (u32, u32),
        client: SocketAddr,
    ) -> Result<(), DatapathError> {
        self.set_state(socket, kind::UPSTREAM, pod, (0, 0), client)
    }

    /// Before the audit dials a redirect address of `pod` (index and epoch) like an application that was redirected.
    pub fn redirect(
        &self,
        socket: &impl AsRawFd,
        pod: (u32, u32),
        destination: SocketAddr,
    ) -> Result<(), DatapathError> {
        self.set_state(socket, kind::REDIRECTED, pod, (0, 0), destination)
    }

    /// Before the agent dials from a source pod's namespace: the decision that lets it into the target pod.
    pub fn attest(
        &self,
        socket: &impl AsRawFd,
        source: (u32, u32),
        target: (u32, u32),
        destination: SocketAddr,
    ) -> Result<(), DatapathError> {
        self.set_state(socket, kind::ATTEST, source, target, destination)
    }

    /// After the agent's connect: the kernel took over what the socket was marked for. It did not if its table is
    /// full, and then the connection must not be used.
    pub fn is_marked(&self, socket: &impl AsRawFd) -> Result<bool, DatapathError> {
        Ok(self.maps.socket_state(socket).map_err(|e| DatapathError::map("SOCKETS", e))?.is_some())
    }

    fn set_state(
        &self,
        socket: &impl AsRawFd,
        kind: u32,
        (pod, epoch): (u32, u32),
        (target, target_epoch): (u32, u32),
        address: SocketAddr,
    ) -> Result<(), DatapathError> {
        let address = address.into();
        let state = SocketState { kind, pod, epoch, target, target_epoch, address, ..SocketState::EMPTY };
        self.maps.set_socket_state(socket, state).map_err(|e| DatapathError::map("SOCKETS", e))
    }

    pub fn counter(&self, counter: Counter) -> u64 {
        self.maps.counter(counter)
    }

    /// Every counter of the programs.
    pub fn counters(&self) -> impl Iterator<Item = (Counter, u64)> {
        Counter::ALL.iter().map(|counter| (*counter, self.maps.counter(*counter)))
    }

    /// The ring of kernel events; one reader only.
    pub fn events(&self) -> Result<RingBuf<MapData>, DatapathError> {
        let data = MapData::from_pin(self.dir.join("maps/EVENTS")).map_err(|e| DatapathError::map("EVENTS", e))?;
        RingBuf::try_from(Map::RingBuf(data)).map_err(|e| DatapathError::map("EVENTS", e))
    }

    /// The whole object once more, for programs of other cgroups.
    pub(super) fn object(&self) -> Result<Ebpf, DatapathError> {
        load_object(&self.dir, &self.settings)
    }

    /// Where the pods' hooks are.
    pub(super) fn cgroup(&self) -> &Path {
        &self.settings.cgroup
    }

    pub(super) fn links(&self) -> PathBuf {
        self.dir.join("links")
    }

    pub(super) fn pod_link(&self, netns_cookie: u64) -> PathBuf {
        self.dir.join("links").join(format!("ingress-{netns_cookie}"))
    }
}

/// Where the kubelet may reach a pod that declares these ports.
pub(super) fn declared(pod: PodEntry, ports: &[u16]) -> impl Iterator<Item = SockAddr> {
    let ips = [pod.ip4, pod.ip6].into_iter().filter(|ip| *ip != Ip::NONE);
    ips.flat_map(|ip| ports.iter().map(move |port| SockAddr { ip, port: u32::from(*port) }))
}

/// What the kernel knows of a redirected connection.
#[derive(Clone, Copy, Debug)]
pub struct Accepted {
    pub original_destination: SocketAddr,
    /// The endpoint that the kernel chose, if that is a service.
    pub backend: Option<SocketAddr>,
    /// Index and epoch of the pod whose socket dialled.
    pub pod: u32,
    pub epoch: u32,
}

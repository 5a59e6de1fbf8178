//! Who would be refused under STRICT, by what the agents say they saw. Pure: asks nobody and prints nothing.

use std::collections::{BTreeMap, BTreeSet};

use mesh_common::proto::nodemesh::{
    ControllerStatus, Direction, EdgeInfo, Endpoint, NodeStatus, Origin, PodMtls, Redirection, Security,
};

/// Seconds since 1970, and nanoseconds.
pub type Time = (i64, i32);

/// Everything that is known, sorted.
#[derive(Debug, Default)]
pub struct Report {
    pub windows: Vec<Window>,
    /// Nodes with pods of the mesh, or that should have such, whose agents did not answer.
    pub missing: Vec<String>,
    /// Plaintext ones.
    pub pairs: Vec<Pair>,
    pub workloads: Vec<Workload>,
    pub namespaces: Vec<Namespace>,
}

/// Since when an agent remembers.
#[derive(Debug)]
pub struct Window {
    pub node: String,
    pub since: Option<Time>,
    /// Edges that it saw and does not remember.
    pub dropped: u64,
}

/// Connections in plaintext from one workload, or one address, to a port of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub key: PairKey,
    pub counts: Counts,
    pub last: Option<Time>,
    pub nodes: BTreeSet<String>,
    pub effect: Effect,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PairKey {
    pub destination: End,
    pub port: u16,
    pub source: End,
    pub origin: Origin,
    /// Older than its pod's enrolment.
    pub older: bool,
    /// As told by the destination's node; otherwise by the source's.
    pub inbound: bool,
}

/// A workload; without one, an address.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct End {
    pub namespace: String,
    pub workload: String,
    pub address: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// That were made, those that are open now among them.
    pub connections: u64,
    pub refused: u64,
    pub failed: u64,
    pub open: u64,
    pub sent: u64,
    pub received: u64,
}

/// What STRICT at its destination means for a plaintext pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It works now, and would be refused.
    Refused,
    /// Refused already: STRICT is in force at that port.
    RefusedNow,
    /// Its connections end once, and whoever dials again has an identity.
    EndsOnce,
    /// No connection came about.
    NeverPassed,
    /// STRICT says nothing of it: its destination is not in the mesh.
    Unaffected,
}

#[derive(Debug)]
pub struct Workload {
    pub namespace: String,
    pub name: String,
    pub pods: usize,
    /// Pods of which the node sees nothing yet.
    pub unseen: usize,
    /// `PERMISSIVE`, `STRICT`, with what differs.
    pub mode: String,
    pub strict_by: BTreeSet<String>,
    /// Connections to it by mutual TLS, and attested by the kernel.
    pub mutual_tls: u64,
    pub attested: u64,
    /// Plaintext connections that were served.
    pub plaintext: u64,
    /// Who would be refused.
    pub clients: BTreeSet<End>,
    /// Connections that are older than their pod's enrolment.
    pub older: u64,
    /// All its nodes remember what came since then.
    pub since: Option<Time>,
    pub verdict: Verdict,
}

#[derive(Debug)]
pub struct Namespace {
    pub name: String,
    pub workloads: usize,
    pub clients: usize,
    /// Workloads that nobody was seen to reach.
    pub silent: Vec<String>,
    pub since: Option<Time>,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    AlreadyStrict,
    Ready,
    NotReady,
    /// Nothing was seen.
    Unknown,
}

/// `namespace`: empty for all; `controllers` know of nodes whose agents are away.
pub fn report(
    namespace: &str,
    nodes: &[(String, NodeStatus)],
    controllers: &[ControllerStatus],
    edges: &[(String, EdgeInfo)],
) -> Report {
    let away = controllers.iter().flat_map(|controller| &controller.missing_nodes).map(|missing| &missing.node);
    let linked = controllers.iter().flat_map(|controller| &controller.connected_nodes);
    let silent = away.chain(linked).filter(|node| nodes.iter().all(|(answered, _)| answered != *node));
    let missing: BTreeSet<String> = silent.cloned().collect();
    let windows: Vec<_> = nodes.iter().map(|(node, status)| Window::of(node, status)).collect();
    let meshed = meshed(nodes);
    let pairs: Vec<_> = pairs(&meshed, edges)
        .into_iter()
        .filter(|pair| {
            namespace.is_empty() || [&pair.key.source, &pair.key.destination].iter().any(|e| e.namespace == namespace)
        })
        .collect();
    let mine = meshed.iter().filter(|((of, _), _)| namespace.is_empty() || of == namespace);
    let workloads: Vec<_> = mine.map(|(name, pods)| Workload::of(name, pods, &windows, &pairs, edges)).collect();
    let mut by_namespace: BTreeMap<&str, Vec<&Workload>> = BTreeMap::new();
    for workload in &workloads {
        by_namespace.entry(&workload.namespace).or_default().push(workload);
    }
    let namespaces = by_namespace.into_iter().map(|(name, of_it)| Namespace::of(name, &of_it)).collect();
    Report { windows, missing: missing.into_iter().collect(), pairs, workloads, namespaces }
}

/// The pods of the mesh, by namespace and workload.
type Meshed = BTreeMap<(String, String), Vec<PodOf>>;

/// One pod, as its node tells of it.
struct PodOf {
    node: String,
    mtls: PodMtls,
    redirected: bool,
}

fn meshed(nodes: &[(String, NodeStatus)]) -> Meshed {
    let mut all = Meshed::new();
    for (node, status) in nodes {
        for pod in &status.pods {
            let Some(mtls) = pod.mtls.clone() else { continue };
            let redirected = pod.redirection() == Redirection::Enabled;
            let name = if mtls.workload.is_empty() { pod.name.clone() } else { mtls.workload.clone() };
            all.entry((pod.namespace.clone(), name)).or_default().push(PodOf { node: node.clone(), mtls, redirected });
        }
    }
    all
}

impl PodOf {
    fn is_strict_at(&self, port: u16) -> bool {
        self.mtls.strict != self.mtls.other_ports.contains(&u32::from(port))
    }
}

fn pairs(meshed: &Meshed, edges: &[(String, EdgeInfo)]) -> Vec<Pair> {
    let mut all: BTreeMap<PairKey, Pair> = BTreeMap::new();
    for (node, edge) in edges.iter().filter(|(_, edge)| edge.security() == Security::Plaintext) {
        let key = PairKey::of(edge);
        let pair = all.entry(key.clone()).or_insert_with(|| Pair {
            key,
            counts: Counts::default(),
            last: None,
            nodes: BTreeSet::new(),
            effect: Effect::Unaffected,
        });
        pair.counts.add(edge);
        pair.last = pair.last.max(edge.last.map(|time| (time.seconds, time.nanos)));
        pair.nodes.insert(node.clone());
    }
    let mut pairs: Vec<_> = all.into_values().collect();
    for pair in &mut pairs {
        pair.effect = effect(meshed, pair);
    }
    pairs
}

fn effect(meshed: &Meshed, Pair { key, counts, .. }: &Pair) -> Effect {
    let destination = (key.destination.namespace.clone(), key.destination.workload.clone());
    let Some(pods) = meshed.get(&destination).filter(|_| key.inbound) else { return Effect::Unaffected };
    if pods.iter().all(|pod| pod.is_strict_at(key.port)) {
        // What older connections do is for the grace to say: they end.
        return if key.older && counts.open > 0 { Effect::EndsOnce } else { Effect::RefusedNow };
    }
    if counts.served() == 0 {
        return Effect::NeverPassed;
    }
    // Whoever joined since then has an identity now. It may have none by another way, and then there is a younger pair.
    if key.older && key.origin == Origin::MeshedPod { Effect::EndsOnce } else { Effect::Refused }
}

impl Counts {
    fn add(&mut self, edge: &EdgeInfo) {
        self.connections += edge.connections;
        self.refused += edge.refused;
        self.failed += edge.failed;
        self.open += edge.open;
        self.sent += edge.bytes_sent;
        self.received += edge.bytes_received;
    }

    /// Neither refused nor failed.
    pub fn served(&self) -> u64 {
        self.connections.saturating_sub(self.refused).saturating_sub(self.failed)
    }
}

impl PairKey {
    fn of(edge: &EdgeInfo) -> Self {
        let destination = edge.destination.clone().unwrap_or_default();
        let port = destination.address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or_default();
        Self {
            destination: End::of(&destination),
            port,
            source: End::of(&edge.source.clone().unwrap_or_default()),
            origin: edge.origin(),
            older: edge.older,
            inbound: edge.direction() == Direction::Inbound,
        }
    }
}

impl End {
    fn of(end: &Endpoint) -> Self {
        let workload = if end.workload.is_empty() { &end.pod } else { &end.workload };
        if workload.is_empty() {
            // A client's port says nothing, and sources come without.
            let ip = end.address.parse::<std::net::SocketAddr>().map(|address| address.ip().to_string());
            return Self { address: ip.unwrap_or_else(|_| end.address.clone()), ..Self::default() };
        }
        Self { namespace: end.namespace.clone(), workload: workload.clone(), address: String::new() }
    }

    pub fn text(&self) -> String {
        match self.workload.as_str() {
            "" => self.address.clone(),
            workload => format!("{}/{workload}", self.namespace),
        }
    }
}

impl Window {
    fn of(node: &str, status: &NodeStatus) -> Self {
        let since = status.started.map(|time| (time.seconds, time.nanos));
        Self { node: node.to_owned(), since, dropped: status.edges_dropped }
    }
}

impl Workload {
    fn of(
        (namespace, name): &(String, String),
        pods: &[PodOf],
        windows: &[Window],
        pairs: &[Pair],
        edges: &[(String, EdgeInfo)],
    ) -> Self {
        let own = End { namespace: namespace.clone(), workload: name.clone(), address: String::new() };
        let to_it = |edge: &EdgeInfo| {
            // What the kernel attests is within a node, and told once, as the source's.
            let told = edge.direction() == Direction::Inbound || edge.security() == Security::KernelAttested;
            told && End::of(&edge.destination.clone().unwrap_or_default()) == own
        };
        let served = |security: Security| -> u64 {
            let of_it = edges.iter().map(|(_, edge)| edge).filter(|edge| edge.security() == security && to_it(edge));
            of_it.map(|edge| edge.connections.saturating_sub(edge.refused).saturating_sub(edge.failed)).sum()
        };
        let plaintext = || pairs.iter().filter(|pair| pair.key.inbound && pair.key.destination == own);
        let clients: BTreeSet<_> =
            plaintext().filter(|pair| pair.effect == Effect::Refused).map(|pair| pair.key.source.clone()).collect();
        let nodes: BTreeSet<_> = pods.iter().map(|pod| &pod.node).collect();
        let since = windows.iter().filter(|window| nodes.contains(&window.node)).map(|window| window.since).max();
        let mut workload = Self {
            namespace: namespace.clone(),
            name: name.clone(),
            pods: pods.len(),
            unseen: pods.iter().filter(|pod| !pod.redirected).count(),
            mode: mode(pods),
            strict_by: pods.iter().map(|pod| pod.mtls.strict_by.clone()).filter(|by| !by.is_empty()).collect(),
            mutual_tls: served(Security::MutualTls),
            attested: served(Security::KernelAttested),
            plaintext: plaintext().map(|pair| pair.counts.served()).sum(),
            clients,
            older: pods.iter().map(|pod| u64::from(pod.mtls.older)).sum(),
            since: since.flatten(),
            verdict: Verdict::Ready,
        };
        let all_strict = pods.iter().all(|pod| pod.mtls.strict && pod.mtls.other_ports.is_empty());
        let nothing_seen = workload.mutual_tls + workload.attested + workload.plaintext == 0;
        workload.verdict = match () {
            () if all_strict => Verdict::AlreadyStrict,
            () if !workload.clients.is_empty() => Verdict::NotReady,
            () if nothing_seen || workload.unseen > 0 => Verdict::Unknown,
            () => Verdict::Ready,
        };
        workload
    }
}

impl Namespace {
    fn of(name: &str, workloads: &[&Workload]) -> Self {
        let clients: BTreeSet<_> = workloads.iter().flat_map(|workload| &workload.clients).collect();
        let all = |verdict| workloads.iter().all(|workload| workload.verdict == verdict);
        let silent: Vec<_> =
            workloads.iter().filter(|w| w.verdict == Verdict::Unknown).map(|workload| workload.name.clone()).collect();
        let verdict = match () {
            () if all(Verdict::AlreadyStrict) => Verdict::AlreadyStrict,
            () if !clients.is_empty() => Verdict::NotReady,
            () if silent.len() == workloads.iter().filter(|w| w.verdict != Verdict::AlreadyStrict).count() => {
                Verdict::Unknown
            }
            () => Verdict::Ready,
        };
        let since = workloads.iter().map(|workload| workload.since).max().flatten();
        Self { name: name.to_owned(), workloads: workloads.len(), clients: clients.len(), silent, since, verdict }
    }
}

/// What holds for a workload's pods, in one line.
fn mode(pods: &[PodOf]) -> String {
    let words: BTreeSet<String> = pods.iter().map(|pod| words(&pod.mtls)).collect();
    words.into_iter().collect::<Vec<_>>().join(" or ")
}

fn words(mtls: &PodMtls) -> String {
    let (most, others) = if mtls.strict { ("STRICT", "PERMISSIVE") } else { ("PERMISSIVE", "STRICT") };
    if mtls.other_ports.is_empty() {
        return most.to_owned();
    }
    let ports = mtls.other_ports.iter().map(ToString::to_string).collect::<Vec<_>>();
    format!("{most}, {others} at {}", ports.join(","))
}

//! What is really in the kernel: looks at pinned links and map entries, and removes what belongs to nobody.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    hash::Hash,
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData},
};
use mesh_common::abi::{
    Affinity, AffinityKey, Attestation, Direct, FlowKey, MAX_PODS, PodEntry, ProbeTarget, Service, SockAddr,
    SocketState, Tuple, Verdict, VerdictKey,
};

use super::{
    link::{Target, pinned_target},
    maps::typed,
    programs::{ADDRESS_HOOKS, Datapath, DatapathError, PACKET_HOOKS, SOCKET_EVENTS, Settings, declared},
};

/// What the kernel holds for one network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hooked {
    pub cookie: u64,
    pub entry: Option<PodEntry>,
    pub link: PodLink,
}

/// The `sk_lookup` link of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PodLink {
    /// Nothing is pinned.
    Missing,
    /// Its namespace is gone.
    Dead,
    /// Attached to the namespace with this inode.
    Alive(u32),
}

/// Those that [`Datapath::map_entries`] counts, without the flags.
const MAPS: [&str; 10] =
    ["PENDING", "ATTESTED", "PODS", "CGROUPS", "PROBES", "LISTENING", "VERDICTS", "SERVICES", "AFFINITY", "DIRECT"];

impl Datapath {
    /// Every namespace for which there is a pinned link or an entry, by cookie.
    pub fn hooked(&self) -> Result<Vec<Hooked>, DatapathError> {
        let folder = self.dir.join("links");
        let failed = |action, e: io::Error| DatapathError::io(action, &folder, e);
        let mut entries: BTreeMap<u64, Option<PodEntry>> =
            self.maps.pods().into_iter().map(|(cookie, entry)| (cookie, Some(entry))).collect();
        for file in fs::read_dir(&folder).map_err(|e| failed("list", e))? {
            let name = file.map_err(|e| failed("list", e))?.file_name();
            let cookie = name.to_str().and_then(|name| name.strip_prefix("ingress-")).and_then(|c| c.parse().ok());
            if let Some(cookie) = cookie {
                entries.entry(cookie).or_default();
            }
        }
        entries.into_iter().map(|(cookie, entry)| Ok(Hooked { cookie, entry, link: self.link_of(cookie)? })).collect()
    }

    /// The link of one namespace.
    pub fn link_of(&self, cookie: u64) -> Result<PodLink, DatapathError> {
        let path = self.pod_link(cookie);
        let target = pinned_target(&path).map_err(|e| DatapathError::io("look at the link", &path, e))?;
        Ok(match target {
            None | Some(Target::Other | Target::Cgroup(_)) => PodLink::Missing,
            Some(Target::Netns(0)) => PodLink::Dead,
            Some(Target::Netns(inode)) => PodLink::Alive(inode),
        })
    }

    /// How many entries the maps hold, by name; of `OVERFLOWED` its value. `PENDING`, `ATTESTED` and `DIRECT` change
    /// while they are counted: of them it is about how many.
    pub fn map_entries(&self) -> [(&'static str, usize); 11] {
        [
            ("PENDING", self.count::<FlowKey, SocketState>("PENDING")),
            ("ATTESTED", self.count::<Tuple, Attestation>("ATTESTED")),
            ("PODS", self.maps.pods().len()),
            ("CGROUPS", self.maps.cgroups().len()),
            ("PROBES", self.maps.probes().len()),
            ("LISTENING", self.maps.all_listening().len()),
            ("VERDICTS", self.count::<VerdictKey, Verdict>("VERDICTS")),
            ("SERVICES", self.count::<SockAddr, Service>("SERVICES")),
            ("AFFINITY", self.count::<AffinityKey, Affinity>("AFFINITY")),
            ("DIRECT", self.count::<u64, Direct>("DIRECT")),
            ("OVERFLOWED", self.overflowed().map_or(0, usize::from)),
        ]
    }

    /// How many entries each of these maps may have.
    pub fn map_capacities(&self) -> Vec<(&'static str, usize)> {
        let most = |name: &'static str| {
            let data = MapData::from_pin(self.dir.join("maps").join(name)).ok()?;
            Some((name, data.info().ok()?.max_entries() as usize))
        };
        MAPS.into_iter().filter_map(most).collect()
    }

    /// Where an entry goes on which the walk stands, the walk begins anew, which a key seen twice tells.
    fn count<K: Pod + Eq + Hash, V: Pod>(&self, name: &'static str) -> usize {
        let open = || {
            let data = MapData::from_pin(self.dir.join("maps").join(name)).map_err(|e| DatapathError::map(name, e))?;
            let most = data.info().map_err(|e| DatapathError::map(name, e))?.max_entries() as usize;
            Ok((typed::<HashMap<MapData, K, V>>(name, Map::HashMap(data))?, most))
        };
        let counted = open().map(|(map, most)| {
            let mut seen = HashSet::new();
            map.keys().take(most).map_while(Result::ok).take_while(|key| seen.insert(*key)).count()
        });
        counted.unwrap_or_else(|e: DatapathError| {
            tracing::error!(error = %anyhow::Error::from(e), map = name, "cannot count the entries");
            0
        })
    }

    /// Closed ports look open in every pod, since the table of open ones was full once.
    pub fn overflowed(&self) -> Result<bool, DatapathError> {
        self.maps.overflowed().map_err(|e| DatapathError::map("OVERFLOWED", e))
    }

    /// The table of open ports holds all of them.
    pub fn clear_overflow(&self) -> Result<(), DatapathError> {
        self.maps.clear_overflow().map_err(|e| DatapathError::map("OVERFLOWED", e))
    }

    /// All that the table of open ports holds: cookie of the namespace, port.
    pub fn all_listening(&self) -> Vec<(u64, u32)> {
        self.maps.all_listening()
    }

    /// Which of these ports the table of open ports lacks.
    pub fn unlisted(&self, cookie: u64, ports: &BTreeSet<u16>) -> Result<Vec<u16>, DatapathError> {
        let mut missing = Vec::new();
        for port in ports {
            if !self.maps.is_listening(cookie, u32::from(*port)).map_err(|e| DatapathError::map("LISTENING", e))? {
                missing.push(*port);
            }
        }
        Ok(missing)
    }

    /// All that the kubelet may reach past the agent.
    pub fn probes(&self) -> Vec<(SockAddr, ProbeTarget)> {
        self.maps.probes()
    }

    /// Removes what an agent left that died while it hooked or unhooked a pod: links that no entry goes with, and
    /// entries of cgroups and epochs that no pod goes with. To be called before any pod is hooked.
    pub fn remove_half_done(&self) -> Result<(), DatapathError> {
        let mut pods = BTreeSet::new();
        for Hooked { cookie, entry, link } in self.hooked()? {
            match entry {
                Some(entry) if entry.observed == 0 => drop(pods.insert(entry.index)),
                // The pod was not redirected yet, or no longer: it may be observed. Its program names a slot that may
                // be another's next.
                _ if link != PodLink::Missing => self.unpin(cookie)?,
                _ => {}
            }
        }
        for (id, index) in self.maps.cgroups() {
            if !pods.contains(&index) {
                self.maps.remove_cgroup(id).map_err(|e| DatapathError::map("CGROUPS", e))?;
            }
        }
        for index in (0..MAX_PODS).filter(|index| !pods.contains(index)) {
            if self.maps.epoch(index).map_err(|e| DatapathError::map("EPOCHS", e))? != 0 {
                self.maps.set_epoch(index, 0).map_err(|e| DatapathError::map("EPOCHS", e))?;
            }
        }
        Ok(())
    }

    fn unpin(&self, cookie: u64) -> Result<(), DatapathError> {
        let path = self.pod_link(cookie);
        fs::remove_file(&path).map_err(|e| DatapathError::io("remove", &path, e))
    }
}

/// What must hold for a redirected pod.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    pub cookie: u64,
    /// Of its namespace.
    pub inode: u64,
    /// Id of its cgroup.
    pub cgroup: u64,
    pub entry: PodEntry,
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which check found it; a stable word.
    pub check: &'static str,
    /// For people.
    pub why: String,
}

/// What is wrong with the entries of one pod among all that the kubelet may reach past the agent.
pub fn probe_faults(all: &[(SockAddr, ProbeTarget)], pod: PodEntry, ports: &[u16]) -> Option<Fault> {
    let want: HashSet<SockAddr> = declared(pod, ports).collect();
    let of_it = || all.iter().filter(|(_, target)| target.index == pod.index);
    let right = of_it().filter(|(at, target)| target.epoch == pod.epoch && want.contains(at)).count();
    let wrong = of_it().count() - right;
    (right != want.len() || wrong > 0).then(|| {
        let why = format!(
            "of its {} entries in PROBES {} are right, and {} are there that should not be",
            want.len(),
            right,
            wrong
        );
        Fault { check: "probes", why }
    })
}

/// What proves that pods are redirected.
impl Datapath {
    /// What is wrong with the hooks that all pods share, and with the kubelet's.
    pub fn shared_faults(&self) -> Vec<Fault> {
        let mut faults = self.cgroup_faults();
        faults.extend(self.kubelet_faults());
        faults
    }

    pub(super) fn cgroup_faults(&self) -> Vec<Fault> {
        let Settings { cgroup, .. } = &self.settings;
        let names = ADDRESS_HOOKS.iter().chain(PACKET_HOOKS).copied().chain([SOCKET_EVENTS]);
        match fs::metadata(cgroup) {
            Ok(folder) => self.link_faults("hooks", names, cgroup, folder.ino()),
            Err(e) => vec![Fault { check: "hooks", why: format!("{} cannot be looked at: {e}", cgroup.display()) }],
        }
    }

    /// Which of the links are not at the cgroup with this folder and id.
    pub(super) fn link_faults(
        &self,
        check: &'static str,
        names: impl Iterator<Item = &'static str>,
        cgroup: &Path,
        id: u64,
    ) -> Vec<Fault> {
        let faults = names.filter_map(|name| {
            let why = match pinned_target(&self.dir.join("links").join(name)) {
                Ok(Some(target)) if target == Target::Cgroup(id) => return None,
                Ok(Some(_)) => format!("the link of hook {name} is not attached to {}", cgroup.display()),
                Ok(None) => format!("the link of hook {name} is not pinned"),
                Err(e) => format!("the link of hook {name} cannot be looked at: {e}"),
            };
            Some(Fault { check, why })
        });
        faults.collect()
    }

    /// What is wrong with the hooks and entries of one pod.
    pub fn pod_faults(&self, expected: &Expected) -> Vec<Fault> {
        let Expected { cookie, inode, cgroup, entry } = *expected;
        let mut faults = Vec::new();
        let mut fault = |check, why: String| faults.push(Fault { check, why });
        match self.link_of(cookie) {
            Ok(PodLink::Alive(is)) if u64::from(is) == inode => {}
            Ok(PodLink::Alive(is)) => fault("link", format!("its sk_lookup link is in namespace {is}, not {inode}")),
            Ok(PodLink::Dead) => fault("link", "its sk_lookup link is detached".to_owned()),
            Ok(PodLink::Missing) => fault("link", "its sk_lookup link is not pinned".to_owned()),
            Err(e) => fault("link", format!("{:#}", anyhow::Error::from(e))),
        }
        match self.maps.pod(cookie) {
            Ok(is) if is == Some(entry) => {}
            Ok(is) => fault("pods", format!("its entry in PODS is {is:?}")),
            Err(e) => fault("pods", format!("its entry in PODS cannot be read: {e}")),
        }
        match self.maps.cgroup(cgroup) {
            Ok(is) if is == Some(entry.index) => {}
            Ok(is) => fault("cgroups", format!("its entry in CGROUPS is {is:?}, not {}", entry.index)),
            Err(e) => fault("cgroups", format!("its entry in CGROUPS cannot be read: {e}")),
        }
        match self.maps.epoch(entry.index) {
            Ok(epoch) if epoch == entry.epoch => {}
            Ok(epoch) => fault("epochs", format!("its entry in EPOCHS is {epoch}, not {}", entry.epoch)),
            Err(e) => fault("epochs", format!("its entry in EPOCHS cannot be read: {e}")),
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn the_probes_of_a_pod_are_exactly_those_that_it_declares() {
        let ips: [IpAddr; 2] = ["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let pod = PodEntry { ip4: ips[0].into(), ip6: ips[1].into(), index: 3, epoch: 7, observed: 0 };
        let entry = |ip: IpAddr, port, index, epoch| (SockAddr { ip: ip.into(), port }, ProbeTarget { index, epoch });
        let right = [entry(ips[0], 80, 3, 7), entry(ips[1], 80, 3, 7)];
        let others = entry("10.0.0.9".parse().unwrap(), 80, 4, 1);
        let fault = |all: &[_], ports: &[u16]| probe_faults(all, pod, ports).map(|fault| fault.why);
        assert_eq!(fault(&[right[0], others, right[1]], &[80]), None);
        assert_eq!(fault(&[others], &[]), None);
        let wrong = [
            vec![right[0]],
            vec![right[0], entry(ips[1], 80, 3, 6)],
            vec![right[0], entry(ips[1], 80, 4, 7)],
            vec![right[0], right[1], entry(ips[0], 81, 3, 7)],
        ];
        for all in wrong {
            assert!(fault(&all, &[80]).is_some(), "{all:?}");
        }
    }
}

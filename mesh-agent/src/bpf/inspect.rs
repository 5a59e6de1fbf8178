//! What is really in the kernel: looks at pinned links and map entries, and removes what belongs to nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
};

use mesh_common::abi::{MAX_PODS, PodEntry};

use super::{
    link::{Target, pinned_target},
    programs::{ADDRESS_HOOKS, Datapath, DatapathError, SOCKET_EVENTS, Settings},
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

    /// How many entries the maps hold that the agent writes, by name.
    pub fn map_entries(&self) -> [(&'static str, usize); 2] {
        [("PODS", self.maps.pods().len()), ("CGROUPS", self.maps.cgroups().len())]
    }

    /// Removes what an agent left that died while it hooked or unhooked a pod: links that no entry goes with, and
    /// entries of cgroups and epochs that no pod goes with. To be called before any pod is hooked.
    pub fn remove_half_done(&self) -> Result<(), DatapathError> {
        let mut pods = BTreeSet::new();
        for Hooked { cookie, entry, link } in self.hooked()? {
            match entry {
                Some(entry) => drop(pods.insert(entry.index)),
                // The pod was not redirected yet, or no longer. Its program names a slot that may be another's next.
                None if link != PodLink::Missing => self.unpin(cookie)?,
                None => {}
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

/// What proves that pods are redirected.
impl Datapath {
    /// What is wrong with the hooks that all pods share.
    pub fn shared_faults(&self) -> Vec<Fault> {
        let Settings { cgroup, .. } = &self.settings;
        let want = match fs::metadata(cgroup) {
            Ok(folder) => Target::Cgroup(folder.ino()),
            Err(e) => {
                return vec![Fault { check: "hooks", why: format!("{} cannot be looked at: {e}", cgroup.display()) }];
            }
        };
        let names = ADDRESS_HOOKS.iter().copied().chain([SOCKET_EVENTS]);
        let faults = names.filter_map(|name| {
            let why = match pinned_target(&self.dir.join("links").join(name)) {
                Ok(Some(target)) if target == want => return None,
                Ok(Some(_)) => format!("the link of hook {name} is not attached to {}", cgroup.display()),
                Ok(None) => format!("the link of hook {name} is not pinned"),
                Err(e) => format!("the link of hook {name} cannot be looked at: {e}"),
            };
            Some(Fault { check: "hooks", why })
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
        let is = self.maps.pods().into_iter().find(|(known, _)| *known == cookie).map(|(_, entry)| entry);
        if is != Some(entry) {
            fault("pods", format!("its entry in PODS is {is:?}"));
        }
        let is = self.maps.cgroups().into_iter().find(|(id, _)| *id == cgroup).map(|(_, index)| index);
        if is != Some(entry.index) {
            fault("cgroups", format!("its entry in CGROUPS is {is:?}, not {}", entry.index));
        }
        match self.maps.epoch(entry.index) {
            Ok(epoch) if epoch == entry.epoch => {}
            Ok(epoch) => fault("epochs", format!("its entry in EPOCHS is {epoch}, not {}", entry.epoch)),
            Err(e) => fault("epochs", format!("its entry in EPOCHS cannot be read: {e}")),
        }
        faults
    }
}

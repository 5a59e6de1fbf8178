//! What is really in the kernel: looks at pinned links and map entries, and removes what belongs to nobody.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
};

use mesh_common::abi::{MAX_PODS, PodEntry};

use super::{
    link::{Target, pinned_target},
    programs::{Datapath, DatapathError},
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

//! Pods as one agent of a node gives them to the next: the same listening sockets under the same index and epoch, so
//! that what the kernel was told stays true and no connection is refused in between.

use std::{os::fd::OwnedFd, path::PathBuf};

use mesh_common::model::Identity;

use super::Addresses;

/// Every pod that joined, and the epochs that were given.
#[derive(Debug, Default)]
pub struct HandedPods {
    pub pods: Vec<HandedPod>,
    /// The first epoch that no pod has had.
    pub next_epoch: u32,
}

/// A pod that joined.
#[derive(Debug)]
pub struct HandedPod {
    pub namespace: String,
    pub name: String,
    pub pod_uid: String,
    pub cgroup: PathBuf,
    pub container: String,
    pub given: Option<Addresses>,
    /// Its connections that are older than its enrolment: SO_COOKIE, and whether somebody else dialled it.
    pub older: Vec<(u64, bool)>,
    pub netns: OwnedFd,
    /// `None`: it is not redirected.
    pub active: Option<HandedActive>,
}

/// How it is redirected.
#[derive(Debug)]
pub struct HandedActive {
    /// The uid of its workload.
    pub uid: String,
    /// As the controller knows it.
    pub pod_uid: String,
    pub identity: Identity,
    pub ips: Addresses,
    pub probe_ports: Vec<u16>,
    pub index: u32,
    pub epoch: u32,
    pub listener: OwnedFd,
}

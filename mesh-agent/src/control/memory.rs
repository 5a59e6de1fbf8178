//! The last good configuration on the node's disk, so that an agent that starts without its controller has the rules.
//! Resources only, as they came over the wire; never a key. A file that cannot be read whole is not read at all.

use std::{
    io,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest::{SHA256, digest};
use mesh_common::proto::discovery::DeltaDiscoveryResponse;
use prost::Message;
use tokio::sync::watch;

use super::{
    resources::{KINDS, type_url},
    subscription::Subscription,
};
use crate::{durable, state::Store};

/// First line of the file: what it is, and which version of its form.
const MAGIC: &[u8] = b"nodemesh configuration 1\n";
/// SHA-256 of the content, after the first line.
const DIGEST: usize = 32;

/// What the agent holds of the configuration, and where that is kept.
#[derive(Debug)]
pub struct Memory {
    pub(super) subscriptions: [Subscription; KINDS.len()],
    disk: Option<Disk>,
    recalled: bool,
}

#[derive(Debug)]
struct Disk {
    path: PathBuf,
    node: String,
    /// False while another agent of this node writes the file.
    ours: watch::Receiver<bool>,
}

/// The content, after first line and digest.
#[derive(Clone, PartialEq, Message)]
struct Content {
    /// Pods of another node are none of ours.
    #[prost(string, tag = "1")]
    node: String,
    /// One for each type that the controller has answered, with every resource of it.
    #[prost(message, repeated, tag = "2")]
    kinds: Vec<DeltaDiscoveryResponse>,
    /// Addresses that were asked for, and what there is of them is in `kinds`.
    #[prost(string, repeated, tag = "3")]
    asked: Vec<String>,
}

/// Why the file is not used.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("it does not begin as a configuration of this version does")]
    Magic,
    #[error("its content is not what its digest says")]
    Digest,
    #[error("its content does not decode")]
    Content(#[from] prost::DecodeError),
    #[error("it is node `{0}`'s")]
    Node(String),
    #[error("it holds a type that nobody asks for: `{0}`")]
    Type(String),
}

impl Memory {
    /// Puts what `folder` keeps of the configuration of `node` into the store. It is written there again with each
    /// change while `ours` is true.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened. One that is damaged is reported, kept aside, and counts as none.
    pub fn recall(folder: &Path, node: &str, store: &Store, ours: watch::Receiver<bool>) -> io::Result<Self> {
        let disk = Disk { path: folder.join("configuration"), node: node.to_owned(), ours };
        let mut memory = Self { subscriptions: KINDS.map(Subscription::new), disk: None, recalled: false };
        if let Some(bytes) = durable::read(&disk.path)? {
            match decode(&bytes, node) {
                Ok(Content { node: _, kinds, asked }) => {
                    memory.apply(store, kinds);
                    store.questions().recall(&asked);
                }
                Err(error) => {
                    let aside = durable::keep_aside(&disk.path)?;
                    tracing::error!(
                        file = %disk.path.display(), kept = %aside.display(), %error,
                        "the last configuration cannot be read; nothing is permitted before the controller answers"
                    );
                }
            }
        }
        memory.disk = Some(disk);
        Ok(memory)
    }

    /// The configuration in the store came from the disk.
    pub fn recalled(&self) -> bool {
        self.recalled
    }

    fn apply(&mut self, store: &Store, kinds: Vec<DeltaDiscoveryResponse>) {
        for response in kinds {
            if let Some(held) = self.subscriptions.iter_mut().find(|s| type_url(s.kind()) == response.type_url) {
                held.recall(store, response);
            }
        }
        self.recalled = true;
        let generation = store.snapshot().generation();
        tracing::info!(generation, "the last configuration was read from the disk");
    }

    /// The file as it should be, if it is ours to write.
    pub(super) fn file(&self, store: &Store) -> Option<(PathBuf, Vec<u8>)> {
        let disk = self.disk.as_ref().filter(|disk| *disk.ours.borrow())?;
        let kinds = self.subscriptions.iter().filter_map(Subscription::held_response).collect();
        let content = Content { node: disk.node.clone(), kinds, asked: store.questions().answered() }.encode_to_vec();
        let digest = digest(&SHA256, &content);
        Some((disk.path.clone(), [MAGIC, digest.as_ref(), &content].concat()))
    }
}

fn decode(bytes: &[u8], node: &str) -> Result<Content, Unreadable> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(Unreadable::Magic)?;
    let (want, content) = rest.split_at_checked(DIGEST).ok_or(Unreadable::Digest)?;
    if digest(&SHA256, content).as_ref() != want {
        return Err(Unreadable::Digest);
    }
    let content = Content::decode(content)?;
    if content.node != node {
        return Err(Unreadable::Node(content.node));
    }
    let known = |url: &str| KINDS.iter().any(|kind| type_url(*kind) == url);
    match content.kinds.iter().find(|response| !known(&response.type_url)) {
        Some(response) => Err(Unreadable::Type(response.type_url.clone())),
        None => Ok(content),
    }
}

//! One question to some agents, and their answers as they come.

use mesh_common::proto::nodemesh::Item;
use tokio::sync::mpsc;

use super::Links;

/// What an agent sends back.
#[derive(Debug)]
pub enum Reply {
    Item(Box<Item>),
    /// That was all of this node; the text says what went wrong, if anything.
    End {
        node: String,
        error: String,
    },
}

/// An open question. Dropping it tells the agents that nobody listens.
#[derive(Debug)]
pub struct Question {
    links: Links,
    id: u64,
    /// Nodes that have not ended yet.
    open: Vec<String>,
    errors: Vec<String>,
    replies: mpsc::Receiver<Reply>,
}

impl Question {
    pub(super) fn new(
        links: Links,
        id: u64,
        open: Vec<String>,
        refused: Vec<String>,
        replies: mpsc::Receiver<Reply>,
    ) -> Self {
        let errors = refused.into_iter().map(|node| format!("node {node}: its agent does not keep up")).collect();
        Self { links, id, open, errors, replies }
    }

    /// The next item of any node; `None` once all have ended.
    pub async fn next(&mut self) -> Option<Item> {
        while !self.open.is_empty() {
            match self.replies.recv().await {
                Some(Reply::Item(item)) => return Some(*item),
                Some(Reply::End { node, error }) => {
                    self.open.retain(|open| *open != node);
                    if !error.is_empty() {
                        self.errors.push(format!("node {node}: {error}"));
                    }
                }
                // Every link that still owed an answer is gone.
                None => {
                    let lost = std::mem::take(&mut self.open).into_iter();
                    self.errors.extend(lost.map(|node| format!("node {node}: the answer broke off")));
                }
            }
        }
        None
    }

    /// What went wrong so far, one text a node.
    pub fn errors(&self) -> &[String] {
        &self.errors
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.links.cancel(self.id);
    }
}

//! Decisions by the numbers that the kernel knows.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use mesh_common::model::Decision;

use super::{connections::InUse, judge::Pair};
use crate::{
    bpf::{kernel_now, nanoseconds},
    pods::Netns,
    telemetry::Party,
};

/// What nothing stands on any more is kept that long, for records that are on their way.
pub const REMEMBERED: Duration = Duration::from_secs(10);

/// One of them.
#[derive(Clone, Debug)]
pub struct Known {
    pub pair: Pair,
    pub decision: Decision,
    pub source: Party,
    pub target: Party,
    /// Where the source's sockets are, while it is on the node.
    pub netns: Weak<Netns>,
}

#[derive(Debug, Default)]
pub struct Decisions {
    known: HashMap<u32, Arc<Known>>,
    /// Those that no verdict names any more, and since when (kernel time).
    retired: HashMap<u32, u64>,
    last: u32,
}

impl Decisions {
    /// Numbers up to this one may still be named by somebody, and are not given again.
    pub fn begin_after(&mut self, number: u32) {
        self.last = self.last.max(number);
    }

    pub fn get(&self, number: u32) -> Option<Arc<Known>> {
        self.known.get(&number).cloned()
    }

    /// Gives it a number.
    pub fn add(&mut self, known: &Arc<Known>) -> u32 {
        // 0 means that nothing was decided.
        self.last = self.last.wrapping_add(1).max(1);
        self.known.insert(self.last, Arc::clone(known));
        self.last
    }

    /// No verdict names the number any more.
    pub fn retire(&mut self, number: u32) {
        self.retired.insert(number, kernel_now());
    }

    /// An earlier agent's number for a decision that has another one now.
    pub fn inherit(&mut self, number: u32, known: Arc<Known>) {
        self.known.insert(number, known);
        self.retire(number);
    }

    /// Those go that nothing stands on.
    pub fn forget(&mut self, in_use: &InUse) {
        let late = kernel_now().saturating_sub(nanoseconds(REMEMBERED));
        let known = &mut self.known;
        self.retired.retain(|number, since| {
            let stays = *since >= late || in_use.decisions.contains(number);
            if !stays {
                known.remove(number);
            }
            stays
        });
    }
}

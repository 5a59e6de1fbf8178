//! Records of several nodes in order of time. Each node's own come in the order of their end, or nearly so.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
    time::Duration,
};

use mesh_common::proto::nodemesh::Flow;
use tokio::time::Instant;

use super::ended;

/// How long a record that was just heard waits for older ones of other nodes, whose way here is longer.
pub const WINDOW: Duration = Duration::from_millis(300);
/// Records that wait at most; one more, and the oldest goes at once.
const HELD: usize = 4096;

/// By the time of its end; records of one time in the order of nodes and ids, so that each order is the same.
#[derive(Debug)]
struct Timed {
    flow: Flow,
    heard: Option<Instant>,
}

impl Timed {
    fn key(&self) -> (Option<(i64, i32)>, &str, u64) {
        (ended(&self.flow), &self.flow.node, self.flow.id)
    }
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Timed {}

/// The newest of all nodes, or all.
#[derive(Debug)]
pub struct Newest {
    oldest_first: BinaryHeap<Reverse<Timed>>,
    most: Option<usize>,
}

impl Newest {
    pub fn new(most: Option<u32>) -> Self {
        Self { oldest_first: BinaryHeap::new(), most: most.map(|most| most as usize) }
    }

    pub fn push(&mut self, flow: Flow) {
        self.oldest_first.push(Reverse(Timed { flow, heard: None }));
        if self.most.is_some_and(|most| self.oldest_first.len() > most) {
            self.oldest_first.pop();
        }
    }

    /// Oldest first.
    pub fn in_order(self) -> Vec<Flow> {
        // Sorted by what is reversed: the newest first.
        self.oldest_first.into_sorted_vec().into_iter().rev().map(|Reverse(timed)| timed.flow).collect()
    }
}

/// Those that were heard within the window, to be let go in order.
#[derive(Debug, Default)]
pub struct Reorder {
    oldest_first: BinaryHeap<Reverse<Timed>>,
    /// When the one was heard that waits for longest, or one before it.
    first_heard: Option<Instant>,
}

impl Reorder {
    /// The oldest, if there are too many.
    pub fn push(&mut self, flow: Flow, now: Instant) -> Option<Flow> {
        self.oldest_first.push(Reverse(Timed { flow, heard: Some(now) }));
        self.first_heard.get_or_insert(now);
        (self.oldest_first.len() > HELD).then(|| self.oldest_first.pop()).flatten().map(|Reverse(timed)| timed.flow)
    }

    /// When the next has waited long enough.
    pub fn next_due(&self) -> Option<Instant> {
        self.first_heard.map(|heard| heard + WINDOW)
    }

    /// Those that have waited long enough, and what is older than they.
    pub fn due(&mut self, now: Instant) -> Vec<Flow> {
        let is_due = |timed: &Timed| timed.heard.is_none_or(|heard| heard + WINDOW <= now);
        let mut left = self.oldest_first.iter().filter(|Reverse(timed)| is_due(timed)).count();
        let mut flows = Vec::new();
        while left > 0
            && let Some(Reverse(timed)) = self.oldest_first.pop()
        {
            left -= usize::from(is_due(&timed));
            flows.push(timed.flow);
        }
        self.first_heard = self.oldest_first.iter().filter_map(|Reverse(timed)| timed.heard).min();
        flows
    }

    pub fn all(&mut self) -> Vec<Flow> {
        self.first_heard = None;
        let mut flows = Vec::new();
        while let Some(Reverse(timed)) = self.oldest_first.pop() {
            flows.push(timed.flow);
        }
        flows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(node: &str, id: u64, ended: i64) -> Flow {
        let mut flow = Flow { id, node: node.into(), ..Flow::default() };
        flow.end.get_or_insert_default().seconds = ended;
        flow
    }

    fn ids(flows: &[Flow]) -> Vec<u64> {
        flows.iter().map(|flow| flow.id).collect()
    }

    #[test]
    fn the_newest_of_all_nodes_are_kept_in_order() {
        for (most, expected) in [(None, vec![1, 2, 3, 4]), (Some(2), vec![3, 4]), (Some(9), vec![1, 2, 3, 4])] {
            let mut newest = Newest::new(most);
            for (node, id, ended) in [("b", 3, 30), ("a", 1, 10), ("a", 4, 40), ("b", 2, 20)] {
                newest.push(flow(node, id, ended));
            }
            assert_eq!(ids(&newest.in_order()), expected, "{most:?}");
        }
    }

    #[test]
    fn what_is_heard_late_comes_in_its_place_within_the_window() {
        let (mut held, start) = (Reorder::default(), Instant::now());
        let ms = |ms| start + Duration::from_millis(ms);
        assert_eq!(held.next_due(), None);
        held.push(flow("a", 2, 20), ms(0));
        held.push(flow("a", 4, 40), ms(100));
        held.push(flow("b", 1, 10), ms(250));
        assert_eq!(held.next_due(), Some(ms(300)));
        assert!(held.due(ms(299)).is_empty());
        assert_eq!(ids(&held.due(ms(300))), [1, 2], "the older one goes with the one that is due");
        assert_eq!(held.next_due(), Some(ms(400)));
        held.push(flow("b", 3, 30), ms(390));
        assert_eq!(ids(&held.due(ms(400))), [3, 4]);
        assert_eq!(held.next_due(), None);
        held.push(flow("a", 5, 50), ms(500));
        assert_eq!(ids(&held.all()), [5]);
    }

    #[test]
    fn a_flood_is_not_held() {
        let (mut held, now) = (Reorder::default(), Instant::now());
        let let_go = (0..=HELD as u64).filter_map(|id| held.push(flow("a", id, id as i64), now)).collect::<Vec<_>>();
        assert_eq!(ids(&let_go), [0]);
        assert_eq!(held.all().len(), HELD);
    }
}

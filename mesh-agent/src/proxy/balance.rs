//! Round robin over the endpoints of a service.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use mesh_common::model::ServiceName;

#[derive(Debug, Default)]
pub struct Balancer {
    turns: Mutex<HashMap<ServiceName, usize>>,
}

impl Balancer {
    /// Which of `count` endpoints is next; `count` must not be 0.
    pub fn next(&self, service: &ServiceName, count: usize) -> usize {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = match turns.get_mut(service) {
            Some(turn) => turn,
            None => turns.entry(service.clone()).or_default(),
        };
        let chosen = *turn % count;
        *turn = turn.wrapping_add(1);
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_gets_a_turn() {
        let balancer = Balancer::default();
        let cart = ServiceName { namespace: "shop".into(), hostname: "cart".into() };
        let web = ServiceName { namespace: "shop".into(), hostname: "web".into() };
        let turns: Vec<_> = (0..6).map(|_| balancer.next(&cart, 3)).collect();
        assert_eq!(turns, [0, 1, 2, 0, 1, 2]);
        assert_eq!(balancer.next(&web, 3), 0);
    }
}

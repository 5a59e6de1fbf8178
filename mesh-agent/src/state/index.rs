//! One key, several values in a stable order. Pure.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use mesh_common::model::{Service, Workload};

/// The order in which the values of one key stand; it must not depend on the order of arrival, so that every agent
/// sees the same.
pub trait Ordered {
    fn order(&self) -> impl Ord + '_;
}

/// The values of one key, never none.
pub type Group<V> = Arc<Vec<Arc<V>>>;

/// Values by key. A clone shares everything; a change copies the map of keys and the values of the keys it touches.
#[derive(Clone, Debug)]
pub struct Index<K, V> {
    groups: Arc<HashMap<K, Group<V>>>,
}

impl Ordered for Workload {
    fn order(&self) -> impl Ord + '_ {
        &self.uid
    }
}

impl Ordered for Service {
    fn order(&self) -> impl Ord + '_ {
        (&self.namespace, &self.hostname)
    }
}

impl<K, V> Default for Index<K, V> {
    fn default() -> Self {
        Self { groups: Arc::default() }
    }
}

impl<K: Clone + Eq + Hash, V: Ordered> Index<K, V> {
    /// The values of a key as they are shared: the same in memory means that nothing has changed.
    pub fn group(&self, key: &K) -> Option<&Group<V>> {
        self.groups.get(key)
    }

    pub fn of(&self, key: &K) -> &[Arc<V>] {
        self.groups.get(key).map_or(&[], |group| group.as_slice())
    }

    /// Adds the value under the key; the same value (by pointer) is kept once.
    pub fn insert(&mut self, key: K, value: &Arc<V>) {
        let group = Arc::make_mut(Arc::make_mut(&mut self.groups).entry(key).or_default());
        let at = group.partition_point(|other| other.order() < value.order());
        if !group[at..].iter().any(|other| Arc::ptr_eq(other, value)) {
            group.insert(at, Arc::clone(value));
        }
    }

    /// Removes this very value (by pointer) from the key.
    pub fn remove(&mut self, key: &K, value: &Arc<V>) {
        if !self.of(key).iter().any(|other| Arc::ptr_eq(other, value)) {
            return;
        }
        let groups = Arc::make_mut(&mut self.groups);
        if let Some(group) = groups.get_mut(key) {
            let group = Arc::make_mut(group);
            group.retain(|other| !Arc::ptr_eq(other, value));
            if group.is_empty() {
                groups.remove(key);
            }
        }
    }
}

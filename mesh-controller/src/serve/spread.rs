//! A map whose copies share what they have alike. A copy costs nothing, a change as much as one of [`BUCKETS`], and
//! what differs between two copies is found where they no longer share: with thousands of entries and a thousand copies
//! in use, a change is paid for by its size and not by theirs.

use std::{
    cmp::Ordering,
    hash::{DefaultHasher, Hash, Hasher},
    iter, ptr,
    sync::Arc,
};

/// For some thousand entries a bucket has about a dozen.
const BUCKETS: usize = 256;

/// By name.
#[derive(Clone, Debug)]
pub struct Spread<V> {
    /// Each sorted by name; none at all if there is nothing.
    buckets: Option<Arc<[Arc<Bucket<V>>]>>,
}

type Bucket<V> = Vec<(Arc<str>, V)>;

impl<V> Default for Spread<V> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<V> Spread<V> {
    pub const EMPTY: Self = Self { buckets: None };

    pub fn get(&self, name: &str) -> Option<&V> {
        let bucket = self.bucket(place(name));
        bucket.binary_search_by(|(known, _)| (**known).cmp(name)).ok().map(|at| &bucket[at].1)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &V)> {
        self.buckets.iter().flat_map(|buckets| buckets.iter()).flat_map(|bucket| bucket.iter()).map(|(k, v)| (k, v))
    }

    /// What both have under a name, the names in no order. Names are left out where the two share their memory, which
    /// therefore are alike; not all that are left in differ.
    pub fn beside<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a Arc<str>, Option<&'a V>, Option<&'a V>)> {
        let shared = match (&self.buckets, &other.buckets) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        };
        let places = if shared { 0 } else { BUCKETS };
        let pairs = (0..places).map(|place| (self.bucket(place), other.bucket(place)));
        pairs.filter(|(one, other)| !ptr::eq(*one, *other)).flat_map(|(one, other)| merged(one, other))
    }

    fn bucket(&self, place: usize) -> &[(Arc<str>, V)] {
        self.buckets.as_ref().map_or(&[], |buckets| &buckets[place])
    }
}

impl<V: Clone> Spread<V> {
    pub fn insert(&mut self, name: Arc<str>, value: V) {
        let bucket = self.bucket_mut(&name);
        match bucket.binary_search_by(|(known, _)| known.cmp(&name)) {
            Ok(at) => bucket[at].1 = value,
            Err(at) => bucket.insert(at, (name, value)),
        }
    }

    /// What is under this name, if need be a default, to be changed.
    pub fn entry(&mut self, name: &Arc<str>) -> &mut V
    where
        V: Default,
    {
        let bucket = self.bucket_mut(name);
        let at = bucket.binary_search_by(|(known, _)| known.cmp(name)).unwrap_or_else(|at| {
            bucket.insert(at, (name.clone(), V::default()));
            at
        });
        &mut bucket[at].1
    }

    pub fn remove(&mut self, name: &str) -> Option<V> {
        // Nothing is copied for what is not there.
        self.get(name)?;
        let bucket = self.bucket_mut(name);
        let at = bucket.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        Some(bucket.remove(at).1)
    }

    fn bucket_mut(&mut self, name: &str) -> &mut Bucket<V> {
        let empty = || iter::repeat_n(Arc::default(), BUCKETS).collect();
        let buckets = self.buckets.get_or_insert_with(empty);
        Arc::make_mut(&mut Arc::make_mut(buckets)[place(name)])
    }
}

impl<V: Clone> FromIterator<(Arc<str>, V)> for Spread<V> {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, V)>>(all: I) -> Self {
        let mut spread = Self::EMPTY;
        all.into_iter().for_each(|(name, value)| spread.insert(name, value));
        spread
    }
}

fn place(name: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish() as usize % BUCKETS
}

/// Two sorted lists side by side.
fn merged<'a, V>(
    one: &'a [(Arc<str>, V)],
    other: &'a [(Arc<str>, V)],
) -> impl Iterator<Item = (&'a Arc<str>, Option<&'a V>, Option<&'a V>)> {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    iter::from_fn(move || {
        let order = match (one.peek(), other.peek()) {
            (Some((left, _)), Some((right, _))) => left.cmp(right),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return None,
        };
        let left = if order.is_le() { one.next() } else { None };
        let right = if order.is_ge() { other.next() } else { None };
        let (name, _) = left.or(right)?;
        Some((name, left.map(|(_, value)| value), right.map(|(_, value)| value)))
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Sets and removals on two copies, against maps: what lies beside each other has every difference.
        #[test]
        fn is_a_map_whose_copies_know_their_differences(
            before in prop::collection::vec((0..400_u32, 0..3_u8), 0..300),
            changes in prop::collection::vec((0..400_u32, prop::option::of(0..3_u8)), 0..20),
        ) {
            let name = |number: u32| Arc::<str>::from(format!("n{number}"));
            let first: Spread<u8> = before.iter().map(|(number, value)| (name(*number), *value)).collect();
            let old: BTreeMap<_, _> = before.iter().map(|(number, value)| (name(*number), *value)).collect();
            let (mut second, mut new) = (first.clone(), old.clone());
            prop_assert_eq!(first.beside(&second).count(), 0);
            for (number, value) in changes.clone() {
                match value {
                    Some(value) => {
                        second.insert(name(number), value);
                        new.insert(name(number), value);
                    }
                    None => prop_assert_eq!(second.remove(&name(number)), new.remove(&name(number))),
                }
            }
            let all = |spread: &Spread<u8>| -> BTreeMap<_, _> {
                spread.iter().map(|(name, value)| (name.clone(), *value)).collect()
            };
            prop_assert_eq!(all(&first), old.clone());
            prop_assert_eq!(all(&second), new.clone());
            let found: BTreeMap<_, _> =
                first.beside(&second).map(|(name, a, b)| (name.clone(), (a.copied(), b.copied()))).collect();
            for number in 0..400 {
                let name = name(number);
                let both = (old.get(&name).copied(), new.get(&name).copied());
                prop_assert_eq!(second.get(&name).copied(), both.1);
                match found.get(&name) {
                    Some(found) => prop_assert_eq!(*found, both),
                    None => prop_assert_eq!(both.0, both.1),
                }
            }
            // A change copies its own bucket only.
            prop_assert!(found.len() <= changes.len() * 30);
        }
    }
}

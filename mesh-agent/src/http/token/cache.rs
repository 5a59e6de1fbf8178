//! Tokens that were right, so that the next request with one costs no signature check. Lives as long as the rules that
//! they were right by. Says nothing about time: who asks looks at `exp` again.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest::{SHA256, digest};

use super::Verified;

/// Of each of the two halves.
const MOST: usize = 256;

/// The token's hash: the cache has no tokens that somebody could use.
type Hash = [u8; 32];

#[derive(Debug, Default)]
pub struct Cache(Mutex<Halves>);

/// When `new` is full, it becomes `old`, and what was there and was not asked for meanwhile is forgotten.
#[derive(Debug, Default)]
struct Halves {
    new: HashMap<Hash, Arc<Verified>>,
    old: HashMap<Hash, Arc<Verified>>,
}

impl Cache {
    pub fn of(&self, token: &str) -> Option<Arc<Verified>> {
        let hash = hash(token);
        let mut halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = halves.new.get(&hash) {
            return Some(Arc::clone(known));
        }
        let known = halves.old.remove(&hash)?;
        halves.keep(hash, Arc::clone(&known));
        Some(known)
    }

    pub fn keep(&self, token: &str, verified: &Arc<Verified>) {
        let hash = hash(token);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).keep(hash, Arc::clone(verified));
    }

    #[cfg(test)]
    pub fn size(&self) -> usize {
        let halves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        halves.new.len() + halves.old.len()
    }
}

impl Halves {
    fn keep(&mut self, hash: Hash, verified: Arc<Verified>) {
        if self.new.len() >= MOST {
            self.old = mem::take(&mut self.new);
        }
        self.new.insert(hash, verified);
    }
}

fn hash(token: &str) -> Hash {
    digest(&SHA256, token.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

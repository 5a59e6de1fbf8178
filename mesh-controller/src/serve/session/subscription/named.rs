//! What an agent has asked for by names and aliases, or is told of as if it had, and what these resolve to.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use crate::serve::{
    catalog::{Entry, Shelf, With},
    spread::Spread,
};

#[derive(Debug, Default)]
pub struct Named {
    /// What each name resolved to when it was last looked up.
    names: BTreeMap<String, Vec<Arc<Entry>>>,
    /// Those of them that the agent asked for.
    asked: BTreeSet<String>,
    /// Those that it is told of without asking.
    implied: Spread<Arc<Entry>>,
    with: With,
    /// All of that together.
    wanted: Spread<Arc<Entry>>,
    /// The shelf on which they were looked up.
    known: Shelf,
    /// Names that are yet to be looked up.
    new: BTreeSet<String>,
    /// Names of which the agent must be told that there is nothing.
    absent: BTreeSet<String>,
    /// Those of which it knows that.
    missing: BTreeSet<String>,
}

impl Named {
    /// Asks for a name, maybe once more: then it is answered once more too.
    pub fn subscribe(&mut self, name: String) {
        self.missing.remove(&name);
        self.names.entry(name.clone()).or_default();
        self.asked.insert(name.clone());
        self.new.insert(name);
    }

    pub fn unsubscribe(&mut self, name: &str) {
        for set in [&mut self.asked, &mut self.absent, &mut self.missing] {
            set.remove(name);
        }
        if self.implied.get(name).is_none() {
            self.drop_name(name);
        }
    }

    fn drop_name(&mut self, name: &str) {
        self.new.remove(name);
        let found = self.names.remove(name).unwrap_or_default();
        self.forget(&found);
    }

    /// The names of these count as asked for, and all that is asked for is told with what belongs to it in this way.
    pub fn imply(&mut self, implied: &Spread<Arc<Entry>>, with: With) {
        let before = std::mem::replace(&mut self.implied, implied.clone());
        for (name, old, new) in before.beside(implied) {
            match (old, new) {
                (None, Some(_)) => {
                    self.names.entry(name.to_string()).or_default();
                    self.new.insert(name.to_string());
                }
                (Some(_), None) if !self.asked.contains(&**name) => self.drop_name(name),
                _ => {}
            }
        }
        if self.with != with {
            self.with = with;
            self.new.extend(self.names.keys().cloned());
        }
    }

    pub fn with(&self) -> With {
        self.with
    }

    /// What is wanted, as of the last [`Self::follow`].
    pub fn wanted(&self) -> &Spread<Arc<Entry>> {
        &self.wanted
    }

    /// Names of which the agent must be told that there is nothing; they count as told from now on.
    pub fn absent(&mut self) -> BTreeSet<String> {
        self.missing.extend(self.absent.iter().cloned());
        std::mem::take(&mut self.absent)
    }

    /// Looks up what the difference to this shelf touches, and what is new.
    pub fn follow(&mut self, shelf: &Shelf) {
        let mut again = std::mem::take(&mut self.new);
        if again.len() < self.names.len() {
            let touched = shelf.touched(&self.known);
            again.extend(touched.iter().filter(|name| self.names.contains_key(&***name)).map(ToString::to_string));
        }
        self.known = if self.names.is_empty() { Shelf::EMPTY } else { shelf.clone() };
        let (mut before, mut now) = (Vec::new(), HashSet::new());
        for name in again {
            let Some(found) = self.names.get_mut(&name) else { continue };
            before.append(found);
            for entry in shelf.resolve(&name, self.with) {
                now.insert(entry.name().clone());
                self.wanted.insert(entry.name().clone(), entry.clone());
                found.push(entry.clone());
            }
            if !found.is_empty() {
                self.missing.remove(&name);
                self.absent.remove(&name);
            } else if self.asked.contains(&name) && !self.missing.contains(&name) {
                self.absent.insert(name);
            }
        }
        before.retain(|entry| !now.contains(entry.name()));
        self.forget(&before);
    }

    /// Of what a name resolved to, that goes which no name resolves to any more.
    fn forget(&mut self, found: &[Arc<Entry>]) {
        if found.is_empty() {
            return;
        }
        let wanted: HashSet<&Arc<str>> = self.names.values().flatten().map(|entry| entry.name()).collect();
        for entry in found.iter().filter(|entry| !wanted.contains(entry.name())) {
            self.wanted.remove(entry.name());
        }
    }
}

//! Addresses that the controller is asked for, where it tells of the mesh only what it is asked for. No I/O: `proxy`
//! asks and waits, `control` puts the questions and notes what is answered.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use super::Snapshot;

/// Addresses that are kept in mind. Beyond, what nobody used for the longest time is forgotten.
pub const LIMIT: usize = 4096;
/// Connections of one pod that wait for an answer at once: whoever dials at random must not use up what all need.
pub const WAITING: usize = 64;

/// What was asked. A question stands until it is forgotten: the controller tells of an address that comes to be
/// somebody's later.
#[derive(Debug)]
pub struct Questions {
    inner: Mutex<Inner>,
    limit: usize,
    /// Wakes who waits for an answer, and who puts the questions.
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Inner {
    all: HashMap<IpAddr, Question>,
    /// What the controller must be told, in this order.
    forgotten: Vec<IpAddr>,
    new: Vec<IpAddr>,
    /// Counts uses.
    clock: u64,
    /// By the uid of who waits.
    waiting: HashMap<String, usize>,
}

#[derive(Debug)]
struct Question {
    used: u64,
    /// Known to be somebody's, or nobody's.
    answered: bool,
}

/// What the controller must be told of.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Turn {
    pub subscribe: Vec<String>,
    pub unsubscribe: Vec<String>,
}

/// A place among those who wait for an answer.
#[derive(Debug)]
pub struct Place<'a> {
    questions: &'a Questions,
    uid: String,
}

impl Default for Questions {
    fn default() -> Self {
        Self::bounded(LIMIT)
    }
}

impl Questions {
    fn bounded(limit: usize) -> Self {
        Self { inner: Mutex::default(), limit, changed: watch::Sender::default() }
    }

    /// Asks, if nobody has; whether there was an answer already.
    pub fn ask(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let mut inner = self.lock();
        inner.clock += 1;
        let used = inner.clock;
        if let Some(question) = inner.all.get_mut(&address) {
            question.used = used;
            return question.answered;
        }
        if inner.all.len() >= self.limit {
            // What somebody waits for is never forgotten: it is newer than what has an answer.
            let answered = inner.all.iter().filter(|(_, question)| question.answered);
            let Some(oldest) = answered.min_by_key(|(_, question)| question.used).map(|(address, _)| *address) else {
                return false;
            };
            inner.all.remove(&oldest);
            inner.forgotten.push(oldest);
        }
        inner.all.insert(address, Question { used, answered: false });
        inner.new.push(address);
        drop(inner);
        self.changed.send_replace(());
        false
    }

    /// A place for one connection of the pod with this uid; `None`: too many wait.
    pub fn place(&self, uid: &str) -> Option<Place<'_>> {
        let mut inner = self.lock();
        let waiting = inner.waiting.entry(uid.to_owned()).or_default();
        if *waiting >= WAITING {
            return None;
        }
        *waiting += 1;
        Some(Place { questions: self, uid: uid.to_owned() })
    }

    /// Changes with each new question and with each answer.
    pub fn watch(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What is new to the controller since the last turn.
    pub fn turn(&self) -> Option<Turn> {
        let mut inner = self.lock();
        let forgotten = std::mem::take(&mut inner.forgotten);
        let new: BTreeSet<IpAddr> = std::mem::take(&mut inner.new).into_iter().collect();
        // What was forgotten before it was told, and what was asked for again meanwhile, needs no word.
        let unsubscribe: Vec<String> =
            forgotten.iter().filter(|address| !inner.all.contains_key(*address)).map(name).collect();
        let subscribe: Vec<String> = new.iter().filter(|address| inner.all.contains_key(*address)).map(name).collect();
        (!subscribe.is_empty() || !unsubscribe.is_empty()).then_some(Turn { subscribe, unsubscribe })
    }

    /// All questions, for a controller that knows of none.
    pub fn all(&self) -> Vec<String> {
        let mut inner = self.lock();
        (inner.forgotten, inner.new) = Default::default();
        inner.all.keys().map(name).collect()
    }

    pub fn len(&self) -> usize {
        self.lock().all.len()
    }

    /// Notes what a response has answered: these names stand for nothing, or `snapshot` knows the address.
    pub fn settle(&self, snapshot: &Snapshot, nothing: &[String]) {
        let nothing: BTreeSet<&str> = nothing.iter().map(String::as_str).collect();
        let mut inner = self.lock();
        let mut settled = false;
        for (address, question) in inner.all.iter_mut().filter(|(_, question)| !question.answered) {
            question.answered = nothing.contains(name(address).as_str()) || !snapshot.must_ask(*address);
            settled |= question.answered;
        }
        drop(inner);
        if settled {
            self.changed.send_replace(());
        }
    }

    /// What has an answer, to be remembered over a restart together with the answers.
    pub fn answered(&self) -> Vec<String> {
        self.lock()
            .all
            .iter()
            .filter(|(_, question)| question.answered)
            .map(|(address, _)| address.to_string())
            .collect()
    }

    /// What had an answer before a restart has it still. What is no address counts for nothing.
    pub fn recall(&self, addresses: &[String]) {
        let mut inner = self.lock();
        for address in addresses.iter().filter_map(|text| text.parse().ok()).take(self.limit) {
            inner.all.insert(address, Question { used: 0, answered: true });
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut inner = self.questions.lock();
        if let Some(waiting) = inner.waiting.get_mut(&self.uid) {
            *waiting -= 1;
            if *waiting == 0 {
                inner.waiting.remove(&self.uid);
            }
        }
    }
}

/// As the ambient ecosystem names an address: in the network of the cluster, which has no name.
fn name(address: &IpAddr) -> String {
    format!("/{address}")
}

#[cfg(test)]
mod tests {
    use mesh_common::model::Workload;

    use super::*;
    use crate::state::{Delta, Object, Store, tests::workload};

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn on_demand(known: &[Workload]) -> std::sync::Arc<Snapshot> {
        let upserts = known.iter().map(|known| (known.uid.clone(), Object::Workload(known.clone())));
        let upserts = upserts.chain([("addresses".to_owned(), Object::OnDemand)]).collect();
        Store::default().apply(Delta { upserts, ..Delta::default() }).expect("applied")
    }

    #[test]
    fn a_question_is_put_once_and_stands_after_its_answer() {
        let questions = Questions::default();
        assert!(
            !questions.ask(ip("10.0.0.1")) && !questions.ask(ip("::ffff:10.0.0.1")) && !questions.ask(ip("fd00::1"))
        );
        let turn = questions.turn().expect("something new");
        assert_eq!(turn, Turn { subscribe: vec!["/10.0.0.1".into(), "/fd00::1".into()], unsubscribe: Vec::new() });
        assert_eq!(questions.turn(), None);
        let snapshot = on_demand(&[workload("a", "10.0.0.1")]);
        questions.settle(&snapshot, &["/192.0.2.1".to_owned()]);
        assert!(questions.ask(ip("10.0.0.1")) && !questions.ask(ip("fd00::1")));
        questions.settle(&snapshot, &["/fd00::1".to_owned()]);
        assert!(questions.ask(ip("fd00::1")));
        assert_eq!((questions.turn(), questions.all().len()), (None, 2));
    }

    #[test]
    fn what_was_not_used_for_the_longest_time_is_forgotten_and_never_what_waits() {
        let questions = Questions::bounded(2);
        let nobody = on_demand(&[]);
        for last in 1..=2 {
            questions.ask(ip(&format!("10.0.0.{last}")));
        }
        // Nothing has an answer: there is no room.
        assert!(!questions.ask(ip("10.0.0.3")));
        assert_eq!(questions.len(), 2);
        questions.turn();
        questions.settle(&nobody, &["/10.0.0.1".to_owned(), "/10.0.0.2".to_owned()]);
        questions.ask(ip("10.0.0.1"));
        questions.ask(ip("10.0.0.3"));
        let turn = questions.turn().expect("a change");
        assert_eq!(turn, Turn { subscribe: vec!["/10.0.0.3".into()], unsubscribe: vec!["/10.0.0.2".into()] });
        assert!(questions.ask(ip("10.0.0.1")));
        // Forgotten and asked for again before the controller was told of either.
        questions.settle(&nobody, &["/10.0.0.3".to_owned()]);
        questions.ask(ip("10.0.0.2"));
        questions.settle(&nobody, &["/10.0.0.2".to_owned()]);
        questions.ask(ip("10.0.0.3"));
        let turn = questions.turn().expect("a change");
        let (subscribe, unsubscribe) = (vec!["/10.0.0.2".into(), "/10.0.0.3".into()], vec!["/10.0.0.1".into()]);
        assert_eq!(turn, Turn { subscribe, unsubscribe });
    }

    #[test]
    fn no_pod_takes_all_places() {
        let questions = Questions::default();
        let places: Vec<_> = (0..WAITING).map(|_| questions.place("a").expect("a place")).collect();
        assert!(questions.place("a").is_none() && questions.place("b").is_some());
        drop(places);
        assert!(questions.place("a").is_some());
        assert!(questions.lock().waiting.is_empty());
    }

    #[test]
    fn answers_outlive_a_restart() {
        let (before, after) = (Questions::default(), Questions::default());
        before.ask(ip("10.0.0.1"));
        before.ask(ip("10.0.0.2"));
        before.settle(&on_demand(&[]), &["/10.0.0.1".to_owned()]);
        assert_eq!(before.answered(), ["10.0.0.1"]);
        after.recall(&["10.0.0.1".to_owned(), "nonsense".to_owned()]);
        assert!(after.ask(ip("10.0.0.1")) && after.len() == 1);
    }
}

//! Requests under way: what was permitted is asked again when the configuration changes, and ends when its token does.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use mesh_common::model::RequestFacts;
use tokio::sync::{Notify, oneshot};

/// Those of one client's connection.
#[derive(Debug, Default)]
pub struct UnderWay {
    requests: Mutex<(u64, BTreeMap<u64, Request>)>,
    /// Another token's end may be the next.
    began: Notify,
}

#[derive(Debug)]
struct Request {
    facts: Arc<RequestFacts>,
    cut: oneshot::Sender<&'static str>,
}

/// One request, as long as this lives.
#[derive(Debug)]
pub struct Held {
    all: Arc<UnderWay>,
    number: u64,
}

/// Resolves when the request is to end, with a stable code.
pub type Cut = oneshot::Receiver<&'static str>;

/// By how much clocks may differ.
const SKEW: Duration = Duration::from_secs(60);

impl UnderWay {
    pub fn begin(self: &Arc<Self>, facts: Arc<RequestFacts>) -> (Held, Cut) {
        let (cut, ends) = oneshot::channel();
        let expires = facts.token.as_ref().is_some_and(|token| token.expires.is_some());
        let mut requests = self.locked();
        requests.0 += 1;
        let number = requests.0;
        requests.1.insert(number, Request { facts, cut });
        drop(requests);
        if expires {
            self.began.notify_one();
        }
        (Held { all: Arc::clone(self), number }, ends)
    }

    /// Ends those that `denied` has a code for.
    pub fn cut(&self, mut denied: impl FnMut(&Arc<RequestFacts>) -> Option<&'static str>) {
        let all: Vec<_> =
            self.locked().1.iter().map(|(number, request)| (*number, Arc::clone(&request.facts))).collect();
        for (number, facts) in all {
            if let Some(code) = denied(&facts)
                && let Some(request) = self.locked().1.remove(&number)
            {
                // It may have ended by itself.
                let _ = request.cut.send(code);
            }
        }
    }

    /// Resolves when a token is over.
    pub async fn expired(&self) {
        loop {
            let began = self.began.notified();
            let Some(ends) = self.next_end() else {
                began.await;
                continue;
            };
            match ends.duration_since(SystemTime::now()) {
                // Clocks are set; the longest sleep is an hour.
                Ok(left) => tokio::select! {
                    () = tokio::time::sleep(left.min(Duration::from_secs(3600))) => {}
                    () = began => {}
                },
                Err(_) => return,
            }
        }
    }

    fn next_end(&self) -> Option<SystemTime> {
        self.locked().1.values().filter_map(|request| end(&request.facts)).min()
    }

    fn locked(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Request>)> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a token was right and is over.
pub fn is_over(facts: &RequestFacts, now: SystemTime) -> bool {
    end(facts).is_some_and(|end| now >= end)
}

/// When its token is over; `None`: never, or later than any clock.
fn end(facts: &RequestFacts) -> Option<SystemTime> {
    let expires = Duration::from_secs(facts.token.as_ref()?.expires?).checked_add(SKEW)?;
    SystemTime::UNIX_EPOCH.checked_add(expires)
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.locked().1.remove(&self.number);
    }
}

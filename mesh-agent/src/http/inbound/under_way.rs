//! Requests under way: what was permitted is asked again when the configuration changes, and ends when its token does.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use http::{HeaderMap, Method, Request as Head, Uri, Version, request::Parts};
use mesh_common::model::{Decision, RequestFacts};
use tokio::sync::{Notify, watch};

use super::{
    super::{body::Cut, record::Record, token::SKEW},
    Unauthorized,
};
use crate::telemetry::{Flow, reason};

/// Those of one client's connection.
#[derive(Debug, Default)]
pub struct UnderWay {
    requests: Mutex<(u64, BTreeMap<u64, Request>)>,
    /// Another token's end may be the next.
    began: Notify,
}

#[derive(Debug)]
struct Request {
    original: Arc<Original>,
    facts: Arc<RequestFacts>,
    record: Arc<Record>,
    cut: watch::Sender<Option<&'static str>>,
}

/// Why one may not go on.
#[derive(Debug)]
pub enum Cause {
    /// It would be refused now.
    Unauthorized(Unauthorized),
    /// Its token is over.
    Expired,
    /// Its connection may not go on.
    Denied(Decision),
}

/// A request's head before anything was decided about it: it can be judged again as if it came now.
#[derive(Debug)]
pub struct Original {
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    pub authority: String,
}

/// One request, as long as this lives.
#[derive(Debug)]
pub struct Held {
    all: Arc<UnderWay>,
    number: u64,
    cut: watch::Receiver<Option<&'static str>>,
}

/// Clocks are set: no sleep is longer.
const NAP: Duration = Duration::from_secs(60);

impl Original {
    pub fn of(parts: &Parts, authority: &str) -> Self {
        Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            headers: parts.headers.clone(),
            authority: authority.to_owned(),
        }
    }

    pub fn parts(&self) -> Parts {
        let mut parts = Head::new(()).into_parts().0;
        parts.method = self.method.clone();
        parts.uri = self.uri.clone();
        parts.version = self.version;
        parts.headers = self.headers.clone();
        parts
    }
}

impl Cause {
    /// A stable one.
    fn code(&self) -> &'static str {
        match self {
            Self::Unauthorized(why) => why.code(),
            Self::Expired => reason::JWT_EXPIRED,
            Self::Denied(decision) => {
                decision.outcome.as_ref().err().map_or(reason::INTERNAL, |denied| denied.reason.code())
            }
        }
    }

    /// Says so in the request's record.
    fn tell(&self, flow: &mut Flow) {
        match self {
            Self::Unauthorized(why) => why.tell(flow),
            Self::Expired => flow.dropped(reason::JWT_EXPIRED, "its token is over"),
            Self::Denied(decision) => flow.decided(decision),
        }
    }
}

impl Held {
    /// Resolves when the request is to end, with a stable code.
    pub fn cut(&self) -> Cut {
        let mut cut = self.cut.clone();
        Box::pin(async move {
            match cut.wait_for(Option::is_some).await.map(|code| *code) {
                Ok(Some(code)) => code,
                // Nobody ends it any more.
                _ => std::future::pending().await,
            }
        })
    }
}

impl UnderWay {
    pub fn begin(
        self: &Arc<Self>,
        original: Arc<Original>,
        facts: Arc<RequestFacts>,
        record: &Arc<Record>,
    ) -> Arc<Held> {
        let (sender, cut) = watch::channel(None);
        let expires = facts.token.as_ref().is_some_and(|token| token.expires.is_some());
        let mut requests = self.locked();
        requests.0 += 1;
        let number = requests.0;
        requests.1.insert(number, Request { original, facts, record: Arc::clone(record), cut: sender });
        drop(requests);
        if expires {
            self.began.notify_one();
        }
        Arc::new(Held { all: Arc::clone(self), number, cut })
    }

    /// Ends those that `denied` has a cause for, and says so in their records.
    pub fn cut(&self, mut denied: impl FnMut(&Original, &RequestFacts) -> Option<Cause>) {
        let both = |request: &Request| (Arc::clone(&request.original), Arc::clone(&request.facts));
        let all: Vec<_> = self.locked().1.iter().map(|(number, request)| (*number, both(request))).collect();
        for (number, (original, facts)) in all {
            let Some(cause) = denied(&original, &facts) else { continue };
            let request = self.locked().1.remove(&number);
            if let Some(Request { record, cut, .. }) = request {
                // Before anybody hears of it, and calls it an end of another kind.
                record.cut(cause.code(), |flow| cause.tell(flow));
                cut.send_replace(Some(cause.code()));
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
                Ok(left) => tokio::select! {
                    () = tokio::time::sleep(left.min(NAP)) => {}
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
    let expires = facts.token.as_ref()?.expires?.checked_add(SKEW)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(expires))
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.locked().1.remove(&self.number);
    }
}

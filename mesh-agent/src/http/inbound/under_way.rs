//! Requests under way: what was permitted is asked again when the configuration changes, and ends when its token does.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use mesh_common::model::RequestFacts;
use tokio::sync::{Notify, oneshot};

use super::super::body::BoxError;

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
    /// Of the answer, and of the request's own body.
    cuts: [oneshot::Sender<&'static str>; 2],
}

/// One request, as long as this lives.
#[derive(Debug)]
pub struct Held {
    all: Arc<UnderWay>,
    number: u64,
}

/// Resolves when the request is to end, with a stable code.
pub type Cut = oneshot::Receiver<&'static str>;

/// What a client sends, until it may not any more.
#[derive(Debug)]
pub struct Sent {
    pub body: Incoming,
    pub cut: Cut,
    /// The answer may be over before.
    pub _held: Arc<Held>,
}

/// By how much clocks may differ.
const SKEW: Duration = Duration::from_secs(60);

impl UnderWay {
    /// The cuts are the answer's and the request's.
    pub fn begin(self: &Arc<Self>, facts: Arc<RequestFacts>) -> (Arc<Held>, [Cut; 2]) {
        let ((answer, answer_ends), (request, request_ends)) = (oneshot::channel(), oneshot::channel());
        let expires = facts.token.as_ref().is_some_and(|token| token.expires.is_some());
        let mut requests = self.locked();
        requests.0 += 1;
        let number = requests.0;
        requests.1.insert(number, Request { facts, cuts: [answer, request] });
        drop(requests);
        if expires {
            self.began.notify_one();
        }
        (Arc::new(Held { all: Arc::clone(self), number }), [answer_ends, request_ends])
    }

    /// Ends those that `denied` has a code for.
    pub fn cut(&self, mut denied: impl FnMut(&Arc<RequestFacts>) -> Option<&'static str>) {
        let all: Vec<_> =
            self.locked().1.iter().map(|(number, request)| (*number, Arc::clone(&request.facts))).collect();
        for (number, facts) in all {
            if let Some(code) = denied(&facts)
                && let Some(request) = self.locked().1.remove(&number)
            {
                // First the answer's, which says why. Each may have ended by itself.
                for cut in request.cuts {
                    let _ = cut.send(code);
                }
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

impl Body for Sent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(Ok(code)) = Pin::new(&mut self.cut).poll(cx) {
            return Poll::Ready(Some(Err(code.into())));
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

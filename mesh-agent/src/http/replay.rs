//! A request's body that can be sent again: what was read of it is kept, up to a bound. Each try reads from the
//! beginning; only the newest reads on from the client.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{sync::watch, time::Instant};

use super::body::{BoxError, RequestBody};

/// Bytes of one request that are kept; one with more is not sent again once that much of it has gone out.
pub const KEPT: usize = 64 * 1024;

/// A body, of which several tries are made. Most requests have none: then there is nothing to share.
#[derive(Clone, Debug)]
pub enum Replay {
    /// Since when that is known.
    Nothing(Instant),
    Kept(Arc<Shared>),
}

#[derive(Debug)]
pub struct Shared {
    state: Mutex<State>,
    /// When all of it was there.
    ended: watch::Sender<Option<Instant>>,
    /// What the client said of its length.
    hint: SizeHint,
}

#[derive(Debug)]
struct State {
    body: Incoming,
    pieces: Vec<Bytes>,
    kept: usize,
    trailers: Option<HeaderMap>,
    /// All of it was read.
    done: bool,
    /// More than is kept was read.
    gone: bool,
    /// Which try is the newest.
    newest: u64,
}

/// The body of one try.
#[derive(Debug)]
pub struct Try {
    shared: Arc<Shared>,
    number: u64,
    /// The next piece.
    next: usize,
    trailers_told: bool,
    ended: bool,
}

impl Replay {
    pub fn new(body: Incoming) -> Self {
        if body.is_end_stream() {
            return Self::Nothing(Instant::now());
        }
        let hint = body.size_hint();
        let state = State { body, pieces: Vec::new(), kept: 0, trailers: None, done: false, gone: false, newest: 0 };
        Self::Kept(Arc::new(Shared { state: Mutex::new(state), ended: watch::Sender::new(None), hint }))
    }

    /// The next try's. The one before it gets nothing more.
    pub fn next(&self) -> RequestBody {
        let Self::Kept(shared) = self else { return RequestBody::Whole(None) };
        let mut state = shared.state();
        state.newest += 1;
        let (number, ended) = (state.newest, state.done && state.pieces.is_empty() && state.trailers.is_none());
        RequestBody::Try(Try { shared: Arc::clone(shared), number, next: 0, trailers_told: false, ended })
    }

    /// All that was read of it is still here.
    pub fn can_replay(&self) -> bool {
        match self {
            Self::Nothing(_) => true,
            Self::Kept(shared) => !shared.state().gone,
        }
    }

    /// Resolves when the client has sent all of it, to the time when that was so.
    pub async fn ended(&self) -> Instant {
        let shared = match self {
            Self::Nothing(since) => return *since,
            Self::Kept(shared) => shared,
        };
        match shared.ended.subscribe().wait_for(Option::is_some).await.ok().and_then(|ended| *ended) {
            Some(ended) => ended,
            None => unreachable!("the sender lives as long as this does"),
        }
    }

    /// All of it, once the client has sent it; `None`: it is more than is kept.
    pub async fn whole(&self) -> Option<Bytes> {
        self.ended().await;
        let Self::Kept(shared) = self else { return Some(Bytes::new()) };
        let state = shared.state();
        match (state.gone, state.pieces.as_slice()) {
            (true, _) => None,
            (false, [one]) => Some(one.clone()),
            (false, many) => Some(many.concat().into()),
        }
    }

    /// When the client had sent all of it; `None`: it still sends.
    pub fn ended_at(&self) -> Option<Instant> {
        match self {
            Self::Nothing(since) => Some(*since),
            Self::Kept(shared) => *shared.ended.borrow(),
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Try {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut state = self.shared.state();
        if state.newest != self.number {
            return Poll::Ready(Some(Err("another try has begun".into())));
        }
        if let Some(piece) = state.pieces.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if !state.done {
            match ready!(Pin::new(&mut state.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        if state.gone || state.kept + data.len() > KEPT {
                            (state.gone, state.kept) = (true, 0);
                            state.pieces = Vec::new();
                            self.next = 0;
                        } else {
                            state.kept += data.len();
                            state.pieces.push(data.clone());
                            self.next += 1;
                        }
                        // By its length that was all: whoever sends it on does not ask again.
                        if state.body.is_end_stream() {
                            (state.done, self.ended) = (true, true);
                            self.shared.ended.send_replace(Some(Instant::now()));
                        }
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Err(frame) => state.trailers = frame.into_trailers().ok(),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => {}
            }
            state.done = true;
            self.shared.ended.send_replace(Some(Instant::now()));
        }
        match state.trailers.clone().filter(|_| !self.trailers_told) {
            Some(trailers) => {
                self.trailers_told = true;
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            None => {
                self.ended = true;
                Poll::Ready(None)
            }
        }
    }
}

impl Body for Try {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.get_mut().poll(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        self.shared.hint
    }
}

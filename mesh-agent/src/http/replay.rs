//! A request's body that can be sent again: what was read of it is kept, up to a bound. Each try reads from the
//! beginning; only the newest reads on from the client.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::{sync::watch, time::Instant};

use super::{
    body::{BoxError, RequestBody},
    messages::Messages,
};
use crate::telemetry::Live;

/// Bytes of one request that are kept; one with more is not sent again once that much of it has gone out.
pub const KEPT: usize = 64 * 1024;

/// A body, of which several tries are made. Most requests have none: then there is nothing to share.
#[derive(Debug)]
pub enum Replay {
    /// Since when that is known.
    Nothing(Instant),
    Kept(Arc<Source>),
}

/// Those who read from the client. When the last of them has gone, the client need send no more.
#[derive(Debug)]
pub struct Source(Arc<Shared>);

/// What of a body is to be sent to somebody else, for whom the client does not wait.
#[derive(Debug)]
pub enum Copied {
    Nothing,
    Kept(Arc<Shared>),
}

#[derive(Debug)]
pub struct Shared {
    state: Mutex<State>,
    /// When the last of it came, or that was no more to be expected.
    ended: watch::Sender<Option<Instant>>,
    /// What the client said of its length.
    hint: SizeHint,
    /// Counts what the client sent; what is sent again does not count again.
    passed: Arc<Live>,
}

#[derive(Debug)]
struct State {
    /// None: nobody reads on.
    body: Option<Incoming>,
    pieces: Vec<Bytes>,
    kept: usize,
    trailers: Option<HeaderMap>,
    /// All of it was read.
    done: bool,
    /// More than is kept was read.
    gone: bool,
    /// The client broke off: what was read is no request.
    broken: bool,
    /// Which try is the newest.
    newest: u64,
    /// `None`: it is no gRPC.
    messages: Option<Messages>,
}

/// The body of one try.
#[derive(Debug)]
pub struct Try {
    source: Arc<Source>,
    number: u64,
    /// The next piece.
    next: usize,
    trailers_told: bool,
    ended: bool,
}

impl Replay {
    /// What comes of it counts in `passed`, `grpc` with its messages.
    pub fn new(body: Incoming, passed: &Arc<Live>, grpc: bool) -> Self {
        if body.is_end_stream() {
            return Self::Nothing(Instant::now());
        }
        let hint = body.size_hint();
        let state = State {
            body: Some(body),
            pieces: Vec::new(),
            kept: 0,
            trailers: None,
            done: false,
            gone: false,
            broken: false,
            newest: 0,
            messages: grpc.then(Messages::default),
        };
        let (state, ended, passed) = (Mutex::new(state), watch::Sender::new(None), Arc::clone(passed));
        let shared = Shared { state, ended, hint, passed };
        Self::Kept(Arc::new(Source(Arc::new(shared))))
    }

    /// The next try's. The one before it gets nothing more.
    pub fn next(&self) -> RequestBody {
        let Self::Kept(source) = self else { return RequestBody::Whole(None) };
        let mut state = source.0.state();
        state.newest += 1;
        let (number, ended) = (state.newest, state.done && state.pieces.is_empty() && state.trailers.is_none());
        RequestBody::Try(Try { source: Arc::clone(source), number, next: 0, trailers_told: false, ended })
    }

    /// All that was read of it is still here, and the rest may come.
    pub fn can_replay(&self) -> bool {
        match self {
            Self::Nothing(_) => true,
            Self::Kept(source) => {
                let state = source.0.state();
                !state.gone && !state.broken
            }
        }
    }

    /// The client broke off in the midst of it.
    pub fn is_broken(&self) -> bool {
        matches!(self, Self::Kept(source) if source.0.state().broken)
    }

    /// Resolves when nothing more of it comes, to the time when that was so: the client has sent all of it or has
    /// broken off, or nobody reads on. It keeps nothing of the body.
    pub fn ended(&self) -> impl Future<Output = Instant> + Send + use<> {
        let ended = match self {
            Self::Nothing(since) => Err(*since),
            Self::Kept(source) => Ok(source.0.ended.subscribe()),
        };
        async move {
            match ended {
                Err(since) => since,
                // Its sender goes with the last who reads, and says so before.
                Ok(mut ended) => {
                    let told = ended.wait_for(Option::is_some).await.ok().and_then(|ended| *ended);
                    told.unwrap_or_else(Instant::now)
                }
            }
        }
    }

    /// For somebody who may have it when all of it was read, and for whom nothing is read.
    pub fn copied(&self) -> Copied {
        match self {
            Self::Nothing(_) => Copied::Nothing,
            Self::Kept(source) => Copied::Kept(Arc::clone(&source.0)),
        }
    }
}

impl Copied {
    /// All of it, once the client has sent it; `None`: it is more than is kept, or never came.
    pub async fn whole(self) -> Option<Bytes> {
        let Self::Kept(shared) = self else { return Some(Bytes::new()) };
        // The sender lives as long as this does.
        let _ = shared.ended.subscribe().wait_for(Option::is_some).await;
        let state = shared.state();
        match (state.done && !state.gone, state.pieces.as_slice()) {
            (false, _) => None,
            (true, [one]) => Some(one.clone()),
            (true, many) => Some(many.concat().into()),
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let unread = self.0.state().body.take();
        drop(unread);
        self.0.end();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert_with(Instant::now);
            first
        });
    }
}

impl Try {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let shared = &self.source.0;
        let mut state = shared.state();
        let state = &mut *state;
        if state.newest != self.number {
            return Poll::Ready(Some(Err("another try has begun".into())));
        }
        // Whoever gets half of it is never told that this was all.
        if state.broken {
            return Poll::Ready(Some(Err("the client broke off".into())));
        }
        if let Some(piece) = state.pieces.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if !state.done {
            let body = state.body.as_mut().expect("it is there while there is a try");
            match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        shared.passed.sent.fetch_add(data.len() as u64, Ordering::Relaxed);
                        if let Some(messages) = &mut state.messages {
                            shared.passed.messages_sent.fetch_add(messages.ended(&data), Ordering::Relaxed);
                        }
                        // By its length that was all: whoever sends it on does not ask again.
                        let is_all = body.is_end_stream();
                        if state.gone || state.kept + data.len() > KEPT {
                            (state.gone, state.kept) = (true, 0);
                            state.pieces = Vec::new();
                            self.next = 0;
                        } else {
                            state.kept += data.len();
                            state.pieces.push(data.clone());
                            self.next += 1;
                        }
                        if is_all {
                            (state.done, self.ended) = (true, true);
                            shared.end();
                        }
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                    Err(frame) => state.trailers = frame.into_trailers().ok(),
                },
                Some(Err(error)) => {
                    state.broken = true;
                    shared.end();
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => {}
            }
            state.done = true;
            shared.end();
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
        self.source.0.hint
    }
}

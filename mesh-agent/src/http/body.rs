//! Bodies as they pass.

use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use mesh_common::route::{grpc_answer, grpc_of};

use super::{
    answer::{flag, refusal},
    counts::RouteCounts,
    messages::Messages,
    pool::Lease,
    record::OpenRequest,
    replay::Try,
};
use crate::telemetry::Live;

pub type BoxError = Box<dyn Error + Send + Sync>;

/// Resolves when what passes may not go on, with a stable code.
pub type Cut = Pin<Box<dyn Future<Output = &'static str> + Send>>;

/// A client's body on its way to an application, as long as it may go on. An answer may be over before it.
pub struct Guarded<H> {
    pub body: Incoming,
    pub cut: Cut,
    /// Counts what passes.
    pub passed: Arc<Live>,
    /// `None`: it is no gRPC.
    pub messages: Option<Messages>,
    /// Lives as long as this.
    pub _held: H,
}

/// What is sent to an endpoint.
#[derive(Debug)]
pub enum RequestBody {
    Whole(Option<Bytes>),
    Try(Try),
}

/// What is sent to a client.
#[derive(Debug)]
pub enum ResponseBody {
    Empty,
    Text(Option<Bytes>),
    Streamed(Box<Streamed>),
}

/// An endpoint's answer as it comes. What it holds is let go at its end, or when the client has gone.
pub struct Streamed {
    pub body: Incoming,
    /// Until here the whole answer must have come.
    pub deadline: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    pub lease: Option<Lease>,
    pub cut: Option<CutAnswer>,
    /// Counts as a request under way while this lives.
    pub _held: Box<dyn Send>,
    pub counts: Arc<RouteCounts>,
    /// `None`: it is no request's.
    pub told: Option<OpenRequest>,
    /// `None`: it is no gRPC.
    pub messages: Option<Messages>,
    /// It came to its end, or to one that is counted.
    pub over: bool,
}

/// When an answer may not go on.
pub struct CutAnswer {
    /// `None`: that was said.
    pub cut: Option<Cut>,
    /// The client is one of gRPC, and hears it in its own terms.
    pub grpc: bool,
}

impl CutAnswer {
    /// The end of the answer, if it has come.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let Some(cut) = &mut self.cut else { return Poll::Ready(None) };
        let code = std::task::ready!(cut.as_mut().poll(cx));
        self.cut = None;
        if !self.grpc {
            return Poll::Ready(Some(Err(code.into())));
        }
        let (parts, ()) = grpc_answer(grpc_of(refusal(code).as_u16()), code).into_parts();
        let mut trailers = parts.headers;
        trailers.remove(CONTENT_TYPE);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

impl fmt::Debug for Streamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streamed").finish_non_exhaustive()
    }
}

impl Streamed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            self.broken(flag::TIMEOUT);
            return Poll::Ready(Some(Err("the route's time is over".into())));
        }
        if let Some(cut) = &mut self.cut
            && let Poll::Ready(end) = cut.poll(cx)
        {
            self.broken(flag::UNAUTHORIZED);
            return Poll::Ready(end);
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Err(_)) => self.broken(flag::RESET),
            Some(Ok(frame)) => self.passes(frame),
            None => self.over = true,
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn passes(&mut self, frame: &Frame<Bytes>) {
        let Some(told) = &self.told else { return };
        if let Some(data) = frame.data_ref() {
            let Live { received, messages_received, .. } = &**told.passed();
            received.fetch_add(data.len() as u64, Ordering::Relaxed);
            if let Some(messages) = &mut self.messages {
                messages_received.fetch_add(messages.ended(data), Ordering::Relaxed);
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            told.trailers(trailers);
        }
    }

    fn broken(&mut self, flag: &'static str) {
        if !std::mem::replace(&mut self.over, true) {
            self.lease = None;
            self.counts.flagged(flag);
            if let Some(told) = &self.told {
                told.broken(flag);
            }
        }
    }
}

impl Drop for Streamed {
    /// The last poll may never come: whoever reads knows by its length that this was all.
    fn drop(&mut self) {
        let over = self.over || self.body.is_end_stream();
        if let Some(told) = self.told.as_ref().filter(|_| over) {
            told.whole();
        }
        match (over, self.lease.take()) {
            (true, Some(lease)) => lease.complete(),
            (true, None) => {}
            (false, _) => self.counts.flagged(flag::CLIENT_GONE),
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Streamed(streamed) => streamed.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Text(None) => true,
            Self::Text(Some(_)) => false,
            Self::Streamed(streamed) => streamed.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Text(None) => SizeHint::with_exact(0),
            Self::Text(Some(text)) => SizeHint::with_exact(text.len() as u64),
            Self::Streamed(streamed) => streamed.body.size_hint(),
        }
    }
}

impl<H: Unpin> Body for Guarded<H> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(code) = self.cut.as_mut().poll(cx) {
            return Poll::Ready(Some(Err(code.into())));
        }
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref) {
            self.passed.sent.fetch_add(data.len() as u64, Ordering::Relaxed);
            let ended = self.messages.as_mut().map_or(0, |messages| messages.ended(data));
            self.passed.messages_sent.fetch_add(ended, Ordering::Relaxed);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Whole(whole) => Poll::Ready(whole.take_if(|whole| !whole.is_empty()).map(|all| Ok(Frame::data(all)))),
            Self::Try(one) => Pin::new(one).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.as_ref().is_none_or(Bytes::is_empty),
            Self::Try(one) => one.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => SizeHint::with_exact(whole.as_ref().map_or(0, Bytes::len) as u64),
            Self::Try(one) => one.size_hint(),
        }
    }
}

//! A connection's bytes, which end when its permission does, whoever reads them by then: an upgrade takes them away
//! from hyper.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
};

use super::super::Io;

pub struct Bound {
    io: Box<dyn Io>,
    /// Its other end is dropped: this ends. `None`: it has.
    end: Option<oneshot::Receiver<()>>,
    _here: oneshot::Sender<()>,
}

/// What keeps a [`Bound`].
#[derive(Debug)]
pub struct Keeper {
    gone: oneshot::Receiver<()>,
    _end: oneshot::Sender<()>,
}

impl Bound {
    pub fn new(io: Box<dyn Io>) -> (Self, Keeper) {
        let ((end_sender, end), (here, gone)) = (oneshot::channel(), oneshot::channel());
        (Self { io, end: Some(end), _here: here }, Keeper { gone, _end: end_sender })
    }

    fn has_ended(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(end) = &mut self.end
            && Pin::new(end).poll(cx).is_ready()
        {
            self.end = None;
        }
        self.end.is_none()
    }
}

impl Keeper {
    /// Until the bytes are dropped, by whoever has them, or `until` resolves and they end.
    pub async fn keep(self, driver: impl Future, mut until: Pin<Box<dyn Future<Output = ()> + Send>>) {
        let denied = tokio::select! { _ = driver => false, () = until.as_mut() => true };
        if !denied {
            tokio::select! { _ = self.gone => {}, () = until => {} }
        }
    }
}

impl AsyncRead for Bound {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.has_ended(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Bound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

//! A connection's bytes, which end when its permission does, whoever reads them by then: an upgrade takes them away
//! from hyper.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::oneshot,
    time::sleep,
};

use super::{super::Io, lease::REST};

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
    /// Until the bytes are dropped, by whoever has them. They end when `until` resolves, and soon after the connection
    /// was dropped: what is left of a request then, an endpoint may never read.
    pub async fn keep(
        self,
        driver: impl Future,
        until: Pin<Box<dyn Future<Output = ()> + Send>>,
        dropped: oneshot::Receiver<Infallible>,
    ) {
        let Self { gone, _end } = self;
        let passing = async {
            driver.await;
            let _ = gone.await;
        };
        let abandoned = async {
            let _ = dropped.await;
            sleep(REST).await;
        };
        tokio::select! { () = passing => {}, () = until => {}, () = abandoned => {} }
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
        // Whoever reads on the other side may be slow: then nobody reads here.
        if self.has_ended(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn nothing_is_written_after_the_end() {
        let (here, _there) = tokio::io::duplex(64);
        let (mut bytes, keeper) = Bound::new(Box::new(here));
        bytes.write_all(b"before").await.unwrap();
        drop(keeper);
        assert_eq!(bytes.write_all(b"after").await.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
    }
}

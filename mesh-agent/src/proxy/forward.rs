//! Copies both ways until both ends are done, one resets, or a change of policy denies the connection. Half-close,
//! reset and back-pressure pass through; no more than one buffer a direction is held here.

use std::{
    future::{Future, poll_fn},
    io,
    net::Shutdown,
    ops::Range,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use mesh_common::model::{Decision, Permit};
use socket2::SockRef;
use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use super::{
    bounds::{Clock, Ends},
    buffer::Buffer,
};
use crate::{
    sockopt,
    telemetry::{OpenFlow, reason},
    tunnel::TunnelStream,
};

/// How long a reset waits for what its sender wrote before it. Without a mesh it would be in the receiver's kernel by
/// then; what finds no room there would be lost without a mesh, too, and is here.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How often it is looked whether the last words are out.
const LOOK: Duration = Duration::from_millis(1);

/// One end of a forwarded connection.
pub trait End: AsyncBufRead + AsyncWrite + Unpin + Send {
    /// While armed, an end that is dropped resets: if the agent stops or dies in the middle of a stream, neither side
    /// takes what it got for all of it.
    fn arm(&mut self, on: bool);

    /// Makes the drop of this end a reset instead of a close.
    fn reset(&mut self);

    /// Whether all that was written to this end has left for its peer: a reset overtakes what has not.
    fn is_sent(&self) -> bool;

    /// To be called while nobody can take what is read; `false`: nothing comes after it but a reset.
    fn gather(&mut self, _cx: &mut Context<'_>) -> bool {
        true
    }

    /// Ready when the end is gone, also while nobody reads or writes.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error>;
}

/// A socket as an end.
pub struct Socket {
    stream: Arc<TcpStream>,
    /// Only while there is something in it.
    buffer: Option<Buffer>,
    /// What of the buffer was read and not yet consumed.
    filled: Range<usize>,
    /// What its end is if it was reset before it came here.
    fault: Option<io::Error>,
    /// Waits for an error on the socket; made when somebody asks.
    gone: Option<Pin<Box<dyn Future<Output = io::Error> + Send>>>,
}

pub fn socket(stream: TcpStream) -> Socket {
    Socket { stream: Arc::new(stream), buffer: None, filled: 0..0, fault: None, gone: None }
}

impl Socket {
    /// The socket's error was taken already: it is told when all that came before it has been read.
    pub fn with_fault(self, fault: Option<io::Error>) -> Self {
        Self { fault, ..self }
    }
}

impl AsyncBufRead for Socket {
    /// Reads until the kernel says that there is no more. tokio's own reading takes a read that brings less than it
    /// could for the last one, but a read ends before an urgent byte (tcp(7)): the byte would stay in the kernel until
    /// another came.
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        while this.filled.is_empty() {
            let Poll::Ready(ready) = this.stream.poll_read_ready(cx) else {
                this.buffer = None;
                return Poll::Pending;
            };
            ready?;
            match this.stream.try_read(this.buffer.get_or_insert_with(Buffer::new)) {
                Ok(0) => match this.fault.take_if(|fault| fault.kind() == io::ErrorKind::ConnectionReset) {
                    Some(fault) => return Poll::Ready(Err(fault)),
                    // It had ended in order before (EPIPE): `poll_gone` tells the rest.
                    None => break,
                },
                Ok(length) => this.filled = 0..length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(this.buffer.as_ref().map_or(&[], |buffer| &buffer[this.filled.clone()])))
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        self.filled.start += amount;
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let available = ready!(self.as_mut().poll_fill_buf(cx))?;
        let amount = available.len().min(buf.remaining());
        buf.put_slice(&available[..amount]);
        self.consume(amount);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_write(buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    /// Nothing to do: the kernel sends what it has as soon as it can.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&*self.stream).shutdown(Shutdown::Write))
    }
}

/// Returns when the socket has an error that nobody has been told of: its peer has reset it.
async fn gone(stream: Arc<TcpStream>) -> io::Error {
    match stream.ready(Interest::ERROR).await.and_then(|_| stream.take_error()) {
        Ok(Some(error)) | Err(error) => error,
        // It was told to a read or a write.
        Ok(None) => std::future::pending().await,
    }
}

/// The next close of the socket sends RST: the client sees that it was refused, not an answer of nothing.
pub fn refuse(stream: &TcpStream) {
    // Fails only for sockets that are gone already.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

impl End for Socket {
    fn arm(&mut self, on: bool) {
        // Fails only for sockets that are gone already.
        let _ = SockRef::from(&*self.stream).set_linger(on.then_some(Duration::ZERO));
    }

    fn reset(&mut self) {
        refuse(&self.stream);
    }

    fn is_sent(&self) -> bool {
        // A socket that cannot tell is gone: nothing leaves it any more.
        sockopt::unsent(&*self.stream).map_or(true, |bytes| bytes == 0)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Self { stream, gone: waiting, fault, .. } = self;
        if let Some(fault) = fault.take() {
            return Poll::Ready(fault);
        }
        waiting.get_or_insert_with(|| Box::pin(gone(Arc::clone(stream)))).as_mut().poll(cx)
    }
}

impl End for TunnelStream {
    /// It resets anyway if it is dropped before its end.
    fn arm(&mut self, _on: bool) {}

    fn reset(&mut self) {
        Self::reset(self);
    }

    fn is_sent(&self) -> bool {
        Self::is_sent(self)
    }

    fn gather(&mut self, cx: &mut Context<'_>) -> bool {
        Self::gather(self, cx)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.poll_reset(cx)
    }
}

/// TLS that the agent itself speaks over another end.
impl<T: End> End for TlsStream<T> {
    fn arm(&mut self, on: bool) {
        self.get_mut().0.arm(on);
    }

    fn reset(&mut self) {
        self.get_mut().0.reset();
    }

    fn is_sent(&self) -> bool {
        let (io, session) = self.get_ref();
        !session.wants_write() && io.is_sent()
    }

    fn gather(&mut self, cx: &mut Context<'_>) -> bool {
        self.get_mut().0.gather(cx)
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.get_mut().0.poll_gone(cx)
    }
}

/// Forwards what was permitted, counts the bytes in the flow and writes the outcome into it. `denied` resolves if a
/// later change denies the connection.
pub async fn forward(
    permit: &Permit,
    client: impl End,
    server: impl End,
    denied: impl Future<Output = Decision>,
    flow: &mut OpenFlow,
) {
    forward_until(Ends::default(), permit, client, server, denied, flow).await;
}

/// The same, for no longer than `ends` says.
pub async fn forward_until(
    ends: Ends,
    _permit: &Permit,
    mut client: impl End,
    mut server: impl End,
    denied: impl Future<Output = Decision>,
    flow: &mut OpenFlow,
) {
    let live = flow.live();
    client.arm(true);
    server.arm(true);
    let (mut there, mut back) = (Direction::new(&live.sent), Direction::new(&live.received));
    let mut denied = pin!(denied);
    let mut clock = Clock::new(ends);
    let outcome = {
        let (client, server, there, back) = (&mut client, &mut server, &mut there, &mut back);
        poll_fn(|cx| {
            if let Poll::Ready(denied) = denied.as_mut().poll(cx) {
                return Poll::Ready(Err(Broken::Denied(denied)));
            }
            // Both ways move before a fault of either counts: an answer that came before a reset is delivered.
            let (sent, received) = (there.poll(cx, client, server), back.poll(cx, server, client));
            match (sent, received) {
                (Poll::Ready(Err(fault)), _) => return Poll::Ready(Err(fault.of(Side::Client))),
                (_, Poll::Ready(Err(fault))) => return Poll::Ready(Err(fault.of(Side::Server))),
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ok(())),
                _ => {}
            }
            // An end that is still read tells of its own end, after its data.
            let gone = |state: &State, end: &mut dyn FnMut() -> Poll<io::Error>| match state {
                State::Closed => end(),
                State::Copying | State::Closing => Poll::Pending,
            };
            if let Poll::Ready(error) = gone(&there.state, &mut || client.poll_gone(cx)) {
                return Poll::Ready(Err(Broken::End(Side::Client, error)));
            }
            if let Poll::Ready(error) = gone(&back.state, &mut || server.poll_gone(cx)) {
                return Poll::Ready(Err(Broken::End(Side::Server, error)));
            }
            clock.poll(cx, there.bytes + back.bytes).map(|(code, why)| Err(Broken::Over(code, why)))
        })
        .await
    };
    match &outcome {
        Err(Broken::End(Side::Client, _)) => there.last_words(&mut client, &mut server, denied.as_mut()).await,
        Err(Broken::End(Side::Server, _)) => back.last_words(&mut server, &mut client, denied.as_mut()).await,
        Ok(()) | Err(Broken::Denied(_) | Broken::Over(..)) => {}
    }
    match outcome {
        Ok(()) => {
            client.arm(false);
            server.arm(false);
        }
        Err(broken) => {
            client.reset();
            server.reset();
            match broken {
                Broken::Denied(decision) => flow.decided(&decision),
                Broken::Over(code, why) => {
                    flow.reason = Some(code.into());
                    flow.error = Some(why);
                }
                // A reset is a way for applications to end a connection; the verdict on it stands.
                Broken::End(_, error) => {
                    flow.reason = Some(reason::RESET.into());
                    flow.error = Some(error.to_string());
                }
            }
        }
    }
}

enum Broken {
    Denied(Decision),
    /// A bound is reached, with its code and what to say.
    Over(&'static str, String),
    /// The end that is gone.
    End(Side, io::Error),
}

#[derive(Clone, Copy)]
enum Side {
    Client,
    Server,
}

/// What stopped one way of a connection.
enum Fault {
    Source(io::Error),
    Target(io::Error),
}

impl Fault {
    /// The end that is gone, if `source` is where this way begins.
    fn of(self, source: Side) -> Broken {
        match (self, source) {
            (Self::Source(error), Side::Client) | (Self::Target(error), Side::Server) => {
                Broken::End(Side::Client, error)
            }
            (Self::Source(error), Side::Server) | (Self::Target(error), Side::Client) => {
                Broken::End(Side::Server, error)
            }
        }
    }
}

/// One way of a connection.
struct Direction<'a> {
    bytes: u64,
    /// Those who ask about live connections read it.
    shown: &'a AtomicU64,
    state: State,
}

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    Copying,
    /// The source is at its end; the other side is to learn it.
    Closing,
    Closed,
}

impl<'a> Direction<'a> {
    fn new(shown: &'a AtomicU64) -> Self {
        Self { bytes: 0, shown, state: State::default() }
    }

    fn poll(&mut self, cx: &mut Context<'_>, from: &mut impl End, to: &mut impl End) -> Poll<Result<(), Fault>> {
        ready!(self.copy(cx, from, to))?;
        if self.state == State::Closing {
            ready!(Pin::new(to).poll_shutdown(cx)).or_else(gone_already).map_err(Fault::Target)?;
            self.state = State::Closed;
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the source is at its end.
    fn copy(&mut self, cx: &mut Context<'_>, from: &mut impl End, to: &mut impl End) -> Poll<Result<(), Fault>> {
        while self.state == State::Copying {
            let Poll::Ready(data) = Pin::new(&mut *from).poll_fill_buf(cx) else {
                // What the target holds back shall not wait for more to come.
                if let Poll::Ready(Err(error)) = Pin::new(&mut *to).poll_flush(cx) {
                    return Poll::Ready(Err(Fault::Target(error)));
                }
                return Poll::Pending;
            };
            let data = data.map_err(Fault::Source)?;
            if data.is_empty() {
                self.state = State::Closing;
                break;
            }
            let Poll::Ready(written) = Pin::new(&mut *to).poll_write(cx, data) else {
                from.gather(cx);
                return Poll::Pending;
            };
            let written = written.map_err(Fault::Target)?;
            if written == 0 {
                return Poll::Ready(Err(Fault::Target(io::ErrorKind::WriteZero.into())));
            }
            Pin::new(&mut *from).consume(written);
            self.bytes += written as u64;
            self.shown.store(self.bytes, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }

    /// Hands on what `from` wrote before it was gone, for as long as the other end has room and the policy permits. Its
    /// end is not handed on: what comes after this is a reset.
    async fn last_words(&mut self, from: &mut impl End, to: &mut impl End, denied: impl Future<Output = Decision>) {
        let words = async {
            // The end of `from` is near: it is gone, and only what is here already can still be read.
            let copied = poll_fn(|cx| self.copy(cx, from, to)).await;
            while !matches!(copied, Err(Fault::Target(_))) && !to.is_sent() {
                let _flushed = poll_fn(|cx| Poll::Ready(Pin::new(&mut *to).poll_flush(cx))).await;
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            biased;
            _ = denied => {}
            _ = tokio::time::timeout(LAST_WORDS, words) => {}
        }
    }
}

/// Shutting down a socket whose peer closed both ways is no fault of the connection.
fn gone_already(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotConnected { Ok(()) } else { Err(error) }
}

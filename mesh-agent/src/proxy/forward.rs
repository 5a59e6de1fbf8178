//! Copies both ways until both ends are done, one resets, or a change of policy denies the connection. Half-close,
//! reset and back-pressure pass through; no more than one buffer a direction is held here.

use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use mesh_common::model::{Denied, Permit};
use socket2::SockRef;
use tokio::{
    io::{AsyncBufRead, AsyncWrite, BufReader},
    net::TcpStream,
};

use crate::{
    telemetry::{Flow, reason},
    tunnel::TunnelStream,
};

/// Bytes that are read from a socket at once: with the header of their HTTP/2 frame they fill four TLS records. Nine
/// bytes more would be a record, and on the wire a segment, of their own.
const BUFFER: usize = 4 * 16 * 1024 - 9;

/// One end of a forwarded connection.
pub trait End: AsyncBufRead + AsyncWrite + Unpin + Send {
    /// While armed, an end that is dropped resets: if the agent stops or dies in the middle of a stream, neither side
    /// takes what it got for all of it.
    fn arm(&mut self, on: bool);

    /// Makes the drop of this end a reset instead of a close.
    fn reset(&mut self);

    /// Ready when the end is gone, also while nobody reads or writes.
    fn poll_gone(&mut self, _cx: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }
}

/// A socket as an end.
pub type Socket = BufReader<TcpStream>;

pub fn socket(stream: TcpStream) -> Socket {
    BufReader::with_capacity(BUFFER, stream)
}

/// The next close of the socket sends RST: the client sees that it was refused, not an answer of nothing.
pub fn refuse(stream: &TcpStream) {
    // Fails only for sockets that are gone already.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

impl End for Socket {
    fn arm(&mut self, on: bool) {
        // Fails only for sockets that are gone already.
        let _ = SockRef::from(self.get_ref()).set_linger(on.then_some(Duration::ZERO));
    }

    fn reset(&mut self) {
        refuse(self.get_ref());
    }
}

impl End for TunnelStream {
    /// It resets anyway if it is dropped before its end.
    fn arm(&mut self, _on: bool) {}

    fn reset(&mut self) {
        Self::reset(self);
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.poll_reset(cx)
    }
}

/// Forwards what was permitted, and writes bytes and outcome into the flow. `denied` resolves if a later change denies
/// the connection.
pub async fn forward(
    _permit: &Permit,
    mut client: impl End,
    mut server: impl End,
    denied: impl Future<Output = Denied>,
    flow: &mut Flow,
) {
    client.arm(true);
    server.arm(true);
    let (mut there, mut back) = (Direction::default(), Direction::default());
    let mut denied = pin!(denied);
    let outcome = {
        let (client, server, there, back) = (&mut client, &mut server, &mut there, &mut back);
        poll_fn(|cx| {
            if let Poll::Ready(denied) = denied.as_mut().poll(cx) {
                return Poll::Ready(Err(Broken::Denied(denied)));
            }
            // Both ways move before a fault of either counts: an answer that came before a reset is delivered.
            let (sent, received) = (there.poll(cx, client, server), back.poll(cx, server, client));
            match (sent, received) {
                (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => {
                    return Poll::Ready(Err(Broken::End(error)));
                }
                (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ok(())),
                _ => {}
            }
            // An end that is still read tells of its own end, after its data.
            let gone = |state: &State, end: &mut dyn FnMut() -> Poll<io::Error>| match state {
                State::Closed => end(),
                State::Copying | State::Closing => Poll::Pending,
            };
            let client_gone = gone(&there.state, &mut || client.poll_gone(cx));
            let server_gone = gone(&back.state, &mut || server.poll_gone(cx));
            if let (Poll::Ready(error), _) | (_, Poll::Ready(error)) = (client_gone, server_gone) {
                return Poll::Ready(Err(Broken::End(error)));
            }
            Poll::Pending
        })
        .await
    };
    (flow.sent, flow.received) = (there.bytes, back.bytes);
    match outcome {
        Ok(()) => {
            client.arm(false);
            server.arm(false);
        }
        Err(broken) => {
            client.reset();
            server.reset();
            match broken {
                Broken::Denied(denied) => flow.denied(&denied),
                // A reset is a way for applications to end a connection; the verdict on it stands.
                Broken::End(error) => {
                    flow.reason = Some(reason::RESET.into());
                    flow.error = Some(error.to_string());
                }
            }
        }
    }
}

enum Broken {
    Denied(Denied),
    End(io::Error),
}

/// One way of a connection.
#[derive(Default)]
struct Direction {
    bytes: u64,
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

impl Direction {
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut impl End, to: &mut impl End) -> Poll<io::Result<()>> {
        while self.state == State::Copying {
            let data = ready!(Pin::new(&mut *from).poll_fill_buf(cx))?;
            if data.is_empty() {
                self.state = State::Closing;
                break;
            }
            let written = ready!(Pin::new(&mut *to).poll_write(cx, data))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            Pin::new(&mut *from).consume(written);
            self.bytes += written as u64;
        }
        if self.state == State::Closing {
            ready!(Pin::new(to).poll_shutdown(cx)).or_else(gone_already)?;
            self.state = State::Closed;
        }
        Poll::Ready(Ok(()))
    }
}

/// Shutting down a socket whose peer closed both ways is no fault of the connection.
fn gone_already(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotConnected { Ok(()) } else { Err(error) }
}

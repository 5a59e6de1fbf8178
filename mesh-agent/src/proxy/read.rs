//! A permitted connection to a pod's port of which it matters what it carries: limits count requests, tokens are read
//! from them, or a policy asks for more than a connection tells by itself. HTTP is decided and counted by requests,
//! everything else once more as bytes, and counted as one request.
//!
//! Whoever speaks first decides where nobody says what is spoken: a server that does speaks no HTTP, but for HTTP/2, of
//! which a server may say its settings (RFC 9113, 3.4) before it has heard the client. Nothing is waited for but that
//! one of them speaks. On a port that is declared as HTTP, what is neither HTTP/2 nor TLS is read as HTTP/1.1, and
//! refused (400) if it is none: a client that begins in another way must not go past the rules. Where nobody says what
//! is spoken, and tokens or policies ask for requests, what a server could read as a request is none but HTTP, however
//! it is spelled and however slowly it comes ([`http::detect_surely`]). A protocol that begins like one must be
//! declared.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use mesh_common::model::{Connection, Decision, Passed, traffic::Protocol};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};

use super::{
    Proxy, dial,
    forward::{End, Socket, forward},
    inbound::{Permitted, Refused},
    reauthorize::{decide_now, denied_later, unheard_later},
};
use crate::{
    http::{
        self, Detected, Hello, Io, Peeked, Spoken, Watched,
        inbound::{Arrived, Dial, spiffe},
    },
    pods::Pod,
    telemetry::{Flow, OpenFlow, reason},
};

/// How long a client that may ask for nothing has to say what it speaks.
const HEARD: Duration = Duration::from_secs(10);

/// Serves both ends, the client's and the application's. The client is at `address`.
pub async fn serve<T: End + 'static>(
    proxy: &Arc<Proxy>,
    pod: &Arc<Pod>,
    permitted: &Permitted,
    address: SocketAddr,
    (client, mut server): (T, Socket),
    mut flow: OpenFlow,
) {
    let Permitted { permit: _, connection, workload, snapshot } = permitted;
    let (uid, port) = (workload.uid.as_str(), connection.destination.port());
    let mut client = Peeked::new(client);
    let decided = Arc::clone(snapshot);
    let mut denied = pin!(denied_later(&proxy.store, decided, (uid, connection), Passed::Open));
    // Ends that are dropped before their time reset.
    client.arm(true);
    server.arm(true);
    let protocol = snapshot.inbound(uid).protocol(port);
    let policies = snapshot.policies_of(workload);
    // Limits alone may miss one.
    let surely = policies.asks || !snapshot.inbound(uid).tokens.is_empty();
    let heard = async {
        let said = spoken(&mut client, &mut server, protocol, surely).await;
        let passed = match said {
            Said::Bytes if policies.asks_server_name => {
                match http::hello(&mut client, async { drop(server.fill_buf().await) }).await {
                    Hello::Named(name) => Passed::Bytes { server_name: Some(name) },
                    Hello::Nameless => Passed::BYTES,
                    Hello::Unread => Passed::Unnamed,
                }
            }
            _ => Passed::BYTES,
        };
        (said, passed)
    };
    let (said, passed) = tokio::select! {
        decision = denied.as_mut() => return flow.decided(&decision),
        heard = heard => heard,
    };
    let Said::Http(spoken) = said else {
        let (snapshot, decision) = decide_now(&proxy.store, uid, connection, passed.clone());
        let outcome = decision.outcome.clone();
        // Where nobody has said anything, nobody is refused anything.
        if outcome.is_ok() || said == Said::Bytes {
            flow.decided(&decision);
        }
        let Ok(permit) = outcome else {
            client.reset();
            return server.reset();
        };
        if said == Said::Bytes
            && let Err(reached) = count(proxy, pod, connection)
        {
            flow.dropped(reason::RATE_LIMITED, reached);
            client.reset();
            return server.reset();
        }
        let denied = denied_later(&proxy.store, snapshot, (uid, connection), passed);
        return forward(&permit, client, server, denied, &mut flow).await;
    };
    let live = flow.live();
    let client = Watched::client(Closing(client), live);
    let record = Arc::new(Flow::clone(&flow));
    let unheard = unheard_later(&proxy.store, Arc::clone(snapshot), (uid, connection));
    let ends = (client, Some(Closing(server)));
    if let Some(decision) = requests(proxy, pod, (uid, connection, record), address, ends, spoken, unheard).await {
        flow.decided(&decision);
    }
}

/// A connection on which nothing may be asked for: if it speaks HTTP, its client hears that of each request, and the
/// application is not dialled. What is anything else, or says nothing, ends.
pub async fn refuse<T: End + 'static>(
    proxy: &Arc<Proxy>,
    pod: &Arc<Pod>,
    refused: &Refused,
    address: SocketAddr,
    client: T,
    flow: OpenFlow,
) {
    let Refused { connection, workload, snapshot } = refused;
    let (uid, record) = (workload.uid.as_str(), Arc::new(Flow::clone(&flow)));
    // Whatever it asks for, it is refused by now.
    drop(flow);
    let mut client = Peeked::new(client);
    client.arm(true);
    let mut unheard = pin!(unheard_later(&proxy.store, Arc::clone(snapshot), (uid, connection)));
    let declared =
        matches!(snapshot.inbound(uid).protocol(connection.destination.port()), Protocol::Http | Protocol::Http2);
    let detected = tokio::select! {
        detected = timeout(HEARD, http::detect(&mut client, None)) => detected,
        _ = unheard.as_mut() => return,
    };
    let spoken = match detected {
        Ok(Ok(Detected::Http2)) => Spoken::Http2,
        Ok(Ok(Detected::Http1)) => Spoken::Http1,
        Ok(Ok(Detected::Bytes)) if declared && !client.first().is_empty() => Spoken::Http1,
        _ => return client.reset(),
    };
    let ends: (_, Option<Closing<Socket>>) = (Closing(client), None);
    requests(proxy, pod, (uid, connection, record), address, ends, spoken, unheard).await;
}

/// Serves a client that speaks HTTP, until `denied` resolves: then it says so.
async fn requests(
    proxy: &Arc<Proxy>,
    pod: &Arc<Pod>,
    (uid, connection, flow): (&str, &Connection, Arc<Flow>),
    address: SocketAddr,
    (client, server): (impl Io, Option<impl Io>),
    spoken: Spoken,
    denied: impl Future<Output = Decision>,
) -> Option<Decision> {
    let arrived = Arrived {
        http: Arc::clone(&proxy.http),
        store: Arc::clone(&proxy.store),
        flows: Arc::clone(&proxy.flows),
        flow,
        key: pod.key(),
        uid: uid.to_owned(),
        client: address,
        connection: connection.clone(),
    };
    let again =
        Again { proxy: Arc::clone(proxy), pod: Arc::clone(pod), target: connection.destination, client: address };
    let drained = proxy.live.next_drain();
    let ends = async {
        tokio::select! { () = pod.unhooked() => {}, () = drained => {} }
    };
    http::inbound::serve(arrived, client, server, again, spoken, ends, denied).await
}

/// Counts a connection of bytes against the pod's limits; the error says which is reached.
fn count(proxy: &Proxy, pod: &Pod, connection: &Connection) -> Result<(), String> {
    let snapshot = proxy.store.snapshot();
    let limits = proxy.http.limiters.of_pod(&pod.key(), snapshot.generation(), snapshot.inbound(&pod.uid));
    let identity = connection.source_identity.as_ref().map(spiffe);
    let counted = limits.connection(connection.destination.port(), identity.as_deref(), Instant::now());
    counted.map_err(|reached| format!("{} permits no more for {} s", reached.policy, reached.retry_after))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Http(Spoken),
    /// Something else.
    Bytes,
    /// One of both went before the client said a word.
    Nothing,
}

/// What both ends speak. `surely`: no request may be taken for something else.
async fn spoken<T, S>(client: &mut Peeked<T>, server: &mut S, protocol: Protocol, surely: bool) -> Said
where
    T: AsyncBufRead + Unpin,
    S: AsyncBufRead + Unpin,
{
    let declared = match protocol {
        Protocol::Tcp | Protocol::Tls => return Said::Bytes,
        Protocol::Http | Protocol::Http2 => true,
        Protocol::Auto => false,
    };
    let detected = tokio::select! {
        // What both have said by now, the client said to be heard first.
        biased;
        detected = detect(client, surely) => detected,
        first = server.fill_buf() => match first {
            Ok(first) if is_settings(first) => detect(client, surely).await,
            Ok([]) | Err(_) => return Said::Nothing,
            Ok(_) => return Said::Bytes,
        }
    };
    match detected {
        Ok(Detected::Http1) => Said::Http(Spoken::Http1),
        Ok(Detected::Http2) => Said::Http(Spoken::Http2),
        Ok(Detected::Tls) => Said::Bytes,
        Ok(_) if client.first().is_empty() => Said::Nothing,
        Ok(_) if declared => Said::Http(Spoken::Http1),
        Ok(_) => Said::Bytes,
        Err(_) => Said::Nothing,
    }
}

async fn detect<T: AsyncRead + Unpin>(client: &mut Peeked<T>, surely: bool) -> io::Result<Detected> {
    if surely { http::detect_surely(client).await } else { http::detect(client, None).await }
}

/// Whether a server's first bytes begin a frame of settings (RFC 9113, 6.5), which is shorter than 64 KiB.
pub(super) fn is_settings(first: &[u8]) -> bool {
    const FRAME: [Option<u8>; 9] = [Some(0), None, None, Some(4), Some(0), Some(0), Some(0), Some(0), Some(0)];
    !first.is_empty() && first.iter().zip(FRAME).all(|(byte, wanted)| wanted.is_none_or(|wanted| wanted == *byte))
}

/// Dials the application once more.
struct Again {
    proxy: Arc<Proxy>,
    pod: Arc<Pod>,
    target: SocketAddr,
    client: SocketAddr,
}

impl Dial for Again {
    async fn dial(&self) -> io::Result<Box<dyn Io>> {
        let mut server = dial::application(&self.proxy.datapath, &self.pod, self.target, self.client).await?;
        server.arm(true);
        Ok(Box::new(Closing(server)))
    }
}

/// An end that closes in order once it has been shut down, and resets if it is dropped before.
struct Closing<T>(T);

impl<T: End> AsyncRead for Closing<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<T: End> AsyncWrite for Closing<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = ready!(Pin::new(&mut self.0).poll_shutdown(cx));
        if shut.is_ok() {
            self.0.arm(false);
        }
        Poll::Ready(shut)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncWriteExt as _, BufReader, duplex},
        time::{sleep, timeout},
    };

    use super::*;

    const HTTP1: Said = Said::Http(Spoken::Http1);
    const HTTP2: Said = Said::Http(Spoken::Http2);

    /// What is found if the server says `first` before the client says its words.
    async fn found(protocol: Protocol, first: &[u8], words: &[u8]) -> Said {
        let (mut client, downstream) = duplex(1024);
        let (mut application, server) = duplex(1024);
        application.write_all(first).await.unwrap();
        let client = tokio::spawn({
            let words = words.to_vec();
            async move {
                sleep(Duration::from_millis(20)).await;
                client.write_all(&words).await.unwrap();
                if words.is_empty() {
                    client.shutdown().await.unwrap();
                }
                client
            }
        });
        let (mut downstream, mut server) = (Peeked::new(BufReader::new(downstream)), BufReader::new(server));
        let found = spoken(&mut downstream, &mut server, protocol, true);
        let found = timeout(Duration::from_secs(5), found).await.expect("it stalls");
        drop(client.await.unwrap());
        found
    }

    #[tokio::test]
    async fn who_speaks_first_decides() {
        const SETTINGS: &[u8] = &[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100];
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        const GET: &[u8] = b"GET / HTTP/1.1\r\n";
        use Protocol::{Auto, Http, Http2, Tcp, Tls};
        for (protocol, first, words, expected) in [
            (Auto, &b""[..], GET, HTTP1),
            (Auto, b"", PREFACE, HTTP2),
            (Auto, b"220 mail\r\n", GET, Said::Bytes),
            // gRPC's servers do not wait for the client's preface.
            (Auto, SETTINGS, PREFACE, HTTP2),
            (Auto, &SETTINGS[..3], PREFACE, HTTP2),
            (Auto, b"", b"get / HTTP/1.1\r\n", HTTP1),
            (Auto, b"", b"\r\nGET / HTTP/1.1\r\n", HTTP1),
            (Auto, b"", b"get key\r\n", Said::Bytes),
            (Auto, b"", b"", Said::Nothing),
            (Http, b"", b"get / HTTP/1.1\r\n", HTTP1),
            (Http, b"", b"\r\nGET / HTTP/1.1\r\n", HTTP1),
            (Http, b"", PREFACE, HTTP2),
            (Http, b"", &[22, 3, 1, 0, 5], Said::Bytes),
            (Http, b"", b"", Said::Nothing),
            (Http2, SETTINGS, PREFACE, HTTP2),
            (Tcp, b"", GET, Said::Bytes),
            (Tls, b"", GET, Said::Bytes),
        ] {
            let found = found(protocol, first, words).await;
            assert_eq!(found, expected, "{protocol:?} {first:?} {:?}", String::from_utf8_lossy(words));
        }
    }

    #[tokio::test]
    async fn an_application_that_closes_is_not_waited_for() {
        let (_client, downstream) = duplex(64);
        let (application, server) = duplex(64);
        drop(application);
        let (mut downstream, mut server) = (Peeked::new(BufReader::new(downstream)), BufReader::new(server));
        let found = timeout(Duration::from_secs(5), spoken(&mut downstream, &mut server, Protocol::Http, true)).await;
        assert_eq!(found.expect("it stalls"), Said::Nothing);
    }
}

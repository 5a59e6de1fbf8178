//! One stream behaves as a socket does.

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};

use super::*;

/// A pair of connected streams, and what keeps them alive.
struct Pair {
    near: TunnelStream,
    far: TunnelStream,
    inbound: Inbound,
    _peer: Peer,
    _pool: Pool,
}

async fn pair() -> Pair {
    pair_with(request()).await
}

async fn pair_with(request: ConnectRequest) -> Pair {
    let authority = Authority::new("root");
    let (sender, mut accepted) = mpsc::unbounded_channel();
    let handler = move |inbound: Inbound, respond: Respond| {
        let sender = sender.clone();
        async move { drop(sender.send((inbound, respond.accept().expect("still wanted")))) }
    };
    let peer = Peer::start(authority.certificate(&cart()).serving(), handler).await;
    let (pool, source) = (Pool::new(PoolSettings::default()), Source::new(&authority, "pod-1", &peer));
    let dial = || TcpStream::connect(peer.address);
    let (near, _) = within(pool.open(&source.key, &source.certificate, dial, &request)).await.expect("opened");
    let (inbound, far) = within(accepted.recv()).await.expect("accepted");
    Pair { near, far, inbound, _peer: peer, _pool: pool }
}

async fn all(stream: &mut TunnelStream) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    within(stream.read_to_end(&mut bytes)).await?;
    Ok(bytes)
}

#[tokio::test]
async fn ten_megabytes_there_and_back() {
    let (authority, peer, pool) = echo_world().await;
    let stream = Source::new(&authority, "pod-1", &peer).open(&pool).await.expect("opened");
    let sent: Vec<u8> = (0..10_000_000u32).map(|n| (n % 251) as u8).collect();
    let (mut read, mut write) = tokio::io::split(stream);
    let outgoing = sent.clone();
    let writing = tokio::spawn(async move {
        write.write_all(&outgoing).await.expect("sent");
        write.shutdown().await.expect("half-closed");
    });
    let mut received = Vec::new();
    within(read.read_to_end(&mut received)).await.expect("received");
    writing.await.expect("sent");
    assert!(received == sent, "{} bytes came back", received.len());
}

#[tokio::test]
async fn the_handler_learns_who_and_where() {
    let client: SocketAddr = "10.9.9.9:4711".parse().expect("valid");
    let baggage = Some("k8s.namespace.name=shop".to_string());
    let wanted = ConnectRequest { forwarded: Some(client), baggage: baggage.clone(), ..request() };
    let pair = pair_with(wanted).await;
    assert_eq!(pair.inbound.peer.identity, identity("shop", "web"));
    assert_eq!(pair.inbound.authority, request().authority);
    assert_eq!(parse_forwarded(pair.inbound.forwarded.as_deref().expect("sent")), Some(client));
    assert_eq!(pair.inbound.baggage, baggage);
    assert!(pair.inbound.remote.ip().is_loopback());
    assert!(pair.inbound.tls.cipher.starts_with("TLS13_"), "{:?}", pair.inbound.tls);
}

#[tokio::test]
async fn half_close_both_ways() {
    let mut pair = pair().await;
    pair.near.write_all(b"question").await.expect("sent");
    pair.near.shutdown().await.expect("half-closed");
    assert_eq!(all(&mut pair.far).await.expect("to the end"), b"question");
    // The other direction is still open, and stays so for more than one write.
    pair.far.write_all(b"ans").await.expect("sent");
    pair.far.write_all(b"wer").await.expect("sent");
    pair.far.shutdown().await.expect("closed");
    assert_eq!(all(&mut pair.near).await.expect("to the end"), b"answer");
    let late = pair.near.write(b"x").await.expect_err("after the shutdown");
    assert_eq!(late.kind(), io::ErrorKind::BrokenPipe);
}

#[tokio::test]
async fn the_server_may_close_first() {
    let mut pair = pair().await;
    pair.far.write_all(b"banner").await.expect("sent");
    pair.far.shutdown().await.expect("half-closed");
    assert_eq!(all(&mut pair.near).await.expect("to the end"), b"banner");
    pair.near.write_all(b"thanks").await.expect("sent");
    pair.near.shutdown().await.expect("closed");
    assert_eq!(all(&mut pair.far).await.expect("to the end"), b"thanks");
}

#[tokio::test]
async fn resets_arrive_from_both_sides() {
    for from_client in [true, false] {
        let Pair { near, far, _peer, _pool, .. } = pair().await;
        let (mut one, mut other) = if from_client { (near, far) } else { (far, near) };
        one.write_all(b"begun").await.expect("sent");
        let mut begun = [0; 5];
        within(other.read_exact(&mut begun)).await.expect("arrived");
        one.reset();
        let error = all(&mut other).await.expect_err("reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
        let error = other.write(b"x").await.expect_err("reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
        let own = all(&mut one).await.expect_err("reset here");
        assert_eq!(own.kind(), io::ErrorKind::ConnectionReset, "{own}");
    }
}

#[tokio::test]
async fn a_drop_before_both_ends_resets() {
    let Pair { near, mut far, _peer, _pool, .. } = pair().await;
    drop(near);
    assert_eq!(all(&mut far).await.expect_err("reset").kind(), io::ErrorKind::ConnectionReset);

    // Half-closed is not closed: the peer must learn that nobody reads its answer.
    let Pair { mut near, mut far, _peer, _pool, .. } = pair().await;
    near.shutdown().await.expect("half-closed");
    assert_eq!(all(&mut far).await.expect("to the end"), b"");
    drop(near);
    let error = within(std::future::poll_fn(|cx| far.poll_reset(cx))).await;
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_drop_after_both_ends_is_silent() {
    let Pair { mut near, mut far, _peer, _pool, .. } = pair().await;
    far.shutdown().await.expect("half-closed");
    assert_eq!(all(&mut near).await.expect("to the end"), b"");
    near.write_all(b"last").await.expect("sent");
    near.shutdown().await.expect("closed");
    drop(near);
    assert_eq!(all(&mut far).await.expect("to the end"), b"last");
}

#[tokio::test]
async fn a_reset_is_seen_while_nobody_reads() {
    let Pair { near, mut far, _peer, _pool, .. } = pair().await;
    drop(near);
    let error = within(std::future::poll_fn(|cx| far.poll_reset(cx))).await;
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_writer_waits_for_a_slow_reader() {
    let Pair { mut near, mut far, _peer, _pool, .. } = pair().await;
    let block = vec![7; 64 * 1024];
    let mut sent = 0;
    // Nobody reads: the writer must stall, after the reader's window and its own buffer at most.
    while let Ok(written) = timeout(Duration::from_millis(500), near.write(&block)).await {
        sent += written.expect("open");
        assert!(sent <= 2 << 20, "{sent} bytes were taken without a reader");
    }
    assert!(sent >= 1 << 20, "the window is {sent} bytes only");

    // Reading makes room again, and only what was read.
    let mut read = 0;
    while read < 700 << 10 {
        let chunk = within(far.fill_buf()).await.expect("open").len();
        far.consume(chunk);
        read += chunk;
    }
    let mut more = 0;
    while let Ok(written) = timeout(Duration::from_millis(500), near.write(&block)).await {
        more += written.expect("open");
        assert!(more <= read + (512 << 10), "{more} bytes for {read} that were read");
    }
    assert!(more > 256 << 10, "only {more} bytes for {read} that were read");
}

#[tokio::test]
async fn tiny_messages_to_a_stalled_stream_end_nothing() {
    let Pair { mut near, mut far, _peer: peer, _pool, .. } = pair().await;
    // More frames than h2 would keep records of, in a small part of the window.
    let count = 140_000;
    let written = Arc::new(AtomicUsize::new(0));
    let counter = written.clone();
    let writing = tokio::spawn(async move {
        for n in 0..count {
            near.write_all(&[n as u8]).await.expect("sent");
            counter.fetch_add(1, Ordering::SeqCst);
            // Each byte is a frame of its own.
            while !near.is_sent() {
                tokio::task::yield_now().await;
            }
        }
        near
    });
    let gathering = std::future::poll_fn(|cx| {
        assert!(far.gather(cx), "the connection ended after {written:?} messages");
        if written.load(Ordering::SeqCst) == count {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    });
    timeout(6 * PATIENCE, gathering).await.expect("in time");
    let mut near = within(writing).await.expect("sent");
    near.shutdown().await.expect("ended");
    let received = all(&mut far).await.expect("to the end");
    assert_eq!(received.len(), count);
    assert!(received.iter().enumerate().all(|(n, byte)| *byte == n as u8));
    drop(peer);
}

#[tokio::test]
async fn a_reset_waits_for_nobody_but_loses_nothing_that_is_sent() {
    let Pair { mut near, mut far, _peer, _pool, .. } = pair().await;
    near.write_all(&[7; 500_000]).await.expect("sent");
    assert!(!near.is_sent(), "nobody has moved it yet");
    within(async {
        while !near.is_sent() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    near.reset();
    let mut received = Vec::new();
    let error = within(far.read_to_end(&mut received)).await.expect_err("reset");
    assert_eq!((received.len(), error.kind()), (500_000, io::ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_lost_connection_is_not_an_end() {
    let Pair { mut near, _peer: peer, _pool, far, .. } = pair().await;
    peer.crash_connections();
    let error = all(&mut near).await.expect_err("lost");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error}");
    drop(far);
}

//! Who shares a connection, and when one is replaced, retired or closed.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

async fn says_hello(stream: &mut TunnelStream) -> io::Result<()> {
    stream.write_all(b"hello").await?;
    let mut answer = [0; 5];
    within(stream.read_exact(&mut answer)).await?;
    assert_eq!(&answer, b"hello");
    Ok(())
}

/// Waits until the pool has as many connections as that.
async fn settles(pool: &Pool, connections: usize) {
    within(async {
        while pool.connections() != connections {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn one_pod_shares_and_two_do_not() {
    let (authority, peer, pool) = echo_world().await;
    let (first, second) = (Source::new(&authority, "pod-1", &peer), Source::new(&authority, "pod-2", &peer));
    let mut streams = vec![first.open(&pool).await.expect("opened"), first.open(&pool).await.expect("opened")];
    assert_eq!((peer.accepted(), pool.connections()), (1, 1));
    streams.push(second.open(&pool).await.expect("opened"));
    assert_eq!((peer.accepted(), pool.connections()), (2, 2));
    for stream in &mut streams {
        says_hello(stream).await.expect("open");
    }
}

#[tokio::test]
async fn a_hundred_and_fifty_streams_use_two_connections() {
    let (authority, peer, pool) = echo_world().await;
    let (source, pool) = (Arc::new(Source::new(&authority, "pod-1", &peer)), Arc::new(pool));
    let mut opening = JoinSet::new();
    for _ in 0..150 {
        let (source, pool) = (source.clone(), pool.clone());
        opening.spawn(async move {
            let mut stream = source.open(&pool).await.expect("opened");
            says_hello(&mut stream).await.expect("open");
            stream
        });
    }
    let streams = within(opening.join_all()).await;
    assert_eq!((streams.len(), peer.accepted(), pool.connections()), (150, 2, 2));
}

#[tokio::test]
async fn openers_share_a_failed_handshake() {
    let (authority, peer, pool) = echo_world().await;
    let source = Source::new(&authority, "pod-1", &peer);
    let dials = AtomicUsize::new(0);
    let dial = || async {
        dials.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(50)).await;
        Err(io::ErrorKind::ConnectionRefused.into())
    };
    let wanted = request();
    let open = || pool.open(&source.key, &source.certificate, dial, &wanted);
    let (one, two, three) = tokio::join!(open(), open(), open());
    for outcome in [one, two, three] {
        assert_eq!(outcome.expect_err("refused").code(), "CONNECT");
    }
    assert_eq!((dials.load(Ordering::SeqCst), pool.connections()), (1, 0));
}

#[tokio::test]
async fn an_opener_that_gives_up_hands_over() {
    let (authority, peer, pool) = echo_world().await;
    let source = Source::new(&authority, "pod-1", &peer);
    let wanted = request();
    let stuck = pool.open(&source.key, &source.certificate, std::future::pending::<io::Result<TcpStream>>, &wanted);
    let first = timeout(Duration::from_millis(50), stuck);
    let (first, second) = tokio::join!(first, source.open(&pool));
    assert!(first.is_err());
    says_hello(&mut second.expect("opened by itself")).await.expect("open");
}

#[tokio::test]
async fn a_dead_connection_is_replaced() {
    let (authority, peer, pool) = echo_world().await;
    let source = Source::new(&authority, "pod-1", &peer);
    says_hello(&mut source.open(&pool).await.expect("opened")).await.expect("open");
    // The request is on its way before anybody here knows of the crash.
    peer.crash_connections();
    says_hello(&mut source.open(&pool).await.expect("replaced on failure")).await.expect("open");
    assert_eq!(peer.accepted(), 2);
    // The pool has noticed before it is asked.
    peer.crash_connections();
    settles(&pool, 0).await;
    says_hello(&mut source.open(&pool).await.expect("a new one")).await.expect("open");
    assert_eq!(peer.accepted(), 3);
}

#[tokio::test]
async fn a_draining_peer_keeps_streams_and_gets_no_new_ones() {
    let (authority, peer, pool) = echo_world().await;
    let source = Source::new(&authority, "pod-1", &peer);
    let mut old = source.open(&pool).await.expect("opened");
    peer.drain.send_replace(true);
    tokio::time::sleep(Duration::from_millis(50)).await;
    says_hello(&mut old).await.expect("still open");
    let fresh = source.open(&pool).await;
    // This listener drains every connection, so that the new one may end at once: it must be a new one all the same.
    assert_eq!(peer.accepted(), 2, "{fresh:?}");
    says_hello(&mut old).await.expect("still open");
}

#[tokio::test]
async fn a_newer_certificate_gets_a_new_connection() {
    let (authority, peer, pool) = echo_world().await;
    let mut source = Source::new(&authority, "pod-1", &peer);
    let mut old = source.open(&pool).await.expect("opened");
    source.certificate = authority.certificate(&source.key.source);
    let mut new = source.open(&pool).await.expect("opened");
    assert_eq!((peer.accepted(), pool.connections()), (2, 2));
    says_hello(&mut old).await.expect("live streams go on");
    says_hello(&mut new).await.expect("open");
    drop(old);
    settles(&pool, 1).await;
}

#[tokio::test]
async fn a_forgotten_source_loses_everything() {
    let (authority, peer, pool) = echo_world().await;
    let (gone, stays) = (Source::new(&authority, "pod-1", &peer), Source::new(&authority, "pod-2", &peer));
    let (mut lost, mut kept) = (gone.open(&pool).await.expect("opened"), stays.open(&pool).await.expect("opened"));
    pool.forget_source("pod-1");
    assert_eq!(pool.connections(), 1);
    let error = within(lost.read_u8()).await.expect_err("closed");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error}");
    says_hello(&mut kept).await.expect("untouched");
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let (authority, peer, _) = echo_world().await;
    let pool = Pool::new(PoolSettings { idle_timeout: Duration::from_millis(100), ..PoolSettings::default() });
    let source = Source::new(&authority, "pod-1", &peer);
    let mut stream = source.open(&pool).await.expect("opened");
    tokio::time::sleep(Duration::from_millis(300)).await;
    says_hello(&mut stream).await.expect("not idle");
    drop(stream);
    settles(&pool, 0).await;
}

#[tokio::test]
async fn a_silent_peer_is_found_dead() {
    let authority = Authority::new("root");
    let relay = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let peer = Peer::start(authority.certificate(&cart()).serving(), echo).await;
    let (relayed, server) = (relay.local_addr().expect("bound"), peer.address);
    // Between the two a wire that can be cut without either noticing.
    let wire = tokio::spawn(async move {
        let (mut near, _) = relay.accept().await.expect("dialled");
        let mut far = TcpStream::connect(server).await.expect("listening");
        let cut = tokio::time::sleep(Duration::from_millis(300));
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            () = cut => {}
        }
        (near, far)
    });
    let keepalive = Keepalive { interval: Duration::from_millis(100), patience: Duration::from_millis(300) };
    let pool = Pool::new(PoolSettings { keepalive, ..PoolSettings::default() });
    let mut source = Source::new(&authority, "pod-1", &peer);
    source.key.address = relayed;
    let mut stream = source.open(&pool).await.expect("opened");
    says_hello(&mut stream).await.expect("open");
    let error = within(stream.read_u8()).await.expect_err("dead");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted, "{error}");
    drop(wire.await.expect("held open to the end"));
}

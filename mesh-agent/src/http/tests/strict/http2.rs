//! HTTP/2 (RFC 9113), by frames made here. Endpoints are spoken to in HTTP/1.1: what cannot be said in it shows there.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{super::world::World, Got, all};
use crate::http::Spoken;

const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const DATA: u8 = 0;
const RESET: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes()[..], payload].concat()
}

/// Literals without an index (RFC 7541, 6.2.2).
pub fn literals(fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name.as_bytes(), value] {
            let length = u8::try_from(text.len()).unwrap();
            assert!(length < 127);
            block.push(length);
            block.extend_from_slice(text);
        }
    }
    block
}

pub fn begin() -> Vec<u8> {
    [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), &frame(SETTINGS, 0, 0, &[])].concat()
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Status(u16),
    /// RST_STREAM.
    Reset,
    /// GOAWAY, or the end of the connection.
    Closed,
    Nothing,
}

fn end(mut bytes: &[u8]) -> End {
    let mut found = End::Nothing;
    while bytes.len() >= 9 {
        let length = usize::from(bytes[0]) << 16 | usize::from(bytes[1]) << 8 | usize::from(bytes[2]);
        let Some(payload) = bytes.get(9..9 + length) else { break };
        match bytes[3] {
            HEADERS => {
                // The status comes first: from the table, or written out.
                let status = match payload[0] {
                    0x88 => 200,
                    0x8c => 400,
                    0x8d => 404,
                    _ => 999,
                };
                return End::Status(status);
            }
            RESET => found = End::Reset,
            GOAWAY if found == End::Nothing => found = End::Closed,
            _ => {}
        }
        bytes = &bytes[9 + length..];
    }
    found
}

async fn spoken(sent: &[u8]) -> (End, String) {
    let world = World::new();
    let got = Got::server(&world, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let mut client = world.open(Spoken::Http2);
    // It may be closed before all of it was read.
    let _ = timeout(Duration::from_secs(5), client.write_all(sent)).await;
    let mut all = Vec::new();
    let mut piece = [0; 4096];
    while end(&all) == End::Nothing {
        match timeout(Duration::from_millis(1500), client.read(&mut piece)).await {
            Ok(Ok(length)) if length > 0 => all.extend_from_slice(&piece[..length]),
            Ok(_) => return (if end(&all) == End::Nothing { End::Closed } else { end(&all) }, got.text()),
            Err(_) => break,
        }
    }
    (end(&all), got.text())
}

struct Row {
    fields: Vec<(&'static str, &'static [u8])>,
    /// `None`: the request ends with its head.
    body: Option<&'static [u8]>,
    end: End,
    got: &'static str,
}

async fn one(row: Row) -> Option<String> {
    let flags = if row.body.is_some() { 4 } else { 5 };
    let mut sent = [begin(), frame(HEADERS, flags, 1, &literals(&row.fields))].concat();
    if let Some(body) = row.body {
        sent.extend(frame(DATA, 1, 1, body));
    }
    let (end, got) = spoken(&sent).await;
    let mut lines = [got.split('|').collect::<Vec<_>>(), row.got.split('|').collect()];
    lines.iter_mut().for_each(|lines| lines.sort_unstable());
    // Whether the stream ends or the connection is h2's affair.
    let end = if end == End::Closed { End::Reset } else { end };
    (end != row.end || lines[0] != lines[1])
        .then(|| format!("{:?}\n  {end:?} for {:?}\n  got {got:?}\n  for {:?}", row.fields, row.end, row.got))
}

#[tokio::test]
async fn heads() {
    const M: (&str, &[u8]) = (":method", b"GET");
    const S: (&str, &[u8]) = (":scheme", b"http");
    const P: (&str, &[u8]) = (":path", b"/");
    const A: (&str, &[u8]) = (":authority", b"cart");
    let row =
        |fields: &[(&'static str, &'static [u8])], end, got| Row { fields: fields.to_vec(), body: None, end, got };
    let reset = |fields: &[(&'static str, &'static [u8])]| row(fields, End::Reset, "");
    let refused = |fields: &[(&'static str, &'static [u8])]| row(fields, End::Status(400), "");
    let with = |name: &'static str, value: &'static [u8]| [M, S, P, A, (name, value)];
    let path = |value: &'static [u8]| [M, S, (":path", value), A];
    let authority = |value: &'static [u8]| [M, S, P, (":authority", value)];
    const GET: &str = "GET / HTTP/1.1|host: cart||";
    let rows = vec![
        row(&[M, S, P, A], End::Status(200), GET),
        row(&[M, S, P, ("host", b"cart")], End::Status(200), GET),
        row(&with("host", b"cart"), End::Status(200), GET),
        row(&with("x", b"y"), End::Status(200), "GET / HTTP/1.1|x: y|host: cart||"),
        row(&with("te", b"trailers"), End::Status(200), "GET / HTTP/1.1|te: trailers|host: cart||"),
        refused(&with("host", b"other")),
        refused(&[M, S, P]),
        refused(&[M, S, P, A, ("host", b"cart"), ("host", b"cart")]),
        reset(&[S, P, A]),
        reset(&[M, P, A]),
        reset(&[M, S, A]),
        reset(&[M, M, S, P, A]),
        reset(&[M, S, P, P, A]),
        reset(&[M, S, P, A, A]),
        reset(&[M, S, S, P, A]),
        reset(&[("x", b"y"), M, S, P, A]),
        reset(&with(":x", b"y")),
        reset(&with(":status", b"200")),
        reset(&with("X", b"y")),
        reset(&with("connection", b"close")),
        reset(&with("keep-alive", b"5")),
        reset(&with("proxy-connection", b"close")),
        reset(&with("transfer-encoding", b"chunked")),
        reset(&with("upgrade", b"h2c")),
        reset(&with("te", b"gzip")),
        reset(&with("x", b"a\r\nb: c")),
        reset(&with("x", b"a\nb")),
        reset(&with("x", b"a\0b")),
        reset(&with("x y", b"z")),
        reset(&with("x\r\ny", b"z")),
        reset(&with("x:", b"z")),
        reset(&with("", b"z")),
        reset(&path(b"")),
        reset(&path(b"/ HTTP/1.1\r\nx: y")),
        reset(&path(b"/a b")),
        reset(&path(b"a")),
        reset(&path(b"http://other/a")),
        refused(&path(b"*")),
        refused(&path(b"?a")),
        refused(&path(b"/a\\b")),
        refused(&path(b"/%00")),
        row(&path(b"/a/../b"), End::Status(200), "GET /b HTTP/1.1|host: cart||"),
        refused(&authority(b"me@cart")),
        refused(&authority(b"cart:99999")),
        refused(&authority(b"cart:")),
        reset(&authority(b"cart/a")),
        reset(&authority(b"ca rt")),
        reset(&authority(b"cart\r\nx: y")),
        reset(&[("\u{3a}method", b"G T"), S, P, A]),
        reset(&[(":method", b"GET / HTTP/1.1\r\nx: y"), S, P, A]),
        reset(&[M, S, P, A, ("content-length", b"3")]),
        reset(&[M, S, P, A, ("content-length", b"x")]),
        Row { body: Some(b"abcd"), ..reset(&[(":method", b"POST"), S, P, A, ("content-length", b"a")]) },
        Row {
            body: Some(b"abc"),
            ..row(
                &[(":method", b"POST"), S, P, A, ("content-length", b"3")],
                End::Status(200),
                "POST / HTTP/1.1|content-length: 3|host: cart||abc",
            )
        },
        Row {
            body: Some(b"abc"),
            ..row(
                &[(":method", b"POST"), S, P, A],
                End::Status(200),
                "POST / HTTP/1.1|host: cart|transfer-encoding: chunked||3|abc|0||",
            )
        },
    ];
    all(rows, one).await;
}

#[tokio::test]
async fn more_than_is_said_of_a_body_never_reaches_its_end() {
    let head = literals(&[
        (":method", b"POST"),
        (":scheme", b"http"),
        (":path", b"/"),
        (":authority", b"cart"),
        ("content-length", b"3"),
    ]);
    let sent = [begin(), frame(HEADERS, 4, 1, &head), frame(DATA, 1, 1, b"abcGET /2 HTTP/1.1\r\n\r\n")].concat();
    let (end, got) = spoken(&sent).await;
    assert!(matches!(end, End::Reset | End::Closed), "{end:?}");
    assert!(!got.contains("/2"), "{got}");
}

#[tokio::test]
async fn floods_end_the_connection() {
    let head = literals(&[(":method", b"GET"), (":scheme", b"http"), (":path", b"/"), (":authority", b"cart")]);
    // Rapid reset (CVE-2023-44487).
    let mut resets = begin();
    for stream in (0..3000).map(|n| 2 * n + 1) {
        resets.extend(frame(HEADERS, 5, stream, &head));
        resets.extend(frame(RESET, 0, stream, &8u32.to_be_bytes()));
    }
    // A head without an end.
    let mut continued = [begin(), frame(HEADERS, 1, 1, &head)].concat();
    for _ in 0..3000 {
        continued.extend(frame(CONTINUATION, 0, 1, &literals(&[("x", &[b'a'; 100])])));
    }
    let mut empty = begin();
    empty.extend(frame(HEADERS, 1, 1, &head));
    for _ in 0..100_000 {
        empty.extend(frame(CONTINUATION, 0, 1, &[]));
    }
    for (name, sent) in [("resets", resets), ("continuations", continued), ("empty continuations", empty)] {
        let world = World::with_server().await;
        let mut client = world.open(Spoken::Http2);
        let (mut read, mut write) = tokio::io::split(&mut client);
        let writing = async {
            let _ = write.write_all(&sent).await;
            std::future::pending::<()>().await;
        };
        let reading = async {
            let mut all = Vec::new();
            let _ = read.read_to_end(&mut all).await;
        };
        let ended = timeout(Duration::from_secs(20), async {
            tokio::select! { () = writing => {}, () = reading => {} }
        });
        assert!(ended.await.is_ok(), "{name}: the connection is still there");
        assert_eq!(world.status("/").await.0, 200, "others are served");
    }
}

//! HTTP/1.1 (RFC 9112).

use super::{super::world::World, Got, all};

struct Row {
    sent: Vec<u8>,
    /// Of the answers, in their order.
    statuses: Vec<u16>,
    got: String,
}

fn row(sent: impl Into<Vec<u8>>, statuses: &[u16], got: &str) -> Row {
    Row { sent: sent.into(), statuses: statuses.to_vec(), got: got.to_owned() }
}

/// A request line.
fn line(line: &str, status: u16, got: &str) -> Row {
    row(format!("{line}\r\nHost: cart\r\n\r\n"), &[status], &passed(got, ""))
}

fn passed(line: &str, headers: &str) -> String {
    if line.is_empty() { String::new() } else { format!("{line}|{headers}host: cart||") }
}

/// Header lines of a GET, as bytes; what of them reaches the endpoint.
fn head(lines: &[u8], status: u16, got: Option<&str>) -> Row {
    let sent = [b"GET / HTTP/1.1\r\nHost: cart\r\n", lines, b"\r\n\r\n"].concat();
    row(sent, &[status], &got.map(|got| passed("GET / HTTP/1.1", got)).unwrap_or_default())
}

/// Everything after the first header of a POST.
fn post(rest: &str, status: u16, got: &str) -> Row {
    row(format!("POST / HTTP/1.1\r\nHost: cart\r\n{rest}"), &[status], got)
}

fn refused(rest: &str, status: u16) -> Row {
    post(rest, status, "")
}

fn targets() -> Vec<Row> {
    vec![
        line("GET / HTTP/1.1", 200, "GET / HTTP/1.1"),
        line("GET /a/../b//c?x=/../y HTTP/1.1", 200, "GET /b//c?x=/../y HTTP/1.1"),
        line("GET /%2e%2e/%2F%5c HTTP/1.1", 200, "GET /%2F%5C HTTP/1.1"),
        line("GET /%6cogin/./%zz HTTP/1.1", 400, ""),
        line("GET /x/%2E./%6cogin/.?%2e HTTP/1.1", 200, "GET /login/?%2e HTTP/1.1"),
        line("GET /a;b=c,d HTTP/1.1", 200, "GET /a;b=c,d HTTP/1.1"),
        line("GET /?q={\"a\":1}\\ HTTP/1.1", 400, ""),
        line("GET /?q={a} HTTP/1.1", 200, "GET /?q={a} HTTP/1.1"),
        line("GET /?^ HTTP/1.1", 200, "GET /?^ HTTP/1.1"),
        line("GET /a%00b HTTP/1.1", 400, ""),
        line("GET /a\\b HTTP/1.1", 400, ""),
        line("GET /a\"b HTTP/1.1", 400, ""),
        line("GET /a<b> HTTP/1.1", 400, ""),
        line("GET /a`b HTTP/1.1", 400, ""),
        line("GET /a^b HTTP/1.1", 400, ""),
        line("GET /\u{fc} HTTP/1.1", 400, ""),
        line("GET /?\u{fc} HTTP/1.1", 400, ""),
        line("GET /a#b HTTP/1.1", 200, "GET /a HTTP/1.1"),
        line("GET a HTTP/1.1", 400, ""),
        line("GET ?a HTTP/1.1", 400, ""),
        line("GET * HTTP/1.1", 400, ""),
        line("OPTIONS * HTTP/1.1", 200, "OPTIONS * HTTP/1.1"),
        line("GET http://cart/a HTTP/1.1", 200, "GET /a HTTP/1.1"),
        line("GET http://cart HTTP/1.1", 200, "GET / HTTP/1.1"),
        line("GET http://cart?a=b HTTP/1.1", 200, "GET /?a=b HTTP/1.1"),
        row("GET http://CART/a HTTP/1.1\r\nHost: cart\r\n\r\n", &[200], "GET /a HTTP/1.1|host: CART||"),
        line("GET http://other/a HTTP/1.1", 400, ""),
        line("GET http://cart:81/a HTTP/1.1", 400, ""),
        line("GET http://me@cart/a HTTP/1.1", 400, ""),
        line("GET http:///a HTTP/1.1", 400, ""),
        line("GET //cart/a HTTP/1.1", 200, "GET //cart/a HTTP/1.1"),
        line("GET  / HTTP/1.1", 400, ""),
        line("GET /  HTTP/1.1", 400, ""),
        line("GET /a b HTTP/1.1", 400, ""),
        line("GET\t/ HTTP/1.1", 400, ""),
        line("GET / HTTP/1.2", 400, ""),
        line("GET / HTTP/2.0", 400, ""),
        line("GET / HTTP/0.9", 400, ""),
        line("GET / HTTP/1.1x", 400, ""),
        line("GET / http/1.1", 400, ""),
        line("GET /", 400, ""),
        line("G(T / HTTP/1.1", 400, ""),
        line("get / HTTP/1.1", 200, "get / HTTP/1.1"),
        line("GET /\r / HTTP/1.1", 400, ""),
        line("GET /\0 HTTP/1.1", 400, ""),
        line("PRI * HTTP/2.0", 400, ""),
        line(&format!("GET /{} HTTP/1.1", "a".repeat(70_000)), 431, ""),
        // A tunnel has no path that could be decided about (RFC 9110, 9.3.6).
        line("CONNECT /public HTTP/1.1", 400, ""),
        line("CONNECT http://cart/a HTTP/1.1", 400, ""),
        line("CONNECT * HTTP/1.1", 400, ""),
        line("CONNECT cart HTTP/1.1", 400, ""),
        line("CONNECT cart: HTTP/1.1", 400, ""),
        line("CONNECT cart:80/ HTTP/1.1", 400, ""),
        line("connect /public HTTP/1.1", 200, "connect /public HTTP/1.1"),
    ]
}

fn hosts() -> Vec<Row> {
    let host = |lines: &str, status, got: &str| row(format!("GET / HTTP/1.1\r\n{lines}\r\n"), &[status], got);
    let good = |lines: &str, host_line: &str| host(lines, 200, &format!("GET / HTTP/1.1|host: {host_line}||"));
    vec![
        host("", 400, ""),
        host("Host: \r\n", 400, ""),
        host("Host: cart\r\nHost: cart\r\n", 400, ""),
        host("Host: cart\r\nHost: other\r\n", 400, ""),
        host("Host: cart, other\r\n", 400, ""),
        host("Host: me@cart\r\n", 400, ""),
        host("Host: cart/a\r\n", 400, ""),
        host("Host: cart?a\r\n", 400, ""),
        host("Host: http://cart\r\n", 400, ""),
        host("Host: cart:\r\n", 400, ""),
        host("Host: cart:x\r\n", 400, ""),
        host("Host: cart:99999\r\n", 400, ""),
        host("Host: cart:-1\r\n", 400, ""),
        host("Host: cart:80:80\r\n", 400, ""),
        host("Host: ca rt\r\n", 400, ""),
        host("Host: \u{fc}\r\n", 400, ""),
        host("Host: [::1\r\n", 400, ""),
        // What some servers cut off or do not look at.
        host("Host: cart:+80\r\n", 400, ""),
        host("Host: cart:080\r\n", 400, ""),
        host("Host: cart:0\r\n", 400, ""),
        host("Host: cart:65536\r\n", 400, ""),
        host("Host: cart:80[x]\r\n", 400, ""),
        host("Host: cart[x]\r\n", 400, ""),
        host("Host: x[::1]\r\n", 400, ""),
        host("Host: [::1]x:80\r\n", 400, ""),
        host("Host: [::1]:+80\r\n", 400, ""),
        host("Host: [cart]\r\n", 400, ""),
        host("Host: [v1.a]\r\n", 400, ""),
        host("Host: [::1%25lo]\r\n", 400, ""),
        host("Host: ::1\r\n", 400, ""),
        host("Host: c%61rt\r\n", 400, ""),
        host("Host: cart..\r\n", 400, ""),
        host("Host: .cart\r\n", 400, ""),
        host("Host: a..cart\r\n", 400, ""),
        host("Host: .\r\n", 400, ""),
        // What RFC 3986 permits and no name has.
        host("Host: a~b\r\n", 400, ""),
        host("Host: a!$&'()*+;=b\r\n", 400, ""),
        good("Host: a_b-c.x:65535\r\n", "a_b-c.x:65535"),
        good("Host: cart:8080\r\n", "cart:8080"),
        good("Host: CART.\r\n", "CART."),
        good("Host: [::1]:80\r\n", "[::1]:80"),
        good("hOsT:cart\r\n", "cart"),
        row("GET / HTTP/1.0\r\n\r\n", &[200], "GET / HTTP/1.1|host: cart.shop.svc.cluster.local||"),
    ]
}

fn headers() -> Vec<Row> {
    let long = |count: usize| (0..count).map(|n| format!("x{n}: y\r\n")).collect::<String>();
    vec![
        head(b"x: y", 200, Some("x: y|")),
        head(b"X-Two: a\r\nx-two: b", 200, Some("x-two: a|x-two: b|")),
        head(b"x_y: z", 200, Some("x_y: z|")),
        head(b"x: \xff\xfe", 200, Some("x: \u{fffd}\u{fffd}|")),
        head(b"x:", 200, Some("x: |")),
        head(b"x: a\tb", 200, Some("x: a\tb|")),
        head(b"x : y", 400, None),
        head(b"x\t: y", 400, None),
        head(b" x: y", 400, None),
        head(b"x: y\r\n z", 400, None),
        head(b"x: y\r\n\tz", 400, None),
        head(b"x: a\0b", 400, None),
        head(b"x: a\rb", 400, None),
        head(b"x: a\x01b", 400, None),
        head(b"x: a\x7fb", 400, None),
        head(b": y", 400, None),
        head(b"x", 400, None),
        head(b"x(: y", 400, None),
        head("\u{fc}: y".as_bytes(), 400, None),
        head(format!("x: {}", "a".repeat(70_000)).as_bytes(), 431, None),
        head(long(200).trim_end().as_bytes(), 431, None),
        head(b"Connection: x-a, keep-alive\r\nx-a: b\r\nKeep-Alive: 5\r\nProxy-Connection: close", 200, Some("")),
        head(b"Connection: host, content-length", 200, Some("")),
        head(b"TE: gzip, trailers\r\nConnection: te", 200, Some("te: trailers|")),
        head(b"TE: gzip", 200, Some("")),
        head(b"Expect: 100-continue", 200, Some("")),
        head(b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nConnection: Upgrade, HTTP2-Settings", 200, Some("")),
        head(b"Upgrade: websocket, h2c\r\nConnection: upgrade", 200, Some("")),
        head(b"Upgrade: h2c/1\r\nConnection: upgrade", 200, Some("")),
        head(b"Upgrade: websocket\r\nUpgrade: h2c\r\nConnection: upgrade", 200, Some("")),
        head(b"Upgrade: TLS/1.0\r\nConnection: upgrade", 200, Some("")),
        head(b"Upgrade: HTTP/2.0\r\nConnection: upgrade", 200, Some("")),
        head(b"Upgrade: h2\r\nConnection: upgrade", 200, Some("")),
        head(b"Upgrade: websocket, tls/1.2, HTTP/1.1\r\nConnection: upgrade", 200, Some("")),
        head(b"Upgrade: websocket", 200, Some("")),
        head(b"Upgrade: websocket\r\nConnection: upgrade", 200, Some("upgrade: websocket|connection: upgrade|")),
    ]
}

fn bodies() -> Vec<Row> {
    const CHUNKED: &str = "POST / HTTP/1.1|host: cart|transfer-encoding: chunked||3|abc|0||";
    const COUNTED: &str = "POST / HTTP/1.1|content-length: 3|host: cart||abc";
    let chunked = |rest: &str, got: &str| post(&format!("Transfer-Encoding: chunked\r\n\r\n{rest}"), 200, got);
    let bad = |rest: &str| post(&format!("Transfer-Encoding: chunked\r\n\r\n{rest}"), 400, "POST");
    vec![
        post("Content-Length: 3\r\n\r\nabc", 200, COUNTED),
        post("Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 200, COUNTED),
        post("Content-Length: 03\r\n\r\nabc", 200, "POST / HTTP/1.1|content-length: 03|host: cart||abc"),
        refused("Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
        refused("Content-Length: 3, 3\r\n\r\nabc", 400),
        refused("Content-Length: +3\r\n\r\nabc", 400),
        refused("Content-Length: -3\r\n\r\nabc", 400),
        refused("Content-Length: 0x3\r\n\r\nabc", 400),
        refused("Content-Length: 3a\r\n\r\nabc", 400),
        refused("Content-Length: \r\n\r\nabc", 400),
        refused("Content-Length: 18446744073709551616\r\n\r\nabc", 400),
        // The coding counts, and the length is not passed on (RFC 9112, 6.3).
        post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, CHUNKED),
        post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, CHUNKED),
        refused("Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
        refused("Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 501),
        refused("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        refused("Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        refused("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        refused("Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
        refused("Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
        refused("Transfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400),
        refused("Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 400),
        refused("Transfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n", 400),
        refused("Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
        refused("Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
        refused("Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
        refused("Transfer-Encoding: \r\n\r\n0\r\n\r\n", 400),
        row("POST / HTTP/1.0\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", &[400], ""),
        post("Transfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 200, CHUNKED),
        chunked("3\r\nabc\r\n0\r\n\r\n", CHUNKED),
        chunked("3;a=b\r\nabc\r\n0\r\n\r\n", CHUNKED),
        chunked("003\r\nabc\r\n0\r\n\r\n", CHUNKED),
        chunked("3\r\nabc\r\n0\r\nx: y\r\n\r\n", CHUNKED),
        bad("3\nabc\n0\n\n"),
        bad("g\r\nabc\r\n0\r\n\r\n"),
        bad("-3\r\nabc\r\n0\r\n\r\n"),
        bad("0x3\r\nabc\r\n0\r\n\r\n"),
        bad("\r\nabc\r\n0\r\n\r\n"),
        bad("3\r\nabcd\r\n0\r\n\r\n"),
        bad("3;a\nb\r\nabc\r\n0\r\n\r\n"),
        bad("ffffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
        // A body where there is none usually.
        row(
            "GET / HTTP/1.1\r\nHost: cart\r\nContent-Length: 3\r\n\r\nabc",
            &[200],
            "GET / HTTP/1.1|content-length: 3|host: cart||abc",
        ),
        // What follows a request is the next.
        row(
            "GET /1 HTTP/1.1\r\nHost: cart\r\n\r\nGET /2 HTTP/1.1\r\nHost: cart\r\n\r\n",
            &[200, 200],
            "GET /1 HTTP/1.1|host: cart||GET /2 HTTP/1.1|host: cart||",
        ),
        // After one that is refused nothing is read.
        row("GET /\\ HTTP/1.1\r\nHost: cart\r\n\r\nGET /2 HTTP/1.1\r\nHost: cart\r\n\r\n", &[400], ""),
        row(
            "POST / HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\nGET /2 HTTP/1.1\r\nHost: cart\r\n\r\n",
            &[501],
            "",
        ),
        // Bytes after a wish for another protocol that nobody granted are a request.
        row(
            "GET / HTTP/1.1\r\nHost: cart\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nGET /2 HTTP/1.1\r\nHost: cart\r\n\r\n",
            &[200, 200],
            "GET / HTTP/1.1|upgrade: x|connection: upgrade|host: cart||GET /2 HTTP/1.1|host: cart||",
        ),
        row("\r\n\r\nGET / HTTP/1.1\r\nHost: cart\r\n\r\n", &[200], "GET / HTTP/1.1|host: cart||"),
        row("GET / HTTP/1.1\nHost: cart\n\n", &[200], "GET / HTTP/1.1|host: cart||"),
    ]
}

async fn one(row: Row) -> Option<String> {
    let world = World::new();
    let got = Got::server(&world, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let (said, _) = world.raw(&row.sent).await;
    let statuses: Vec<u16> = said
        .split("HTTP/1.")
        .skip(1)
        .filter_map(|answer| answer.get(2..5)?.parse().ok())
        .filter(|s| *s != 100)
        .collect();
    // Heads have no order.
    let sorted = |text: &str| {
        let mut lines: Vec<_> = text.split('|').map(ToOwned::to_owned).collect();
        lines.sort();
        lines
    };
    let as_wanted = match row.got.as_str() {
        // Its head may have gone before the fault came; the endpoint never sees an end.
        "POST" => !got.text().ends_with("0||") && !statuses.contains(&200),
        wanted => sorted(&got.text()) == sorted(wanted) && statuses == row.statuses,
    };
    let sent: String = String::from_utf8_lossy(&row.sent).chars().take(120).collect();
    (!as_wanted).then(|| {
        format!("{sent:?}\n  {statuses:?} for {:?}\n  got {:?}\n  for {:?}", row.statuses, got.text(), row.got)
    })
}

#[tokio::test]
async fn request_targets() {
    all(targets(), one).await;
}

#[tokio::test]
async fn names_of_hosts() {
    all(hosts(), one).await;
}

#[tokio::test]
async fn heads() {
    all(headers(), one).await;
}

#[tokio::test]
async fn lengths_and_codings() {
    all(bodies(), one).await;
}

//! What a server asks another one before it answers, as an application does that calls others: with the headers by
//! which a trace is followed, and no other.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{HeaderMap, Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// `ADDRESS=AUTHORITY`, and behind a comma what that one shall ask.
const NEXT: &str = "x-next";
/// Of a trace, and of a request.
const CARRIED: [&str; 10] = [
    "b3",
    "traceparent",
    "tracestate",
    "x-amzn-trace-id",
    "x-b3-flags",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-request-id",
];

/// What that one says; `None`: nobody is to be asked.
pub async fn ask(headers: &HeaderMap) -> Option<Result<Value>> {
    let next = headers.get(NEXT)?.to_str().ok()?;
    Some(asked(next, headers).await)
}

async fn asked(next: &str, headers: &HeaderMap) -> Result<Value> {
    let (at, rest) = next.split_once(',').unwrap_or((next, ""));
    let (address, authority) = at.split_once('=').context("x-next is not ADDRESS=AUTHORITY")?;
    let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::get("/next").header("host", authority);
    // An application that does not know of traces carries none.
    if !headers.contains_key("x-forgets") {
        for (name, value) in headers.iter().filter(|(name, _)| CARRIED.contains(&name.as_str())) {
            request = request.header(name, value);
        }
    }
    if !rest.is_empty() {
        request = request.header(NEXT, rest);
    }
    let answer = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    ensure!(status.is_success(), "{address}: {status}");
    serde_json::from_slice(&body).context("not JSON")
}

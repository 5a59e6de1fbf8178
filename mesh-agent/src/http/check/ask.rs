//! One question to one endpoint, on a connection of its own.

use std::{pin::Pin, sync::Arc};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Method, Request, header, uri::Authority};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_common::{model::traffic::CheckKind, route::grpc_status};
use prost::Message;
use tokio::task::JoinSet;

use crate::http::{Connect, Endpoint, Io, body::RequestBody, pool::Version, tls::Secure};

/// Of an answer of gRPC: one number.
const LARGEST: usize = 1024;
const SERVING: i32 = 1;

/// `grpc.health.v1.HealthCheckRequest` (grpc/doc/health-checking.md).
#[derive(Clone, PartialEq, Message)]
struct Question {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct Answer {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Whether it is well.
pub async fn ask<C: Connect>(
    endpoint: Arc<Endpoint>,
    kind: CheckKind,
    secure: Option<Result<Arc<Secure>, String>>,
    connect: C,
) -> bool {
    asked(endpoint, kind, secure, connect).await.unwrap_or(false)
}

/// `None`: it could not be asked, or its answer was none.
async fn asked<C: Connect>(
    endpoint: Arc<Endpoint>,
    kind: CheckKind,
    secure: Option<Result<Arc<Secure>, String>>,
    connect: C,
) -> Option<bool> {
    let host = match &kind {
        CheckKind::Http { host: Some(host), .. } => host.clone(),
        _ => endpoint.service.hostname.clone(),
    };
    let authority: Authority = host.parse().ok()?;
    let version = if matches!(kind, CheckKind::Grpc { .. }) { Version::Http2 } else { Version::Http1 };
    let secure = secure.transpose().ok()?;
    let scheme: &'static str = if secure.is_some() { "https" } else { "http" };
    let way = connect.connect(&endpoint).await.ok()?;
    let io: Box<dyn Io> = match secure {
        Some(secure) => Box::new(secure.secured(&authority).client(way.io, version).await.ok()?),
        None => way.io,
    };
    let question: Pin<Box<dyn Future<Output = Option<bool>> + Send>> = match kind {
        CheckKind::Tcp => return Some(true),
        CheckKind::Http { path, .. } => Box::pin(http(io, path, authority)),
        CheckKind::Grpc { service } => Box::pin(grpc(io, service, scheme, authority)),
    };
    // What denies the connection later denies the question.
    tokio::select! {
        answer = question => answer,
        () = way.until => None,
    }
}

async fn http(io: Box<dyn Io>, path: String, authority: Authority) -> Option<bool> {
    let request = Request::get(path).header(header::HOST, authority.as_str()).header(header::CONNECTION, "close");
    let (mut send, driver) = http1::handshake(TokioIo::new(io)).await.ok()?;
    let asked = async move {
        Some(send.send_request(request.body(Empty::<Bytes>::new()).ok()?).await.ok()?.status().is_success())
    };
    answered(driver, asked).await
}

async fn grpc(io: Box<dyn Io>, service: String, scheme: &'static str, authority: Authority) -> Option<bool> {
    let question = Question { service }.encode_to_vec();
    let mut framed = BytesMut::new();
    // Not compressed, and its length.
    framed.put_u8(0);
    framed.put_u32(u32::try_from(question.len()).ok()?);
    framed.put_slice(&question);
    let uri = format!("{scheme}://{authority}/grpc.health.v1.Health/Check");
    let request = Request::builder()
        .method(Method::POST)
        .uri(uri)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(RequestBody::Whole(Some(framed.freeze())))
        .ok()?;
    let (mut send, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.ok()?;
    // It ends with the question.
    let mut driving = JoinSet::new();
    driving.spawn(driver);
    let response = send.send_request(request).await.ok()?;
    let (mut body, mut bytes, mut done) = (response.into_body(), Vec::new(), false);
    while let Some(frame) = body.frame().await {
        let frame = frame.ok()?;
        done = frame.trailers_ref().is_some_and(|trailers: &HeaderMap| grpc_status(trailers) == Some(0));
        bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        if bytes.len() > LARGEST {
            return None;
        }
    }
    let answer = Answer::decode(bytes.get(5..)?).ok()?;
    Some(done && bytes[0] == 0 && answer.status == SERVING)
}

/// The connection lives as long as the question.
async fn answered<T>(driver: impl Future, asked: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::pin!(asked);
    tokio::select! {
        answer = asked.as_mut() => answer,
        _ = driver => asked.await,
    }
}

//! A collector of spans and logs, as OTLP has them: over gRPC and over HTTP, at an address of the world.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::{
            ExportLogsServiceRequest, ExportLogsServiceResponse,
            logs_service_server::{LogsService, LogsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{span::SpanKind, status::StatusCode},
};
use prost::Message as _;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;

use crate::{Patience, Place, eventually, network};

/// Takes everything until it is dropped; then nobody listens there.
#[derive(Debug)]
pub struct Collector {
    taken: Arc<Mutex<Taken>>,
    runtime: Option<Runtime>,
}

#[derive(Debug, Default)]
struct Taken {
    spans: Vec<Span>,
    logs: Vec<Log>,
}

/// A span, with its ids in hexadecimal digits, and what it says in words.
#[derive(Clone, Debug)]
pub struct Span {
    pub trace: String,
    pub id: String,
    /// Empty: none.
    pub parent: String,
    pub is_server: bool,
    pub name: String,
    pub is_error: bool,
    pub attributes: BTreeMap<String, String>,
    /// Of the pod that it is about.
    pub resource: BTreeMap<String, String>,
}

#[derive(Clone, Debug)]
pub struct Log {
    pub body: String,
    pub attributes: BTreeMap<String, String>,
    pub resource: BTreeMap<String, String>,
}

/// What the collector speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otlp {
    Grpc,
    Http,
}

impl Collector {
    /// On `port` of all addresses of the place.
    pub fn start(place: &Place, port: u16, otlp: Otlp) -> Result<Self> {
        let name = place.netns.as_ref().and_then(|netns| netns.file_name()?.to_str()).context("no namespace")?;
        // A socket stays where it was made.
        let listener = network::inside(name, || TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))))??;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let taken = Arc::new(Mutex::new(Taken::default()));
        let of = Takes(Arc::clone(&taken));
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        match otlp {
            Otlp::Grpc => drop(runtime.spawn(async move {
                let server = tonic::transport::Server::builder()
                    .add_service(TraceServiceServer::new(of.clone()))
                    .add_service(LogsServiceServer::new(of));
                server.serve_with_incoming(TcpListenerStream::new(listener)).await
            })),
            Otlp::Http => drop(runtime.spawn(of.serve(listener))),
        }
        Ok(Self { taken, runtime: Some(runtime) })
    }

    pub fn spans(&self) -> Vec<Span> {
        lock(&self.taken).spans.clone()
    }

    pub fn logs(&self) -> Vec<Log> {
        lock(&self.taken).logs.clone()
    }

    /// Waits until there are so many spans of this trace, in the order in which they began.
    pub fn trace(&self, trace: &str, count: usize) -> Result<Vec<Span>> {
        eventually(format_args!("{count} spans of {trace}"), Patience::SHORT, || {
            let all: Vec<_> = self.spans().into_iter().filter(|span| span.trace == trace).collect();
            Ok((all.len() >= count).then_some(all))
        })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // Its connections end with it.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[derive(Clone, Debug)]
struct Takes(Arc<Mutex<Taken>>);

impl Takes {
    fn spans(&self, message: ExportTraceServiceRequest) {
        for of in message.resource_spans {
            let resource = resource(of.resource);
            let spans = of.scope_spans.into_iter().flat_map(|scope| scope.spans);
            lock(&self.0).spans.extend(spans.map(|span| Span {
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                is_server: span.kind() == SpanKind::Server,
                is_error: span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error),
                attributes: words(&span.attributes),
                name: span.name,
                resource: resource.clone(),
            }));
        }
    }

    fn logs(&self, message: ExportLogsServiceRequest) {
        for of in message.resource_logs {
            let resource = resource(of.resource);
            let logs = of.scope_logs.into_iter().flat_map(|scope| scope.log_records);
            lock(&self.0).logs.extend(logs.map(|log| Log {
                body: log.body.and_then(|body| body.value).map(word).unwrap_or_default(),
                attributes: words(&log.attributes),
                resource: resource.clone(),
            }));
        }
    }

    async fn serve(self, listener: tokio::net::TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let of = self.clone();
            let answer = service_fn(move |request| of.clone().answer(request));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<bytes::Bytes>>> {
        let path = request.uri().path().to_owned();
        let body = request.into_body().collect().await?.to_bytes();
        let status = match path.as_str() {
            "/v1/traces" => {
                ExportTraceServiceRequest::decode(body).map(|message| self.spans(message)).map_or(400, |()| 200)
            }
            "/v1/logs" => {
                ExportLogsServiceRequest::decode(body).map(|message| self.logs(message)).map_or(400, |()| 200)
            }
            _ => 404,
        };
        Ok(Response::builder().status(status).body(Full::default())?)
    }
}

#[tonic::async_trait]
impl TraceService for Takes {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        self.spans(request.into_inner());
        Ok(tonic::Response::new(Default::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Takes {
    async fn export(
        &self,
        request: tonic::Request<ExportLogsServiceRequest>,
    ) -> Result<tonic::Response<ExportLogsServiceResponse>, tonic::Status> {
        self.logs(request.into_inner());
        Ok(tonic::Response::new(Default::default()))
    }
}

fn resource(resource: Option<Resource>) -> BTreeMap<String, String> {
    words(&resource.unwrap_or_default().attributes)
}

fn words(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let value = |attribute: &KeyValue| attribute.value.clone().and_then(|value| value.value).map(word);
    attributes.iter().map(|attribute| (attribute.key.clone(), value(attribute).unwrap_or_default())).collect()
}

fn word(value: Value) -> String {
    match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lock(taken: &Mutex<Taken>) -> MutexGuard<'_, Taken> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

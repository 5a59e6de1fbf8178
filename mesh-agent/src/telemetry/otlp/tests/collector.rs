//! A collector on the loopback that answers as it is told.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use mesh_common::model::telemetry::OtlpProtocol;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use prost::Message as _;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Status;

/// To one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// So many of its spans.
    Rejects(i64),
    Refuses,
    /// In so many seconds.
    Later(Option<u64>),
    /// The connection ends without one.
    BreaksOff,
}

#[derive(Debug, Default)]
struct State {
    got: Vec<ExportTraceServiceRequest>,
    answers: VecDeque<Answer>,
}

pub struct Fake {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    serving: JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Nobody listens there.
pub async fn unused() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

impl Fake {
    pub async fn new(protocol: OtlpProtocol) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), protocol).await
    }

    pub async fn at(address: SocketAddr, protocol: OtlpProtocol) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let of = Arc::clone(&state);
        let serving = match protocol {
            OtlpProtocol::Grpc => tokio::spawn(async move {
                let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Grpc(of)));
                server.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
            }),
            OtlpProtocol::Http => tokio::spawn(serve(listener, of)),
        };
        Self { address, state, serving }
    }

    /// To the next messages; others are taken.
    pub fn answer(&self, answers: Vec<Answer>) {
        self.state.lock().unwrap().answers = answers.into();
    }

    /// What it took, in order.
    pub fn got(&self) -> Vec<ExportTraceServiceRequest> {
        self.state.lock().unwrap().got.clone()
    }
}

/// `Ok(None)`: it is taken whole.
fn take(state: &Mutex<State>, message: ExportTraceServiceRequest) -> Result<ExportTraceServiceResponse, Answer> {
    let mut state = state.lock().unwrap();
    let partial = |rejected_spans| ExportTracePartialSuccess { rejected_spans, error_message: "no".into() };
    match state.answers.pop_front() {
        None => {
            state.got.push(message);
            Ok(ExportTraceServiceResponse::default())
        }
        Some(Answer::Rejects(spans)) => Ok(ExportTraceServiceResponse { partial_success: Some(partial(spans)) }),
        Some(other) => Err(other),
    }
}

struct Grpc(Arc<Mutex<State>>);

#[tonic::async_trait]
impl TraceService for Grpc {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, Status> {
        match take(&self.0, request.into_inner()) {
            Ok(answer) => Ok(tonic::Response::new(answer)),
            Err(Answer::Later(None) | Answer::BreaksOff) => Err(Status::unavailable("later")),
            Err(Answer::Later(Some(seconds))) => {
                // google.rpc.Status with a RetryInfo, byte by byte.
                let delay = [0x08, seconds as u8];
                let info = [&[0x0a, delay.len() as u8][..], &delay].concat();
                let name = b"type.googleapis.com/google.rpc.RetryInfo";
                let any = [&[0x0a, name.len() as u8][..], name, &[0x12, info.len() as u8], &info].concat();
                let details = [&[0x1a, any.len() as u8][..], &any].concat();
                Err(Status::with_details(tonic::Code::ResourceExhausted, "slow down", details.into()))
            }
            Err(_) => Err(Status::invalid_argument("no")),
        }
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    loop {
        let (io, _) = listener.accept().await.unwrap();
        let of = Arc::clone(&state);
        let service = hyper::service::service_fn(move |request| answer(request, Arc::clone(&of)));
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(io), service));
    }
}

async fn answer(request: Request<Incoming>, state: Arc<Mutex<State>>) -> Result<Response<Full<Bytes>>, std::io::Error> {
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let built = |builder: http::response::Builder, body: Vec<u8>| Ok(builder.body(Full::new(body.into())).unwrap());
    match take(&state, ExportTraceServiceRequest::decode(body).unwrap()) {
        Ok(answer) => built(Response::builder().status(200), answer.encode_to_vec()),
        Err(Answer::Later(None)) => built(Response::builder().status(503), Vec::new()),
        Err(Answer::Later(Some(seconds))) => {
            built(Response::builder().status(429).header("retry-after", seconds), Vec::new())
        }
        Err(Answer::BreaksOff) => Err(std::io::Error::other("gone")),
        Err(_) => built(Response::builder().status(400), Vec::new()),
    }
}

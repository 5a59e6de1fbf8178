//! One message to one collector, and what it says to it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use mesh_common::model::telemetry::OtlpProtocol;
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse, logs_service_client::LogsServiceClient},
    trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse, trace_service_client::TraceServiceClient},
};
use prost::Message as _;
use tonic::transport::{Channel, Endpoint};

use super::{
    Settings, Target,
    connect::{CONNECT, Dialler},
    outcome::Outcome,
};

/// For an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Bytes of one.
const LARGEST_ANSWER: usize = 64 << 10;

#[derive(Clone, Debug)]
pub enum Message {
    Spans(ExportTraceServiceRequest),
    Logs(ExportLogsServiceRequest),
}

/// Its connection is kept while it works, and its addresses are looked up for each new one.
pub struct Delivery {
    dialler: Dialler,
    kept: Option<Kept>,
}

enum Kept {
    Grpc(Channel),
    Http(SendRequest<Full<Bytes>>),
}

impl Message {
    pub fn len(&self) -> usize {
        match self {
            Self::Spans(spans) => spans.encoded_len(),
            Self::Logs(logs) => logs.encoded_len(),
        }
    }

    fn path(&self) -> &'static str {
        match self {
            Self::Spans(_) => "/v1/traces",
            Self::Logs(_) => "/v1/logs",
        }
    }

    fn encoded(&self) -> Bytes {
        match self {
            Self::Spans(spans) => spans.encode_to_vec().into(),
            Self::Logs(logs) => logs.encode_to_vec().into(),
        }
    }

    /// What an answer to it says. One that cannot be read says that it was taken.
    fn answered(&self, body: &[u8]) -> Outcome {
        match self {
            Self::Spans(_) => ExportTraceServiceResponse::decode(body).map_or(Outcome::taken(0, ""), spans_taken),
            Self::Logs(_) => ExportLogsServiceResponse::decode(body).map_or(Outcome::taken(0, ""), logs_taken),
        }
    }
}

fn spans_taken(answer: ExportTraceServiceResponse) -> Outcome {
    let partial = answer.partial_success.unwrap_or_default();
    Outcome::taken(partial.rejected_spans, &partial.error_message)
}

fn logs_taken(answer: ExportLogsServiceResponse) -> Outcome {
    let partial = answer.partial_success.unwrap_or_default();
    Outcome::taken(partial.rejected_log_records, &partial.error_message)
}

impl Delivery {
    pub fn new(target: Target, settings: &Settings) -> Self {
        let (resolve, roots) = (Arc::clone(&settings.resolve), settings.roots.clone());
        Self { dialler: Dialler { target, resolve, roots }, kept: None }
    }

    pub async fn send(&mut self, message: &Message) -> Outcome {
        let outcome = match self.dialler.target.collector.protocol {
            OtlpProtocol::Grpc => self.by_grpc(message).await,
            OtlpProtocol::Http => self.by_http(message).await,
        };
        // Whatever is wrong with it, another connection may not have it.
        if matches!(outcome, Outcome::Later { .. }) {
            self.kept = None;
        }
        outcome
    }

    async fn by_grpc(&mut self, message: &Message) -> Outcome {
        let channel = match &self.kept {
            Some(Kept::Grpc(channel)) => channel.clone(),
            _ => match self.channel().await {
                Ok(channel) => channel,
                Err(error) => return Outcome::later(explained(&error)),
            },
        };
        self.kept = Some(Kept::Grpc(channel.clone()));
        let answer = async {
            match message {
                Message::Spans(spans) => {
                    let answer = TraceServiceClient::new(channel).export(spans.clone()).await;
                    answer.map(|answer| spans_taken(answer.into_inner()))
                }
                Message::Logs(logs) => {
                    let answer = LogsServiceClient::new(channel).export(logs.clone()).await;
                    answer.map(|answer| logs_taken(answer.into_inner()))
                }
            }
        };
        match tokio::time::timeout(ANSWER, answer).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(status)) => Outcome::of_grpc(&status),
            Err(_) => Outcome::later("no answer"),
        }
    }

    async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let target = &self.dialler.target;
        // TLS is the dialler's; to tonic it is a connection as any other.
        let endpoint = Endpoint::from_shared(Target { tls: false, ..target.clone() }.to_string())?;
        let endpoint = match target.tls {
            true => endpoint.origin(target.to_string().parse().unwrap_or_default()),
            false => endpoint,
        };
        endpoint.connect_with_connector(self.dialler.clone()).await
    }

    async fn by_http(&mut self, message: &Message) -> Outcome {
        let mut sender = match self.kept.take() {
            Some(Kept::Http(sender)) if !sender.is_closed() => sender,
            _ => match self.sender().await {
                Ok(sender) => sender,
                Err(outcome) => return outcome,
            },
        };
        let answer = tokio::time::timeout(ANSWER, self.post(&mut sender, message)).await;
        match answer {
            Ok(Ok(outcome)) => {
                self.kept = Some(Kept::Http(sender));
                outcome
            }
            Ok(Err(why)) => Outcome::Later { after: None, why },
            Err(_) => Outcome::later("no answer"),
        }
    }

    async fn sender(&self) -> Result<SendRequest<Full<Bytes>>, Outcome> {
        let io = self.dialler.clone().dial().await.map_err(Outcome::later)?;
        let opened = tokio::time::timeout(CONNECT, http1::handshake(io)).await;
        let (sender, connection) =
            opened.map_err(Outcome::later)?.map_err(|error| Outcome::later(explained(&error)))?;
        // It ends with its sender; what goes wrong with it the sender is told.
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    async fn post(&self, sender: &mut SendRequest<Full<Bytes>>, message: &Message) -> Result<Outcome, String> {
        let target = &self.dialler.target;
        let mut authority = target.to_string();
        authority.truncate(authority.len() - target.path.len());
        let authority = authority.split_once("://").map_or("", |(_, authority)| authority);
        let request = Request::post(format!("{}{}", target.path, message.path()))
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/x-protobuf")
            .header(header::USER_AGENT, concat!("mesh-agent/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(message.encoded()))
            .map_err(|error| error.to_string())?;
        sender.ready().await.map_err(|error| explained(&error))?;
        let answer = sender.send_request(request).await.map_err(|error| explained(&error))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, LARGEST_ANSWER).collect().await.map_err(|error| error.to_string())?;
        Ok(match head.status {
            status if status.is_success() => message.answered(&body.to_bytes()),
            status => Outcome::of_http(status, &head.headers),
        })
    }
}

/// With its causes, which say what it was.
fn explained(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

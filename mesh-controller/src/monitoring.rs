//! `GET /metrics` for Prometheus: what was counted, and what stands. Nothing secret is asked here, and nothing changed.

pub mod figures;
mod process;
mod standing;

pub use standing::Standing;

use std::{convert::Infallible, future::Future, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{net::TcpListener, sync::Semaphore};

/// At once; more wait. Scrapers are few.
const CONNECTIONS: usize = 16;
/// Until a client has said what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often observations are added up that nobody has read.
const UPKEEP: Duration = Duration::from_secs(5);
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Counts from now on, and listens at once; the future serves and never ends. To be called once a process.
pub fn serve(address: SocketAddr, standing: Standing) -> Result<impl Future<Output = ()> + Send + use<>> {
    let recorder = figures::recorder().context("cannot count")?;
    let counted = recorder.install_recorder().context("cannot count")?;
    figures::describe();
    let place = || format!("--metrics {address}");
    let listener = std::net::TcpListener::bind(address).with_context(place)?;
    listener.set_nonblocking(true).with_context(place)?;
    let listener = TcpListener::from_std(listener).with_context(place)?;
    let told = Told { counted, standing };
    Ok(async move {
        tokio::select! {
            () = upkeep(told.counted.clone()) => {}
            () = accept(listener, told.clone()) => {}
        }
    })
}

/// All that is told.
#[derive(Clone)]
struct Told {
    counted: PrometheusHandle,
    standing: Standing,
}

impl Told {
    fn render(&self) -> String {
        self.standing.look();
        self.counted.render() + &process::render()
    }
}

async fn upkeep(counted: PrometheusHandle) {
    let mut tick = tokio::time::interval(UPKEEP);
    loop {
        tick.tick().await;
        counted.run_upkeep();
    }
}

async fn accept(listener: TcpListener, told: Told) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept failed at the address of metrics");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let told = told.clone();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let response = respond(request.method(), request.uri().path(), &told);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut server = http1::Builder::new();
            server.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(%error, "a reader of metrics went");
            }
            drop(place);
        });
    }
}

fn respond(method: &Method, path: &str, told: &Told) -> Response<String> {
    let (status, text) = match path {
        _ if method != Method::GET => (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
        "/metrics" => (StatusCode::OK, told.render()),
        _ => (StatusCode::NOT_FOUND, "nothing there\n".to_owned()),
    };
    let mut response = Response::new(text);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(PLAIN));
    response
}

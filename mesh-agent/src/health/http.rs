//! A small HTTP/1 server for GET and plain text. Nothing secret is asked here, and nothing changed.

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc, time::Duration};

use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, SERVER},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{net::TcpListener, sync::Semaphore};

/// The answer for a path; `None`: there is nothing there.
pub type Answer = Arc<dyn Fn(&str) -> Option<(StatusCode, String)> + Send + Sync>;

const BACKLOG: i32 = 128;
/// At once; more wait. Probes and scrapers are few.
const CONNECTIONS: usize = 64;
/// Until a client has said what it wants.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of the text format of Prometheus, which is plain text to everybody else.
const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Listens beside another agent that is about to let go of the address.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Runs until it is dropped; connections that are open then end by themselves.
pub async fn serve(listener: TcpListener, answer: Answer) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!(error = %e, "accept failed on an HTTP address");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let answer = Arc::clone(&answer);
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let response = respond(&request, &answer);
                async move { Ok::<_, Infallible>(response) }
            });
            let mut server = http1::Builder::new();
            // One answer a connection: after a hand-over the next one is for the successor.
            server.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(PATIENCE);
            if let Err(e) = server.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!(error = %e, "an HTTP client went");
            }
            drop(place);
        });
    }
}

fn respond(request: &Request<Incoming>, answer: &Answer) -> Response<String> {
    let (status, text) = if request.method() != Method::GET {
        (StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned())
    } else {
        answer(request.uri().path()).unwrap_or((StatusCode::NOT_FOUND, "nothing there\n".to_owned()))
    };
    let mut response = Response::new(text);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PLAIN));
    // Two agents may have the address: `ask` wants to know whose answer it is.
    let own = format!("{}{}", super::ask::SERVER, std::process::id());
    if let Ok(own) = HeaderValue::try_from(own) {
        response.headers_mut().insert(SERVER, own);
    }
    response
}

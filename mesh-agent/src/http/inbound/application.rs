//! The connection to the application behind one client's connection.

use std::{
    future::Future,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::{
    super::{HEAD_BYTES, HEADERS, Io, Spoken, WINDOW, body::Guarded},
    under_way::Held,
};

/// A request's body.
pub type Sent = Guarded<Arc<Held>>;

/// How long a connection may take to end in order.
const FAREWELL: Duration = Duration::from_secs(1);

/// Opens connections to the application.
pub trait Dial: Send + Sync + 'static {
    fn dial(&self) -> impl Future<Output = io::Result<Box<dyn Io>>> + Send;
}

/// One connection at a time: the next only when an application closed one while a request was on its way.
pub struct Application<D> {
    dial: D,
    spoken: Spoken,
    sender: tokio::sync::Mutex<Option<Sender>>,
    drivers: Mutex<JoinSet<()>>,
    /// How many connections have ended.
    ended: watch::Sender<u32>,
    /// Nobody is there any more whom an answer could go to.
    is_cut: AtomicBool,
}

enum Sender {
    Http1(http1::SendRequest<Sent>),
    Http2(http2::SendRequest<Sent>),
}

/// Why there is no answer.
#[derive(Debug)]
pub enum NoAnswer {
    Dial(io::Error),
    /// It ended each connection before anything was sent on it.
    Ended,
    Failed(hyper::Error),
}

impl<D: Dial> Application<D> {
    /// With its first connection; `None`: it is dialled when there is something to send.
    ///
    /// # Errors
    /// If that is over already.
    pub async fn new(dial: D, io: Option<impl Io>, spoken: Spoken) -> Result<Self, hyper::Error> {
        let own = Self {
            dial,
            spoken,
            sender: tokio::sync::Mutex::default(),
            drivers: Mutex::default(),
            ended: watch::Sender::new(0),
            is_cut: AtomicBool::new(false),
        };
        if let Some(io) = io {
            let sender = own.begin(io).await?;
            *own.sender.lock().await = Some(sender);
        }
        Ok(own)
    }

    async fn begin(&self, io: impl Io) -> Result<Sender, hyper::Error> {
        let io = TokioIo::new(io);
        let ended = self.ended.clone();
        match self.spoken {
            Spoken::Http1 => {
                let mut builder = http1::Builder::new();
                builder.max_buf_size(HEAD_BYTES).max_headers(HEADERS);
                let (sender, driver) = builder.handshake(io).await?;
                self.drive(async move {
                    let _ = driver.with_upgrades().await;
                    ended.send_modify(|ended| *ended += 1);
                });
                Ok(Sender::Http1(sender))
            }
            Spoken::Http2 => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder
                    .timer(TokioTimer::new())
                    .initial_stream_window_size(WINDOW)
                    .initial_connection_window_size(WINDOW * 4)
                    .max_header_list_size(HEAD_BYTES as u32);
                let (sender, driver) = builder.handshake(io).await?;
                self.drive(async move {
                    let _ = driver.await;
                    ended.send_modify(|ended| *ended += 1);
                });
                Ok(Sender::Http2(sender))
            }
        }
    }

    fn drive(&self, driver: impl Future<Output = ()> + Send + 'static) {
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner).spawn(driver);
    }

    /// Sends a request; one that nothing of was sent on a connection that had ended goes on another.
    pub async fn send(&self, mut request: Request<Sent>) -> Result<Response<Incoming>, NoAnswer> {
        for _ in 0..2 {
            match self.once(request).await? {
                Ok(response) => return Ok(response),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(NoAnswer::Failed(error.into_error())),
                },
            }
        }
        Err(NoAnswer::Ended)
    }

    async fn once(
        &self,
        request: Request<Sent>,
    ) -> Result<Result<Response<Incoming>, TrySendError<Request<Sent>>>, NoAnswer> {
        let mut sender = self.sender.lock().await;
        if self.is_cut.load(Ordering::Relaxed) {
            return Err(NoAnswer::Ended);
        }
        let is_over = match &mut *sender {
            None => true,
            // The answer before this one has been read to its end, or never will be.
            Some(Sender::Http1(sender)) => sender.ready().await.is_err(),
            Some(Sender::Http2(sender)) => sender.is_closed(),
        };
        if is_over {
            *sender = None;
            let io = self.dial.dial().await.map_err(NoAnswer::Dial)?;
            *sender = Some(self.begin(io).await.map_err(NoAnswer::Failed)?);
            if self.is_cut.load(Ordering::Relaxed) {
                self.cut();
                return Err(NoAnswer::Ended);
            }
        }
        let answer = match &mut *sender {
            None => unreachable!("there is one since a moment ago"),
            Some(Sender::Http1(sender)) => Ok(sender.try_send_request(request)),
            Some(Sender::Http2(sender)) => Err(sender.clone().try_send_request(request)),
        };
        drop(sender);
        Ok(match answer {
            Ok(http1) => http1.await,
            Err(http2) => http2.await,
        })
    }

    /// Resolves when a connection has ended.
    pub async fn ended(&self) {
        // The sender lives in `self`.
        let _ = self.ended.subscribe().wait_for(|ended| *ended > 0).await;
    }

    /// Ends the connection in order.
    pub async fn leave(&self) {
        *self.sender.lock().await = None;
        let mut drivers = std::mem::take(&mut *self.drivers.lock().unwrap_or_else(PoisonError::into_inner));
        let _ = timeout(FAREWELL, async { while drivers.join_next().await.is_some() {} }).await;
    }

    /// Ends it at once, and for good.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

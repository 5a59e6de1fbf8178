//! A client that sends many requests and counts their answers.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_tests::{Answer, Answers, Ask, Lived};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};

/// Answers that are reported whole.
const FIRST: usize = 4;

type Body = Full<bytes::Bytes>;

enum Sender {
    One(http1::SendRequest<Body>),
    Two(http2::SendRequest<Body>),
}

impl Sender {
    fn is_closed(&self) -> bool {
        match self {
            Self::One(sender) => sender.is_closed(),
            Self::Two(sender) => sender.is_closed(),
        }
    }
}

pub async fn ask(ask: Ask) -> Result<Answers> {
    let (ask, next) = (Arc::new(ask), Arc::new(AtomicU32::new(0)));
    let answers = Arc::new(Mutex::new(Answers::default()));
    let mut clients = JoinSet::new();
    for client in 0..ask.connections {
        let (ask, next, answers) = (Arc::clone(&ask), Arc::clone(&next), Arc::clone(&answers));
        clients.spawn(async move {
            let (mut sender, mut connections) = (None, 0);
            let late = ask.ramp_ms * u64::from(client) / u64::from(ask.connections);
            tokio::time::sleep(Duration::from_millis(late)).await;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= ask.count {
                    return;
                }
                let start = Instant::now();
                let limit = Duration::from_millis(ask.timeout_ms) * mesh_tests::patience();
                let told = tokio::time::timeout(limit, one(&ask, number, &mut sender, &mut connections)).await;
                let told = told.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer in time")));
                let ms = start.elapsed().as_secs_f64() * 1000.0;
                if told.is_err() || ask.fresh {
                    sender = None;
                }
                let row = (!ask.rows.is_empty()).then(|| told.as_ref().map(|(answer, _)| answer.clone()));
                answers.lock().unwrap_or_else(PoisonError::into_inner).rows.extend(row.map(Result::unwrap_or_default));
                count(&mut answers.lock().unwrap_or_else(PoisonError::into_inner), told, ms);
                tokio::time::sleep(Duration::from_millis(ask.pause_ms)).await;
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.context("a client panicked")?;
    }
    let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner).clone();
    answers.ms.sort_by(f64::total_cmp);
    Ok(answers)
}

fn count(answers: &mut Answers, told: Result<(Answer, bool)>, ms: f64) {
    match told {
        Ok((answer, echoed)) => {
            *answers.by_status.entry(answer.status).or_default() += 1;
            if let Some(backend) = answer.headers.get("x-backend") {
                *answers.by_backend.entry(backend.clone()).or_default() += 1;
            }
            if let Some(flag) = answer.headers.get("nodemesh-flag") {
                *answers.by_flag.entry(flag.clone()).or_default() += 1;
            }
            answers.ms.push(ms);
            answers.echoed |= echoed;
            if answers.first.len() < FIRST {
                answers.first.push(answer);
            }
        }
        Err(error) => *answers.failed.entry(format!("{error:#}")).or_default() += 1,
    }
}

async fn connect(ask: &Ask) -> Result<Sender> {
    let stream = TcpStream::connect(ask.to).await.context("connect")?;
    tokio::time::sleep(Duration::from_millis(ask.silent_ms)).await;
    stream.set_nodelay(true).context("TCP_NODELAY")?;
    let io = TokioIo::new(stream);
    // The connection's own error is seen by the request.
    if ask.http2 {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.context("handshake")?;
        tokio::spawn(connection);
        return Ok(Sender::Two(sender));
    }
    let (sender, connection) = http1::handshake(io).await.context("handshake")?;
    tokio::spawn(connection.with_upgrades());
    Ok(Sender::One(sender))
}

async fn one(ask: &Ask, number: u32, kept: &mut Option<Sender>, connections: &mut u32) -> Result<(Answer, bool)> {
    while let Some(gate) = ask.gate.as_ref().filter(|_| number > 0)
        && !gate.exists()
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if kept.as_ref().is_none_or(Sender::is_closed) {
        *kept = Some(connect(ask).await?);
        *connections += 1;
    }
    let sender = kept.as_mut().context("no connection")?;
    let request = request(ask, number)?;
    let answer = match sender {
        Sender::One(sender) => {
            sender.ready().await.context("ready")?;
            sender.send_request(request).await.context("request")?
        }
        Sender::Two(sender) => {
            sender.ready().await.context("ready")?;
            sender.send_request(request).await.context("request")?
        }
    };
    if let Some(text) = &ask.upgraded {
        let mut told = head(&answer);
        if told.status != 101 {
            bail!("not upgraded: {}", told.status);
        }
        let mut io = TokioIo::new(hyper::upgrade::on(answer).await.context("upgrade")?);
        if ask.live_ms > 0 {
            let mut lived = Lived::default();
            lived.ended = within(ask, echo(&mut io, &mut lived)).await;
            told.lived = Some(lived);
            *kept = None;
            return Ok((told, true));
        }
        io.write_all(text.as_bytes()).await.context("send")?;
        let mut back = vec![0; text.len()];
        io.read_exact(&mut back).await.context("read")?;
        told.seen = String::from_utf8_lossy(&back).into_owned().into();
        *kept = None;
        return Ok((told, back == text.as_bytes()));
    }
    let mut told = head(&answer);
    told.connection = *connections;
    if ask.live_ms > 0 {
        let mut body = answer.into_body();
        let mut lived = Lived::default();
        lived.ended = within(ask, read(&mut body, &mut lived)).await;
        told.lived = Some(lived);
        return Ok((told, false));
    }
    let body = answer.into_body().collect().await.context("body")?.to_bytes();
    told.seen = serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into());
    Ok((told, false))
}

/// How an exchange ended within the time of the plan.
async fn within(ask: &Ask, exchange: impl Future<Output = Result<()>>) -> Option<String> {
    let ended = tokio::time::timeout(Duration::from_millis(ask.live_ms), exchange).await.ok()?;
    Some(ended.map_or_else(|error| format!("{error:#}"), |()| "end".to_owned()))
}

async fn echo(io: &mut TokioIo<hyper::upgrade::Upgraded>, lived: &mut Lived) -> Result<()> {
    loop {
        let said = format!("{:032}", lived.bytes);
        io.write_all(said.as_bytes()).await.context("send")?;
        let mut back = [0; 32];
        io.read_exact(&mut back).await.context("read")?;
        lived.bytes += 32;
        lived.wrong |= back != said.as_bytes();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn read(body: &mut Incoming, lived: &mut Lived) -> Result<()> {
    while let Some(frame) = body.frame().await {
        for byte in frame.context("body")?.into_data().unwrap_or_default() {
            lived.wrong |= byte != mesh_tests::piece(lived.bytes);
            lived.bytes += 1;
        }
    }
    Ok(())
}

fn request(ask: &Ask, number: u32) -> Result<Request<Body>> {
    let row = usize::try_from(number).ok().and_then(|index| ask.rows.get(index));
    let (method, path) = row.map_or((&ask.method, &ask.path), |(method, path)| (method, path));
    let number = number.to_string();
    let path = path.replace("{n}", &number);
    let mut request = Request::builder().method(method.as_str());
    request = match ask.http2 {
        true => request.uri(format!("http://{}{path}", ask.authority)),
        false => request.uri(path).header("host", &ask.authority),
    };
    for (name, value) in &ask.headers {
        request = request.header(name, value.replace("{n}", &number));
    }
    request.body(Full::new(vec![b'.'; ask.body].into())).context("not a request")
}

fn head(answer: &Response<Incoming>) -> Answer {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers = answer.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    Answer { status: answer.status().as_u16(), headers, seen: serde_json::Value::Null, ..Answer::default() }
}

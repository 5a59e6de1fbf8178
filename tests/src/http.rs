//! HTTP between pods: what `mesh-test-app ask` is told and what it reports, and the server `mesh-test-app http`.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Place, Pod, Process, Service, config};

/// Requests of one kind.
///
/// `{n}` in the path and in values of headers is the request's number. The server does what headers of a request say:
/// `x-delay` waits these milliseconds, `x-status` answers so, `x-reset` ends the connection, `x-pieces` sends so many
/// pieces of a body, one each 10 ms; with `x-fail` only the
/// first so many requests of one `x-id` (503 where nothing else is said). `x-next`, `ADDRESS=AUTHORITY` of several with
/// commas, asks these one after the other before the answer, each as `/next` by the one before, with the headers of the
/// trace; their answers are in it as `next`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Ask {
    pub to: SocketAddr,
    pub authority: String,
    pub method: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub count: u32,
    /// Each sends one request after the other; HTTP/2 opens none besides either.
    pub connections: u32,
    /// Prior knowledge.
    pub http2: bool,
    /// A new connection for each request.
    pub fresh: bool,
    /// Of each request.
    pub timeout_ms: u64,
    /// Between two requests of one connection.
    pub pause_ms: u64,
    /// Between a connect and the first byte.
    pub silent_ms: u64,
    /// Over which the connections begin, one after the other.
    pub ramp_ms: u64,
    /// Of the request's body.
    pub body: usize,
    /// Sent over the connection after an answer 101.
    pub upgraded: Option<String>,
    /// Methods and paths, instead of the one above: each once, in this order, over one connection while it lasts.
    pub rows: Vec<(String, String)>,
    /// Every row but the first is asked for when this file is there.
    pub gate: Option<PathBuf>,
    /// An answer's body is read, or an upgraded connection echoes, for as long as this at most; 0: to the end, or once.
    pub live_ms: u64,
}

/// What came of them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answers {
    pub by_status: BTreeMap<u16, u32>,
    /// Whatever the status was.
    pub by_backend: BTreeMap<String, u32>,
    /// Of the mesh's own answers.
    pub by_flag: BTreeMap<String, u32>,
    /// Requests without an answer, by error.
    pub failed: BTreeMap<String, u32>,
    /// Of each request with an answer, sorted.
    pub ms: Vec<f64>,
    /// The first few.
    pub first: Vec<Answer>,
    /// The same bytes came back over an upgraded connection.
    pub echoed: bool,
    /// Of [`Ask::rows`], one each; status 0: none came.
    pub rows: Vec<Answer>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    /// The server's JSON: name, method, path, authority, headers.
    pub seen: Value,
    /// Over which of the client's connections it came, from 1.
    pub connection: u32,
    /// With [`Ask::live_ms`].
    pub lived: Option<Lived>,
}

/// What came of an answer that takes its time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lived {
    pub bytes: u64,
    /// They are not what the server sends.
    pub wrong: bool,
    /// `None`: it goes on. `end`, or an error's words.
    pub ended: Option<String>,
}

impl Ask {
    pub fn at(to: SocketAddr, authority: &str) -> Self {
        Self {
            to,
            authority: authority.to_owned(),
            method: "GET".to_owned(),
            path: "/".to_owned(),
            headers: Vec::new(),
            count: 1,
            connections: 1,
            http2: false,
            fresh: false,
            timeout_ms: 8000,
            pause_ms: 0,
            silent_ms: 0,
            ramp_ms: 0,
            body: 0,
            upgraded: None,
            rows: Vec::new(),
            gate: None,
            live_ms: 0,
        }
    }

    pub fn rows<'a>(self, rows: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let rows: Vec<_> = rows.into_iter().map(|(method, path)| (method.to_owned(), path.to_owned())).collect();
        Self { count: u32::try_from(rows.len()).unwrap_or(u32::MAX), connections: 1, rows, ..self }
    }

    pub fn service(service: &Service) -> Self {
        Self::at(service.addr(), &service.name)
    }

    pub fn many(self, count: u32, connections: u32) -> Self {
        Self { count, connections, ..self }
    }

    pub fn path(self, path: &str) -> Self {
        Self { path: path.to_owned(), ..self }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn method(self, method: &str) -> Self {
        Self { method: method.to_owned(), ..self }
    }

    pub fn http2(self) -> Self {
        Self { http2: true, ..self }
    }
}

impl Answers {
    pub fn status(&self, status: u16) -> u32 {
        self.by_status.get(&status).copied().unwrap_or(0)
    }

    pub fn of(&self, backend: &str) -> u32 {
        self.by_backend.get(backend).copied().unwrap_or(0)
    }

    pub fn flag(&self, flag: &str) -> u32 {
        self.by_flag.get(flag).copied().unwrap_or(0)
    }

    /// Without an answer.
    pub fn lost(&self) -> u32 {
        self.failed.values().sum()
    }
}

/// The byte at this place of a body with `x-pieces`, of 100 bytes each.
pub fn piece(at: u64) -> u8 {
    b'a' + u8::try_from(at / 100 % 26).unwrap_or_default()
}

impl Pod {
    /// `mesh-test-app http` on `port`, named as the pod is.
    pub fn http(&self, port: u16) -> Result<Arc<Process>> {
        let options = ["http", "--port", &port.to_string(), "--name", &self.name].map(str::to_owned);
        let process = self.keep(&format!("http-{port}"), &config::built("mesh-test-app")?, &options)?;
        process.listens(port)?;
        Ok(process)
    }

    /// The same, and HTTP/2 alone: it sends its settings first.
    pub fn only_http2(&self, port: u16) -> Result<Arc<Process>> {
        let options = ["http", "--http2", "--port", &port.to_string(), "--name", &self.name].map(str::to_owned);
        let process = self.keep(&format!("http2-{port}"), &config::built("mesh-test-app")?, &options)?;
        process.listens(port)?;
        Ok(process)
    }

    /// The same over TLS, with a certificate of its own making.
    pub fn https(&self, port: u16) -> Result<Arc<Process>> {
        let options = ["http", "--tls", "--port", &port.to_string(), "--name", &self.name].map(str::to_owned);
        let process = self.keep(&format!("https-{port}"), &config::built("mesh-test-app")?, &options)?;
        process.listens(port)?;
        Ok(process)
    }

    /// What curl prints for the host of this name over TLS, whoever it is that answers there.
    pub fn curl_tls(&self, name: &str, at: SocketAddr) -> Result<String> {
        let (port, ip) = (at.port(), at.ip());
        let resolve = format!("{name}:{port}:{ip}");
        let url = format!("https://{name}:{port}/");
        let options = ["--silent", "--show-error", "--insecure", "--max-time", "5", "--resolve", &resolve, &url];
        let options = options.map(str::to_owned);
        let output = self.output(&config::installed("curl")?, &options, Duration::from_secs(10))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}", errors.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// How often the server on that port of this pod was asked for each path; asked in the pod itself.
    pub fn asked(&self, port: u16) -> Result<BTreeMap<String, u64>> {
        let answers = self.ask_http(&Ask::at(SocketAddr::from(([127, 0, 0, 1], port)), "self").path("/_asked"))?;
        let first = answers.first.first().with_context(|| format!("no answer: {answers:?}"))?;
        serde_json::from_value(first.seen.clone()).context("not counts")
    }

    /// From now on the server on that port answers so; 0: as requests say.
    pub fn answer_with(&self, port: u16, status: u16) -> Result<()> {
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        let answers = self.ask_http(&Ask::at(to, "self").path(&format!("/_status/{status}")))?;
        ensure!(answers.status(200) == 1, "{answers:?}");
        Ok(())
    }
}

impl Place {
    /// Sends requests and waits for all answers.
    pub fn ask_http(&self, ask: &Ask) -> Result<Answers> {
        let plan = serde_json::to_string(ask).context("write the plan")?;
        let options = ["ask".to_owned(), "--plan".to_owned(), plan];
        // Many take their time where programs are not optimised and others want the CPU too.
        let limit = Duration::from_secs(30) + Duration::from_millis(5) * ask.count;
        let output = self.output(&config::built("mesh-test-app")?, &options, limit)?;
        let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "ask: {}: {}", output.status, errors.trim());
        serde_json::from_str(&text).with_context(|| format!("not a report: {text}"))
    }
}

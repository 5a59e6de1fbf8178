//! A browser without a window: Debian's Chromium, driven by its DevTools protocol as a person drives it by hand. What
//! its console complains about is kept.

use std::{fs, net::TcpStream as StdStream, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, runtime::Runtime, time::timeout};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use crate::{Patience, Place, Process, config, inside};

/// For one command of the protocol.
const LIMIT: Duration = Duration::from_secs(15);

/// One window. Dropping it ends the browser.
#[derive(Debug)]
pub struct Browser {
    process: Arc<Process>,
    runtime: Runtime,
    socket: WebSocketStream<TcpStream>,
    session: String,
    next: u64,
    complaints: Vec<String>,
}

impl Browser {
    /// In a network namespace of a world, with its files in a folder of its own.
    pub(crate) fn start(place: &Place, namespace: &str, folder: &Path) -> Result<Self> {
        let process = Arc::new(place.start("chromium", &config::installed("chromium")?, &arguments(folder))?);
        place.crew.join(&process);
        Self::of(process, folder, |port| {
            inside(namespace, || StdStream::connect(("127.0.0.1", port)))?.context("connect to the browser")
        })
    }

    fn of(process: Arc<Process>, folder: &Path, connect: impl Fn(u16) -> Result<StdStream>) -> Result<Self> {
        let told = folder.join("DevToolsActivePort");
        // It is 300 MB that nobody read before: from a disk that is slow or busy its first start takes 15 s.
        let patience = Patience::LONG.within(Duration::from_secs(25));
        let (port, path) = process.alive_until(format_args!("{} is there", told.display()), patience, || {
            let Ok(text) = fs::read_to_string(&told) else { return Ok(None) };
            let lines = text.split_once('\n').map(|(port, path)| (port.to_owned(), path.trim().to_owned()));
            Ok(lines.filter(|(_, path)| !path.is_empty()))
        })?;
        let port: u16 = port.parse().with_context(|| format!("{}: {port:?}", told.display()))?;
        let stream = connect(port)?;
        stream.set_nonblocking(true).context("the browser's socket")?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
        let socket = runtime.block_on(async {
            let stream = TcpStream::from_std(stream)?;
            let (socket, _) = client_async(format!("ws://127.0.0.1:{port}{path}"), stream).await?;
            anyhow::Ok(socket)
        })?;
        let (session, complaints) = (String::new(), Vec::new());
        let mut browser = Self { process, runtime, socket, session, next: 0, complaints };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }))?;
        let attached =
            browser.call("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true }))?;
        browser.session = attached["sessionId"].as_str().context("no session")?.to_owned();
        for part in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.call(part, json!({}))?;
        }
        Ok(browser)
    }

    /// Does not wait for what the page does by itself.
    pub fn open(&mut self, url: &str) -> Result<()> {
        let answer = self.call("Page.navigate", json!({ "url": url }))?;
        ensure!(answer["errorText"].is_null(), "{url}: {}", answer["errorText"]);
        Ok(())
    }

    /// Light or dark, as the system's settings would have it.
    pub fn prefer(&mut self, scheme: &str) -> Result<()> {
        let feature = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", feature).map(drop)
    }

    pub fn resize(&mut self, width: u32, height: u32) -> Result<()> {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", metrics).map(drop)
    }

    /// Runs this in every page that is opened from now on, before the page's own.
    pub fn before_pages(&mut self, script: &str) -> Result<()> {
        self.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script })).map(drop)
    }

    /// The value of an expression of JavaScript.
    pub fn value(&mut self, expression: &str) -> Result<Value> {
        let asked = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", asked)?;
        ensure!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        Ok(answer["result"]["value"].clone())
    }

    /// Waits until an expression is true.
    pub fn until(&mut self, expression: &str) -> Result<()> {
        let start = std::time::Instant::now();
        while self.value(expression)? != true {
            if start.elapsed() > LIMIT * config::patience() {
                let page = self.value("document.body.innerText")?;
                bail!("not true: {expression}; complaints {:?}; the page: {page}", self.complaints);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until the page shows this text.
    pub fn shows(&mut self, text: &str) -> Result<()> {
        self.until(&format!("document.getElementById('main')?.innerText.includes({})", Value::from(text)))
    }

    /// Waits for the first element that the selector finds with this text in it, and clicks on it.
    pub fn click(&mut self, selector: &str, text: &str) -> Result<()> {
        let (selector, text) = (Value::from(selector), Value::from(text));
        self.until(&format!(
            "(() => {{ const found = [...document.querySelectorAll({selector})].find((one) => \
             one.innerText.includes({text})); found?.click(); return !!found; }})()"
        ))
    }

    pub fn screenshot(&mut self, file: &Path) -> Result<()> {
        let answer = self.call("Page.captureScreenshot", json!({ "format": "png" }))?;
        let picture = STANDARD.decode(answer["data"].as_str().context("no picture")?).context("the picture")?;
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        fs::write(file, picture).with_context(|| format!("write {}", file.display()))
    }

    /// Errors and warnings of its console since this was asked last.
    pub fn complaints(&mut self) -> Result<Vec<String>> {
        // Whatever was said before comes before the answer.
        self.value("0")?;
        Ok(std::mem::take(&mut self.complaints))
    }

    fn call(&mut self, method: &str, params: Value) -> Result<Value> {
        self.next += 1;
        let id = self.next;
        let mut asked = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            asked["sessionId"] = self.session.as_str().into();
        }
        let (socket, complaints) = (&mut self.socket, &mut self.complaints);
        let conversation = async {
            socket.send(Message::text(asked.to_string())).await?;
            loop {
                let message = socket.next().await.context("the browser is gone")??;
                let Message::Text(text) = message else { continue };
                let said: Value = serde_json::from_str(&text).context("the browser does not speak JSON")?;
                if said["id"] == id {
                    return anyhow::Ok(said);
                }
                complaints.extend(complaint(&said));
            }
        };
        let limit = LIMIT * config::patience();
        let answer = self.runtime.block_on(async { timeout(limit, conversation).await });
        let answer = answer.with_context(|| format!("{method}: no answer"))??;
        ensure!(answer["error"].is_null(), "{method}: {}", answer["error"]);
        Ok(answer["result"].clone())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // In order, so that its helpers go with it. What does not end is killed with its cgroup.
        let _ = self.process.terminate(Patience::SHORT);
    }
}

fn arguments(folder: &Path) -> Vec<String> {
    let fixed = [
        "--headless=new",
        "--remote-debugging-port=0",
        "--window-size=1440,900",
        // It runs as root, in a namespace that the test made.
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-breakpad",
        "--password-store=basic",
        "about:blank",
    ];
    let mut all: Vec<String> = vec![format!("--user-data-dir={}", folder.display())];
    all.extend(fixed.map(str::to_owned));
    all
}

/// What a developer would see in red or yellow.
fn complaint(said: &Value) -> Option<String> {
    let params = &said["params"];
    match said["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(params["exceptionDetails"].to_string()),
        "Log.entryAdded" => {
            let entry = &params["entry"];
            let bad = matches!(entry["level"].as_str(), Some("error" | "warning"));
            bad.then(|| format!("{} {}", entry["text"], entry["url"]))
        }
        "Runtime.consoleAPICalled" => {
            let bad = matches!(params["type"].as_str(), Some("error" | "warning" | "assert"));
            bad.then(|| params["args"].to_string())
        }
        _ => None,
    }
}

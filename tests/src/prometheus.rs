//! A real Prometheus that scrapes agents and controller, and promtool, its checker.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Patience, Place, Process, config, eventually};

/// At which it answers, in the network that it runs in.
const ADDRESS: &str = "127.0.0.1:9090";

/// The programs; `None` on a machine without them, unless `CI` says that everything must run.
#[derive(Clone, Debug)]
pub struct Programs {
    pub prometheus: PathBuf,
    pub promtool: PathBuf,
}

/// A running Prometheus. It ends when this is dropped.
#[derive(Debug)]
pub struct Prometheus {
    place: Place,
    pub process: Arc<Process>,
}

/// One series of an answer: its labels, and its value now.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Programs {
    pub fn find() -> Result<Option<Self>> {
        Ok(config::prometheus_programs()?.map(|[prometheus, promtool]| Self { prometheus, promtool }))
    }

    /// What `promtool check metrics` finds in a text of metrics, line by line.
    ///
    /// # Errors
    /// Prometheus could not read it.
    pub fn findings(&self, text: &str) -> Result<Vec<String>> {
        let mut command = Command::new(&self.promtool);
        command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start promtool")?;
        let mut input = child.stdin.take().context("promtool takes nothing")?;
        input.write_all(text.as_bytes()).context("tell promtool")?;
        drop(input);
        let output = child.wait_with_output().context("wait for promtool")?;
        let said = [&output.stdout[..], &output.stderr[..]].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let said = said.concat();
        // 3: it was read, and something was found.
        ensure!(matches!(output.status.code(), Some(0 | 3)), "promtool: {}: {said}", output.status);
        Ok(said.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect())
    }
}

impl Prometheus {
    /// Ready when this returns. `configuration` is its file; others may lie beside it in `folder`.
    pub fn start(programs: &Programs, place: &Place, folder: &Path, configuration: &str) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let file = folder.join("prometheus.yml");
        fs::write(&file, configuration).with_context(|| format!("write {}", file.display()))?;
        let arguments = [
            format!("--config.file={}", file.display()),
            format!("--storage.tsdb.path={}", folder.join("data").display()),
            format!("--web.listen-address={ADDRESS}"),
            "--log.level=warn".to_owned(),
        ];
        let process = Arc::new(place.start("prometheus", &programs.prometheus, &arguments)?);
        place.crew.join(&process);
        let prometheus = Self { place: place.clone(), process };
        eventually("Prometheus is ready", Patience::LONG, || {
            Ok(prometheus.place.curl(&format!("http://{ADDRESS}/-/ready"))?.contains("Ready").then_some(()))
        })?;
        Ok(prometheus)
    }

    /// What the expression is now.
    pub fn query(&self, expression: &str) -> Result<Vec<Sample>> {
        let answer = self.ask("query", &["--get", "--data-urlencode", &format!("query={expression}")])?;
        let found = answer["data"]["result"].as_array().with_context(|| format!("{expression}: {answer}"))?;
        found.iter().map(Sample::of).collect()
    }

    /// The alerts that fire, with their labels and annotations.
    pub fn firing(&self) -> Result<BTreeMap<String, Vec<Value>>> {
        let answer = self.ask("alerts", &[])?;
        let all = answer["data"]["alerts"].as_array().with_context(|| format!("alerts: {answer}"))?;
        let mut firing: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for alert in all.iter().filter(|alert| alert["state"] == "firing") {
            let name = alert["labels"]["alertname"].as_str().unwrap_or_default();
            firing.entry(name.to_owned()).or_default().push(alert.clone());
        }
        Ok(firing)
    }

    fn ask(&self, what: &str, options: &[&str]) -> Result<Value> {
        let text = self.place.curl_with(options, &format!("http://{ADDRESS}/api/v1/{what}"))?;
        let answer: Value = serde_json::from_str(&text).with_context(|| format!("{what}: {text}"))?;
        ensure!(answer["status"] == "success", "{what}: {text}");
        Ok(answer)
    }
}

impl Sample {
    fn of(value: &Value) -> Result<Self> {
        let labels = serde_json::from_value(value["metric"].clone()).context("labels of a sample")?;
        let value = value["value"][1].as_str().context("a sample without value")?.parse().context("no number")?;
        Ok(Self { labels, value })
    }
}

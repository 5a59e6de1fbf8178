//! The access log: a line for each connection and each request that is to have one, as text or JSON. Where nobody said
//! more, only what was refused or failed has one, in the agent's own log, 50 a second at most.
//!
//! Who hands over a record never waits: a thread of its own writes. What finds no room is counted. A line is ASCII,
//! whatever its clients sent.

mod condition;
pub mod line;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use mesh_common::model::{
    telemetry::{AccessLog as Said, Collector},
    traffic::Percent,
};

use super::{
    flow::{Direction, Flow},
    otlp::{Exporter, LAST},
};
use condition::holds;
use writer::{Line, Writer};

/// Of refused and failed ones, in the agent's own log, where nobody asked for an access log.
const LINES_A_SECOND: u32 = 50;

/// Of one agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub told: Told,
    pub format: Format,
    /// Of what `told` says, where no pod's setting says another share.
    pub sampled: Percent,
    /// Lines go to the agent's collector too.
    pub otlp: bool,
}

/// Which records have a line where no pod's setting says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Nothing,
    /// What was refused or failed, in the agent's own log.
    Refusals,
    /// What was refused, failed, or answered with 4xx or 5xx.
    Errors,
    All,
}

/// Of lines on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Text,
}

/// Where records are handed to. `Default`: nothing is written.
#[derive(Clone, Debug, Default)]
pub struct AccessLog(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    writer: Writer,
    exporter: Exporter,
    /// The second, and the lines of refusals in it.
    refusals: AtomicU64,
}

impl AccessLog {
    /// Writes to standard output and the agent's own log.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn new(settings: Settings, exporter: Exporter) -> std::io::Result<Self> {
        Self::writing(settings, exporter, std::io::stdout())
    }

    /// The same, with lines to `out`.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn writing(settings: Settings, exporter: Exporter, out: impl Write + Send + 'static) -> std::io::Result<Self> {
        Ok(Self::to(settings, exporter, Writer::new(settings.format, out)?))
    }

    fn to(settings: Settings, exporter: Exporter, writer: Writer) -> Self {
        Self(Some(Arc::new(Inner { settings, writer, exporter, refusals: AtomicU64::new(0) })))
    }

    /// Neither waits nor copies.
    pub fn ended(&self, flow: &Arc<Flow>) {
        let Some(inner) = &self.0 else { return };
        let Settings { told, sampled, otlp, .. } = inner.settings;
        let said = flow.told.as_deref().and_then(|pod| match flow.direction {
            Direction::Outbound => pod.telemetry.logged_client.as_ref(),
            Direction::Inbound => pod.telemetry.logged_server.as_ref(),
        });
        // Of what nobody else tells of, the other end's setting counts too; one line is enough for both.
        let there = flow.told_there.as_deref().and_then(|pod| pod.telemetry.logged_server.as_ref());
        let drawn = |share: Percent| share == Percent::ALL || share.has(fastrand::u32(..));
        for said in [said, there].into_iter().flatten() {
            if let Said::On { only, sampled, collector } = said
                && only.iter().all(|condition| holds(condition, flow))
                && drawn(sampled.unwrap_or(Percent::ALL))
            {
                return inner.line(flow, collector.as_ref(), otlp);
            }
        }
        match (said, told) {
            (Some(_), _) | (None, Told::Nothing) => {}
            (None, Told::Refusals) => {
                if flow.verdict.is_bad() {
                    inner.refused(flow);
                    if otlp {
                        inner.exporter.take(None, flow);
                    }
                }
            }
            (None, Told::Errors) if !condition::is_error(flow) => {}
            (None, Told::Errors | Told::All) => {
                if drawn(sampled) {
                    inner.line(flow, None, otlp);
                }
            }
        }
    }

    /// Writes and sends what waits, if that takes no longer than [`LAST`].
    pub async fn end(&self) {
        if let Some(inner) = &self.0 {
            let of = Arc::clone(inner);
            let written = tokio::task::spawn_blocking(move || of.writer.end(LAST));
            inner.exporter.end(LAST).await;
            let _ = written.await;
        }
    }
}

impl Inner {
    fn line(&self, flow: &Arc<Flow>, collector: Option<&Collector>, otlp: bool) {
        self.writer.write(Line::Access(Arc::clone(flow)));
        if otlp || collector.is_some() {
            self.exporter.take(collector, flow);
        }
    }

    /// A pod that dials in a loop must not fill the node's disk; all of them are recorded.
    fn refused(&self, flow: &Arc<Flow>) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let second = since.as_secs() << 32;
        let count = |before: u64| if before & !0xffff_ffff == second { before.saturating_add(1) } else { second | 1 };
        let before = self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| Some(count(before)));
        let lines = before.map_or(1, count) as u32;
        match lines.cmp(&LINES_A_SECOND) {
            std::cmp::Ordering::Less => self.writer.write(Line::Refusal(Arc::clone(flow))),
            std::cmp::Ordering::Equal => self.writer.write(Line::MoreRefusals),
            std::cmp::Ordering::Greater => {}
        }
    }
}

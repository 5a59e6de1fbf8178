//! What waits for one collector, and the task that sends it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    Settings, Signal, Tally, Target,
    deliver::{Delivery, Message},
    logs,
    outcome::Outcome,
    spans,
};
use crate::telemetry::flow::Flow;

/// Records in one message.
const BATCH: usize = 512;
/// How long a record waits for others.
const LINGER: Duration = Duration::from_secs(1);
/// A queue without records for this long ends, and its connection with it.
const IDLE: Duration = Duration::from_secs(600);
/// Bytes of one message; collectors take 4 MiB if nobody told them otherwise.
const LARGEST: usize = 3 << 20;
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);

pub struct Lane {
    signal: Signal,
    target: Target,
    settings: Settings,
    tally: Arc<Tally>,
    queue: Mutex<Queue>,
    /// A batch is there, or it ends.
    news: Notify,
}

#[derive(Default)]
struct Queue {
    records: VecDeque<Arc<Flow>>,
    ending: bool,
    /// Nobody takes from it any more.
    closed: bool,
}

impl Lane {
    pub fn new(signal: Signal, target: Target, settings: Settings, tally: Arc<Tally>) -> Self {
        Self { signal, target, settings, tally, queue: Mutex::default(), news: Notify::new() }
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// `false`: nobody takes from it any more.
    pub fn push(&self, flow: &Arc<Flow>) -> bool {
        let mut queue = self.queue();
        if queue.closed {
            return false;
        }
        if queue.records.len() >= self.settings.queue {
            drop(queue);
            self.tally.lost("full", 1);
            return true;
        }
        queue.records.push_back(Arc::clone(flow));
        // One wake-up a batch; fewer wait for the clock.
        if queue.records.len().is_multiple_of(BATCH) {
            self.news.notify_one();
        }
        true
    }

    /// Sends what is there, and no more.
    pub fn end(&self) {
        self.queue().ending = true;
        self.news.notify_one();
    }

    /// Until it is told to end, or nothing has come for [`IDLE`].
    pub async fn run(self: Arc<Self>) {
        let mut delivery = Delivery::new(self.target.clone(), &self.settings);
        let mut failing = false;
        let mut last = Instant::now();
        loop {
            let _ = tokio::time::timeout(LINGER, self.news.notified()).await;
            loop {
                let (batch, ending) = self.next();
                if batch.is_empty() {
                    if ending || last.elapsed() > IDLE && self.close() {
                        return;
                    }
                    break;
                }
                last = Instant::now();
                let full = batch.len() == BATCH;
                self.deliver(&mut delivery, batch, &mut failing).await;
                if !full && !ending {
                    break;
                }
            }
        }
    }

    fn next(&self) -> (Vec<Arc<Flow>>, bool) {
        let mut queue = self.queue();
        let records = queue.records.len().min(BATCH);
        (queue.records.drain(..records).collect(), queue.ending)
    }

    /// Unless something has come.
    fn close(&self) -> bool {
        let mut queue = self.queue();
        queue.closed = queue.records.is_empty();
        queue.closed
    }

    /// In as many messages as it needs.
    async fn deliver(&self, delivery: &mut Delivery, batch: Vec<Arc<Flow>>, failing: &mut bool) {
        let mut parts = vec![batch];
        while let Some(mut part) = parts.pop() {
            let message = self.message(&part);
            if message.len() > LARGEST && part.len() > 1 {
                let rest = part.split_off(part.len() / 2);
                parts.extend([rest, part]);
                continue;
            }
            self.send(delivery, &message, part.len() as u64, failing).await;
        }
    }

    fn message(&self, records: &[Arc<Flow>]) -> Message {
        match self.signal {
            Signal::Spans => Message::Spans(spans::message(records, &self.settings)),
            Signal::Logs => Message::Logs(logs::message(records, &self.settings)),
        }
    }

    /// Until it is taken or refused, or [`Settings::patience`] is over.
    async fn send(&self, delivery: &mut Delivery, message: &Message, records: u64, failing: &mut bool) {
        let until = Instant::now() + self.settings.patience;
        let mut step = FIRST;
        loop {
            let (after, why) = match delivery.send(message).await {
                Outcome::Taken { rejected, why } => {
                    let rejected = rejected.min(records);
                    self.tally.sent(records - rejected);
                    self.tally.lost("rejected", rejected);
                    if rejected > 0 {
                        tracing::warn!(collector = %self.target, rejected, ?why, "the collector takes not all");
                    } else if std::mem::take(failing) {
                        tracing::info!(collector = %self.target, "the collector takes again what is sent");
                    }
                    return;
                }
                Outcome::Refused { why } => {
                    self.tally.lost("refused", records);
                    tracing::warn!(collector = %self.target, records, ?why, "the collector refuses what is sent");
                    return;
                }
                Outcome::Later { after, why } => (after, why),
            };
            if !std::mem::replace(failing, true) {
                tracing::warn!(collector = %self.target, ?why, "the collector takes nothing; it is tried again");
            }
            // Some jitter, so that the agents of a cluster do not come back in step.
            let wait = after.unwrap_or_else(|| step.mul_f64(0.5 + fastrand::f64() / 2.0));
            step = (step * 2).min(LONGEST);
            if Instant::now() + wait > until {
                self.tally.lost("unavailable", records);
                return;
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Nothing that holds it can panic half way through a change.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The thread that writes lines, so that nobody else waits for who reads them.

use std::{
    io::{self, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use super::{Format, line};
use crate::telemetry::flow::Flow;

/// Lines that may wait, beside those that are being written. Each holds a record of 11 KiB at most, which it mostly
/// shares with those that are kept for `meshctl flows`.
pub const WAITING: usize = 8192;
/// A line waits this long for others, so that a busy node has 20 writes a second and not one a line.
const LINGER: Duration = Duration::from_millis(50);
/// Lines that wait no longer.
const ENOUGH: usize = 1024;
/// Bytes of one write.
const BUFFER: usize = 256 << 10;

/// What is to be written.
#[derive(Clone, Debug)]
pub enum Line {
    /// To the access log.
    Access(Arc<Flow>),
    /// To the agent's own log.
    Refusal(Arc<Flow>),
    MoreRefusals,
}

#[derive(Clone, Debug)]
pub struct Writer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    news: Condvar,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<Line>,
    end: bool,
    has_ended: bool,
}

impl Writer {
    /// # Errors
    /// If there can be no thread.
    pub fn new(format: Format, out: impl Write + Send + 'static) -> io::Result<Self> {
        let (state, news, ended) = Default::default();
        let shared = Arc::new(Shared { state, news, ended });
        let of = Arc::clone(&shared);
        thread::Builder::new().name("access-log".to_owned()).spawn(move || of.run(format, out))?;
        Ok(Self(shared))
    }

    /// Never waits for what is written.
    pub fn write(&self, line: Line) {
        let mut state = self.0.lock();
        if state.lines.len() >= WAITING || state.has_ended {
            drop(state);
            return lost(if matches!(line, Line::Access(_)) { "stdout" } else { "log" }, "full", 1);
        }
        state.lines.push(line);
        let waiting = state.lines.len();
        drop(state);
        // The first one wakes the thread, which then waits for more.
        if waiting == 1 || waiting == ENOUGH {
            self.0.news.notify_one();
        }
    }

    /// Writes what waits, if that takes no longer than this.
    pub fn end(&self, patience: Duration) {
        let mut state = self.0.lock();
        state.end = true;
        self.0.news.notify_one();
        let waited = self.0.ended.wait_timeout_while(state, patience, |state| !state.has_ended);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Shared {
    /// Nothing that holds it can panic half way through a change.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, format: Format, mut out: impl Write) {
        let mut buffer = String::with_capacity(BUFFER);
        // What could not be written whole may have left half a line.
        let mut broken = false;
        loop {
            let (lines, end) = self.next();
            let mut pending = 0;
            for line in &lines {
                match line {
                    Line::Access(flow) => {
                        match format {
                            Format::Json => line::json(flow, &mut buffer),
                            Format::Text => line::plain(flow, &mut buffer),
                        }
                        buffer.push('\n');
                        pending += 1;
                    }
                    Line::Refusal(flow) => tracing::info!(target: "access", "{}", line::text(flow)),
                    Line::MoreRefusals => {
                        tracing::info!(target: "access", "more refusals in this second are recorded and not logged");
                    }
                }
                if buffer.len() >= BUFFER / 2 {
                    put(&mut out, &mut buffer, &mut pending, &mut broken);
                }
            }
            put(&mut out, &mut buffer, &mut pending, &mut broken);
            if end && lines.is_empty() {
                break;
            }
        }
        self.lock().has_ended = true;
        self.ended.notify_all();
    }

    /// Waits until there is something, and a little more for what comes with it.
    fn next(&self) -> (Vec<Line>, bool) {
        let state = self.news.wait_while(self.lock(), |state| state.lines.is_empty() && !state.end);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        let few = |state: &mut State| state.lines.len() < ENOUGH && !state.end;
        let waited = self.news.wait_timeout_while(state, LINGER, few);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        (mem::take(&mut state.lines), state.end)
    }
}

/// Whole lines at once; other lines on the same output come before or after.
fn put(out: &mut impl Write, buffer: &mut String, lines: &mut u64, broken: &mut bool) {
    if buffer.is_empty() {
        return;
    }
    if *broken {
        buffer.insert(0, '\n');
    }
    let written = out.write_all(buffer.as_bytes()).and_then(|()| out.flush());
    let failed = written.is_err();
    match written {
        Ok(()) => metrics::counter!("mesh_access_log_written_total", "to" => "stdout").increment(*lines),
        Err(error) => {
            lost("stdout", "failed", *lines);
            if !*broken {
                tracing::error!(%error, "the access log cannot be written; what is not written is counted");
            }
        }
    }
    *broken = failed;
    buffer.clear();
    *lines = 0;
}

fn lost(to: &'static str, why: &'static str, lines: u64) {
    metrics::counter!("mesh_access_log_lost_total", "to" => to, "why" => why).increment(lines);
}

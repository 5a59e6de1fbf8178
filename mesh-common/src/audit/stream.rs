//! Who has something to say says it here and goes on; a thread of its own writes it.

use std::{
    fmt, io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use super::{Bounds, Kind, Pending, Record, Sink};

/// After a place could not be written to.
const AGAIN: Duration = Duration::from_secs(1);

/// Where to say it; clones are the same one. Without a writer it takes everything and keeps nothing.
#[derive(Clone, Debug, Default)]
pub struct Stream(Option<Arc<Shared>>);

/// What is counted of it.
#[derive(Clone, Copy, Debug)]
pub struct Counting {
    /// Events that were written.
    pub written: fn(Kind, u64),
    /// Events that were not.
    pub lost: fn(u64),
    /// Why, if it was not only too many.
    pub failed: fn(&io::Error),
}

/// Whose stream it is.
#[derive(Clone, Debug)]
pub struct Writer {
    pub program: String,
    pub instance: String,
    pub counting: Counting,
}

struct Shared {
    writer: Writer,
    state: Mutex<State>,
    /// There is something to write, or it ends.
    news: Condvar,
    ended: Condvar,
}

struct State {
    pending: Pending,
    end: bool,
    has_ended: bool,
}

impl Stream {
    /// One that writes to `sink` from now on; `None`: to nowhere.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn to(sink: Option<Sink>, writer: Writer, bounds: Bounds) -> io::Result<Self> {
        let Some(sink) = sink else { return Ok(Self::default()) };
        let state = State { pending: Pending::new(bounds), end: false, has_ended: false };
        let (news, ended) = Default::default();
        let shared = Arc::new(Shared { writer, state: Mutex::new(state), news, ended });
        let of = Arc::clone(&shared);
        thread::Builder::new().name("audit".to_owned()).spawn(move || of.write(sink))?;
        Ok(Self(Some(shared)))
    }

    /// Somebody reads what is said.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Never waits for what is written.
    pub fn tell(&self, mut record: Record) {
        let Some(shared) = &self.0 else { return };
        record.program.clone_from(&shared.writer.program);
        record.instance.clone_from(&shared.writer.instance);
        let lost = {
            let mut state = shared.lock();
            let lost = state.pending.tell(record, Instant::now());
            shared.news.notify_one();
            lost
        };
        shared.lose(lost);
    }

    /// Writes all that was said, if that takes no longer than this; what is said later may not be written.
    pub fn end(&self, patience: Duration) {
        let Some(shared) = &self.0 else { return };
        let mut state = shared.lock();
        state.end = true;
        shared.news.notify_one();
        let waited = shared.ended.wait_timeout_while(state, patience, |state| !state.has_ended);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Shared {
    /// Nothing that holds it can panic half way through a change.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lose(&self, events: u64) {
        if events > 0 {
            (self.writer.counting.lost)(events);
        }
    }

    fn write(&self, mut sink: Sink) {
        loop {
            let (lines, end) = self.next();
            let Err(error) = self.put(&mut sink, &lines) else {
                if end && lines.is_empty() {
                    break;
                }
                continue;
            };
            (self.writer.counting.failed)(&error);
            let events = lines.iter().map(|line| line.count).sum();
            // A line about what is lost is about events that are counted already.
            let new = lines.iter().filter(|line| line.kind != Kind::Lost).map(|line| line.count).sum();
            self.lose(new);
            let mut state = self.lock();
            state.pending.not_written(events);
            if end {
                break;
            }
            let waited = self.news.wait_timeout_while(state, AGAIN, |state| !state.end);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
        self.lock().has_ended = true;
        self.ended.notify_all();
    }

    /// Waits until something is to be written.
    fn next(&self) -> (Vec<Record>, bool) {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let (due, end) = (state.pending.due(), state.end);
            if end || state.pending.has_lines() || due.is_some_and(|due| due <= now) {
                let (mut lines, lost) = state.pending.take(now, end);
                drop(state);
                self.lose(lost);
                for line in &mut lines {
                    if line.program.is_empty() {
                        line.program.clone_from(&self.writer.program);
                        line.instance.clone_from(&self.writer.instance);
                    }
                }
                if end || !lines.is_empty() {
                    return (lines, end);
                }
                state = self.lock();
                continue;
            }
            state = match due {
                Some(due) => {
                    let waited = self.news.wait_timeout(state, due - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.news.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn put(&self, sink: &mut Sink, lines: &[Record]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let text: Vec<u8> = lines.iter().flat_map(Record::line).collect();
        sink.write(&text)?;
        for line in lines.iter().filter(|line| line.kind != Kind::Lost) {
            (self.writer.counting.written)(line.kind, line.count);
        }
        Ok(())
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("writer", &self.writer).finish_non_exhaustive()
    }
}

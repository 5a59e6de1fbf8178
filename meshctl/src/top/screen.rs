//! The terminal, from the first picture to the last. However it ends (a key, an error, a panic, a signal that asks for
//! an end) the terminal is as it was before.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ratatui::{
    DefaultTerminal,
    buffer::Buffer,
    crossterm::event::{self, KeyEvent},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

/// How long the reader of keys looks at a time, and so at most outlives the terminal.
const LOOK: Duration = Duration::from_millis(50);

pub enum Event {
    Key(KeyEvent),
    Resized,
    /// By a signal, or the terminal is gone.
    Ended,
}

pub struct Terminal {
    terminal: DefaultTerminal,
    events: mpsc::Receiver<io::Result<event::Event>>,
    signals: [Signal; 3],
    done: Arc<AtomicBool>,
}

impl Terminal {
    /// # Errors
    /// If it is none.
    pub fn take() -> io::Result<Self> {
        // Before the terminal is another: a signal between the two would leave it so.
        let kinds = [SignalKind::terminate(), SignalKind::hangup(), SignalKind::interrupt()];
        let [terminate, hangup, interrupt] = kinds.map(signal);
        let signals = [terminate?, hangup?, interrupt?];
        // Sets a hook, too, that puts the terminal back before a panic is told.
        let terminal = ratatui::try_init()?;
        let done = Arc::new(AtomicBool::new(false));
        let (sender, events) = mpsc::channel(16);
        let is_done = Arc::clone(&done);
        std::thread::spawn(move || {
            while !is_done.load(Ordering::Relaxed) {
                let heard = match event::poll(LOOK) {
                    Ok(false) => continue,
                    Ok(true) => event::read(),
                    Err(error) => Err(error),
                };
                let failed = heard.is_err();
                if sender.blocking_send(heard).is_err() || failed {
                    return;
                }
            }
        });
        Ok(Self { terminal, events, signals, done })
    }

    pub fn draw(&mut self, draw: impl FnOnce(&mut Buffer)) -> io::Result<()> {
        self.terminal.draw(|frame| draw(frame.buffer_mut())).map(drop)
    }

    /// What happens next.
    pub async fn event(&mut self) -> io::Result<Event> {
        let [terminate, hangup, interrupt] = &mut self.signals;
        loop {
            let event = tokio::select! {
                event = self.events.recv() => event,
                _ = terminate.recv() => return Ok(Event::Ended),
                _ = hangup.recv() => return Ok(Event::Ended),
                _ = interrupt.recv() => return Ok(Event::Ended),
            };
            match event {
                None => return Ok(Event::Ended),
                Some(Err(error)) => return Err(error),
                Some(Ok(event::Event::Key(key))) => return Ok(Event::Key(key)),
                Some(Ok(event::Event::Resize(..))) => return Ok(Event::Resized),
                Some(Ok(_)) => {}
            }
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        ratatui::restore();
    }
}

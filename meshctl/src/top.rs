//! `meshctl top`: the sums of `meshctl stat`, live on a terminal. Elsewhere it prints them once. [`draw`] makes a
//! picture of a state and knows no terminal, so that the picture of a README is one of the same.

mod draw;
mod keys;
mod screen;
mod state;
mod svg;

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use ratatui::{buffer::Buffer, layout::Rect};
use tokio::time::Instant;

use crate::{
    Outcome,
    client::{Failure, Servers},
    output::{Namespaces, Screen},
    stat::{self, By},
    words,
};
use keys::Action;
use screen::{Event, Terminal};
use state::State;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Keys: 1 to 4 or tab: workloads, services, routes, edges; s: sort by the next column; /: only rows
with a text in their names; p: pause; up, down, page up, page down: move; q: quit.

Examples:
  meshctl top -n shop
  meshctl top edges --window 10s --every 1s
  meshctl top --snapshot top.svg --width 130 --height 20"
)]
pub struct Arguments {
    /// What to begin with
    #[arg(value_enum, default_value_t, ignore_case = true)]
    by: By,
    #[command(flatten)]
    namespaces: Namespaces,
    /// How far back the sums go
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = stat::window)]
    window: Duration,
    /// How often to ask
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = words::duration)]
    every: Duration,
    /// Write one picture to this file, as SVG, and end
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,
    /// With --snapshot: columns
    #[arg(long, default_value_t = 130, requires = "snapshot", value_parser = clap::value_parser!(u16).range(40..=400))]
    width: u16,
    /// With --snapshot: lines
    #[arg(long, default_value_t = 24, requires = "snapshot", value_parser = clap::value_parser!(u16).range(6..=200))]
    height: u16,
}

pub async fn run<W: Write>(
    servers: &Servers,
    arguments: &Arguments,
    screen: &mut Screen<W>,
) -> Result<Outcome, Failure> {
    let Arguments { by, namespaces, window, every, snapshot, width, height } = arguments;
    let mut state = State::new(*by, namespaces.wanted(), *window);
    if let Some(file) = snapshot {
        let (rows, complete) = stat::ask(servers, *by, namespaces.wanted(), *window).await;
        state.told(*by, rows, complete.as_ref().err().map(ToString::to_string));
        let mut picture = Buffer::empty(Rect::new(0, 0, *width, *height));
        draw::draw(&state, &mut picture);
        let written = std::fs::write(file, svg::of(&picture));
        written.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
        return complete.map(|()| Outcome::Fine);
    }
    if !screen.is_terminal() || !screen.format.is_text() {
        let (rows, complete) = stat::ask(servers, *by, namespaces.wanted(), *window).await;
        stat::shown::show(*by, &rows, screen)?;
        return complete.map(|()| Outcome::Fine);
    }
    live(servers, state, *every).await
}

/// Until somebody ends it.
async fn live(servers: &Servers, mut state: State, every: Duration) -> Result<Outcome, Failure> {
    let mut terminal = Terminal::take()?;
    let mut next = Instant::now();
    // `None`: it is not asked now.
    let mut asking = None;
    loop {
        terminal.draw(|picture| draw::draw(&state, picture))?;
        let by = state.by;
        if asking.is_none() && !state.paused && Instant::now() >= next {
            let question = stat::ask(servers, by, state.namespace.clone(), state.window);
            asking = Some((by, Box::pin(question)));
            next = Instant::now() + every;
        }
        let waits = asking.is_none() && !state.paused;
        let answer = async {
            match &mut asking {
                Some((by, question)) => (*by, question.await),
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            event = terminal.event() => event?,
            (by, (rows, complete)) = answer => {
                state.told(by, rows, complete.err().map(|failure| failure.to_string()));
                asking = None;
                continue;
            }
            () = tokio::time::sleep_until(next), if waits => continue,
        };
        match event {
            Event::Key(key) => match keys::pressed(&mut state, key) {
                Action::Nothing => {}
                Action::Ask => {
                    asking = None;
                    next = Instant::now();
                }
                Action::Quit => return Ok(Outcome::Fine),
            },
            Event::Resized => {}
            Event::Ended => return Ok(Outcome::Fine),
        }
    }
}

#[cfg(test)]
mod tests;

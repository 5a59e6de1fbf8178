//! `cargo xtask demo`: the mesh on this machine in one screen. It joins pods, writes manifests and asks meshctl exactly
//! as a user does; the harness of the tests provides nodes and pods.

mod screen;
mod story;

use std::{process::Command, thread, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use screen::Screen;
use story::Story;

/// Builds everything, plays the demo, and with `keep` leaves it running until Ctrl-C. Whatever happens, nothing stays
/// behind. Needs root, for network namespaces and eBPF.
///
/// # Errors
///
/// A build that fails, a step of the demo that does not show what it should, or an interruption.
pub fn run(keep: bool) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("listen for signals")?;
    // Every wait of the harness ends with an error then, and the world is dropped in order.
    thread::spawn(move || signals.forever().for_each(|_| mesh_tests::interrupt()));

    let outcome = build().and_then(|()| play(keep));
    if mesh_tests::interrupted() && outcome.is_err() {
        bail!("interrupted; everything was removed");
    }
    outcome
}

fn build() -> Result<()> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.arg("build").current_dir(crate::root());
    for package in mesh_tests::BUILT {
        cargo.args(["--package", package]);
    }
    let status = cargo.status().context("run cargo build")?;
    ensure!(status.success(), "cargo build: {status}");
    Ok(())
}

fn play(keep: bool) -> Result<()> {
    let start = Instant::now();
    let screen = Screen::new();
    let mut story = Story::begin(&screen)?;
    story.before_joining()?;
    story.joining()?;
    story.policies()?;
    story.flows()?;
    screen.line("");
    if keep {
        story.what_to_try()?;
        while !mesh_tests::interrupted() {
            thread::park_timeout(std::time::Duration::from_millis(100));
        }
        screen.line("");
    }
    drop(story);
    ensure_clean()?;
    screen.note(&format!("everything removed again; {:.1} s in all", start.elapsed().as_secs_f64()));
    Ok(())
}

/// The demo's own claim: nothing is left.
fn ensure_clean() -> Result<()> {
    let own = format!("{}x", std::process::id());
    let left: Vec<_> = mesh_tests::leftovers()
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(&own)))
        .collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}

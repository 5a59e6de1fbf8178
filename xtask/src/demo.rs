//! `cargo xtask demo`: the mesh on this machine in one screen. It joins pods, writes manifests and asks meshctl exactly
//! as a user does; the harness of the tests provides nodes and pods.

mod screen;
mod story;

use std::{path::Path, thread, time::Instant};

use anyhow::{Context, Result, bail, ensure};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::setup::Ready;
use screen::Screen;
use story::Story;

/// Builds everything, plays the demo, and with `keep` leaves it running until Ctrl-C. Whatever happens, nothing stays
/// behind. Needs root, for network namespaces and eBPF.
///
/// # Errors
///
/// A build that fails, a step of the demo that does not show what it should, or an interruption.
pub fn run(ready: &Ready, root: &Path, keep: bool) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("listen for signals")?;
    // Every wait of the harness ends with an error then, and the world is dropped in order.
    thread::spawn(move || signals.forever().for_each(|_| mesh_tests::interrupt()));

    let outcome = build(ready, root).and_then(|()| play(keep));
    if mesh_tests::interrupted() && outcome.is_err() {
        bail!("interrupted; everything was removed");
    }
    outcome
}

/// Plays it without the screen's pauses, and keeps the dashboard and `meshctl top` as pictures.
///
/// # Errors
///
/// As [`run`]; or a picture is larger than a README should have.
pub fn picture(ready: &Ready, root: &Path) -> Result<()> {
    const LARGEST: u64 = 300 * 1000;
    build(ready, root)?;
    let screen = Screen::new();
    let mut story = Story::begin(&screen)?;
    story.before_joining()?;
    story.joining()?;
    story.policies()?;
    story.traffic()?;
    let files = ["docs/dashboard.png", "docs/top.svg"].map(|file| root.join(file));
    let [dashboard, top] = &files;
    story.picture_of_top(top)?;
    story.picture(dashboard)?;
    drop(story);
    for file in &files {
        let size = file.metadata().context("no picture")?.len();
        ensure!(size < LARGEST, "{} has {size} bytes", file.display());
        screen.note(&format!("{}: {} KiB", file.display(), size / 1024));
    }
    ensure_clean()
}

fn build(ready: &Ready, root: &Path) -> Result<()> {
    let mut cargo = ready.cargo(root);
    // As the tests build it: other packages would mean other features, and everything anew.
    cargo.args(["build", "--locked"]);
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

//! One guest: a machine that qemu emulates in software, as hardware virtualisation is nowhere to be counted on.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, ChildStdout, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{packages::Kernel, report::Report, transcript::Transcript};
use crate::shell;

/// Until the first process speaks; a boot takes seconds.
const BOOT_LIMIT: Duration = Duration::from_secs(150);
/// Some boots hang in emulation, and the next one does not.
const BOOTS: u32 = 2;
/// For everything; a guest that is still not done is ended.
const LIMIT: Duration = Duration::from_secs(45 * 60);
/// How often an interruption is looked for.
const LOOK: Duration = Duration::from_secs(1);
/// The kernel's last lines that are shown of a guest that ended or hung.
const LAST_LINES: usize = 15;

/// All that qemu can do without the host's help.
const MACHINE: &[&str] = &[
    "-nodefaults",
    "-no-user-config",
    "-no-reboot",
    "-display",
    "none",
    "-M",
    "q35",
    "-accel",
    "tcg,thread=multi,tb-size=512",
    "-cpu",
    "max",
    "-smp",
    "2",
    "-m",
    "2048",
];
/// The first serial line is for the guest's results.
const COMMAND_LINE: &str = "console=ttyS1 panic=-1 mitigations=off random.trust_cpu=on tsc=reliable";

/// A running emulator; it does not outlive this.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots `kernel` with the archive `initrd`, and gives what the guest found out. `log` is the file for what its kernel
/// says. A boot that hangs is tried once more.
///
/// # Errors
/// qemu does not start, no boot succeeds, or somebody interrupts before one did.
pub fn run(qemu: &Path, kernel: &Kernel, initrd: &Path, log: &Path) -> Result<Report> {
    for boot in 1..=BOOTS {
        match boot_once(qemu, kernel, initrd, log)? {
            Some(report) => return Ok(report),
            None => println!("kernels: {}: boot {boot} of {BOOTS} did not come up", kernel.release),
        }
    }
    bail!("{} does not boot; the kernel's last words:\n{}", kernel.release, last_words(log))
}

/// `None`: it did not come up.
fn boot_once(qemu: &Path, kernel: &Kernel, initrd: &Path, log: &Path) -> Result<Option<Report>> {
    // qemu appends.
    File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut command = shell::program(qemu);
    command.args(MACHINE).arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initrd);
    command.args(["-append", COMMAND_LINE, "-serial", "stdio", "-serial"]).arg(format!("file:{}", log.display()));
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start qemu")?;
    let mut machine = Machine(child);
    let lines = lines(machine.0.stdout.take().context("qemu has no output")?);

    let (start, mut transcript) = (Instant::now(), Transcript::default());
    let why = loop {
        let limit = if transcript.is_up { LIMIT } else { BOOT_LIMIT };
        if mesh_tests::interrupted() {
            break "interrupted".to_owned();
        }
        let Some(left) = limit.checked_sub(start.elapsed()) else {
            break format!("it took longer than {} s, and the machine was ended", limit.as_secs());
        };
        match lines.recv_timeout(left.min(LOOK)) {
            Ok(line) => {
                if let Some(news) = transcript.take(&line) {
                    println!("kernels: {} ({:.0} s): {news}", kernel.release, start.elapsed().as_secs_f64());
                }
                if transcript.is_done {
                    break String::new();
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break "the machine ended before it was done".to_owned(),
        }
    };
    if !transcript.is_up {
        ensure!(!mesh_tests::interrupted(), "interrupted");
        return Ok(None);
    }
    let why = if transcript.is_done { why } else { format!("{why}; the kernel's last words:\n{}", last_words(log)) };
    Ok(Some(transcript.end(&why)))
}

fn lines(output: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        // The firmware's greeting need not be text.
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    receiver
}

fn last_words(log: &Path) -> String {
    let log = fs::read(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log).into_owned();
    let lines: Vec<&str> = log.lines().map(str::trim_end).collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

//! etcd and a Kubernetes API server, started by the script `up.sh` of the folder that MESH_KUBE names. Knows nothing of
//! worlds: the controller's own tests share this file.

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// The API server's file with its process id; the other one is etcd's.
const API: &str = "api.pid";
const PIDS: [&str; 2] = [API, "etcd.pid"];
/// For up.sh, in seconds.
const LIMIT: &str = "40";
const PATIENCE: Duration = Duration::from_secs(20);
/// Ports of one test: API, etcd for clients and for peers, and one to spare.
const PORTS: u16 = 4;

/// Both programs. They are ended by [`KubeServer::end`] and not by dropping this.
#[derive(Debug)]
pub struct KubeServer {
    folder: PathBuf,
    port: u16,
    /// What is to stand before a program's name, so that it runs where it shall.
    prefix: Vec<OsString>,
    /// How the API server was called.
    line: Vec<OsString>,
    /// The API server, if it was started again.
    again: Mutex<Option<Child>>,
}

/// A test that cannot run is a failure: CI is set, and neither empty nor 0 nor false. The same as `cargo xtask` says.
fn must_run_all() -> bool {
    env::var_os("CI").is_some_and(|value| !matches!(value.to_str(), Some("" | "0" | "false")))
}

/// The folder with up.sh; `None`: there is none, which was said.
///
/// # Errors
/// There is none, and everything must run.
pub fn scripts() -> Result<Option<PathBuf>> {
    let folder = env::var_os("MESH_KUBE").filter(|path| !path.is_empty()).map(PathBuf::from);
    if folder.is_none() {
        let why = "MESH_KUBE does not name the folder with up.sh, which starts a Kubernetes API";
        ensure!(!must_run_all(), "{why}; with CI set nothing is skipped");
        eprintln!("not run: {why}");
    }
    Ok(folder)
}

/// Four ports in a row that nobody has now, on the host's loopback. Below those that the kernel gives to clients, and
/// other processes look for theirs elsewhere: nobody takes them between this look and their use.
pub fn free_ports() -> Result<u16> {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    for _ in 0..200 {
        let place = std::process::id().wrapping_add(TRIED.fetch_add(1, Ordering::Relaxed).wrapping_mul(997)) % 3_000;
        let first = 20_000 + u16::try_from(place)? * PORTS;
        if (first..first + PORTS).all(|port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            return Ok(first);
        }
    }
    bail!("no free ports")
}

impl KubeServer {
    /// Serving when this returns. `folder` is for its data, `port` the first of its three. `prefix` is put before each
    /// program, as in a call of `ip netns exec`.
    pub fn start(scripts: &Path, folder: &Path, port: u16, prefix: Vec<OsString>) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let mut server = Self { folder: folder.to_owned(), port, prefix, line: Vec::new(), again: Mutex::new(None) };
        let mut up = server.command("timeout");
        up.args([LIMIT, "bash"]).arg(scripts.join("up.sh")).arg(folder).env("PORT", port.to_string());
        let up = up.stdin(Stdio::null()).output().context("start up.sh")?;
        if let Err(error) = succeeded(&up).and_then(|()| server.read_line()) {
            server.end();
            return Err(error.context("up.sh"));
        }
        Ok(server)
    }

    fn read_line(&mut self) -> Result<()> {
        let path = format!("/proc/{}/cmdline", self.pid()?);
        let line = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        self.line = line.trim_end_matches('\0').split('\0').map(OsString::from).collect();
        Ok(())
    }

    /// The file by which clients find it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// The API server's process.
    pub fn pid(&self) -> Result<i32> {
        let file = self.folder.join(API);
        let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        text.trim().parse().with_context(|| format!("read {}", file.display()))
    }

    /// Stops the API server in its tracks (SIGSTOP), or lets it go on: connections to it stay and are not answered.
    pub fn hold_still(&self, still: bool) -> Result<()> {
        signal(self.pid()?, if still { Signal::STOP } else { Signal::CONT })
    }

    /// SIGKILL to the API server, which is gone when this returns. Its store stays.
    pub fn kill(&self) -> Result<()> {
        let pid = self.pid()?;
        signal(pid, Signal::KILL)?;
        if let Some(mut child) = self.again().take() {
            child.wait().context("wait for the API server")?;
        }
        within(&format!("process {pid} is gone"), || Ok(is_gone(pid)))
    }

    /// Starts it again after [`KubeServer::kill`], as it was; it answers when this returns.
    pub fn start_again(&self) -> Result<()> {
        let [program, options @ ..] = self.line.as_slice() else { bail!("it never ran") };
        let log = self.folder.join("api.log");
        let log = File::options().append(true).open(&log).with_context(|| format!("open {}", log.display()))?;
        let mut command = self.command(program);
        command.args(options).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("start the API server")?;
        fs::write(self.folder.join(API), child.id().to_string()).context("write its process id")?;
        *self.again() = Some(child);
        within("the API server is ready", || {
            let mut ask = self.command("curl");
            ask.args(["-sk", "--max-time", "2", "-H", "Authorization: Bearer t"]);
            let answer = ask.arg(format!("https://127.0.0.1:{}/readyz", self.port)).output().context("start curl")?;
            Ok(answer.stdout == b"ok")
        })
    }

    /// Ends both programs. What is gone already is gone.
    pub fn end(&self) {
        for file in PIDS.map(|name| self.folder.join(name)) {
            let pid = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
            // Without its file nobody takes another process for it.
            let _ = fs::remove_file(&file);
            if let Some(pid) = pid {
                let _ = signal(pid, Signal::KILL);
            }
        }
        if let Some(mut child) = self.again().take() {
            let _ = child.wait();
        }
    }

    fn again(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.again.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn command(&self, program: impl Into<OsString>) -> Command {
        let mut words = self.prefix.iter().cloned().chain([program.into()]);
        let mut command = Command::new(words.next().expect("the program at least"));
        command.args(words);
        command
    }
}

fn succeeded(output: &Output) -> Result<()> {
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

fn signal(pid: i32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(pid).context("not a process id")?;
    kill_process(pid, signal).with_context(|| format!("signal process {}", pid.as_raw_nonzero()))
}

/// Ended; whose child it was may not have asked yet.
pub fn is_gone(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_none_or(|rest| rest.is_empty() || rest.trim().starts_with('Z'))
}

fn within(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !holds()? {
        ensure!(start.elapsed() < PATIENCE, "{what}: not within {} s", PATIENCE.as_secs());
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

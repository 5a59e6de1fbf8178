//! Plays scripts: many connections between a client here and a server in another pod, round by round. The two
//! processes keep step over a unix socket, which no mesh sees, so that every run has the same order of events.

mod edge;
mod turn;

use std::{
    fs,
    io::{self, BufRead, BufReader, Read as _, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use mesh_tests::talk::{Content, Heard, Played, Script};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt::set_socket_oobinline,
};

use self::turn::Side;

/// For everything that waits for the other end.
const PATIENCE: Duration = Duration::from_secs(9);

#[derive(Args)]
pub struct Talk {
    /// The server's address
    #[arg(long)]
    to: IpAddr,
    #[command(flatten)]
    stage: Stage,
    /// Scripts that are played at the same time
    #[arg(long, default_value_t = 8)]
    workers: usize,
}

#[derive(Args)]
pub struct Stage {
    /// The file with the scripts, for both ends the same
    #[arg(long)]
    scripts: PathBuf,
    /// The unix socket over which both ends keep step; the server makes it
    #[arg(long)]
    control: PathBuf,
}

/// One end of the line over which the two processes keep step.
struct Step {
    reader: BufReader<UnixStream>,
}

impl Step {
    fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(3 * PATIENCE)).context("limit the waiting")?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        ensure!(!line.contains('\n'), "a line has no end in it");
        self.reader.get_mut().write_all(format!("{line}\n").as_bytes()).context("tell the other end")
    }

    /// `None`: the other end is done.
    fn hear(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        let length = self.reader.read_line(&mut line).context("hear the other end")?;
        Ok((length > 0).then(|| line.trim_end().to_owned()))
    }

    /// Goes on when the other end has come this far; `false`: it cannot go on.
    fn meet(&mut self, well: bool) -> Result<bool> {
        self.tell(if well { "on" } else { "broken" })?;
        Ok(self.hear()?.context("the other end is gone")? == "on" && well)
    }
}

impl Stage {
    fn scripts(&self) -> Result<Vec<Script>> {
        let text = fs::read_to_string(&self.scripts).with_context(|| format!("read {}", self.scripts.display()))?;
        serde_json::from_str(&text).context("no scripts")
    }
}

/// Plays the clients of all scripts and prints a line for each.
pub fn talk(talk: &Talk) -> Result<()> {
    let Talk { to, stage, workers } = talk;
    let (scripts, content) = (stage.scripts()?, Content::new());
    let (next, out) = (AtomicUsize::new(0), Mutex::new(io::stdout()));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..(*workers).min(scripts.len()))
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    let control = UnixStream::connect(&stage.control).context("the server does not listen")?;
                    let mut step = Step::new(control)?;
                    let port = step.hear()?.context("the server is gone")?.parse().context("a port")?;
                    // What is decided about the port once is known before the first script. The server closes.
                    let mut first =
                        TcpStream::connect_timeout(&SocketAddr::new(*to, port), PATIENCE).context("connect")?;
                    first.set_read_timeout(Some(PATIENCE)).context("limits")?;
                    let _ = first.read(&mut [0]).context("the first connection")?;
                    drop(first);
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(script) = scripts.get(number) else { return Ok(()) };
                        let played = play_client(&mut step, SocketAddr::new(*to, port), number, script, &content)?;
                        let line = serde_json::to_string(&played).context("write the report")?;
                        writeln!(out.lock().unwrap_or_else(|e| e.into_inner()), "{line}").context("report")?;
                    }
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().unwrap_or_else(|e| std::panic::resume_unwind(e)))
    })
}

fn play_client(step: &mut Step, to: SocketAddr, number: usize, script: &Script, content: &Content) -> Result<Played> {
    step.tell(&number.to_string())?;
    let mut played = Played { script: number, ..Played::default() };
    let connected = TcpStream::connect_timeout(&to, PATIENCE);
    let well = step.meet(connected.is_ok())?;
    match connected {
        Ok(stream) if well => {
            prepare(&stream, script)?;
            let side = Side::client(stream, number as u64, content);
            played.client = play(step, side, script, |round| &round.client)?;
        }
        Ok(_) => played.broken = Some("the server got no connection".to_owned()),
        Err(error) => played.broken = Some(format!("connect: {error}")),
    }
    let answer = step.hear()?.context("the server did not report")?;
    played.server = serde_json::from_str(&answer).context("not the server's report")?;
    Ok(played)
}

/// Serves the scripts of one `talk` after the other, for ever.
pub fn listen(stage: &Stage) -> Result<()> {
    let listener = UnixListener::bind(&stage.control).context("make the control socket")?;
    println!("ready");
    let content: &'static Content = Box::leak(Box::new(Content::new()));
    loop {
        let (control, _) = listener.accept().context("accept")?;
        let scripts = stage.scripts()?;
        thread::spawn(move || {
            if let Err(error) = serve(control, &scripts, content) {
                println!("a worker failed: {error:#}");
            }
        });
    }
}

fn serve(control: UnixStream, scripts: &[Script], content: &Content) -> Result<()> {
    let mut step = Step::new(control)?;
    let listener = TcpListener::bind(("0.0.0.0", 0)).context("listen")?;
    step.tell(&listener.local_addr().context("a port")?.port().to_string())?;
    drop(accept(&listener).context("nobody dials")?);
    while let Some(line) = step.hear()? {
        let number: usize = line.parse().context("a script's number")?;
        let script = scripts.get(number).context("an unknown script")?;
        let accepted = accept(&listener);
        let well = step.meet(accepted.is_ok())?;
        let mut heard = Vec::new();
        if let (Ok(stream), true) = (accepted, well) {
            prepare(&stream, script)?;
            heard = play(&mut step, Side::server(stream, number as u64, content), script, |round| &round.server)?;
        }
        step.tell(&serde_json::to_string(&heard).context("write the report")?)?;
    }
    Ok(())
}

fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let mut waiting = [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
    let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    match poll(&mut waiting, Some(&limit))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => listener.accept().map(|(stream, _)| stream),
    }
}

fn prepare(stream: &TcpStream, script: &Script) -> Result<()> {
    stream
        .set_read_timeout(Some(PATIENCE))
        .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
        .context("limits")?;
    stream.set_nodelay(true).context("TCP_NODELAY")?;
    set_socket_oobinline(stream, script.urgent_inline).context("SO_OOBINLINE")
}

fn play(
    step: &mut Step,
    mut side: Side<'_>,
    script: &Script,
    turn: impl Fn(&mesh_tests::talk::Round) -> &mesh_tests::talk::Turn,
) -> Result<Vec<Heard>> {
    let mut heard = Vec::new();
    for round in &script.rounds {
        heard.push(side.take(turn(round)).context("a system call that cannot fail did")?);
        step.meet(true)?;
    }
    Ok(heard)
}

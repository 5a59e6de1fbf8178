//! Where conversations are played: the same one without a mesh, within a node, and across nodes through HBONE.

use std::{fs, path::Path, sync::Arc, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    A, B, Patience, Pod, World, programs_dir,
    talk::{Ending, Heard, Played, Read, Round, Script, Style, Then, Turn},
};

use crate::cast::{Cast, policy};

/// A script is played within seconds; this is for all of one call.
const LIMIT: Duration = Duration::from_secs(30);

pub struct Stage {
    pub world: World,
    pub client: Arc<Pod>,
    pub near: Arc<Pod>,
    pub far: Arc<Pod>,
    /// On the node of `client` too; an AUDIT policy is about it, so that the agent carries what it is told.
    audited: Arc<Pod>,
    /// Pods outside the mesh, on nodes a and b.
    visitor: Arc<Pod>,
    host: Arc<Pod>,
}

/// The ways of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Plain,
    /// Within a node, without the agent.
    Direct,
    /// Within a node, through the agent.
    Local,
    Tunnel,
}

impl Stage {
    pub fn new(title: &str) -> Result<Self> {
        let Cast { mut world, client, near, far } = Cast::meshed(title)?;
        let audited = world.pod("shop", "audited", A)?;
        world.wait_for(std::slice::from_ref(&audited), true)?;
        world.apply("audit", &policy("audit", "audited", "AUDIT", "[{}]"))?;
        let visitor = world.pod("legacy", "visitor", A)?;
        let host = world.pod("legacy", "host", B)?;
        Ok(Self { world, client, near, far, audited, visitor, host })
    }

    /// Plays the scripts on one way, so many at a time, and gives what became of each, in their order.
    pub fn play(&self, way: Way, scripts: &[Script], workers: usize) -> Result<Vec<Played>> {
        self.play_within(way, scripts, workers, LIMIT)
    }

    pub fn play_within(&self, way: Way, scripts: &[Script], workers: usize, limit: Duration) -> Result<Vec<Played>> {
        let (client, server) = match way {
            Way::Plain => (&self.visitor, &self.host),
            Way::Direct => (&self.client, &self.near),
            Way::Local => (&self.client, &self.audited),
            Way::Tunnel => (&self.client, &self.far),
        };
        play_between(self.world.root(), &format!("{way:?}"), (client, server), scripts, workers, limit)
    }

    /// Plays the scripts on all ways at once. What both ends heard must be the same on each, and is given.
    pub fn compare(&self, scripts: &[Script], workers: usize) -> Result<Vec<Played>> {
        let ways = [Way::Plain, Way::Direct, Way::Local, Way::Tunnel];
        let before = self.world.counter(A, "CONNECT_DIRECT")?;
        let mut played = thread::scope(|scope| {
            let running = ways.map(|way| scope.spawn(move || self.play(way, scripts, workers)));
            running.into_iter().map(|run| run.join().expect("it does not panic")).collect::<Result<Vec<_>>>()
        })?;
        let direct = self.world.counter(A, "CONNECT_DIRECT")? - before;
        ensure!(direct == scripts.len() as u64, "{direct} of {} conversations were direct", scripts.len());
        let mut differences = Vec::new();
        for (way, others) in ways.iter().zip(&played).skip(1) {
            for (script, (plain, other)) in scripts.iter().zip(played[0].iter().zip(others)) {
                if !alike(plain, other) {
                    differences.push(format!("{}, {way:?}: {}\n  {script:?}", script.name, difference(plain, other)));
                }
            }
        }
        let (count, all) = (differences.len(), scripts.len());
        differences.truncate(5);
        ensure!(count == 0, "{count} differences in {all} scripts, as in\n{}", differences.join("\n"));
        for (script, one) in scripts.iter().zip(&played[0]) {
            ensure!(one.broken.is_none(), "{}: {one:?}", script.name);
            let mut heard = one.client.iter().chain(&one.server);
            ensure!(heard.all(|heard| heard.wrong_at.is_none()), "{}: {one:?}", script.name);
        }
        Ok(played.swap_remove(0))
    }
}

/// Plays the scripts between two pods; `name` is for files below `root`.
pub fn play_between(
    root: &Path,
    name: &str,
    (client, server): (&Pod, &Pod),
    scripts: &[Script],
    workers: usize,
    limit: Duration,
) -> Result<Vec<Played>> {
    let app = programs_dir()?.join("mesh-test-app");
    let file = root.join(format!("{name}.json"));
    let control = root.join(format!("{name}.sock"));
    let _ = fs::remove_file(&control);
    fs::write(&file, serde_json::to_string(scripts)?)?;
    let stage = ["--scripts", &text(&file), "--control", &text(&control)].map(str::to_owned);
    let listening = [&["listen-to-scripts".to_owned()], &stage[..]].concat();
    let listener = server.start(&format!("{name}-server"), &app, &listening)?;
    listener.says("ready", Patience::SHORT)?;
    let to = ["--to".to_owned(), server.ip.to_string(), "--workers".to_owned(), workers.to_string()];
    let talking = [&["talk".to_owned()], &stage[..], &to[..]].concat();
    let output = client.output(&app, &talking, limit).with_context(|| format!("{name}: {:?}", listener.log()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{name}: {errors}; the server: {}", listener.log()?);
    let mut played = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        played.push(serde_json::from_str::<Played>(line).with_context(|| format!("not a report: {line}"))?);
    }
    played.sort_by_key(|one| one.script);
    ensure!(played.len() == scripts.len(), "{name}: {} of {} scripts", played.len(), scripts.len());
    Ok(played)
}

/// What two runs have in common: a write that fails may have been anywhere in the stream.
fn settled(played: &Played) -> Played {
    let settled = |heard: &Heard| match heard.settled() {
        failed if failed.write_error.is_some() => Heard { wrote: 0, ..failed },
        heard => heard,
    };
    Played {
        client: played.client.iter().map(settled).collect(),
        server: played.server.iter().map(settled).collect(),
        ..played.clone()
    }
}

/// Both ends heard the same on two ways.
fn alike(plain: &Played, other: &Played) -> bool {
    let (plain, other) = (settled(plain), settled(other));
    let all = |plain: &[Heard], other: &[Heard]| {
        plain.len() == other.len() && plain.iter().zip(other).all(|(plain, other)| heard_alike(plain, other))
    };
    plain.broken == other.broken && all(&plain.client, &other.client) && all(&plain.server, &other.server)
}

/// A reset takes back what has found no room at the receiver yet. With a mesh there is more room, never less.
fn heard_alike(plain: &Heard, other: &Heard) -> bool {
    let reset = Ending::Failed("reset".to_owned());
    let more = plain.end == reset && other.end == reset && plain.read <= other.read;
    plain == other || (more && Heard { read: plain.read, ..other.clone() } == *plain)
}

/// Where two runs differ first.
fn difference(plain: &Played, other: &Played) -> String {
    let (plain, other) = (settled(plain), settled(other));
    for (end, plain, other) in [("client", &plain.client, &other.client), ("server", &plain.server, &other.server)] {
        let differing = plain.iter().zip(other).position(|(plain, other)| !heard_alike(plain, other));
        if let Some(round) = differing {
            let (plain, other) = (&plain[round], &other[round]);
            return format!("round {round}, {end}\n  without a mesh {plain:?}\n  with it        {other:?}");
        }
    }
    format!("without a mesh {:?}, with it {:?}", plain.broken, other.broken)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Words for scripts.
pub fn script(name: &str, rounds: impl IntoIterator<Item = (Turn, Turn)>) -> Script {
    let rounds = rounds.into_iter().map(|(client, server)| Round { client, server }).collect();
    Script { name: name.to_owned(), urgent_inline: true, rounds }
}

pub fn idle() -> Turn {
    Turn::default()
}

pub fn write(bytes: u64) -> Turn {
    Turn { write: bytes, ..Turn::default() }
}

pub fn read(bytes: u64) -> Turn {
    Turn { read: Read::Exactly(bytes), ..Turn::default() }
}

pub fn to_end() -> Turn {
    Turn { read: Read::ToEnd, ..Turn::default() }
}

/// Words to go on with.
pub trait Words {
    fn then(self, then: Then) -> Turn;
    fn with(self, style: Style) -> Turn;
    fn and_read(self, read: Read) -> Turn;
    fn in_chunks(self, bytes: usize) -> Turn;
    fn after(self, ms: u64) -> Turn;
}

impl Words for Turn {
    fn then(self, then: Then) -> Turn {
        Turn { then, ..self }
    }

    fn with(self, style: Style) -> Turn {
        Turn { style, ..self }
    }

    fn and_read(self, read: Read) -> Turn {
        Turn { read, ..self }
    }

    fn in_chunks(self, bytes: usize) -> Turn {
        Turn { chunk: bytes, ..self }
    }

    fn after(self, ms: u64) -> Turn {
        Turn { pause_ms: ms, ..self }
    }
}

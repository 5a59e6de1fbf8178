//! Where the programs are. The only file of the harness that asks the environment, beside `kube_api/server.rs`, which
//! others share.

use std::{
    env,
    path::{Path, PathBuf},
    process,
    sync::OnceLock,
};

use anyhow::{Context, Result, ensure};

/// The packages whose programs a world runs; `cargo build` with them before.
pub const BUILT: [&str; 4] = ["mesh-agent", "mesh-controller", "meshctl", "mesh-tests"];

static CHOSEN: OnceLock<PathBuf> = OnceLock::new();

/// Takes the programs from `dir`, as from `target/release`, for all worlds of this process. Only the first call, made
/// before the first world, has an effect.
pub fn take_programs_from(dir: PathBuf) {
    CHOSEN.get_or_init(|| dir);
}

/// The folder with the built programs: the chosen one, that of the running program, or the one above it for a test.
pub fn programs_dir() -> Result<PathBuf> {
    if let Some(chosen) = CHOSEN.get() {
        return Ok(chosen.clone());
    }
    let own = env::current_exe().context("the running program has no path")?;
    own.ancestors()
        .skip(1)
        .take(2)
        .find(|dir| dir.join("mesh-test-app").exists())
        .map(Path::to_owned)
        .with_context(|| format!("no mesh-test-app beside {}: cargo build -p mesh-tests", own.display()))
}

/// The number in an environment variable: what a nightly run asks for beyond the usual. Unset or no number: `None`.
pub fn asked(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

/// How many times longer a wait may take than on a machine of every day: MESH_TEST_PATIENCE, for an emulated one.
pub fn patience() -> u32 {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    *FACTOR.get_or_init(|| {
        asked("MESH_TEST_PATIENCE").and_then(|factor| u32::try_from(factor).ok()).unwrap_or(1).clamp(1, 100)
    })
}

/// One built program.
pub(crate) fn built(name: &str) -> Result<PathBuf> {
    let path = programs_dir()?.join(name);
    ensure!(path.exists(), "{} is missing: cargo build -p {}", path.display(), BUILT.join(" -p "));
    Ok(path)
}

/// An installed program, as the shell would find it; also in the folders of the administrator's programs.
pub fn installed(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
        .with_context(|| format!("{name} is not installed: cargo xtask setup"))
}

/// A Python that knows grpcio, and the script for it; `None` on a machine without it, unless `CI` says that everything
/// must run.
pub fn grpc_program() -> Result<Option<(PathBuf, PathBuf)>> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = tests.join("grpc/talk.py");
    let target = programs_dir()?.parent().context("programs without a folder")?.to_owned();
    let python = target.join("grpc/bin/python3");
    match python.exists() {
        true => Ok(Some((python, script))),
        false => {
            let must = env::var_os("CI").is_some_and(|value| !matches!(value.to_str(), Some("" | "0" | "false")));
            ensure!(!must, "there is no {}: cargo xtask setup", python.display());
            Ok(None)
        }
    }
}

/// Prometheus and promtool, fetched or installed; `None` on a machine without them, unless `CI` says that everything
/// must run.
pub(crate) fn prometheus_programs() -> Result<Option<[PathBuf; 2]>> {
    let target = programs_dir()?.parent().context("programs without a folder")?.to_owned();
    let fetched = target.join("tools/prometheus/usr/bin");
    let find = |name: &str| {
        let program = fetched.join(name);
        if program.is_file() { Ok(program) } else { installed(name) }
    };
    match (find("prometheus"), find("promtool")) {
        (Ok(prometheus), Ok(promtool)) => Ok(Some([prometheus, promtool])),
        (Err(error), _) | (_, Err(error)) => {
            let must = env::var_os("CI").is_some_and(|value| !matches!(value.to_str(), Some("" | "0" | "false")));
            ensure!(!must, "{error:#}");
            Ok(None)
        }
    }
}

/// How many requests a scene counts: MESH_TEST_REQUESTS, or few enough for every day.
pub fn requests() -> u32 {
    env::var("MESH_TEST_REQUESTS").ok().and_then(|count| count.parse().ok()).unwrap_or(2_000)
}

/// How many connections a scene under load makes: MESH_TEST_CONNECTIONS, or few enough for every day.
pub fn load_connections() -> usize {
    env::var("MESH_TEST_CONNECTIONS").ok().and_then(|count| count.parse().ok()).unwrap_or(2_000)
}

/// The process that owns the worlds made here.
pub(crate) fn own_pid() -> u32 {
    process::id()
}

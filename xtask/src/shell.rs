//! External programs. What changes anything is shown before it runs; questions about versions are not.

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// What the outer `cargo run` says about xtask itself, and must not reach the builds below: it would make Cargo think
/// that build scripts have to run again.
const OUTER: &[&str] = &["CARGO", "CARGO_BIN_NAME", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"];
const OUTER_PREFIXES: &[&str] = &["CARGO_MANIFEST_", "CARGO_PKG_"];
/// What chooses or bends the stable compiler, and must not reach the nightly.
const STABLE: &[&str] = &[
    "CARGO_ENCODED_RUSTFLAGS",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTFLAGS",
    "RUSTUP_TOOLCHAIN",
];

/// A program by name, in the environment that xtask was started from.
pub fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if OUTER.contains(&&*text) || OUTER_PREFIXES.iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
}

/// A program of another toolchain.
pub fn of_toolchain(toolchain: &str, name: &str) -> Command {
    let mut command = program("rustup");
    for name in STABLE {
        command.env_remove(name);
    }
    // Asking for a version must not download a toolchain.
    command.env("RUSTUP_AUTO_INSTALL", "0").args(["run", toolchain, name]);
    command
}

/// Shows the command, runs it and waits.
///
/// # Errors
/// It cannot start, or does not end with 0.
pub fn run(command: &mut Command) -> Result<()> {
    println!("  $ {}", shown(command));
    let status = command.status().with_context(|| format!("cannot start {}", name(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", shown(command));
    }
    Ok(())
}

/// What the command prints; its errors go to the terminal.
pub fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start {}", name(command)))?;
    if !output.status.success() {
        bail!("`{}` failed: {}", shown(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` printed no text", shown(command)))
}

/// What the command prints if it ends with 0; silent otherwise.
pub fn probe(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A program of PATH; also of the folders that a user's PATH leaves out.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

/// Whether this process is root.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    Path::new("/proc/self").metadata().is_ok_and(|own| own.uid() == 0)
}

/// Whether nobody watches, and what cannot run has to fail.
pub fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| !matches!(value.to_str(), Some("" | "0" | "false")))
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

/// As one would type it, with what was added to the environment; PATH aside.
fn shown(command: &Command) -> String {
    let quoted = |text: &OsStr| {
        let text = text.to_string_lossy();
        match text.chars().all(|c| c.is_ascii_alphanumeric() || "-_=./,:+@%".contains(c)) {
            true => text.into_owned(),
            false => format!("'{}'", text.replace('\'', r"'\''")),
        }
    };
    let hidden = ["PATH", "RUSTUP_AUTO_INSTALL"];
    let environment = command
        .get_envs()
        .filter(|(name, _)| !hidden.contains(&&*name.to_string_lossy()))
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quoted(value?))));
    let words = [command.get_program()].into_iter().chain(command.get_args()).map(quoted);
    environment.chain(words).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("cargo");
        command.args(["doc", "it's"]).env("RUSTDOCFLAGS", "-D warnings").env("PATH", "/bin").env_remove("CARGO");
        assert_eq!(shown(&command), r"RUSTDOCFLAGS='-D warnings' cargo doc 'it'\''s'");
    }

    #[test]
    fn a_failure_names_the_command() {
        let error = run(Command::new("sh").args(["-c", "exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "`sh -c 'exit 3'` failed: exit status: 3");
        assert!(run(&mut Command::new("/nonexistent")).unwrap_err().to_string().starts_with("cannot start"));
    }

    #[test]
    fn the_stable_toolchain_does_not_reach_the_nightly() {
        let command = of_toolchain("nightly", "rustc");
        let removed = command.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name);
        let removed = removed.collect::<Vec<_>>();
        assert!(removed.contains(&OsStr::new("RUSTUP_TOOLCHAIN")), "{removed:?}");
        assert!(removed.contains(&OsStr::new("RUSTFLAGS")), "{removed:?}");
    }
}

//! `cargo xtask dashboard`: builds the dashboard's page with npm. What is built is committed, so that a machine without
//! Node builds the mesh; a digest says whether it belongs to its sources.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use aws_lc_rs::digest::{self, SHA256};

use crate::shell;

const FOLDER: &str = "mesh-controller/dashboard";
const BUILT: &str = "dist";
const DIGEST: &str = "digest";
/// Everything that the build reads; folders with all that is in them.
const SOURCES: [&str; 7] =
    ["index.html", "package-lock.json", "package.json", "public", "src", "tsconfig.json", "vite.config.ts"];
/// Vite wants this version of Node at least.
const NODE: (u32, u32) = (20, 19);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Build it aside, and fail if that is not what is committed
    #[arg(long)]
    check: bool,
}

pub fn run(root: &Path, arguments: &Arguments) -> Result<()> {
    let folder = root.join(FOLDER);
    node()?;
    let npm = |words: &[&str]| {
        let mut command = shell::program("npm");
        command.current_dir(&folder).args(words);
        command
    };
    // Not `npm ci`: it wants the lock file to name the builds of every platform, which a registry need not have. The
    // versions and digests are the lock file's all the same, and no package runs a script of its own.
    shell::run(&mut npm(&["install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund"]))?;
    if arguments.check {
        let fresh = tempfile::tempdir()?;
        let out = fresh.path().join(BUILT);
        let out_dir = format!("--outDir={}", out.display());
        shell::run(&mut npm(&["run", "build", "--", &out_dir, "--emptyOutDir"]))?;
        ensure!(
            hash(&[out])? == hash(&[folder.join(BUILT)])?,
            "{FOLDER}/{BUILT} is not what its sources build; run `cargo xtask dashboard`"
        );
        return current(root);
    }
    shell::run(&mut npm(&["run", "build"]))?;
    let digest = folder.join(DIGEST);
    fs::write(&digest, expected(&folder)?).with_context(|| format!("cannot write {}", digest.display()))?;
    println!("dashboard: {FOLDER}/{BUILT} is current");
    Ok(())
}

/// Fails if the page was not built from its sources as they are.
pub fn current(root: &Path) -> Result<()> {
    let folder = root.join(FOLDER);
    let told = fs::read_to_string(folder.join(DIGEST)).with_context(|| format!("cannot read {FOLDER}/{DIGEST}"))?;
    if told != expected(&folder)? {
        bail!("{FOLDER}/{BUILT} does not belong to its sources; run `cargo xtask dashboard`");
    }
    Ok(())
}

fn expected(folder: &Path) -> Result<String> {
    let sources = SOURCES.map(|name| folder.join(name));
    Ok(format!("sources {}\nbuilt {}\n", hash(&sources)?, hash(&[folder.join(BUILT)])?))
}

/// Over names and contents, whatever order the disk has.
fn hash(places: &[PathBuf]) -> Result<String> {
    let mut all = Vec::new();
    for place in places {
        let from = place.parent().unwrap_or(place);
        for file in files(place)? {
            let content = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let name = file.strip_prefix(from).unwrap_or(&file).to_string_lossy().into_owned();
            all.push((name, content));
        }
    }
    all.sort();
    let mut context = digest::Context::new(&SHA256);
    for (name, content) in all {
        context.update(format!("{name} {}\n", content.len()).as_bytes());
        context.update(&content);
    }
    Ok(context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn files(place: &Path) -> Result<Vec<PathBuf>> {
    if !place.is_dir() {
        return Ok(vec![place.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(place).with_context(|| format!("cannot list {}", place.display()))? {
        found.extend(files(&entry?.path())?);
    }
    Ok(found)
}

fn node() -> Result<()> {
    let version = shell::probe(shell::program("node").arg("--version")).unwrap_or_default();
    let mut parts = version.trim().trim_start_matches('v').split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let npm = shell::find("npm").is_some();
    ensure!(
        found >= NODE && npm,
        "the dashboard is built with npm and Node {}.{} or newer; here is {}. What is committed needs neither",
        NODE.0,
        NODE.1,
        if version.is_empty() { "none" } else { version.trim() }
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_sources_or_of_what_is_built_is_found() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join(FOLDER);
        for name in ["src", "public", BUILT] {
            fs::create_dir_all(folder.join(name)).unwrap();
        }
        for name in ["index.html", "package-lock.json", "package.json", "tsconfig.json", "vite.config.ts", "src/a.ts"] {
            fs::write(folder.join(name), name).unwrap();
        }
        fs::write(folder.join("dist/app.js"), "built").unwrap();
        assert!(current(root.path()).is_err(), "there is no digest");
        fs::write(folder.join(DIGEST), expected(&folder).unwrap()).unwrap();
        current(root.path()).unwrap();
        for (changed, text) in [("src/a.ts", "other"), ("dist/app.js", "by hand"), ("src/b.ts", ""), ("dist/b.js", "")]
        {
            let before = fs::read(folder.join(changed)).ok();
            fs::write(folder.join(changed), text).unwrap();
            assert!(current(root.path()).is_err(), "{changed}");
            match before {
                Some(content) => fs::write(folder.join(changed), content).unwrap(),
                None => fs::remove_file(folder.join(changed)).unwrap(),
            }
            current(root.path()).unwrap();
        }
    }
}

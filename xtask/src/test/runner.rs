//! What runs the tests: cargo-nextest if it is there (it ends a test that hangs), otherwise the tests' own programs.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Tier;
use crate::{setup::Ready, shell};

/// System tests share the machine's kernel; more of them at once starve each other's time limits.
const SYSTEM_THREADS: &str = "2";
/// The same packages for every command: another set would unify features in another way and build all again.
const PACKAGES: &[&str] = &["--locked", "--workspace", "--exclude", "mesh-ebpf"];

#[derive(Debug)]
pub struct Runner<'a> {
    ready: &'a Ready,
    root: &'a Path,
    nextest: bool,
    long: bool,
    /// Without nextest: the test programs of each package, with the folder to run them in.
    programs: OnceLock<Programs>,
}

/// What scenes under load ask the environment for.
const LONG: [(&str, &str); 6] = [
    ("MESH_TEST_GIBIBYTES", "1"),
    ("MESH_TEST_CONNECTIONS", "10000"),
    ("MESH_TEST_REQUESTS", "100000"),
    ("MESH_TEST_SCRIPTS", "10000"),
    ("MESH_TEST_CASES", "100000"),
    ("MESH_TEST_RENEWALS", "12"),
];

type Programs = BTreeMap<String, Vec<(PathBuf, PathBuf)>>;

impl<'a> Runner<'a> {
    pub fn choose(ready: &'a Ready, root: &'a Path, long: bool) -> Self {
        let nextest = shell::probe(ready.cargo(root).args(["nextest", "--version"])).is_some();
        if !nextest {
            println!("test: cargo-nextest is not installed; a test that hangs will not be ended");
        }
        Self { ready, root, nextest, long, programs: OnceLock::new() }
    }

    /// Compiles all tests.
    pub fn build(&self) -> Result<()> {
        if self.nextest {
            return shell::run(self.ready.cargo(self.root).args(["nextest", "run", "--no-run"]).args(PACKAGES));
        }
        self.programs.set(build(self.ready, self.root)?).ok().context("tests are built once")
    }

    /// Runs the tests of one tier whose names contain `filter`.
    pub fn run(&self, tier: Tier, filter: Option<&str>) -> Result<()> {
        if self.nextest {
            let packages = tier.packages().iter().map(|package| format!("package(={package})")).collect::<Vec<_>>();
            let mut cargo = self.ready.cargo(self.root);
            cargo.args(["nextest", "run"]).args(PACKAGES).args(["-E", &packages.join(" | ")]);
            if tier == Tier::System {
                cargo.args(["--test-threads", SYSTEM_THREADS]);
            }
            if self.long {
                // Nothing is ended for being slow.
                cargo.envs(LONG).args(["--profile", "long"]);
            }
            // A filter may leave nothing in a tier; a tier without a filter has tests.
            cargo.args(["--no-tests", if filter.is_some() { "pass" } else { "fail" }]).args(filter);
            shell::run(&mut cargo)?;
        } else {
            self.run_programs(tier, filter)?;
        }
        if tier == Tier::Pure {
            // Neither of the two runs the examples in the docs.
            let mut cargo = self.ready.cargo(self.root);
            shell::run(cargo.args(["test", "--quiet", "--doc"]).args(PACKAGES).args(filter))?;
        }
        Ok(())
    }

    fn run_programs(&self, tier: Tier, filter: Option<&str>) -> Result<()> {
        let programs = self.programs.get().context("the tests are not built")?;
        let mut failed = Vec::new();
        for (program, folder) in tier.packages().iter().filter_map(|package| programs.get(*package)).flatten() {
            let mut command = shell::program(program);
            command.current_dir(folder).args(filter);
            if self.long {
                command.envs(LONG);
            }
            if tier == Tier::System {
                command.args(["--test-threads", SYSTEM_THREADS]);
            }
            failed.extend(shell::run(&mut command).err().map(|error| error.to_string()));
        }
        if !failed.is_empty() {
            bail!("{}", failed.join("\n"));
        }
        Ok(())
    }
}

/// Compiles all tests; the programs that hold those of `package`.
///
/// # Errors
/// They do not compile.
pub fn test_programs(ready: &Ready, root: &Path, package: &str) -> Result<Vec<PathBuf>> {
    let programs = build(ready, root)?.remove(package).unwrap_or_default();
    Ok(programs.into_iter().map(|(program, _)| program).collect())
}

fn build(ready: &Ready, root: &Path) -> Result<Programs> {
    let mut cargo = ready.cargo(root);
    cargo.arg("test").args(PACKAGES).args(["--no-run", "--message-format=json-render-diagnostics"]);
    programs(&shell::output(&mut cargo)?)
}

/// Reads Cargo's messages: which programs hold the tests of which package.
fn programs(messages: &str) -> Result<Programs> {
    let mut programs = Programs::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).context("cargo printed something that is not JSON")?;
        let (Some(program), Some(true)) = (message["executable"].as_str(), message["profile"]["test"].as_bool()) else {
            continue;
        };
        let manifest = Path::new(message["manifest_path"].as_str().context("cargo: an artifact without manifest")?);
        let folder = manifest.parent().context("cargo: a manifest without folder")?;
        let id = message["package_id"].as_str().context("cargo: an artifact without package")?;
        programs.entry(package_name(id).into()).or_default().push((program.into(), folder.into()));
    }
    Ok(programs)
}

/// The name in `path+file:///folder#name@0.1.0`, or in `path+file:///folder/name#0.1.0` where both are equal.
fn package_name(id: &str) -> &str {
    let (url, fragment) = id.split_once('#').unwrap_or((id, ""));
    match fragment.split_once('@') {
        Some((name, _)) => name,
        None => url.rsplit('/').next().unwrap_or(url),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_found_by_package() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","package_id":"path+file:///w/tests#mesh-tests@0.1.0","manifest_path":"#,
            r#""/w/tests/Cargo.toml","profile":{"test":true},"executable":"/w/target/debug/deps/scenes-1"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","package_id":"path+file:///w/meshctl#0.1.0","manifest_path":"#,
            r#""/w/meshctl/Cargo.toml","profile":{"test":false},"executable":"/w/target/debug/meshctl"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let expected = [("mesh-tests".to_string(), vec![("/w/target/debug/deps/scenes-1".into(), "/w/tests".into())])];
        assert_eq!(programs(messages).unwrap(), Programs::from(expected));
        assert_eq!(package_name("path+file:///w/meshctl#0.1.0"), "meshctl");
    }
}

//! Licences, sources and borders of the dependencies, by the lists of deny.toml. The file has cargo-deny's format, and
//! cargo-deny reads it too where it is installed; nobody has to install it.

mod licence;
mod lists;

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{setup::Ready, shell};
use lists::{Ban, Lists};

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";
/// What a crate must not contain, however far away. Cargo's metadata unifies features, so that a tree is asked.
const BORDERS: &[(&str, &[&str])] = &[
    // Of the controller it has what `analyze` needs: to look at files in any other way would not be what it says.
    ("meshctl", &["aya", "aya-obj", "mesh-agent"]),
    ("mesh-controller", &["aya", "aya-obj", "mesh-agent"]),
    ("mesh-agent", &["kube", "kube-client", "k8s-openapi", "mesh-controller"]),
];

/// Returns a remark for people.
///
/// # Errors
/// Lists every package that may not be here, with the reason.
pub fn check(ready: &Ready, root: &Path) -> Result<String> {
    let path = root.join("deny.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let lists = Lists::parse(&text).context("deny.toml")?;
    let metadata = shell::output(ready.cargo(root).args(["metadata", "--format-version", "1", "--locked"]))?;
    let metadata = serde_json::from_str(&metadata).context("cargo metadata: not JSON")?;
    let mut findings = findings(&metadata, &lists.licences)?;
    for ban in &lists.bans {
        for id in versions(&metadata, &ban.name) {
            let mut cargo = ready.cargo(root);
            cargo.args(["tree", "--locked", "--workspace", "--target", "all", "--invert", &id, "--depth", "1"]);
            // Cargo's metadata names features' crates that nobody switches on; its tree does not, and says so aloud.
            let tree = shell::output(cargo.args(["--prefix", "depth", "--format", " {p}", "--quiet"]))?;
            findings.extend(refused_by(ban, &tree));
        }
    }
    for (package, strangers) in BORDERS {
        let mut cargo = ready.cargo(root);
        cargo.args(["tree", "--locked", "--package", package, "--edges", "normal", "--prefix", "none"]);
        let tree = shell::output(cargo.args(["--format", "{p}"]))?;
        findings.extend(strangers_in(package, &tree, strangers));
    }
    if !findings.is_empty() {
        bail!("{}", findings.join("\n"));
    }
    if shell::probe(ready.cargo(root).args(["deny", "--version"])).is_some() {
        shell::run(ready.cargo(root).args(["deny", "check", "licenses", "bans", "sources"]))?;
        return Ok("and cargo-deny agrees".into());
    }
    Ok(String::new())
}

/// Packages without an allowed licence, or from elsewhere than crates.io.
fn findings(metadata: &Value, allowed: &[String]) -> Result<Vec<String>> {
    let mut findings = BTreeSet::new();
    for package in metadata["packages"].as_array().context("cargo metadata: no packages")? {
        let name = package["name"].as_str().context("cargo metadata: a package without name")?;
        let version = package["version"].as_str().unwrap_or("?");
        match package["license"].as_str() {
            None => findings.extend([format!("{name} {version}: says no licence")]),
            Some(expression) => match licence::is_satisfied(expression, allowed) {
                Ok(true) => {}
                Ok(false) => {
                    findings.insert(format!("{name} {version}: licence `{expression}` is not allowed by deny.toml"));
                }
                Err(why) => {
                    findings.insert(format!("{name} {version}: licence `{expression}`: {why}"));
                }
            },
        }
        if package["source"].as_str().is_some_and(|source| source != CRATES_IO) {
            findings.insert(format!("{name} {version}: comes from {}, not from crates.io", package["source"]));
        }
    }
    Ok(findings.into_iter().collect())
}

/// `name@version` of every version of a crate that Cargo knows of.
fn versions(metadata: &Value, name: &str) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let versions = packages.filter(|package| package["name"] == name).filter_map(|package| package["version"].as_str());
    versions.map(|version| format!("{name}@{version}")).collect()
}

/// Lines of an inverted `cargo tree --prefix depth --format ' {p}'`: `1 name vX.Y.Z …` for a crate that brings it.
fn refused_by(ban: &Ban, tree: &str) -> BTreeSet<String> {
    let parents = tree.lines().filter_map(|line| line.strip_prefix("1 ")?.split(' ').next());
    let refused = parents.filter(|parent| !ban.wrappers.iter().any(|it| it == parent));
    refused.map(|parent| format!("{parent}: may not depend on {}: {}", ban.name, ban.reason)).collect()
}

/// Lines of `cargo tree --prefix none --format {p}`: `name vX.Y.Z …`.
fn strangers_in(package: &str, tree: &str, strangers: &[&str]) -> BTreeSet<String> {
    let names = tree.lines().filter_map(|line| line.split(' ').next());
    let found = names.filter(|name| strangers.contains(name));
    found.map(|name| format!("{package}: must not contain {name}; `cargo tree -p {package} -i {name}`")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn package(name: &str, licence: &str, source: Value) -> Value {
        json!({ "name": name, "version": "1.0.0", "license": licence, "source": source })
    }

    #[test]
    fn licences_and_sources_are_refused() {
        let packages = [
            package("own", "MIT", Value::Null),
            package("fine", "MIT OR X", CRATES_IO.into()),
            package("copyleft", "GPL-3.0-only", CRATES_IO.into()),
            package("odd", "MIT OR", CRATES_IO.into()),
            package("stray", "MIT", "git+https://example.com/x".into()),
            json!({ "name": "silent", "version": "1.0.0" }),
        ];
        assert_eq!(
            findings(&json!({ "packages": packages }), &["MIT".into()]).unwrap(),
            [
                "copyleft 1.0.0: licence `GPL-3.0-only` is not allowed by deny.toml",
                "odd 1.0.0: licence `MIT OR`: ends too early",
                "silent 1.0.0: says no licence",
                "stray 1.0.0: comes from \"git+https://example.com/x\", not from crates.io",
            ]
        );
    }

    #[test]
    fn only_wrappers_bring_a_banned_crate() {
        let ban = Ban { name: "aya".into(), wrappers: vec!["mesh-agent".into()], reason: "one room".into() };
        let tree = "0 aya v0.14.0\n1 mesh-agent v0.1.0 (/x)\n1 mesh-controller v0.1.0 (/y)\n2 far v1.0.0\n";
        let refused = refused_by(&ban, tree).into_iter().collect::<Vec<_>>();
        assert_eq!(refused, ["mesh-controller: may not depend on aya: one room"]);
        assert!(refused_by(&ban, "").is_empty());
    }

    #[test]
    fn each_version_is_asked_for() {
        let metadata = json!({ "packages": [package("aya", "MIT", Value::Null), package("b", "MIT", Value::Null)] });
        assert_eq!(versions(&metadata, "aya"), ["aya@1.0.0"]);
        assert!(versions(&metadata, "absent").is_empty());
    }

    #[test]
    fn a_border_is_seen_at_any_distance() {
        let tree = "meshctl v0.1.0 (/x)\ntokio v1.0.0\naya v0.14.0\naya-like v1.0.0\n";
        assert_eq!(strangers_in("meshctl", tree, &["aya", "kube"]).len(), 1);
    }
}

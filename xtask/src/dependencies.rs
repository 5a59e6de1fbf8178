//! Licences, sources and borders of the dependencies, by the lists of deny.toml. The file has cargo-deny's format, and
//! cargo-deny reads it too where it is installed; nobody has to install it.

mod licence;
mod lists;

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{setup::Ready, shell};
use lists::Lists;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";
/// What a crate must not contain, however far away. Cargo's metadata unifies features, so that a tree is asked.
const BORDERS: &[(&str, &[&str])] = &[
    ("meshctl", &["aya", "aya-obj", "mesh-agent", "mesh-controller"]),
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
    let mut findings = findings(&metadata, &lists)?;
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

/// What Cargo's metadata says against the lists.
fn findings(metadata: &Value, lists: &Lists) -> Result<Vec<String>> {
    let mut findings = BTreeSet::new();
    for package in metadata["packages"].as_array().context("cargo metadata: no packages")? {
        let name = package["name"].as_str().context("cargo metadata: a package without name")?;
        let version = package["version"].as_str().unwrap_or("?");
        match package["license"].as_str() {
            None => findings.extend([format!("{name} {version}: says no licence")]),
            Some(expression) => match licence::is_satisfied(expression, &lists.licences) {
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
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let Some(ban) = lists.bans.iter().find(|ban| Some(&*ban.name) == dependency["name"].as_str()) else {
                continue;
            };
            // Another crate's optional feature that nobody switches on brings nothing.
            let own = package["source"].is_null();
            if (own || is_resolved(metadata, package, &ban.name)) && !ban.wrappers.iter().any(|it| it == name) {
                findings.insert(format!("{name} {version}: may not depend on {}: {}", ban.name, ban.reason));
            }
        }
    }
    Ok(findings.into_iter().collect())
}

/// Whether `package` really brings `dependency` with the features of this workspace.
fn is_resolved(metadata: &Value, package: &Value, dependency: &str) -> bool {
    let nodes = metadata["resolve"]["nodes"].as_array();
    let node = nodes.into_iter().flatten().find(|node| node["id"] == package["id"]);
    let brought = node.and_then(|node| node["dependencies"].as_array()).into_iter().flatten();
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let ids = packages.filter(|package| package["name"] == dependency).map(|package| &package["id"]);
    let ids = ids.collect::<Vec<_>>();
    brought.into_iter().any(|id| ids.contains(&id))
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

    fn lists() -> Lists {
        Lists {
            licences: vec!["MIT".into()],
            bans: vec![lists::Ban { name: "aya".into(), wrappers: vec!["agent".into()], reason: "one room".into() }],
        }
    }

    fn package(name: &str, licence: &str, source: Value, dependencies: &[&str]) -> Value {
        let dependencies = dependencies.iter().map(|name| json!({ "name": name })).collect::<Vec<_>>();
        json!({
            "name": name, "id": name, "version": "1.0.0", "license": licence, "source": source,
            "dependencies": dependencies,
        })
    }

    fn found(packages: &[Value], nodes: Value) -> Vec<String> {
        findings(&json!({ "packages": packages, "resolve": { "nodes": nodes } }), &lists()).unwrap()
    }

    #[test]
    fn licences_sources_and_bans_are_refused() {
        let aya = package("aya", "MIT", CRATES_IO.into(), &[]);
        let packages = [
            aya,
            package("agent", "MIT", Value::Null, &["aya"]),
            package("controller", "MIT", Value::Null, &["aya"]),
            package("copyleft", "GPL-3.0-only", CRATES_IO.into(), &[]),
            package("stray", "MIT", "git+https://example.com/x".into(), &[]),
        ];
        assert_eq!(
            found(&packages, json!([])),
            [
                "controller 1.0.0: may not depend on aya: one room",
                "copyleft 1.0.0: licence `GPL-3.0-only` is not allowed by deny.toml",
                "stray 1.0.0: comes from \"git+https://example.com/x\", not from crates.io",
            ]
        );
    }

    #[test]
    fn an_unused_optional_dependency_of_others_is_no_matter() {
        let packages =
            [package("aya", "MIT", CRATES_IO.into(), &[]), package("other", "MIT", CRATES_IO.into(), &["aya"])];
        assert!(found(&packages, json!([{ "id": "other", "dependencies": [] }])).is_empty());
        assert_eq!(found(&packages, json!([{ "id": "other", "dependencies": ["aya"] }])).len(), 1);
    }

    #[test]
    fn a_border_is_seen_at_any_distance() {
        let tree = "meshctl v0.1.0 (/x)\ntokio v1.0.0\naya v0.14.0\naya-like v1.0.0\n";
        assert_eq!(strangers_in("meshctl", tree, &["aya", "kube"]).len(), 1);
    }
}

//! The Kustomize base, the chart, what monitors the mesh, and the table of permissions in manifests/README.md, as
//! mesh-install has them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// Folders in which nothing else may lie.
const BASE: &str = "manifests/base";
const CHART: &str = "manifests/chart/nodemesh";
const MONITORING: &str = "manifests/monitoring";
const README: &str = "manifests/README.md";
const BEGIN: &str = "<!-- written by `cargo xtask generate` -->\n";
const END: &str = "<!-- end -->\n";

pub fn write(root: &Path) -> Result<()> {
    let files = wanted(root)?;
    for path in there(root)?.into_keys().filter(|path| !files.contains_key(path)) {
        fs::remove_file(root.join(&path)).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    for (path, text) in files {
        let path = root.join(path);
        let folder = path.parent().expect("below the root");
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Fails if a file differs, lacks, or is too much.
pub fn check(root: &Path) -> Result<()> {
    let (files, there) = (wanted(root)?, there(root)?);
    let differs = files.keys().chain(there.keys()).find(|path| files.get(*path) != there.get(*path));
    match differs {
        None => Ok(()),
        Some(path) => bail!("{} is not what mesh-install says; run `cargo xtask generate`", path.display()),
    }
}

fn wanted(root: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let base = mesh_install::base().into_iter().map(|file| (Path::new(BASE).join(file.path), file.text));
    let chart = mesh_install::chart().into_iter().map(|file| (Path::new(CHART).join(file.path), file.text));
    let files = mesh_install::monitoring::files().into_iter();
    let monitoring = files.map(|file| (Path::new(MONITORING).join(file.path), file.text));
    let mut files = base.chain(chart).chain(monitoring).collect::<BTreeMap<_, _>>();
    let readme = fs::read_to_string(root.join(README)).with_context(|| format!("cannot read {README}"))?;
    files.insert(README.into(), with_table(&readme, &mesh_install::table())?);
    Ok(files)
}

fn with_table(readme: &str, table: &str) -> Result<String> {
    let (before, rest) = readme.split_once(BEGIN).with_context(|| format!("{README}: no line {BEGIN:?}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{README}: no line {END:?}"))?;
    Ok(format!("{before}{BEGIN}\n{table}\n{END}{after}"))
}

fn there(root: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut files = BTreeMap::new();
    let mut folders = [BASE, CHART, MONITORING].map(PathBuf::from).to_vec();
    while let Some(folder) = folders.pop() {
        if !root.join(&folder).exists() {
            continue;
        }
        for entry in fs::read_dir(root.join(&folder)).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = folder.join(entry?.file_name());
            if root.join(&path).is_dir() {
                folders.push(path);
            } else {
                let text = fs::read_to_string(root.join(&path));
                let text = text.with_context(|| format!("cannot read {}", path.display()))?;
                files.insert(path, text);
            }
        }
    }
    files
        .insert(README.into(), fs::read_to_string(root.join(README)).with_context(|| format!("cannot read {README}"))?);
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stale_missing_or_too_much_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("manifests")).unwrap();
        fs::write(root.join(README), format!("# x\n\n{BEGIN}{END}rest\n")).unwrap();
        assert!(check(root).is_err(), "nothing is there");
        write(root).unwrap();
        check(root).unwrap();
        assert!(fs::read_to_string(root.join(README)).unwrap().contains("| SYS_PTRACE |"));
        let extra = root.join(BASE).join("old.yaml");
        fs::write(&extra, "").unwrap();
        assert!(check(root).unwrap_err().to_string().contains("old.yaml"));
        write(root).unwrap();
        assert!(!extra.exists());
        let values = root.join(CHART).join("values.yaml");
        fs::write(&values, "namespace: other\n").unwrap();
        assert!(check(root).unwrap_err().to_string().contains("values.yaml"));
    }

    #[test]
    fn the_base_is_what_kustomize_builds() {
        let Some(kubectl) = crate::shell::find("kubectl") else {
            assert!(!crate::shell::is_ci(), "needs kubectl; with CI set nothing is skipped: cargo xtask setup");
            println!("skipped: there is no kubectl");
            return;
        };
        let base = crate::root().join(BASE);
        let built = crate::shell::output(crate::shell::program(kubectl).arg("kustomize").arg(base)).unwrap();
        let mut built = built.split("\n---\n").map(|text| serde_yaml_ng::from_str(text).unwrap()).collect::<Vec<_>>();
        let mut objects = mesh_install::objects(&mesh_install::Values::default());
        // Kustomize has an order of its own.
        let key = |object: &serde_json::Value| format!("{} {}", object["kind"], object["metadata"]["name"]);
        built.sort_by_key(key);
        objects.sort_by_key(key);
        assert_eq!(built, objects);
    }
}

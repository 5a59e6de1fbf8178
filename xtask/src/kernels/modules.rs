//! Which modules a guest loads, and in which order: those that are asked for, each after what it depends on. What is
//! built into the kernel, or unknown to it, is left out; a scene that misses it says so.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::shell;

/// In a module's section `.modinfo`, between two NULs.
const DEPENDS: &[u8] = b"\0depends=";

/// Writes the modules `wanted` of the kernel with its modules in `from` into the folder `to`, unpacked, with names that
/// sort in the order of loading. Returns how many.
///
/// # Errors
/// A file cannot be read, unpacked or written.
pub fn collect(from: &Path, wanted: &[&str], to: &Path) -> Result<usize> {
    let mut files = BTreeMap::new();
    find(from, &mut files)?;
    let mut order: Vec<(String, Vec<u8>)> = Vec::new();
    for name in wanted {
        add(name, &files, &mut order)?;
    }
    for (number, (name, content)) in order.iter().enumerate() {
        let path = to.join(format!("{number:03}-{name}.ko"));
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(order.len())
}

/// Modules by name, below a folder.
fn find(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find(&entry.path(), files)?;
        } else if let Some((name, "" | ".xz")) = entry.file_name().to_str().and_then(|name| name.split_once(".ko")) {
            files.insert(plain(name), entry.path());
        }
    }
    Ok(())
}

/// The kernel takes `-` and `_` for the same.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

fn add(name: &str, files: &BTreeMap<String, PathBuf>, order: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
    let name = plain(name);
    let Some(path) = files.get(&name).filter(|_| order.iter().all(|(there, _)| *there != name)) else {
        return Ok(());
    };
    let content = content(path)?;
    for needed in depends(&content) {
        add(&needed, files, order)?;
    }
    order.push((name, content));
    Ok(())
}

fn content(path: &Path) -> Result<Vec<u8>> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    }
    let output = shell::program("xz").arg("-dc").arg(path).output().context("cannot start xz (package xz-utils)")?;
    anyhow::ensure!(output.status.success(), "cannot unpack {}", path.display());
    Ok(output.stdout)
}

fn depends(module: &[u8]) -> Vec<String> {
    let Some(at) = module.windows(DEPENDS.len()).position(|window| window == DEPENDS) else { return Vec::new() };
    let list = module[at + DEPENDS.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(list).split(',').filter(|name| !name.is_empty()).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_once_and_after_what_it_needs() {
        let dir = tempfile::tempdir().unwrap();
        let net = dir.path().join("kernel/net");
        fs::create_dir_all(&net).unwrap();
        let module = |name: &str, depends: &str| {
            fs::write(net.join(name), format!("ELF\0license=GPL\0depends={depends}\0name=x\0")).unwrap();
        };
        module("bridge.ko", "stp,llc");
        module("stp.ko", "llc");
        module("llc.ko", "");
        module("nf-tables.ko", "");
        let to = tempfile::tempdir().unwrap();
        let wanted = ["llc", "bridge", "nf_tables", "built_in"];
        assert_eq!(collect(dir.path(), &wanted, to.path()).unwrap(), 4);
        let mut names: Vec<_> = fs::read_dir(to.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["000-llc.ko", "001-stp.ko", "002-bridge.ko", "003-nf_tables.ko"]);
    }
}

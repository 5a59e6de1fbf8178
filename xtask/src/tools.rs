//! Prometheus and promtool from Debian's package, below target/tools: alerts are tried with them, and a scene has what
//! agents and controller tell scraped by a real one.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::{packages, shell};

const PACKAGE: &str = "prometheus";
const PROGRAMS: [&str; 2] = ["prometheus", "promtool"];

/// Fetches them unless they are there, here or in PATH; whether it did.
///
/// # Errors
/// They cannot be fetched: says what to do.
pub fn install(root: &Path) -> Result<bool> {
    if PROGRAMS.iter().all(|name| find(root, name).is_some()) {
        return Ok(false);
    }
    packages::unpack(&folder(root), PACKAGE)?;
    for name in PROGRAMS {
        ensure!(find(root, name).is_some(), "the package {PACKAGE} has no {name}; have it in PATH");
    }
    Ok(true)
}

/// One of them.
pub fn find(root: &Path, name: &str) -> Option<PathBuf> {
    let fetched = folder(root).join(PACKAGE).join("usr/bin").join(name);
    if fetched.is_file() { Some(fetched) } else { shell::find(name) }
}

fn folder(root: &Path) -> PathBuf {
    root.join("target/tools")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_was_fetched_goes_before_what_is_installed() {
        let root = tempfile::tempdir().unwrap();
        assert_ne!(find(root.path(), "sh"), None, "of PATH");
        let place = root.path().join("target/tools/prometheus/usr/bin");
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("sh"), "").unwrap();
        assert_eq!(find(root.path(), "sh"), Some(place.join("sh")));
    }
}

//! The rules of the repository as a test rather than as memory: what may import what, and what text may not contain.

mod imports;
mod source;
mod text;

use std::{fmt, fs, path::Path};

use anyhow::{Context, Result, bail};

use crate::shell;

/// Generated files keep no house rules.
const GENERATED: &str = "mesh-common/src/proto/gen/";

/// Something that a rule refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub path: String,
    /// From 1; 0: the whole file.
    pub line: usize,
    pub what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.into(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

/// Reads every file that Git knows or would add. Returns a remark for people.
///
/// # Errors
/// Lists all findings.
pub fn check(root: &Path) -> Result<String> {
    let mut git = shell::program("git");
    git.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = shell::output(&mut git).context("tidy reads the files that Git knows")?;
    let (mut findings, mut long) = (Vec::new(), Vec::new());
    for path in listed.split('\0').filter(|path| !path.is_empty()) {
        let bytes = match fs::read(root.join(path)) {
            // Removed, but not yet from the index.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.with_context(|| format!("cannot read {path}"))?,
        };
        // Pictures and archives have no rules.
        let Ok(text) = String::from_utf8(bytes) else { continue };
        findings.extend(findings_in(path, &text));
        if path.ends_with(".rs") && !path.starts_with(GENERATED) && text.lines().count() > text::LONG {
            long.push(format!("{path} ({} lines)", text.lines().count()));
        }
    }
    if !findings.is_empty() {
        bail!("{}", findings.iter().map(Finding::to_string).collect::<Vec<_>>().join("\n"));
    }
    Ok(if long.is_empty() { String::new() } else { format!("long files: {}", long.join(", ")) })
}

/// Everything that is wrong with one file; `path` is relative to the workspace.
fn findings_in(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = text::any(path, text);
    if path.ends_with(".rs") && !path.starts_with(GENERATED) {
        findings.extend(text::rust(path, text));
        findings.extend(imports::findings(path, text));
    }
    findings
}

#[cfg(test)]
mod tests;

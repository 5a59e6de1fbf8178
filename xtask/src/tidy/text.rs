//! What text may not contain, and how a Rust file looks.

use super::{Finding, source::Source};

/// Lines from which a file is worth a remark, and from which it is refused.
pub const LONG: usize = 400;
const TOO_LONG: usize = 600;
/// As rustfmt.toml has it for code: rustfmt leaves comments as they are.
const WIDTH: usize = 120;

/// Spelled in two halves, so that this file keeps its own rules.
const MARKERS: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
const MACHINES: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/")];

/// Rules for any text file.
pub fn any(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if path == "Cargo.lock" || path == "LICENSE" {
        return findings;
    }
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(marker) = MARKERS.iter().find(|marker| has_word(line, marker)) {
            findings.push(Finding::new(path, number, format!("{marker}: finish it or open an issue")));
        }
        if let Some(machine) = MACHINES.iter().find(|machine| starts_path(line, machine)) {
            findings.push(Finding::new(path, number, format!("{machine}…: a path of somebody's machine")));
        }
    }
    findings
}

/// Rules for Rust files.
pub fn rust(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let name = path.rsplit('/').next().unwrap_or(path);
    if name == "mod.rs" {
        findings.push(Finding::new(path, 0, "`x.rs` beside `x/` instead of `x/mod.rs`"));
    }
    if ["utils.rs", "util.rs", "helpers.rs", "misc.rs"].contains(&name) {
        findings.push(Finding::new(path, 0, "a file is named for what it holds"));
    }
    if !text.starts_with("//!") {
        findings.push(Finding::new(path, 1, "starts with a `//!` line that says what the file is for"));
    }
    let lines = text.lines().count();
    if lines > TOO_LONG {
        findings.push(Finding::new(path, 0, format!("{lines} lines; at most {TOO_LONG}: cut it by what it holds")));
    }
    for (number, line) in (1..).zip(text.lines()) {
        let is_picture = line.contains(['─', '│']);
        if line.trim_start().starts_with("//") && line.chars().count() > WIDTH && !is_picture {
            findings.push(Finding::new(path, number, format!("a comment of more than {WIDTH} characters")));
        }
    }
    for (number, line) in (1..).zip(Source::new(text).code().lines()) {
        if line.contains("fn get_") {
            findings.push(Finding::new(path, number, "`fn name()` instead of `fn get_name()`"));
        }
    }
    findings
}

fn has_word(line: &str, word: &str) -> bool {
    let is_letter = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word)
        .any(|(at, _)| !is_letter(line[..at].chars().next_back()) && !is_letter(line[at + word.len()..].chars().next()))
}

/// Whether the absolute path begins here; `$dir/root/x` and `a/work/b` are others.
fn starts_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric() && !"_-./}*~>".contains(c))
    })
}

//! The table of refused inputs: every attack that a test saw refused is a line of it. `cargo xtask test` prints it.

use std::{env, fs::OpenOptions, io::Write as _};

/// Notes that `attack`, of row `id` of the checklist, was refused: `outcome` is what the attacker saw, `code` the
/// stable reason, `evidence` where it was found. Call it after the assertions.
pub fn row(id: &str, attack: &str, outcome: &str, code: &str, evidence: &str) {
    let cells = [id, attack, outcome, code, evidence].map(|cell| cell.replace(['\t', '\n', '\r'], " "));
    let program = env::current_exe().expect("a running test has a path");
    // Beside `deps/`, in which tests lie.
    let folder = program.parent().and_then(|deps| deps.parent()).expect("it lies in a folder of cargo's");
    let file = OpenOptions::new().create(true).append(true).open(folder.join("refused-inputs.tsv"));
    // One write, so that tests that run at the same time do not mix their lines.
    let line = format!("{}\n", cells.join("\t"));
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the table can be written");
}

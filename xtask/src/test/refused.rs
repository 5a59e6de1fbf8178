//! The table of refused inputs: what tests of this run attacked, and how it was refused. Each test appends its lines to
//! a file beside the built programs (see `tests/src/refused.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    io::ErrorKind,
    path::PathBuf,
};

use anyhow::{Context, Result, ensure};

/// Fewer in a whole run means that tests went missing.
const LEAST: usize = 80;
/// What the kernel refuses by itself, and what does no harm.
const NO_CODE: &str = "-";

/// Removes what an earlier run left.
pub fn forget() -> Result<()> {
    let file = file()?;
    match fs::remove_file(&file) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// Prints the table.
///
/// # Errors
/// This run was `whole` and saw too few attacks.
pub fn told(whole: bool) -> Result<()> {
    let file = file()?;
    let text = match fs::read_to_string(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        other => other.with_context(|| format!("cannot read {}", file.display()))?,
    };
    let (table, cases) = table(&text)?;
    print!("{table}");
    ensure!(!whole || cases >= LEAST, "{cases} refused inputs were seen, {LEAST} are the least");
    Ok(())
}

/// Beside this program, where Cargo puts everything that it builds for tests.
fn file() -> Result<PathBuf> {
    let own = env::current_exe().context("the running program has no path")?;
    Ok(own.parent().context("the running program lies nowhere")?.join("refused-inputs.tsv"))
}

/// The table with its last line, and how many attacks of it were refused with a code of this project. An attack that
/// several tests saw is one.
fn table(text: &str) -> Result<(String, usize)> {
    let mut attacks = BTreeMap::new();
    for line in text.lines() {
        let cells: [&str; 5] =
            line.split('\t').collect::<Vec<_>>().try_into().ok().context("not a line of the table")?;
        let [id, attack, rest @ ..] = cells;
        let number: u32 = id.trim_start_matches('X').parse().with_context(|| format!("`{id}` is no row"))?;
        attacks.entry((number, id, attack)).or_insert(rest);
    }
    if attacks.is_empty() {
        return Ok((String::new(), 0));
    }
    let head = ["row", "attack", "code", "what the attacker saw", "where it was recorded"];
    let rows =
        attacks.iter().map(|((_, id, attack), [outcome, code, evidence])| [*id, *attack, *code, *outcome, *evidence]);
    let rows = [head].into_iter().chain(rows).collect::<Vec<_>>();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths = [0, 1, 2, 3].map(width);
    let mut shown = String::new();
    for [id, attack, code, outcome, evidence] in &rows {
        let [a, b, c, d] = widths;
        shown += &format!("  {id:a$}  {attack:b$}  {code:c$}  {outcome:d$}  {evidence}\n");
    }
    let ids = attacks.keys().map(|(number, ..)| number).collect::<BTreeSet<_>>();
    let coded = attacks.values().filter(|[_, code, _]| *code != NO_CODE).count();
    let rest = attacks.len() - coded;
    let (rows, count) = (ids.len(), coded);
    shown += &format!("  {count} refused inputs with a code, {rest} that need none, {rows} rows of the checklist\n");
    Ok((shown, coded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attack_is_counted_once_and_rows_are_in_order() {
        let text = "X10\tb\treset\tCODE\tflow\nX2\ta\t400\tOTHER\tflow\nX10\tb\tagain\tCODE\tflow\n\
                    X10\tc\tnothing\t-\tflow\n";
        let (shown, cases) = table(text).unwrap();
        assert_eq!(cases, 2);
        let lines = shown.lines().map(str::trim).collect::<Vec<_>>();
        assert!(lines[1].starts_with("X2") && lines[2].starts_with("X10"), "{shown}");
        assert_eq!(lines[4], "2 refused inputs with a code, 1 that need none, 2 rows of the checklist");
        assert!(table("X1\tonly two").is_err());
        assert_eq!(table("").unwrap(), (String::new(), 0));
    }
}

//! A table of figures and of what they are held against.

use serde_json::Value;

use super::figures::{Samples, Side};

/// A line of the table.
#[derive(Debug)]
pub struct Row {
    pub what: &'static str,
    pub plain: Option<f64>,
    pub mesh: Option<f64>,
    /// What must and goal are about: a ratio, or the mesh's own figure.
    pub judged: Option<f64>,
    pub unit: &'static str,
    pub must: Option<f64>,
    pub goal: Option<f64>,
    pub better: Better,
    /// What of the work failed: then the figures say little.
    pub errors: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    More,
    Less,
}

/// To standard output; rows that nobody measured are left out.
pub fn print(rows: &[Row]) {
    aligned(["", "no mesh", "mesh", "judged", "must", "goal", ""], &lines(rows));
}

/// To standard output: words in the first and the last column, figures in the others.
pub fn aligned<const COLUMNS: usize>(header: [&str; COLUMNS], lines: &[[String; COLUMNS]]) {
    let header = header.map(str::to_owned);
    let width = |column: usize| [&header].into_iter().chain(lines).map(|cells| cells[column].len()).max();
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| width(column).unwrap_or_default());
    for cells in [&header].into_iter().chain(lines) {
        let padded = cells.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
            0 => format!("{cell:<width$}"),
            last if last + 1 == COLUMNS => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        println!("{}", padded.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// What [`print()`] shows.
pub fn lines(rows: &[Row]) -> Vec<[String; 7]> {
    rows.iter().filter(|row| row.mesh.is_some() || row.plain.is_some()).map(Row::cells).collect()
}

impl Row {
    /// A figure of both sides, judged by its ratio, round by round.
    pub fn against(
        samples: &Samples,
        what: &'static str,
        item: &str,
        unit: &'static str,
        figure: impl Fn(&Value) -> Option<f64>,
        (must, goal, better): (Option<f64>, Option<f64>, Better),
    ) -> Self {
        let [plain, mesh] = [Side::Plain, Side::Mesh].map(|side| samples.median(item, side, &figure));
        let judged = samples.ratio(item, &figure);
        Self { what, plain, mesh, judged, unit, must, goal, better, errors: samples.errors(item) }
    }

    pub fn cells(&self) -> [String; 7] {
        let Self { what, plain, mesh, judged, unit, must, goal, better, errors } = self;
        let number = |value: &Option<f64>| value.map(shown).unwrap_or_default();
        let with_unit = |value: &Option<f64>| value.map(|v| format!("{} {unit}", shown(v))).unwrap_or_default();
        let reached = |bound: Option<f64>| {
            Some(match better {
                Better::More => (*judged)? >= bound?,
                Better::Less => (*judged)? <= bound?,
            })
        };
        let verdict = match (reached(*must), reached(*goal)) {
            (_, Some(true)) => "goal",
            (Some(true), _) => "must",
            (Some(false), _) => "MISSED",
            (None, Some(false)) => "not the goal",
            (None, None) => "",
        };
        let verdict = if *errors > 0 { format!("MISSED: {errors} errors") } else { verdict.to_owned() };
        let (plain, mesh) = (with_unit(plain), with_unit(mesh));
        [(*what).to_owned(), plain, mesh, number(judged), number(must), number(goal), verdict]
    }
}

pub fn shown(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 0.01 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

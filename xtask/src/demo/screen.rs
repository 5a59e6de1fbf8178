//! How the demo looks: numbered headings, indented facts, colours only where a terminal shows them.

use std::{
    cell::Cell,
    io::{IsTerminal as _, stdout},
};

/// Standard output.
pub struct Screen {
    colours: bool,
    step: Cell<u32>,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";

impl Screen {
    pub fn new() -> Self {
        Self { colours: stdout().is_terminal(), step: Cell::new(0) }
    }

    pub fn line(&self, text: &str) {
        println!("{text}");
    }

    pub fn title(&self, text: &str) {
        println!("\n{}", self.paint(BOLD, text));
    }

    /// A numbered heading.
    pub fn step(&self, text: &str) {
        self.step.set(self.step.get() + 1);
        println!("\n{}", self.paint(BOLD, &format!("{}  {text}", self.step.get())));
    }

    /// Who did what, and what came of it.
    pub fn fact(&self, what: &str, outcome: &str) {
        println!("   {what:<32} {outcome}");
    }

    pub fn note(&self, text: &str) {
        println!("   {}", self.paint(DIM, text));
    }

    pub fn good(&self, text: &str) -> String {
        self.paint(GREEN, text)
    }

    pub fn bad(&self, text: &str) -> String {
        self.paint(RED, text)
    }

    /// A table whose columns are as wide as their content.
    pub fn table<const N: usize>(&self, header: [&str; N], rows: &[[String; N]]) {
        let width = |column: usize| {
            rows.iter().map(|row| row[column].chars().count()).chain([header[column].len()]).max().unwrap_or_default()
        };
        let widths: [usize; N] = std::array::from_fn(width);
        let line = |cells: &[String; N]| {
            let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        println!("   {}", self.paint(DIM, &line(&header.map(str::to_owned))));
        for row in rows {
            println!("   {}", line(row));
        }
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

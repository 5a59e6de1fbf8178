//! What reaches the screen: tables, JSON lines and YAML documents. Text from the wire is escaped in tables, so that no
//! name and no error text can move the cursor or paint over what stands there.

use std::io::{self, IsTerminal as _, Write};

use clap::{ValueEnum, builder::NonEmptyStringValueParser};
use serde::Serialize;

/// How to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    #[default]
    Table,
    /// One object a line
    Json,
    /// One document an object
    Yaml,
    /// One line an object, for flows and tap; elsewhere a table
    Compact,
}

impl Format {
    /// For people; otherwise for programs.
    pub fn is_text(self) -> bool {
        matches!(self, Self::Table | Self::Compact)
    }
}

/// Which namespaces a list is about.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Namespaces {
    /// Only this namespace
    #[arg(short, long, value_parser = NonEmptyStringValueParser::new())]
    namespace: Option<String>,
    /// Every namespace, as without -n
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
}

impl Namespaces {
    /// As in questions: empty means every one.
    pub fn wanted(&self) -> String {
        let Self { namespace, all_namespaces: _ } = self;
        namespace.clone().unwrap_or_default()
    }
}

/// A colour's meaning; only a terminal shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Plain,
    Good,
    Bad,
    Dim,
}

/// One field of a table.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    mood: Mood,
}

/// Rows under a header. Widths grow with the rows that are written together.
#[derive(Debug)]
pub struct Table<const N: usize> {
    header: [&'static str; N],
    rows: Vec<[Cell; N]>,
    widths: [usize; N],
    headed: bool,
}

/// Where the output goes.
pub struct Screen<W = io::BufWriter<io::Stdout>> {
    out: W,
    pub format: Format,
    colours: bool,
    /// Somebody looks, and it can be painted over.
    terminal: bool,
}

/// Control characters as `\u{1b}`; also those that turn the direction of writing, and the invisible ones.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        let hidden =
            matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
        if c == '\n' {
            plain.push(c);
        } else if c.is_control() || hidden {
            plain.extend(c.escape_unicode());
        } else {
            plain.push(c);
        }
    }
    plain
}

/// As [`plain`], on one line.
fn one_line(text: &str) -> String {
    plain(text).replace('\n', "\\n")
}

impl Cell {
    pub fn new(text: impl AsRef<str>, mood: Mood) -> Self {
        let text = text.as_ref();
        // An empty field would make columns ambiguous for awk.
        Self { text: if text.is_empty() { "-".into() } else { one_line(text) }, mood }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Mood::Plain)
    }
}

impl<const N: usize> Table<N> {
    pub fn new(header: [&'static str; N]) -> Self {
        Self { header, rows: Vec::new(), widths: header.map(str::len), headed: false }
    }

    /// For rows that come one by one: what to expect of each column.
    pub fn with_widths(mut self, widths: [usize; N]) -> Self {
        for (width, least) in self.widths.iter_mut().zip(widths) {
            *width = (*width).max(least);
        }
        self
    }

    pub fn push(&mut self, row: [Cell; N]) {
        for (width, cell) in self.widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.text.chars().count());
        }
        self.rows.push(row);
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

impl Screen {
    pub fn stdout(format: Format, no_color: bool) -> Self {
        let out = io::stdout();
        let terminal = out.is_terminal();
        Self { out: io::BufWriter::new(out), format, colours: !no_color && terminal, terminal }
    }
}

impl<W: Write> Screen<W> {
    pub fn new(out: W, format: Format, colours: bool) -> Self {
        Self { out, format, colours, terminal: false }
    }

    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Writes the rows that are there and forgets them; the header comes once.
    pub fn table<const N: usize>(&mut self, table: &mut Table<N>) -> io::Result<()> {
        if !table.headed {
            table.headed = true;
            let header = table.header.map(|name| Cell::new(name, Mood::Dim));
            self.row(&header, &table.widths)?;
        }
        for row in std::mem::take(&mut table.rows) {
            self.row(&row, &table.widths)?;
        }
        self.out.flush()
    }

    pub fn line(&mut self, text: &str, mood: Mood) -> io::Result<()> {
        let text = one_line(text);
        self.painted(&text, mood)?;
        self.out.write_all(b"\n")?;
        self.out.flush()
    }

    /// Texts on one line, each in its mood.
    pub fn spans(&mut self, cells: &[Cell]) -> io::Result<()> {
        for (index, cell) in cells.iter().enumerate() {
            if index > 0 {
                self.out.write_all(b" ")?;
            }
            self.painted(&cell.text, cell.mood)?;
        }
        self.out.write_all(b"\n")?;
        self.out.flush()
    }

    /// As it is: it was made here, and nothing of it came over the wire unescaped.
    pub fn verbatim(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// One object: on a line of its own as JSON, or as a document of YAML.
    pub fn object(&mut self, object: &impl Serialize) -> io::Result<()> {
        if self.format == Format::Yaml {
            self.out.write_all(b"---\n")?;
            serde_yaml_ng::to_writer(&mut self.out, object).map_err(io::Error::other)?;
        } else {
            serde_json::to_writer(&mut self.out, object)?;
            self.out.write_all(b"\n")?;
        }
        self.out.flush()
    }

    fn row<const N: usize>(&mut self, row: &[Cell; N], widths: &[usize; N]) -> io::Result<()> {
        for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
            self.painted(&cell.text, cell.mood)?;
            if index + 1 < N {
                let gap = width.saturating_sub(cell.text.chars().count()) + 2;
                write!(self.out, "{:gap$}", "")?;
            }
        }
        self.out.write_all(b"\n")
    }

    fn painted(&mut self, text: &str, mood: Mood) -> io::Result<()> {
        let code = match mood {
            Mood::Good if self.colours => "32",
            Mood::Bad if self.colours => "31",
            Mood::Dim if self.colours => "2",
            _ => return self.out.write_all(text.as_bytes()),
        };
        write!(self.out, "\x1b[{code}m{text}\x1b[0m")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(colours: bool, write: impl FnOnce(&mut Screen<&mut Vec<u8>>)) -> String {
        let mut out = Vec::new();
        write(&mut Screen::new(&mut out, Format::Table, colours));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_line_up_and_the_last_is_not_padded() {
        let mut table = Table::new(["NAME", "X"]);
        table.push(["long-name".into(), "1".into()]);
        table.push(["".into(), "22".into()]);
        assert_eq!(
            written(false, |screen| screen.table(&mut table).unwrap()),
            "NAME       X\nlong-name  1\n-          22\n"
        );
        table.push(["more".into(), "3".into()]);
        assert_eq!(written(false, |screen| screen.table(&mut table).unwrap()), "more       3\n", "one header");
    }

    #[test]
    fn nothing_from_the_wire_steers_the_terminal() {
        let mut table = Table::new(["NAME"]);
        table.push(["a\x1b[2Jb\r\nc\u{9b}d\u{202e}e\u{200b}f\u{7f}".into()]);
        let text = written(false, |screen| screen.table(&mut table).unwrap());
        assert_eq!(text, "NAME\na\\u{1b}[2Jb\\u{d}\\nc\\u{9b}d\\u{202e}e\\u{200b}f\\u{7f}\n");
    }

    #[test]
    fn colours_only_where_they_are_seen() {
        let bad = |colours| written(colours, |screen| screen.line("no", Mood::Bad).unwrap());
        assert_eq!(bad(true), "\x1b[31mno\x1b[0m\n");
        assert_eq!(bad(false), "no\n");
    }
}

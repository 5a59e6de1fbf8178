//! How programs and scenes went on each kernel, as one table.

/// One kernel.
#[derive(Debug, Default)]
pub struct Report {
    /// As `uname -r` says it, or as it was asked for if it did not come up.
    pub kernel: String,
    pub rows: Vec<Row>,
}

/// One thing that was tried.
#[derive(Debug)]
pub struct Row {
    pub name: String,
    pub passed: bool,
    /// NaN: unknown.
    pub seconds: f64,
    /// What it said; of scenes only if it failed.
    pub output: String,
}

impl Row {
    /// One line.
    pub fn told(&self) -> String {
        format!("{} {}", self.name, self.cell())
    }

    fn cell(&self) -> String {
        let word = if self.passed { "ok" } else { "FAILED" };
        if self.seconds.is_nan() { word.to_owned() } else { format!("{word} {:.1} s", self.seconds) }
    }
}

/// A line for each of `names`, a column for each kernel. What a kernel did not come to is told as such.
pub fn table(names: &[String], reports: &[Report]) -> String {
    let cell = |name: &String, report: &Report| {
        let row = report.rows.iter().find(|row| row.name == *name);
        row.map_or_else(|| "not run".to_owned(), Row::cell)
    };
    let width = |report: &Report| {
        let cells = names.iter().map(|name| cell(name, report).len());
        cells.chain([report.kernel.len()]).max().unwrap_or(0)
    };
    let first = names.iter().map(String::len).max().unwrap_or(0);
    let mut text = format!("{:first$}", "");
    reports.iter().for_each(|report| text += &format!("  {:>1$}", report.kernel, width(report)));
    for name in names {
        text += &format!("\n{name:first$}");
        reports.iter().for_each(|report| text += &format!("  {:>1$}", cell(name, report), width(report)));
    }
    text
}

/// What failed or was not run, as `kernel: name`.
pub fn failures(names: &[String], reports: &[Report]) -> Vec<String> {
    let passed = |report: &Report, name: &String| report.rows.iter().any(|row| row.name == *name && row.passed);
    let failed = |report: &Report| {
        let names = names.iter().filter(|name| !passed(report, name));
        names.map(|name| format!("{}: {name}", report.kernel)).collect::<Vec<_>>()
    };
    reports.iter().flat_map(failed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_or_did_not_run_is_seen_and_counted() {
        let row = |name: &str, passed| Row { name: name.into(), passed, seconds: 1.25, output: String::new() };
        let good = Report { kernel: "6.12".into(), rows: vec![row("programs", true), row("a::b", true)] };
        let bad = Report { kernel: "6.1".into(), rows: vec![row("programs", false)] };
        let names = ["programs".to_owned(), "a::b".to_owned()];
        let reports = [good, bad];
        let table = table(&names, &reports);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["6.12", "6.1"]);
        assert_eq!(lines[1], ["programs", "ok", "1.2", "s", "FAILED", "1.2", "s"]);
        assert_eq!(lines[2], ["a::b", "ok", "1.2", "s", "not", "run"]);
        assert_eq!(failures(&names, &reports), ["6.1: programs", "6.1: a::b"]);
        assert!(failures(&names, &reports[..1]).is_empty());
    }
}

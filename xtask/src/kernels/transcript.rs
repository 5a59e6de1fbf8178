//! What a guest says on its serial line, line by line: which kernel came up, what it made of the programs, how each
//! scene ended. The other side is init.sh.

use super::report::{Report, Row};

/// The row of `mesh-agent programs`.
pub const PROGRAMS: &str = "programs";

/// What was said so far.
#[derive(Debug, Default)]
pub struct Transcript {
    pub report: Report,
    pub is_up: bool,
    pub is_done: bool,
    /// What the thing that runs now has said.
    output: String,
    /// Its name.
    running: Option<String>,
}

impl Transcript {
    /// Takes one line. Answers what a waiting person may want to read.
    pub fn take(&mut self, line: &str) -> Option<String> {
        let line = line.trim_end();
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["@up", release] => {
                self.is_up = true;
                self.report.kernel = release.to_owned();
                Some(format!("{release} is up"))
            }
            ["@programs", _] => {
                self.begin(PROGRAMS);
                None
            }
            ["@scene", name] => {
                self.begin(name);
                None
            }
            ["@end", name, code, start, end] => {
                let seconds = || Some(end.parse::<f64>().ok()? - start.parse::<f64>().ok()?);
                let (passed, output) = (code == "0", std::mem::take(&mut self.output));
                self.running = None;
                let row = Row { name: name.to_owned(), passed, seconds: seconds().unwrap_or(f64::NAN), output };
                let told = row.told();
                self.report.rows.push(row);
                Some(told)
            }
            ["@done"] => {
                self.is_done = true;
                None
            }
            _ => {
                if self.running.is_some() && !line.is_empty() {
                    self.output += line;
                    self.output.push('\n');
                }
                None
            }
        }
    }

    /// Nothing more will come. What ran has failed, with `why`.
    pub fn end(mut self, why: &str) -> Report {
        if let Some(name) = self.running.take() {
            let output = format!("{}{why}\n", self.output);
            self.report.rows.push(Row { name, passed: false, seconds: f64::NAN, output });
        }
        self.report
    }

    fn begin(&mut self, name: &str) {
        self.running = Some(name.to_owned());
        self.output.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "noise of the firmware\r\n@up 6.1.0-56-cloud-amd64\r\n@programs 0\r\n{\r\n}\r\n\
                        @end programs 0 0 9.50\r\n@scene own_pod::a\r\n\r\n@end own_pod::a 0 10.00 30.50\r\n\
                        @scene own_pod::b\r\npanicked at: no\r\n";

    fn heard(text: &str) -> Transcript {
        let mut transcript = Transcript::default();
        text.lines().for_each(|line| drop(transcript.take(line)));
        transcript
    }

    #[test]
    fn every_end_is_a_row_with_its_seconds_and_what_was_said() {
        let transcript = heard(&format!("{SAID}@end own_pod::b 101 31.00 32.00\r\n@done\r\n"));
        assert!(transcript.is_up && transcript.is_done);
        let report = transcript.end("");
        assert_eq!(report.kernel, "6.1.0-56-cloud-amd64");
        let rows: Vec<_> = report.rows.iter().map(|row| (row.name.as_str(), row.passed)).collect();
        assert_eq!(rows, [(PROGRAMS, true), ("own_pod::a", true), ("own_pod::b", false)]);
        assert_eq!(report.rows[0].output, "{\n}\n");
        assert!((report.rows[1].seconds - 20.5).abs() < 0.01);
        assert_eq!(report.rows[2].output, "panicked at: no\n");
    }

    #[test]
    fn what_runs_when_the_guest_ends_has_failed() {
        let transcript = heard(SAID);
        assert!(!transcript.is_done);
        let report = transcript.end("the kernel panicked");
        let last = report.rows.last().unwrap();
        assert_eq!((last.name.as_str(), last.passed), ("own_pod::b", false));
        assert!(last.output.ends_with("panicked at: no\nthe kernel panicked\n"));
    }
}

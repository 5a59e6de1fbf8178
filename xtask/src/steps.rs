//! Named steps with their seconds and results, and one summary at the end. A failed step does not stop those after it.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What became of a step.
#[derive(Debug)]
pub enum Outcome {
    /// With a remark, which may be empty.
    Passed(String),
    Skipped(String),
    Failed(String),
}

/// The steps so far.
#[derive(Debug)]
pub struct Steps {
    command: &'static str,
    done: Vec<(&'static str, Duration, Outcome)>,
}

impl Steps {
    pub fn new(command: &'static str) -> Self {
        Self { command, done: Vec::new() }
    }

    /// Runs one step and says how it ended.
    pub fn run(&mut self, name: &'static str, step: impl FnOnce() -> Result<Outcome>) {
        println!("{}: {name}", self.command);
        let start = Instant::now();
        let outcome = step().unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        let line = (name, start.elapsed(), outcome);
        self.say(&line, true);
        self.done.push(line);
    }

    /// # Errors
    /// Names the steps that failed.
    pub fn finish(self) -> Result<()> {
        println!("\n{}:", self.command);
        self.done.iter().for_each(|line| self.say(line, false));
        let failed = self.done.iter().filter(|(_, _, outcome)| matches!(outcome, Outcome::Failed(_)));
        let failed = failed.map(|(name, ..)| *name).collect::<Vec<_>>();
        if !failed.is_empty() {
            bail!("{}: failed: {}", self.command, failed.join(", "));
        }
        Ok(())
    }

    fn say(&self, (name, time, outcome): &(&'static str, Duration, Outcome), whole: bool) {
        let (word, remark) = match outcome {
            Outcome::Passed(remark) => ("ok", remark),
            Outcome::Skipped(why) => ("SKIPPED", why),
            Outcome::Failed(why) => ("FAILED", why),
        };
        let remark = if whole { remark } else { remark.lines().next().unwrap_or("") };
        println!("  {name:<16} {word:<8} {:>6.1} s  {remark}", time.as_secs_f64());
    }
}

impl From<()> for Outcome {
    fn from((): ()) -> Self {
        Self::Passed(String::new())
    }
}

impl From<String> for Outcome {
    fn from(remark: String) -> Self {
        Self::Passed(remark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_does_not_stop_the_rest_and_is_not_forgotten() {
        let mut steps = Steps::new("test");
        let mut ran = false;
        steps.run("first", || bail!("broken"));
        steps.run("second", || {
            ran = true;
            Ok(().into())
        });
        steps.run("third", || Ok(Outcome::Skipped("not here".into())));
        assert!(ran);
        assert_eq!(steps.finish().unwrap_err().to_string(), "test: failed: first");
    }
}

//! How it stands with one watch.

use std::time::{Duration, Instant};

use crate::status::Problem;

/// A watch that failed and has said nothing for so long is well again: failing ones are tried more often than that.
const WELL_AGAIN: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub struct Health {
    /// What is followed, for people.
    what: &'static str,
    trouble: Option<Trouble>,
}

#[derive(Debug)]
struct Trouble {
    why: String,
    last: Instant,
}

impl Health {
    pub fn new(what: &'static str) -> Self {
        Self { what, trouble: None }
    }

    /// What is wrong, if anything is.
    pub fn problem(&self, was_read: bool) -> Option<Problem> {
        let why = &self.trouble.as_ref()?.why;
        let stays = if was_read { "what was read before stays" } else { "nothing of it was read yet" };
        Some(Problem::of_file("", format_args!("{} cannot be followed: {why}; {stays}", self.what)))
    }

    /// The watch failed; it is tried again. Whether that is news.
    pub fn fails(&mut self, why: String, now: Instant) -> bool {
        let news = self.trouble.as_ref().is_none_or(|trouble| trouble.why != why);
        if self.trouble.is_none() {
            tracing::warn!(what = self.what, error = why, "cannot be followed, it is tried again");
        }
        self.trouble = Some(Trouble { why, last: now });
        news
    }

    /// Whether trouble ended by itself: a quiet kind has no event to say so.
    pub fn recovers(&mut self, now: Instant) -> bool {
        let over = self.trouble.as_ref().is_some_and(|trouble| now.duration_since(trouble.last) > WELL_AGAIN);
        over && self.is_well()
    }

    /// It has said something. Whether that is news.
    pub fn is_well(&mut self) -> bool {
        let was_ill = self.trouble.take().is_some();
        if was_ill {
            tracing::info!(what = self.what, "followed again");
        }
        was_ill
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_until_it_is_over() {
        let start = Instant::now();
        let mut health = Health::new("Pod");
        assert!(health.problem(true).is_none() && !health.is_well());
        assert!(health.fails("refused".into(), start));
        assert!(!health.fails("refused".into(), start));
        let problem = |health: &Health, read| health.problem(read).expect("a problem").to_string();
        assert_eq!(problem(&health, true), "Pod cannot be followed: refused; what was read before stays");
        assert_eq!(problem(&health, false), "Pod cannot be followed: refused; nothing of it was read yet");
        assert!(!health.recovers(start + WELL_AGAIN));
        assert!(health.recovers(start + WELL_AGAIN * 2));
        assert!(health.problem(true).is_none());
        health.fails("refused".into(), start);
        assert!(health.is_well());
        assert!(health.problem(true).is_none());
    }
}

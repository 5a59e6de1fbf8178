//! How much work patterns may make for one request. What they read is no longer than a request's head, but the head may
//! be long, the patterns many, and some take many steps for a byte: all that a request's patterns read is counted
//! together.

use std::cell::Cell;

use regex::bytes::Regex;
use regex_syntax::hir::{Hir, HirKind};

/// Bytes that patterns of a usual size may read for one request, all together.
const MOST: usize = 2 << 20;
/// Bytes that asking one costs beside those that it reads.
const ASKED: usize = 32;
/// Steps of a pattern for one byte that cost nothing extra.
const STEPS: usize = 64;

/// What patterns may still read for one request.
#[derive(Debug)]
pub struct Effort {
    left: Cell<usize>,
    /// One was not asked for want of it.
    used_up: Cell<bool>,
}

/// A request for which patterns would have to read too much: what holds for it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request is too long for the patterns of the rules: they would have to read more than {MOST} bytes")]
pub struct TooMuch;

/// A compiled pattern, and what it costs.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    pub regex: Regex,
    /// For each byte that it reads.
    cost: usize,
}

impl Default for Effort {
    fn default() -> Self {
        Self { left: Cell::new(MOST), used_up: Cell::new(false) }
    }
}

impl Effort {
    /// Before `pattern` reads so many bytes; `false`: it must not.
    pub(super) fn permits(&self, pattern: &Pattern, bytes: usize) -> bool {
        self.takes(bytes.saturating_add(ASKED).saturating_mul(pattern.cost))
    }

    /// For other work that is done for patterns; `false`: it must not be done.
    pub(super) fn takes(&self, cost: usize) -> bool {
        match self.left.get().checked_sub(cost) {
            Some(left) => self.left.set(left),
            None => self.used_up.set(true),
        }
        !self.used_up.get()
    }

    /// An answer that patterns gave, if each was asked that had to be.
    pub(super) fn so<T>(&self, answer: T) -> Result<T, TooMuch> {
        if self.used_up.get() { Err(TooMuch) } else { Ok(answer) }
    }
}

impl Pattern {
    /// `parsed` is what `regex` was built from.
    pub fn new(regex: Regex, parsed: &Hir) -> Self {
        Self { regex, cost: 1 + steps(parsed) / STEPS }
    }

    pub fn is_match(&self, text: &[u8], effort: &Effort) -> bool {
        effort.permits(self, text.len()) && self.regex.is_match(text)
    }
}

/// About as many as its automaton has states: in the worst case each is looked at for each byte.
fn steps(pattern: &Hir) -> usize {
    match pattern.kind() {
        HirKind::Empty | HirKind::Look(_) | HirKind::Class(_) => 1,
        HirKind::Literal(literal) => literal.0.len(),
        HirKind::Capture(group) => steps(&group.sub).saturating_add(2),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => parts.iter().map(steps).fold(1, usize::saturating_add),
        HirKind::Repetition(repetition) => {
            let times = repetition.max.unwrap_or(repetition.min).max(1) as usize;
            steps(&repetition.sub).saturating_add(1).saturating_mul(times)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::Patterns;
    use super::*;

    #[test]
    fn large_patterns_cost_more_for_each_byte() {
        let mut patterns = Patterns::default();
        for (pattern, cost) in [
            ("/api/v[0-9]+/users", 1),
            ("", 1),
            (".*", 1),
            ("(a|b){20}", 2),
            ("[a-z]{0,200}", 7),
            ("([a-z]{1,10}/){1,10}", 4),
        ] {
            assert_eq!(patterns.whole(pattern, false).unwrap().cost, cost, "{pattern}");
        }
    }

    #[test]
    fn what_is_used_up_stays_so() {
        let pattern = Patterns::default().whole("a*", false).unwrap();
        let effort = Effort::default();
        let all = vec![b'a'; MOST / 2];
        assert!(pattern.is_match(&all, &effort));
        assert_eq!(effort.so(1), Ok(1));
        assert!(!pattern.is_match(&all, &effort), "too much");
        assert!(!pattern.is_match(b"a", &effort), "whatever comes then");
        assert_eq!(effort.so(1), Err(TooMuch));
    }
}

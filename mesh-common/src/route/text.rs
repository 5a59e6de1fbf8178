//! Conditions on texts. Patterns are bounded, since users write them: a pattern's length, its compiled size, and how
//! many a list of rules may have.

use std::collections::HashMap;

use regex::bytes::{Regex, RegexBuilder};
use regex_syntax::{
    ParserBuilder,
    hir::{Hir, HirKind, Look},
};

use super::effort::{Effort, Pattern};
use crate::model::traffic::TextMatch;

/// Bytes of one pattern as it is written.
const LONGEST_PATTERN: usize = 4096;
/// Bytes of one pattern, compiled.
const LARGEST_PATTERN: usize = 64 << 10;
/// Bytes a thread may use to remember how one pattern matched (the states of its automaton).
const PATTERN_CACHE: usize = 128 << 10;
/// Different patterns in one list of rules.
pub(super) const MOST_PATTERNS: usize = 4096;

/// The patterns of one list of rules, each compiled once.
///
/// They are RE2's as far as RE2 and the `regex` crate agree: classes such as `\d` and `\w`, and `(?i)`, are about
/// ASCII; `\C`, `\Q…\E` and Unicode classes are refused.
#[derive(Default)]
pub(super) struct Patterns {
    known: HashMap<(String, bool), Pattern>,
}

/// A compiled [`TextMatch`].
#[derive(Clone, Debug)]
pub(super) enum Text {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Regex(Pattern),
    Any,
}

impl Patterns {
    /// Matches whole texts. `fold`: upper and lower case are one.
    pub fn whole(&mut self, pattern: &str, fold: bool) -> Result<Pattern, String> {
        if let Some(known) = self.known.get(&(pattern.to_owned(), fold)) {
            return Ok(known.clone());
        }
        if self.known.len() >= MOST_PATTERNS {
            return Err(format!("more than {MOST_PATTERNS} different patterns in one list"));
        }
        // Alone first: `a)(b` is no pattern, but becomes one between parentheses.
        let parsed = parsed(pattern, fold)?;
        let compiled = Pattern::new(built(&format!(r"\A(?:{pattern})\z"), fold)?, &parsed);
        self.known.insert((pattern.to_owned(), fold), compiled.clone());
        Ok(compiled)
    }
}

/// Matches anywhere in a text.
pub(super) fn anywhere(pattern: &str) -> Result<Pattern, String> {
    let parsed = parsed(pattern, false)?;
    Ok(Pattern::new(built(pattern, false)?, &parsed))
}

/// What every text has that a whole pattern matches; often nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Literals {
    /// It begins with this.
    pub first: Vec<u8>,
    /// These are somewhere behind.
    pub others: Vec<Vec<u8>>,
}

impl Literals {
    pub fn of(pattern: &str, fold: bool) -> Self {
        let Ok(parsed) = parsed(pattern, fold) else { return Self::default() };
        let parts = match parsed.kind() {
            HirKind::Concat(parts) => parts.as_slice(),
            _ => std::slice::from_ref(&parsed),
        };
        let mut literals = Self::default();
        let mut at_start = true;
        for part in parts {
            match part.kind() {
                HirKind::Literal(literal) if at_start => literals.first = literal.0.to_vec(),
                HirKind::Literal(literal) => literals.others.push(literal.0.to_vec()),
                HirKind::Look(Look::Start) => continue,
                _ => {}
            }
            at_start = false;
        }
        literals
    }

    /// Each, with whether it is the first.
    pub fn all(&self) -> impl Iterator<Item = (bool, &[u8])> {
        let first = (!self.first.is_empty()).then_some((true, self.first.as_slice()));
        first.into_iter().chain(self.others.iter().map(|other| (false, other.as_slice())))
    }
}

fn parsed(pattern: &str, fold: bool) -> Result<Hir, String> {
    if pattern.len() > LONGEST_PATTERN {
        return Err(format!("a pattern of {} bytes, {LONGEST_PATTERN} are the most", pattern.len()));
    }
    ParserBuilder::new()
        .unicode(false)
        .utf8(false)
        .case_insensitive(fold)
        .build()
        .parse(pattern)
        .map_err(|error| one_line(&error.to_string()))
}

fn built(pattern: &str, fold: bool) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .unicode(false)
        .case_insensitive(fold)
        .size_limit(LARGEST_PATTERN)
        .dfa_size_limit(PATTERN_CACHE)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(limit) => format!("the pattern needs more than {limit} bytes compiled"),
            other => one_line(&other.to_string()),
        })
}

/// The crates draw the pattern and an arrow below it; their last line says what is wrong.
fn one_line(error: &str) -> String {
    let last = error.lines().last().unwrap_or_default();
    format!("not a pattern: {}", last.trim().trim_start_matches("error: "))
}

impl Text {
    pub fn new(text: &TextMatch, fold: bool, patterns: &mut Patterns) -> Result<Self, String> {
        Ok(match text {
            TextMatch::Exact(text) => Self::Exact(text.as_bytes().into()),
            TextMatch::Prefix(text) => Self::Prefix(text.as_bytes().into()),
            TextMatch::Regex(pattern) => Self::Regex(patterns.whole(pattern, fold)?),
            TextMatch::Any => Self::Any,
        })
    }

    /// `fold` as it was in [`Text::new`].
    pub fn has(&self, text: &[u8], fold: bool, effort: &Effort) -> bool {
        match self {
            Self::Exact(exact) => same(exact, text, fold),
            Self::Prefix(prefix) => begins(text, prefix, fold),
            Self::Regex(pattern) => pattern.is_match(text, effort),
            Self::Any => true,
        }
    }
}

pub(super) fn same(one: &[u8], other: &[u8], fold: bool) -> bool {
    match fold {
        true => one.eq_ignore_ascii_case(other),
        false => one == other,
    }
}

pub(super) fn begins(text: &[u8], prefix: &[u8], fold: bool) -> bool {
    text.get(..prefix.len()).is_some_and(|beginning| same(beginning, prefix, fold))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_texts_only() {
        let mut patterns = Patterns::default();
        for (pattern, text, fold, matches) in [
            ("a|b", "ab", false, false),
            ("a|b", "b", false, true),
            ("/v[0-9]+", "/v12", false, true),
            ("/v[0-9]+", "/v12/", false, false),
            ("/V1", "/v1", false, false),
            ("/V1", "/v1", true, true),
            (r"\d", "\u{663}", false, false),
            ("^a$", "a", false, true),
            ("(?m)^a$", "a\nb", false, false),
            ("a.c", "a\nc", false, false),
        ] {
            let regex = patterns.whole(pattern, fold).unwrap();
            assert_eq!(regex.is_match(text.as_bytes(), &Effort::default()), matches, "{pattern} {text}");
        }
    }

    #[test]
    fn a_pattern_that_costs_too_much_is_refused() {
        let mut patterns = Patterns::default();
        for (pattern, why) in [
            ("((a{99}){99}){99}".to_owned(), "the pattern needs more than 65536 bytes compiled"),
            ("a".repeat(5000), "a pattern of 5000 bytes, 4096 are the most"),
            ("a)(b".into(), "not a pattern: unopened group"),
            (r"\pL".into(), "not a pattern: Unicode not allowed here"),
            ("(".into(), "not a pattern: unclosed group"),
        ] {
            assert_eq!(patterns.whole(&pattern, false).unwrap_err(), why);
        }
        for number in 0..MOST_PATTERNS {
            patterns.whole(&number.to_string(), false).unwrap();
        }
        assert_eq!(patterns.whole("x", false).unwrap_err(), "more than 4096 different patterns in one list");
        // One that is known already costs nothing.
        patterns.whole("17", false).unwrap();
    }

    #[test]
    fn what_every_text_of_a_pattern_has_is_known() {
        for (pattern, fold, first, others) in [
            ("/api/v[0-9]+", false, "/api/v", &[][..]),
            ("^/api/.*", false, "/api/", &[]),
            ("/api", false, "/api", &[]),
            ("^/api$", false, "/api", &[]),
            ("/a|/b", false, "", &[]),
            ("/ab?", false, "/a", &[]),
            ("(?i)/api", false, "/", &[]),
            ("/api", true, "/", &[]),
            (r".*\.jpg$", false, "", &[".jpg"]),
            ("(/a)/b", false, "", &["/b"]),
            ("/a/[^/]+/b/.*c", false, "/a/", &["/b/", "c"]),
            ("(?m)^/a", false, "", &["/a"]),
        ] {
            let others = others.iter().map(|text: &&str| text.as_bytes().to_vec()).collect();
            assert_eq!(Literals::of(pattern, fold), Literals { first: first.into(), others }, "{pattern}");
        }
    }
}

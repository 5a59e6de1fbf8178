//! Regular expressions (RE2) that users write: read here, so that an agent never meets one that it cannot take.

use regex::bytes::{Regex, RegexBuilder};

/// Bytes; a pattern that people wrote is far shorter.
const LONGEST: usize = 1024;
/// Bytes of its program, as agents bound it.
const LARGEST: usize = 64 << 10;
/// Parentheses within each other.
const DEEPEST: u32 = 32;

/// How many groups the pattern has, its whole not among them.
///
/// # Errors
/// If it is none, or too large.
pub fn pattern(text: &str) -> Result<usize, String> {
    if text.len() > LONGEST {
        return Err(format!("a regular expression of {} bytes is too long (at most {LONGEST})", text.len()));
    }
    // Alone first: `a)(b` is none, but becomes one between parentheses.
    match built(text).and_then(|_| built(&format!(r"\A(?:{text})\z"))) {
        Ok(regex) => Ok(regex.captures_len() - 1),
        Err(regex::Error::CompiledTooBig(_)) => Err(format!("`{text}` is too large a regular expression")),
        Err(e) => {
            // The error draws the pattern over several lines; its last one says what is wrong.
            let why = e.to_string();
            let why = why.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
            Err(format!("`{text}` is no regular expression: {why}"))
        }
    }
}

/// As agents read it, about ASCII; without regard to case, since that is the larger program.
fn built(text: &str) -> Result<Regex, regex::Error> {
    let mut builder = RegexBuilder::new(text);
    builder.unicode(false).case_insensitive(true).size_limit(LARGEST).nest_limit(DEEPEST).build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_ones_are_taken_and_large_ones_refused() {
        for (text, groups) in [(".*", 0), ("/api/v[0-9]+/(.*)", 1), ("(?i)a|b", 0), ("^/x$", 0), ("\\d{3}", 0)] {
            assert_eq!(pattern(text), Ok(groups), "{text}");
        }
        let long = "a".repeat(LONGEST + 1);
        let deep = format!("{}a{}", "(".repeat(40), ")".repeat(40));
        for text in ["(", "a)(b", "a{1000}{1000}", "(?:\\pL{100}){100}", "(?=a)", "\\1", "[", &long, &deep] {
            assert!(pattern(text).is_err(), "{text}");
        }
        assert!(pattern("(a").expect_err("open").starts_with("`(a` is no regular expression: "));
    }
}

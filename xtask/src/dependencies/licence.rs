//! SPDX licence expressions: may we use this under licences that we allow?

/// Whether `expression` can be satisfied with `allowed` licences. `/` is the old spelling of OR.
///
/// # Errors
/// The expression is not one; says at what.
pub fn is_satisfied(expression: &str, allowed: &[String]) -> Result<bool, String> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words = spaced.split_whitespace().collect::<Vec<_>>();
    let mut parser = Parser { words: &words, allowed };
    let satisfied = parser.any()?;
    match parser.words {
        [] => Ok(satisfied),
        [word, ..] => Err(format!("unexpected `{word}`")),
    }
}

struct Parser<'a> {
    words: &'a [&'a str],
    allowed: &'a [String],
}

impl Parser<'_> {
    fn any(&mut self) -> Result<bool, String> {
        let mut satisfied = self.all()?;
        while self.take("OR") {
            satisfied |= self.all()?;
        }
        Ok(satisfied)
    }

    fn all(&mut self) -> Result<bool, String> {
        let mut satisfied = self.one()?;
        while self.take("AND") {
            satisfied &= self.one()?;
        }
        Ok(satisfied)
    }

    fn one(&mut self) -> Result<bool, String> {
        let [word, rest @ ..] = self.words else { return Err("ends too early".into()) };
        self.words = rest;
        if *word == "(" {
            let satisfied = self.any()?;
            return if self.take(")") { Ok(satisfied) } else { Err("a bracket is not closed".into()) };
        }
        if [")", "AND", "OR", "WITH"].contains(word) {
            return Err(format!("unexpected `{word}`"));
        }
        let mut name = word.to_string();
        if self.take("WITH") {
            let [exception, rest @ ..] = self.words else { return Err("ends after WITH".into()) };
            self.words = rest;
            name = format!("{name} WITH {exception}");
        }
        Ok(self.allowed.contains(&name))
    }

    fn take(&mut self, word: &str) -> bool {
        let there = self.words.first() == Some(&word);
        if there {
            self.words = &self.words[1..];
        }
        there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn satisfied(expression: &str) -> Result<bool, String> {
        is_satisfied(expression, &["MIT".into(), "Apache-2.0".into(), "ISC".into()])
    }

    #[test]
    fn expressions_bind_as_spdx_says() {
        for good in ["MIT", "GPL-2.0-only OR MIT", "Unlicense/MIT", "Apache-2.0 / MIT", "(MIT OR X) AND ISC"] {
            assert_eq!(satisfied(good), Ok(true), "{good}");
        }
        for bad in ["GPL-3.0-only", "MIT AND X", "X OR MIT AND Y", "Apache-2.0 WITH LLVM-exception", "(X OR Y) AND MIT"]
        {
            assert_eq!(satisfied(bad), Ok(false), "{bad}");
        }
    }

    #[test]
    fn what_is_no_expression_is_refused() {
        for wrong in ["", "MIT OR", "(MIT", "MIT)", "MIT MIT", "OR MIT", "MIT WITH"] {
            assert!(satisfied(wrong).is_err(), "{wrong}");
        }
    }
}

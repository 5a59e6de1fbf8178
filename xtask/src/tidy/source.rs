//! Just enough of Rust's grammar to read which paths a file names: comments and texts are blanked, `use` trees are
//! unfolded, inline modules are followed for the sake of `super`.

/// The code of a file without comments and texts, line for line.
#[derive(Debug)]
pub struct Source {
    code: String,
}

/// A path as it stands in the code, such as `super::pool::Pool`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// From 1
    pub line: usize,
    pub segments: Vec<String>,
    /// The inline modules around it, outermost first.
    pub inside: Vec<String>,
}

/// A piece of code: a name, a `::`, or any other single character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Name(&'a str),
    Join,
    Mark(char),
}

impl Source {
    pub fn new(text: &str) -> Self {
        Self { code: blank(text) }
    }

    pub fn code(&self) -> &str {
        &self.code
    }

    /// Every single name, with the inline modules around it.
    pub fn names(&self) -> Vec<Named> {
        self.walk(|tokens, at| match tokens[at].1 {
            Token::Name(name) => (vec![vec![name.to_string()]], at + 1),
            _ => (Vec::new(), at + 1),
        })
    }

    /// Every path that is imported or named with `::`.
    pub fn paths(&self) -> Vec<Named> {
        self.walk(|tokens, at| match tokens[at].1 {
            Token::Name("use") => tree(tokens, at + 1),
            Token::Name(_) => {
                let (paths, next) = tree(tokens, at);
                (paths.into_iter().filter(|path| path.len() > 1).collect(), next.max(at + 1))
            }
            _ => (Vec::new(), at + 1),
        })
    }

    /// `read` gives the paths that begin at a token, and the token after them.
    fn walk(&self, read: impl Fn(&[(usize, Token<'_>)], usize) -> (Vec<Vec<String>>, usize)) -> Vec<Named> {
        let tokens = tokens(&self.code);
        let (mut found, mut inside, mut depth, mut at) = (Vec::new(), Vec::<(String, usize)>::new(), 0, 0);
        while let Some(&(line, token)) = tokens.get(at) {
            match token {
                Token::Mark('{') => depth += 1,
                Token::Mark('}') => {
                    depth -= 1;
                    inside.pop_if(|(_, opened)| *opened > depth);
                }
                Token::Name("mod") => {
                    if let (Some((_, Token::Name(name))), Some((_, Token::Mark('{')))) =
                        (tokens.get(at + 1), tokens.get(at + 2))
                    {
                        inside.push((name.to_string(), depth + 1));
                    }
                }
                _ => {}
            }
            let (paths, next) = read(&tokens, at);
            let modules = inside.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
            // `use<'a>` in a signature names nothing.
            let paths = paths.into_iter().filter(|path| !path.is_empty());
            found.extend(paths.map(|segments| Named { line, segments, inside: modules.clone() }));
            at = next;
        }
        found
    }
}

/// Reads `a::b::{c, d::*}` from `at`; the paths, and the token after them.
fn tree(tokens: &[(usize, Token<'_>)], mut at: usize) -> (Vec<Vec<String>>, usize) {
    let mut path = Vec::new();
    // `::a` and `crate::a` differ, but no rule asks.
    while matches!(tokens.get(at), Some((_, Token::Join))) {
        at += 1;
    }
    loop {
        match tokens.get(at).map(|token| token.1) {
            Some(Token::Name(name)) => path.push(name.trim_start_matches("r#").to_string()),
            Some(Token::Mark('*')) if !path.is_empty() => path.push("*".into()),
            Some(Token::Mark('{')) => {
                let mut paths = Vec::new();
                at += 1;
                while let Some(&(_, token)) = tokens.get(at) {
                    match token {
                        Token::Mark('}') => break,
                        Token::Name(_) | Token::Join | Token::Mark('{') => {
                            let (inner, next) = tree(tokens, at);
                            paths.extend(inner.into_iter().map(|tail| [path.clone(), tail].concat()));
                            at = next;
                            // The new name of `a as b` is no path.
                            if matches!(tokens.get(at), Some((_, Token::Name("as")))) {
                                at += 2;
                            }
                        }
                        Token::Mark(_) => at += 1,
                    }
                }
                return (paths, at + 1);
            }
            _ => return (vec![path], at),
        }
        at += 1;
        match tokens.get(at) {
            Some((_, Token::Join)) => at += 1,
            _ => return (vec![path], at),
        }
        // `Vec::<u8>` ends a path as far as rules go.
        if matches!(tokens.get(at), Some((_, Token::Mark(mark))) if *mark != '{' && *mark != '*') {
            return (vec![path], at);
        }
    }
}

fn tokens(code: &str) -> Vec<(usize, Token<'_>)> {
    let (mut tokens, mut line, mut rest) = (Vec::new(), 1, code);
    while let Some(first) = rest.chars().next() {
        let mut length = first.len_utf8();
        if first == '\n' {
            line += 1;
        } else if let Some(after) = rest.strip_prefix("::") {
            tokens.push((line, Token::Join));
            length = rest.len() - after.len();
        } else if first.is_alphanumeric() || first == '_' {
            let is_name = |c: char| c.is_alphanumeric() || c == '_';
            length = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            tokens.push((line, Token::Name(&rest[..length])));
        } else if !first.is_whitespace() {
            tokens.push((line, Token::Mark(first)));
        }
        rest = &rest[length..];
    }
    tokens
}

/// Replaces comments, texts and characters by spaces; lines stay where they are.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_name = code.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_');
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if first == '"' {
            quoted(rest, 1)
        } else if let Some(length) = if after_name { None } else { raw_text(rest) } {
            length
        } else if first == '\'' {
            character(rest)
        } else {
            0
        };
        if skipped == 0 {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        } else {
            code.extend(rest[..skipped].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
            rest = &rest[skipped..];
        }
    }
    code
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length up to the closing quote; `from` is behind the opening one.
fn quoted(text: &str, from: usize) -> usize {
    let mut escaped = false;
    for (at, c) in text[from..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return from + at + 1,
            _ => {}
        }
    }
    text.len()
}

/// `r"…"`, `r#"…"#` and those with b or c before.
fn raw_text(text: &str) -> Option<usize> {
    let raw = text.strip_prefix(['b', 'c']).unwrap_or(text).strip_prefix('r')?;
    let inner = raw.trim_start_matches('#');
    let hashes = raw.len() - inner.len();
    let inner = inner.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = inner.find(&end).map_or(inner.len(), |at| at + end.len());
    Some(text.len() - inner.len() + length)
}

/// `'x'` or `'\n'`; 0 for a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => text[3.min(text.len())..].find('\'').map_or(0, |at| at + 4),
        Some(_) => chars.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(text: &str) -> Vec<String> {
        Source::new(text).paths().into_iter().map(|named| named.segments.join("::")).collect()
    }

    #[test]
    fn use_trees_unfold() {
        assert_eq!(
            paths("pub(crate) use a::{b as x, c::{self, D}, e::*};\nuse f;"),
            ["a::b", "a::c::self", "a::c::D", "a::e::*", "f"]
        );
        assert_eq!(paths("use {a::b, ::c::d};"), ["a::b", "c::d"]);
        assert_eq!(paths("fn f() -> impl Iterator + use<'_> {}"), [""; 0]);
    }

    #[test]
    fn paths_in_code_are_read_and_texts_are_not() {
        assert_eq!(paths("fn f() -> a::B { c::d::<E>(x) + Vec::<u8>::new() }"), ["a::B", "c::d"]);
        assert_eq!(paths("// a::b\n/* c::d /* e::f */ */ \"g::h\\\"i::j\" r#\"k::l\"# 'm' b'\\'' n::o"), ["n::o"]);
        assert_eq!(paths("fn f<'a>(x: &'a p::Q) {}"), ["p::Q"]);
    }

    #[test]
    fn lines_and_inline_modules_are_known() {
        let source =
            Source::new("use a::b;\nmod tests {\n    use super::*;\n    mod deep { use c::d; }\n}\nuse e::f;\n");
        let found = source.paths();
        let at = |index: usize| (found[index].line, found[index].inside.join("/"));
        assert_eq!(found.len(), 4);
        assert_eq!(at(0), (1, String::new()));
        assert_eq!(at(1), (3, "tests".into()));
        assert_eq!(at(2), (4, "tests/deep".into()));
        assert_eq!(at(3), (6, String::new()));
    }
}

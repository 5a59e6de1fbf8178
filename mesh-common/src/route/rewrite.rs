//! What becomes of a request's path and authority before it is sent on, and of the path in a redirect.

use http::uri::{Authority, PathAndQuery};
use regex::bytes::Captures;

use super::{
    RouteError,
    condition::Matched,
    effort::{Effort, Pattern},
    text,
};
use crate::model::traffic::{PathRewrite, Rewrite};

/// Bytes of a path and its query at most; `http` takes no longer ones.
const LONGEST: usize = u16::MAX as usize - 1;

/// A compiled [`Rewrite`].
#[derive(Clone, Debug, Default)]
pub struct Rewriting {
    /// What the request's authority becomes.
    pub authority: Option<Authority>,
    /// What its path becomes.
    pub path: Option<NewPath>,
}

/// A compiled [`PathRewrite`].
#[derive(Clone, Debug)]
pub struct NewPath(How);

#[derive(Clone, Debug)]
enum How {
    Full(String),
    Matched(String),
    Regex { pattern: Pattern, with: Vec<Piece> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Group(usize),
}

/// What a rewrite made of a request's path is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the rewritten path is too long, or takes too long to find, or has bytes that no path may have")]
pub struct NoPath;

impl Rewriting {
    /// Errors name fields as in `path.regex.pattern`.
    pub fn new(rewrite: &Rewrite) -> Result<Self, RouteError> {
        let Rewrite { authority, path } = rewrite;
        Ok(Self {
            authority: authority
                .as_ref()
                .map(|text| self::authority(text).map_err(|error| error.within("authority")))
                .transpose()?,
            path: path.as_ref().map(NewPath::new).transpose().map_err(|error| error.within("path"))?,
        })
    }
}

/// A host with or without a port, without user names.
pub(super) fn authority(text: &str) -> Result<Authority, RouteError> {
    let parsed = text.parse().ok().filter(|authority: &Authority| !authority.as_str().contains('@'));
    parsed.ok_or_else(|| RouteError::new("", format_args!("`{text}` is no host")))
}

impl NewPath {
    /// Errors name fields as in `regex.pattern`.
    pub fn new(rewrite: &PathRewrite) -> Result<Self, RouteError> {
        Ok(Self(match rewrite {
            PathRewrite::Full(path) => How::Full(literal("full", path)?),
            PathRewrite::Matched(path) => How::Matched(literal("matched", path)?),
            PathRewrite::Regex { pattern, with } => {
                let pattern = text::anywhere(pattern).map_err(|why| RouteError::new("regex.pattern", why))?;
                let with =
                    pieces(with, pattern.regex.captures_len()).map_err(|why| RouteError::new("regex.with", why))?;
                How::Regex { pattern, with }
            }
        }))
    }

    /// The new path with the request's query. A path always begins with `/`.
    pub fn path_and_query(&self, path: &str, query: Option<&str>, matched: Matched) -> Result<PathAndQuery, NoPath> {
        let mut target = self.path(path, matched)?;
        if let Some(query) = query {
            target.push('?');
            target.push_str(query);
        }
        // A `#` would end what is parsed.
        let whole = |parsed: &PathAndQuery| parsed.as_str().len() == target.len();
        PathAndQuery::try_from(target.as_str()).ok().filter(whole).ok_or(NoPath)
    }

    fn path(&self, path: &str, matched: Matched) -> Result<String, NoPath> {
        let new = match &self.0 {
            How::Full(full) => full.clone(),
            How::Matched(with) => match matched {
                Matched::Whole => with.clone(),
                Matched::Prefix(length) => format!("{with}{}", path.get(length..).unwrap_or_default()),
                Matched::Elements(length) => elements(with, path.get(length..).unwrap_or_default()),
            },
            How::Regex { pattern, with } => {
                let new = replaced(pattern, with, path.as_bytes()).ok_or(NoPath)?;
                String::from_utf8(new).map_err(|_| NoPath)?
            }
        };
        // A path that has a query after all would change what is asked for.
        if new.len() > LONGEST || new.contains(['?', '#']) {
            return Err(NoPath);
        }
        Ok(if new.starts_with('/') { new } else { format!("/{new}") })
    }
}

/// Gateway API's ReplacePrefixMatch: `rest` is empty or begins with a slash, and there is one slash between them.
fn elements(with: &str, rest: &str) -> String {
    match rest.is_empty() {
        true => with.to_owned(),
        false => format!("{}{rest}", with.trim_end_matches('/')),
    }
}

fn literal(field: &str, path: &str) -> Result<String, RouteError> {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let parsed = PathAndQuery::try_from(format!("{slash}{path}"));
    if path.contains(['?', '#']) || parsed.is_err() {
        return Err(RouteError::new(field, format_args!("`{path}` is no path")));
    }
    Ok(path.to_owned())
}

/// `\0` to `\9` are groups, `\\` is a backslash (RE2's Replace).
fn pieces(with: &str, groups: usize) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut text = Vec::new();
    let mut bytes = with.bytes();
    while let Some(byte) = bytes.next() {
        match (byte, if byte == b'\\' { bytes.next() } else { None }) {
            (b'\\', Some(digit @ b'0'..=b'9')) => {
                let group = usize::from(digit - b'0');
                if group >= groups {
                    return Err(format!(r"\{group}: the pattern has {} groups", groups - 1));
                }
                pieces.push(Piece::Text(std::mem::take(&mut text)));
                pieces.push(Piece::Group(group));
            }
            (b'\\', Some(b'\\')) => text.push(b'\\'),
            (b'\\', _) => return Err(r"after `\` comes a digit or another `\`".into()),
            (byte, _) => text.push(byte),
        }
    }
    pieces.push(Piece::Text(text));
    pieces.retain(|piece| *piece != Piece::Text(Vec::new()));
    Ok(pieces)
}

/// `None`: longer than a path may be, or too much work.
fn replaced(pattern: &Pattern, with: &[Piece], path: &[u8]) -> Option<Vec<u8>> {
    let mut new = Vec::with_capacity(path.len());
    let mut end = 0;
    let effort = Effort::default();
    let mut found = pattern.regex.captures_iter(path);
    loop {
        // Each search may read to the path's end before it knows where its match is.
        if !effort.permits(pattern, path.len() - end) {
            return None;
        }
        let Some(captures) = found.next() else { break };
        let whole = captures.get_match();
        new.extend_from_slice(&path[end..whole.start()]);
        for piece in with {
            append(&mut new, piece, &captures);
            if new.len() > LONGEST {
                return None;
            }
        }
        end = whole.end();
    }
    new.extend_from_slice(&path[end..]);
    Some(new)
}

fn append(new: &mut Vec<u8>, piece: &Piece, captures: &Captures<'_>) {
    new.extend_from_slice(match piece {
        Piece::Text(text) => text,
        Piece::Group(group) => captures.get(*group).map_or(&[], |group| group.as_bytes()),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(rewrite: PathRewrite, path: &str, matched: Matched) -> Result<String, NoPath> {
        let new = NewPath::new(&rewrite).unwrap();
        new.path_and_query(path, None, matched).map(|path| path.to_string())
    }

    fn regex(pattern: &str, with: &str) -> PathRewrite {
        PathRewrite::Regex { pattern: pattern.into(), with: with.into() }
    }

    #[test]
    fn elements_are_replaced_with_one_slash_between() {
        // Gateway API's table of ReplacePrefixMatch (HTTPPathModifier), and what it does not say.
        for (path, elements, with, new) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "", "/bar"),
            ("/foo/", "/foo", "", "/"),
            ("/foo", "/foo", "", "/"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/foo/bar", "/", "/xyz", "/xyz/foo/bar"),
            ("/foo/bar", "/", "/xyz/", "/xyz/foo/bar"),
            ("/foo/bar", "/", "/", "/foo/bar"),
        ] {
            let matched = Matched::Elements(elements.trim_end_matches('/').len());
            let got = rewritten(PathRewrite::Matched(with.into()), path, matched).unwrap();
            assert_eq!(got, new, "{path} {elements} {with}");
        }
    }

    #[test]
    fn a_prefix_is_replaced_to_the_letter() {
        for (path, prefix, with, new) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foobar", "/foo", "/xyz", "/xyzbar"),
            ("/foo/bar", "/foo/", "/", "/bar"),
            ("/foo/bar", "/foo", "/", "//bar"),
            ("/foo/bar", "/foo/", "", "/bar"),
            ("/foo/bar", "/", "/xyz/", "/xyz/foo/bar"),
        ] {
            let got = rewritten(PathRewrite::Matched(with.into()), path, Matched::Prefix(prefix.len())).unwrap();
            assert_eq!(got, new, "{path} {prefix} {with}");
        }
        assert_eq!(rewritten(PathRewrite::Matched("/all".into()), "/a/b", Matched::Whole).unwrap(), "/all");
        assert_eq!(rewritten(PathRewrite::Full("/all".into()), "/a/b", Matched::Prefix(2)).unwrap(), "/all");
    }

    #[test]
    fn a_pattern_is_replaced_wherever_it_is() {
        for (pattern, with, path, new) in [
            ("^/service/([^/]+)(/.*)$", r"\2/instance/\1", "/service/foo/v1/api", "/v1/api/instance/foo"),
            ("one", "two", "/xxx/one/yyy/one/zzz", "/xxx/two/yyy/two/zzz"),
            ("one", r"[\0]", "/one", "/[one]"),
            ("(?i)/XX", "/yy", "/xx/Xx", "/yy/yy"),
            ("none", "x", "/a", "/a"),
            ("(a)|b", r"\1.", "/ab", "/a.."),
            ("^/", "", "/a", "/a"),
        ] {
            let got = rewritten(regex(pattern, with), path, Matched::Whole);
            assert_eq!(got.as_deref(), Ok(new), "{pattern} {with} {path}");
        }
    }

    #[test]
    fn a_replacement_takes_no_longer_than_a_patterns_work_may() {
        // Each search reads to the end of the path, and takes one letter of it.
        let slow = regex(".*[^A-Z]|[A-Z]", "b");
        for (length, outcome) in [(1000, Ok(format!("/{}", "b".repeat(1001)))), (60_000, Err(NoPath))] {
            let path = format!("/{}", "A".repeat(length));
            assert!(rewritten(slow.clone(), &path, Matched::Whole) == outcome, "{length} bytes");
        }
        // What is replaced seldom may stand in a long path, and often in one of usual length.
        let path = format!("/one/{}", "A".repeat(60_000));
        assert_eq!(rewritten(regex("one", "two"), &path, Matched::Whole).unwrap(), path.replace("one", "two"));
        let path = "/a".repeat(1000);
        assert_eq!(rewritten(regex("a", "b"), &path, Matched::Whole).unwrap(), "/b".repeat(1000));
    }

    #[test]
    fn the_query_stays_and_no_other_comes() {
        let new = NewPath::new(&PathRewrite::Full("/new".into())).unwrap();
        let with_query = |query| new.path_and_query("/old", query, Matched::Whole).unwrap().to_string();
        assert_eq!(with_query(Some("a=1&b")), "/new?a=1&b");
        assert_eq!(with_query(Some("")), "/new?");
        assert_eq!(with_query(None), "/new");
        for (pattern, with, path) in [("a", "?", "/a"), ("a", "#", "/a"), ("a", " ", "/a"), ("a", "\r\n", "/a")] {
            assert_eq!(rewritten(regex(pattern, with), path, Matched::Whole), Err(NoPath), "{with:?}");
        }
        let growing = regex("(.*)", &r"\1".repeat(40));
        assert_eq!(rewritten(growing, &format!("/{}", "a".repeat(4000)), Matched::Whole), Err(NoPath));
    }

    #[test]
    fn a_rewrite_that_cannot_be_done_is_refused() {
        for (path, field) in [
            (PathRewrite::Full("/a?b".into()), "path.full"),
            (PathRewrite::Matched("/a b".into()), "path.matched"),
            (regex("(", ""), "path.regex.pattern"),
            (regex("a", r"\1"), "path.regex.with"),
            (regex("a", r"\x"), "path.regex.with"),
            (regex("a", r"\"), "path.regex.with"),
        ] {
            let rewrite = Rewrite { path: Some(path), authority: None };
            assert_eq!(Rewriting::new(&rewrite).expect_err(field).field, field, "{rewrite:?}");
        }
        let rewrite = Rewrite { authority: Some("a b".into()), path: None };
        assert_eq!(Rewriting::new(&rewrite).unwrap_err().field, "authority");
        let rewrite = Rewrite { authority: Some("a:80".into()), path: None };
        assert_eq!(Rewriting::new(&rewrite).unwrap().authority.unwrap(), "a:80");
    }
}

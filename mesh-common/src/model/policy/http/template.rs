//! Paths with places for segments.

/// See [`super::PathPattern::Template`]. Envoy takes only some of the characters of RFC 3986 in such a place; here it
/// is every one but `/`, as its reference says, so that a DENY cannot be dodged with `=`.
pub(crate) struct Template<'a> {
    /// Up to `{**}`.
    head: &'a str,
    /// Behind it; `None`: there is none.
    tail: Option<&'a str>,
}

const ONE: &str = "{*}";
const ANY: &str = "{**}";

impl<'a> Template<'a> {
    pub fn new(template: &'a str) -> Self {
        match template.split_once(ANY) {
            None => Self { head: template, tail: None },
            Some((head, tail)) => Self { head, tail: Some(tail) },
        }
    }

    pub fn fits(&self, path: &str) -> bool {
        let Some((rest, last)) = self.places(path) else { return false };
        match self.tail {
            None => rest == last,
            Some(tail) => rest.strip_prefix(last).is_some_and(|any| any.ends_with(tail)),
        }
    }

    /// What is left of the path and of `head` behind the last `{*}`; `None`: the path differs before.
    fn places<'p>(&self, path: &'p str) -> Option<(&'p str, &'a str)> {
        let (mut path, mut head) = (path, self.head);
        while let Some((fixed, after)) = head.split_once(ONE) {
            let (segment, rest) = at_slash(path.strip_prefix(fixed)?);
            let (suffix, next) = at_slash(after);
            if segment.strip_suffix(suffix)?.is_empty() {
                return None;
            }
            (path, head) = (rest, next);
        }
        Some((path, head))
    }

    /// What every path that fits begins with.
    pub fn beginning(&self) -> &'a str {
        self.head.split_once(ONE).map_or(self.head, |(fixed, _)| fixed)
    }

    /// What every path that fits ends with.
    pub fn end(&self) -> &'a str {
        self.tail.unwrap_or_else(|| self.head.rsplit_once(ONE).map_or(self.head, |(_, fixed)| fixed))
    }

    /// The segments that every path that fits has at the same place, by their number from 0.
    pub fn segments(&self) -> impl Iterator<Item = (usize, &'a str)> {
        let whole = self.tail.is_none();
        let mut segments = self.head.split('/').enumerate().peekable();
        std::iter::from_fn(move || {
            let (number, segment) = segments.next()?;
            // The last one goes on in what `{**}` stands for.
            let fixed = (whole || segments.peek().is_some()) && !segment.contains(ONE);
            Some(fixed.then_some((number, segment)))
        })
        .flatten()
    }
}

fn at_slash(text: &str) -> (&str, &str) {
    text.split_at(text.find('/').unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_one_segment_and_two_stars_are_any_text() {
        for (template, path, fits) in [
            ("/foo/{*}", "/foo/bar", true),
            ("/foo/{*}", "/foo/bar/baz", false),
            ("/foo/{*}", "/foo/", false),
            ("/foo/{*}", "/foo", false),
            ("/foo/{*}", "/foo/bar/", false),
            ("/foo/{*}", "/foo/a=b;c*", true),
            ("/foo/{*}", "/foobar/x", false),
            ("/foo/{*}/", "/foo/bar/", true),
            ("/foo/{*}/", "/foo/bar", false),
            ("/{*}/bar", "/foo/bar", true),
            ("/{*}/bar", "//bar", false),
            ("/{*}/bar", "/foo/x/bar", false),
            ("/{*}/bar", "/foo/bar/x", false),
            ("/{*}/{*}", "/a/b", true),
            ("/{*}/{*}", "/a/", false),
            ("/{*}/{*}", "/a/b/c", false),
            ("/{*}", "/", false),
            ("/v/{*}.m4s", "/v/1.m4s", true),
            ("/v/{*}.m4s", "/v/.m4s", false),
            ("/v/{*}.m4s", "/v/1.mp4", false),
            ("/v/{*}.m4s/x", "/v/1.m4s/x", true),
            ("/foo/{**}", "/foo/", true),
            ("/foo/{**}", "/foo/a/b/c", true),
            ("/foo/{**}", "/foo//", true),
            ("/foo/{**}", "/foo", false),
            ("/foo/{**}", "/foobar", false),
            ("/foo/{**}/", "/foo/bar/", true),
            ("/foo/{**}/", "/foo//", true),
            ("/foo/{**}/", "/foo/", false),
            ("/foo/{**}/", "/foo/bar", false),
            ("/foo/{**}/bar", "/foo/x/bar", true),
            ("/foo/{**}/bar", "/foo/x/y/bar", true),
            ("/foo/{**}/bar", "/foo//bar", true),
            ("/foo/{**}/bar", "/foo/bar", false),
            ("/foo/{**}/bar", "/foo/x/bar/y", false),
            ("/{**}.mpd", "/a/b.mpd", true),
            ("/{**}.mpd", "/.mpd", true),
            ("/{**}.mpd", "/a/b.mpd/c", false),
            ("/{**}", "/", true),
            ("/{**}", "/a/b", true),
            ("/foo/{*}/bar/{**}", "/foo/buzz/bar/", true),
            ("/foo/{*}/bar/{**}", "/foo/buzz/bar/baz/x", true),
            ("/foo/{*}/bar/{**}", "/foo/buzz/bar", false),
            ("/foo/{*}/bar/{**}", "/foo/buzz/x/bar/", false),
            ("/{*}/{**}/z", "/a/b/z", true),
            ("/{*}/{**}/z", "//b/z", false),
            // Text that is shared by what stands before and behind is counted once.
            ("/aba{**}ba", "/aba", false),
            ("/aba{**}ba", "/ababa", true),
            ("/foo", "/foo", true),
            ("/foo", "/foo/", false),
        ] {
            assert_eq!(Template::new(template).fits(path), fits, "{template} against {path}");
        }
    }

    #[test]
    fn what_is_certain_of_a_template() {
        for (template, beginning, end, segments) in [
            ("/a/{*}/c", "/a/", "/c", vec![(0, ""), (1, "a"), (3, "c")]),
            ("/a/{*}.x/c/{**}/e", "/a/", "/e", vec![(0, ""), (1, "a"), (3, "c")]),
            ("/a{**}", "/a", "", vec![(0, "")]),
            ("/{*}", "/", "", vec![(0, "")]),
            ("/a", "/a", "/a", vec![(0, ""), (1, "a")]),
        ] {
            let template = Template::new(template);
            assert_eq!((template.beginning(), template.end()), (beginning, end));
            assert_eq!(template.segments().collect::<Vec<_>>(), segments);
        }
    }
}

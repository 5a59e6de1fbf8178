//! The one reading of a path, by which requests are matched and passed on, and what others may take it for.
//!
//! Servers disagree on escapes, dots, doubled slashes and parameters. What is beyond dispute (RFC 3986, 6.2.2) is settled
//! once, for routes, limits, policies and the application alike ([`normal`]). What is not is passed on as it is, and a
//! policy permits it only if it permits each of its readings ([`readings`]).

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Escapes within escapes: nobody decodes more often.
const ROUNDS: usize = 4;

/// Why a path has no form that can be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    #[error("a `%` in the path is not followed by two hexadecimal digits")]
    Escape,
    #[error("the path has a zero byte")]
    Zero,
    #[error("the path is escaped more often than anybody undoes")]
    Depth,
}

/// A path without its query, beginning with a slash. Escapes of letters, digits and `-._~` are undone (RFC 3986,
/// 6.2.2.2), then segments `.` and `..` taken out (5.2.4). Everything else stays byte by byte, also doubled slashes.
pub fn normal(path: &str) -> Result<Cow<'_, str>, PathFault> {
    if !path.contains('%') && !path.contains("/.") {
        return Ok(Cow::Borrowed(path));
    }
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        decoded.push_str(&rest[..at]);
        let escape = rest.get(at..at + 3).filter(|escape| escape[1..].bytes().all(|b| b.is_ascii_hexdigit()));
        let escape = escape.ok_or(PathFault::Escape)?;
        let byte = u8::from_str_radix(&escape[1..], 16).map_err(|_| PathFault::Escape)?;
        match byte {
            0 => return Err(PathFault::Zero),
            b'-' | b'.' | b'_' | b'~' => decoded.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => decoded.push(char::from(byte)),
            _ => decoded.push_str(escape),
        }
        rest = &rest[at + 3..];
    }
    decoded.push_str(rest);
    Ok(Cow::Owned(without_dots(&decoded)))
}

/// RFC 3986, 5.2.4, for a path that begins with a slash.
fn without_dots(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                // What a dot leads to is a folder.
                if last {
                    kept.push("");
                }
            }
            segment => kept.push(segment),
        }
    }
    kept.iter().flat_map(|segment| ["/", segment]).collect()
}

/// What a server may take a normal path for, itself not among them; usually nothing. It may undo every escape, once or
/// more often; read `\` and overlong UTF-8 as slashes and dots; merge slashes; leave out a segment's parameters (`;v=1`);
/// or end the path where an escaped `?` or `#` is.
pub fn readings(path: &str) -> Result<Vec<String>, PathFault> {
    let plain = |byte: u8| !matches!(byte, b'%' | b'\\' | b';') && byte < 0x80;
    if path.bytes().all(plain) && !path.contains("//") && !path.contains("/.") {
        return Ok(Vec::new());
    }
    let decoded = decoded(path)?;
    let slashes = decoded.replace('\\', "/");
    let bare: Vec<_> = slashes.split('/').map(|segment| segment.split(';').next().unwrap_or_default()).collect();
    let bare = bare.join("/");
    let short = bare.split(['?', '#']).next().unwrap_or_default().to_owned();
    let mut all: Vec<String> = Vec::new();
    for reading in [slashes, bare, short] {
        let reading = without_dots(&merged(&reading));
        if reading != path && !all.contains(&reading) {
            all.push(reading);
        }
    }
    Ok(all)
}

/// Escapes are undone until there are none.
fn decoded(path: &str) -> Result<String, PathFault> {
    let mut decoded = path.to_owned();
    for _ in 0..ROUNDS {
        let bytes: Vec<u8> = percent_decode_str(&decoded).collect();
        if bytes.contains(&0) {
            return Err(PathFault::Zero);
        }
        let next = String::from_utf8_lossy(&short_forms(&bytes)).into_owned();
        if next == decoded {
            return Ok(decoded);
        }
        decoded = next;
    }
    Err(PathFault::Depth)
}

/// Overlong UTF-8 of ASCII characters (RFC 3629, 3 and 10) as the characters that careless decoders see.
fn short_forms(bytes: &[u8]) -> Vec<u8> {
    let mut short = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let (byte, after) = match (first, after) {
            (0xc0 | 0xc1, [last @ 0x80..=0xbf, after @ ..]) => ((first & 1) << 6 | last & 0x3f, after),
            (0xe0, [high @ (0x80 | 0x81), last @ 0x80..=0xbf, after @ ..]) => ((high & 1) << 6 | last & 0x3f, after),
            (0xf0, [0x80, high @ (0x80 | 0x81), last @ 0x80..=0xbf, after @ ..]) => {
                ((high & 1) << 6 | last & 0x3f, after)
            }
            _ => (first, after),
        };
        short.push(byte);
        rest = after;
    }
    short
}

fn merged(path: &str) -> String {
    let mut merged = String::with_capacity(path.len() + 1);
    merged.push('/');
    for segment in path.split('/').filter(|segment| !segment.is_empty()) {
        if !merged.ends_with('/') {
            merged.push('/');
        }
        merged.push_str(segment);
    }
    if path.ends_with('/') && !merged.ends_with('/') {
        merged.push('/');
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beyond_dispute_is_settled() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a//b", "/a//b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/../../a", "/a"),
            ("/a//../b", "/a/b"),
            ("/...", "/..."),
            ("/.a", "/.a"),
            ("/a.", "/a."),
            ("/%61dmin", "/admin"),
            ("/%41%7e%2D%5F%30", "/A~-_0"),
            ("/%2e%2e/a", "/a"),
            ("/a/%2E%2e/b", "/b"),
            ("/a%2fb", "/a%2fb"),
            ("/a%2Fb", "/a%2Fb"),
            ("/%252e%252e/", "/%252e%252e/"),
            ("/a;x=1/b", "/a;x=1/b"),
            ("/a%3b", "/a%3b"),
            ("/%c3%bc", "/%c3%bc"),
            ("/..;/a", "/..;/a"),
        ] {
            let found = normal(path).map(Cow::into_owned);
            assert_eq!(found.as_deref(), Ok(expected), "{path}");
            assert_eq!(normal(expected).as_deref(), Ok(expected), "of {path}: not normal yet");
        }
        for (path, fault) in [
            ("/%", PathFault::Escape),
            ("/%2", PathFault::Escape),
            ("/%zz", PathFault::Escape),
            ("/%u002f", PathFault::Escape),
            ("/%+1", PathFault::Escape),
            ("/a%00", PathFault::Zero),
        ] {
            assert_eq!(normal(path), Err(fault), "{path}");
        }
    }

    #[test]
    fn others_may_read_more_into_it() {
        let none: &[&str] = &[];
        for (path, expected) in [
            ("/a/b", none),
            ("/a.b/c", none),
            ("/a/", none),
            ("/a//b", &["/a/b"]),
            ("//a", &["/a"]),
            ("/a%2fb", &["/a/b"]),
            ("/a%2f..%2fb", &["/b"]),
            ("/a%5cb", &["/a/b"]),
            ("/%252e%252e/b", &["/b"]),
            ("/a/%25252e%25252e/b", &["/b"]),
            ("/a;x=1/b", &["/a/b"]),
            ("/a/..;/b", &["/a/..;/b", "/b"][1..].as_ref()),
            ("/a%3bx/b", &["/a;x/b", "/a/b"]),
            ("/a%3fb", &["/a?b", "/a"]),
            ("/a%23b/c", &["/a#b/c", "/a"]),
            ("/%c0%afa", &["/a"]),
            ("/x/%c0%ae%c0%ae/a", &["/a"]),
            ("/%e0%80%afa", &["/a"]),
            ("/%f0%80%80%afa", &["/a"]),
            ("/%c3%bc", &["/\u{fc}"]),
            ("/%ff", &["/\u{fffd}"]),
        ] {
            let found = readings(path).unwrap();
            assert_eq!(found, expected, "{path}");
        }
        assert_eq!(readings("/%2500"), Err(PathFault::Zero));
        assert_eq!(readings(&format!("/%{}2f", "25".repeat(ROUNDS))), Err(PathFault::Depth));
    }

    /// Whatever is read, it is read from a slash on, and has no dots left to walk up by.
    #[test]
    fn readings_are_paths() {
        let parts = ["/", "..", ".", "%2e", "%2f", "%5c", "%25", "a", ";x", "%3b", "%c0", "%ae", "%af", "%3f"];
        let mut seed = 7_u64;
        for _ in 0..20_000 {
            let mut path = "/".to_owned();
            for _ in 0..6 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                path.push_str(parts[(seed >> 33) as usize % parts.len()]);
            }
            let Ok(own) = normal(&path) else { continue };
            assert!(!own.split('/').any(|segment| matches!(segment, "." | "..")), "{path} -> {own}");
            for reading in readings(&own).unwrap_or_default() {
                let dots = reading.split('/').any(|segment| matches!(segment, "." | ".."));
                assert!(reading.starts_with('/') && !dots && !reading.contains("//"), "{path} -> {reading}");
            }
        }
    }
}

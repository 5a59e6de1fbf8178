//! The one reading of a path, by which requests are matched and passed on, and what others may take it for.
//!
//! Servers disagree on escapes, dots, doubled slashes and parameters. What is beyond dispute (RFC 3986, 6.2.2) is
//! settled once, for routes, limits, policies and the application alike ([`normal`]; [`written`] for the paths that
//! those name). What is not is passed on as it is, and a policy permits it only if it permits each of its readings
//! ([`readings`]).

use std::borrow::Cow;

/// In how many ways a path may be read.
const MOST: usize = 64;
/// All readings of one path together.
const MOST_BYTES: usize = 256 * 1024;

/// Why a path has no form that can be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathFault {
    #[error("a `%` in the path is not followed by two hexadecimal digits")]
    Escape,
    #[error("the path has a zero byte")]
    Zero,
    #[error("the path can be read in more ways than anybody can decide about")]
    Depth,
}

/// A path without its query, beginning with a slash. Escapes of letters, digits and `-._~` are undone (RFC 3986,
/// 6.2.2.2), others written with capitals (6.2.2.1), what no path may have is escaped (3.3), then segments `.` and `..`
/// taken out (5.2.4). Everything else stays byte by byte, also doubled slashes.
pub fn normal(path: &str) -> Result<Cow<'_, str>, PathFault> {
    if path.bytes().all(is_char) && !path.contains("/.") {
        return Ok(Cow::Borrowed(path));
    }
    for (at, _) in path.match_indices('%') {
        match escaped(&path.as_bytes()[at..]) {
            None => return Err(PathFault::Escape),
            Some(0) => return Err(PathFault::Zero),
            Some(_) => {}
        }
    }
    let path = spelled(path.as_bytes(), |_| false);
    Ok(Cow::Owned(text(&without_dots(path.as_bytes()))))
}

/// A path, or a part of one, as a route or a policy names it, in the spelling of [`normal`]. Its dots and slashes, and
/// what only patterns have (half an escape too), stay as they are.
pub fn written(path: &str) -> String {
    spelled(path.as_bytes(), |byte| byte.is_ascii() && !matches!(byte, b'[' | b']' | b'|'))
}

/// Stands for itself in a path (RFC 3986, 3.3).
fn is_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte)
}

/// What the escape stands for that `bytes` begins with.
fn escaped(bytes: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
    let byte = (digit(1)? << 4 | digit(2)?) as u8;
    (bytes[0] == b'%').then_some(byte)
}

/// In the one spelling; what is `kept` is not escaped.
fn spelled(path: &[u8], kept: impl Fn(u8) -> bool) -> String {
    let mut spelled = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        let (byte, is_escape) = escaped(rest).map_or((first, false), |byte| (byte, true));
        rest = if is_escape { &after[2..] } else { after };
        let plain = if is_escape {
            byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
        } else {
            is_char(byte) || kept(byte)
        };
        if plain {
            spelled.push(char::from(byte));
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            let digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
            spelled.extend(['%', char::from(digits[0]), char::from(digits[1])]);
        }
    }
    spelled
}

fn text(ascii: &[u8]) -> String {
    String::from_utf8_lossy(ascii).into_owned()
}

/// RFC 3986, 5.2.4, for a path that begins with a slash.
fn without_dots(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut segments = path.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"." | b".." => {
                if segment == b".." {
                    kept.pop();
                }
                // What a dot leads to is a folder.
                if last {
                    kept.push(b"");
                }
            }
            segment => kept.push(segment),
        }
    }
    kept.iter().flat_map(|segment| [b"/", *segment]).flatten().copied().collect()
}

/// What some server makes of a path.
type Step = fn(&[u8]) -> Vec<u8>;

/// What a server may take a normal path for, in the spelling of [`normal`], itself not among them; usually nothing.
///
/// Each step that some server takes, in every order and as often as it changes anything: undo escapes, or those of
/// slashes alone, or all but those; read `\` and overlong UTF-8 as slashes and dots; merge slashes; walk dots; leave
/// out segments' parameters (`;v=1`); end the path where an escaped `?` or `#` was.
pub fn readings(path: &str) -> Result<Vec<String>, PathFault> {
    let plain = |byte: u8| !matches!(byte, b'%' | b'\\' | b';') && byte < 0x80;
    if path.bytes().all(plain) && !path.contains("//") && !path.contains("/.") {
        return Ok(Vec::new());
    }
    fn is_slash(byte: u8) -> bool {
        matches!(byte, b'/' | b'\\')
    }
    let steps: [Step; 9] = [
        |path| undone(path, |_| true),
        |path| undone(path, is_slash),
        |path| undone(path, |byte| !is_slash(byte)),
        short_forms,
        |path| path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect(),
        merged,
        without_dots,
        without_parameters,
        |path| path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default().to_vec(),
    ];
    let mut all = vec![path.as_bytes().to_vec()];
    let mut bytes = 0;
    let mut next = 0;
    while let Some(known) = all.get(next).cloned() {
        next += 1;
        for step in steps {
            let reading = step(&known);
            if reading.contains(&0) {
                return Err(PathFault::Zero);
            }
            if !all.contains(&reading) {
                bytes += reading.len();
                all.push(reading);
            }
            if all.len() > MOST || bytes > MOST_BYTES {
                return Err(PathFault::Depth);
            }
        }
    }
    let mut spellings: Vec<String> = Vec::new();
    for reading in &all[1..] {
        let reading = spelled(reading, |_| false);
        if reading != path && !spellings.contains(&reading) {
            spellings.push(reading);
        }
    }
    Ok(spellings)
}

/// Undoes the escapes of some bytes, once.
fn undone(path: &[u8], of: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut undone = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        match escaped(rest).filter(|byte| of(*byte)) {
            Some(byte) => {
                undone.push(byte);
                rest = &after[2..];
            }
            None => {
                undone.push(first);
                rest = after;
            }
        }
    }
    undone
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

fn merged(path: &[u8]) -> Vec<u8> {
    let mut merged = path.to_vec();
    merged.dedup_by(|next, last| (*next, *last) == (b'/', b'/'));
    merged
}

fn without_parameters(path: &[u8]) -> Vec<u8> {
    let bare = |segment| <[u8]>::split(segment, |byte| *byte == b';').next().unwrap_or_default();
    let segments: Vec<_> = path.split(|byte| *byte == b'/').map(bare).collect();
    segments.join(&b'/')
}

#[cfg(test)]
mod tests;

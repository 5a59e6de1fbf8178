//! W3C trace context: `traceparent` and `tracestate`.

use http::{HeaderMap, HeaderName};

use super::{Context, Ids, Once, id, once, set};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// "00-", 32 digits, "-", 16 digits, "-", 2 digits.
const LENGTH: usize = 55;
const SAMPLED: u8 = 1;
/// The trace's id is random (level 2 of the recommendation).
const RANDOM: u8 = 2;

/// `None`: there is none, or it is invalid; then its `tracestate` means nothing either.
pub fn read(headers: &HeaderMap) -> Option<Context> {
    match once(headers, &TRACEPARENT) {
        Once::Value(text) => parse(text),
        Once::Absent | Once::Invalid => None,
    }
}

fn parse(text: &str) -> Option<Context> {
    if !text.is_ascii() || text.bytes().any(|byte| byte.is_ascii_uppercase()) || text.len() < LENGTH {
        return None;
    }
    let (known, more) = text.split_at(LENGTH);
    let mut parts = known.split('-');
    let [version, trace, span, flags] = [(); 4].map(|()| parts.next().unwrap_or_default());
    let byte = |text: &str| {
        let hex = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        hex.then(|| u8::from_str_radix(text, 16).ok()).flatten()
    };
    // A later version has these parts too, and more behind another dash.
    match byte(version)? {
        0 if more.is_empty() => {}
        0 | 0xff => return None,
        _ if more.is_empty() || more.starts_with('-') => {}
        _ => return None,
    }
    let (trace, span, flags) = (id(trace, 32)?, id(span, 16)?, byte(flags)?);
    Some(Context {
        ids: Some((trace, u64::try_from(span).ok()?)),
        sampled: Some(flags & SAMPLED != 0),
        debug: false,
        short: false,
        flags: flags & RANDOM,
    })
}

/// `flags`: those that are carried.
pub fn write(headers: &mut HeaderMap, ids: &Ids, flags: u8) {
    if read(headers).is_none() {
        headers.remove(&TRACESTATE);
    }
    let flags = flags | if ids.sampled { SAMPLED } else { 0 };
    set(headers, &TRACEPARENT, format!("00-{:032x}-{:016x}-{flags:02x}", ids.trace, ids.span));
}

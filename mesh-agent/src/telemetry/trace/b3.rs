//! B3: `b3` alone, or `x-b3-traceid`, `x-b3-spanid`, `x-b3-parentspanid`, `x-b3-sampled` and `x-b3-flags`.

use http::{HeaderMap, HeaderName};

use super::{Context, Ids, Once, id, once, set};

const SINGLE: HeaderName = HeaderName::from_static("b3");
const TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// A decision, and whether it is "debug".
fn decision(text: &str) -> Option<(bool, bool)> {
    match text {
        "0" => Some((false, false)),
        "1" => Some((true, false)),
        "d" => Some((true, true)),
        _ => None,
    }
}

fn context(trace: &str, span: &str, decided: Option<(bool, bool)>) -> Option<Context> {
    let short = trace.len() == 16;
    let trace = if short { id(trace, 16) } else { id(trace, 32) }?;
    let span = u64::try_from(id(span, 16)?).ok()?;
    let (sampled, debug) = (decided.map(|(sampled, _)| sampled), decided.is_some_and(|(_, debug)| debug));
    Some(Context { ids: Some((trace, span)), sampled, debug, short, flags: 0 })
}

fn only((sampled, debug): (bool, bool)) -> Context {
    Context { ids: None, sampled: Some(sampled), debug, short: false, flags: 0 }
}

/// "trace-span", "trace-span-decision", "trace-span-decision-parent", or a decision alone.
pub fn single(headers: &HeaderMap) -> Option<Context> {
    let Once::Value(text) = once(headers, &SINGLE) else { return None };
    let parts: Vec<&str> = text.splitn(5, '-').collect();
    match parts[..] {
        [decided] => decision(decided).map(only),
        [trace, span] => context(trace, span, None),
        [trace, span, decided] => context(trace, span, Some(decision(decided)?)),
        [trace, span, decided, parent] => {
            id(parent, 16)?;
            context(trace, span, Some(decision(decided)?))
        }
        _ => None,
    }
}

pub fn several(headers: &HeaderMap) -> Option<Context> {
    let [trace, span, parent, sampled, flags] =
        [TRACE, SPAN, PARENT, SAMPLED, FLAGS].map(|name| match once(headers, &name) {
            Once::Absent => Ok(None),
            Once::Value(text) => Ok(Some(text)),
            Once::Invalid => Err(()),
        });
    let decided = match (sampled.ok()?, flags.ok()?) {
        (_, Some("1")) => Some((true, true)),
        (None, _) => None,
        // Older libraries write words.
        (Some("1" | "true"), _) => Some((true, false)),
        (Some("0" | "false"), _) => Some((false, false)),
        (Some(_), _) => return None,
    };
    match (trace.ok()?, span.ok()?, parent.ok()?) {
        (None, None, None) => decided.map(only),
        (Some(_), Some(_), Some(parent)) if id(parent, 16).is_none() => None,
        (Some(trace), Some(span), _) => context(trace, span, decided),
        _ => None,
    }
}

/// In the form, or the forms, in which B3 came, also where what came was invalid: what goes on says one thing.
pub fn write(headers: &mut HeaderMap, ids: &Ids, debug: bool, short: bool) {
    let Ids { trace, span, parent, sampled } = *ids;
    let trace = match u64::try_from(trace) {
        Ok(trace) if short => format!("{trace:016x}"),
        _ => format!("{trace:032x}"),
    };
    let debug = debug && sampled;
    if headers.contains_key(&SINGLE) {
        let decided = match (debug, sampled) {
            (true, _) => 'd',
            (false, true) => '1',
            (false, false) => '0',
        };
        let parent = parent.map(|parent| format!("-{parent:016x}")).unwrap_or_default();
        set(headers, &SINGLE, format!("{trace}-{span:016x}-{decided}{parent}"));
    }
    if [TRACE, SPAN, PARENT, SAMPLED, FLAGS].iter().any(|name| headers.contains_key(name)) {
        [PARENT, SAMPLED, FLAGS].iter().for_each(|name| drop(headers.remove(name)));
        set(headers, &TRACE, trace);
        set(headers, &SPAN, format!("{span:016x}"));
        if let Some(parent) = parent {
            set(headers, &PARENT, format!("{parent:016x}"));
        }
        // Debug says that it is sampled; the two do not come together.
        let (name, value) = if debug { (&FLAGS, "1") } else { (&SAMPLED, if sampled { "1" } else { "0" }) };
        set(headers, name, value.to_owned());
    }
}

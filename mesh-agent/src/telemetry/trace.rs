//! Which trace a request belongs to: reads what its headers say, decides, and writes what goes on. Pure: chance is
//! passed in, and nothing is told to anybody.
//!
//! Formats are W3C trace context (<https://www.w3.org/TR/trace-context/>) and B3, in one header or several
//! (<https://github.com/openzipkin/b3-propagation>); W3C counts before `b3`, that before `x-b3-*`. W3C is always
//! written, B3 in the form in which it came. Other headers (`x-amzn-trace-id`) are carried as they are. Requests that
//! an application makes while it answers one belong to the same trace only if it copies these headers from the one to
//! the other; an agent cannot know. If it does not, each of them begins a trace.

mod b3;
#[cfg(test)]
mod tests;
mod w3c;

use http::{HeaderMap, HeaderName, HeaderValue};
use mesh_common::model::{telemetry::Tracing, traffic::Percent};

/// Of one request at one agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    pub trace: u128,
    /// Of this agent's span.
    pub span: u64,
    /// Of the span in which it happens; `None`: the trace begins with this one.
    pub parent: Option<u64>,
    /// Spans of the trace are told.
    pub sampled: bool,
}

/// Who has sent the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// No agent has read it before: it may begin a trace.
    Application,
    /// Another agent, which has decided if it read the request. It begins a trace here only if the share is said of
    /// this very pod.
    Agent,
}

/// What a request says of its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Context {
    /// `None`: there is only a decision.
    ids: Option<(u128, u64)>,
    /// `None`: nobody has decided.
    sampled: Option<bool>,
    /// Sampled, and whoever keeps traces shall keep it (B3's).
    debug: bool,
    /// The trace's id has 64 bits, and is written so where it came so.
    short: bool,
    /// What else is carried of W3C's flags.
    flags: u8,
}

/// Of a header that may come once.
enum Once<'a> {
    Absent,
    Value(&'a str),
    /// It came twice, or is no text.
    Invalid,
}

/// Reads what came, decides, and writes what goes on. `default` is the share of the traces that begin here where
/// `settings` say none. `headers` are those that are passed on; where tracing is disabled they stay as they are, and
/// the ids are the sender's.
pub fn begin(
    headers: &mut HeaderMap,
    settings: &Tracing,
    default: Percent,
    mut chance: impl FnMut() -> u64,
    peer: Peer,
) -> Option<Ids> {
    if settings.disabled {
        return came(headers);
    }
    let context = read(headers);
    let ids = context.and_then(|context| context.ids);
    let share = match peer {
        Peer::Agent if ids.is_none() => settings.sampled,
        Peer::Agent | Peer::Application => Some(settings.sampled.unwrap_or(default)),
    };
    let decided = context.and_then(|context| context.sampled);
    // Another agent's request without a trace has none, unless this pod's own are to have one.
    let sampled = decided.or_else(|| Some(share?.has((chance() >> 32) as u32)))?;
    // Zero is no id.
    let mut id = || chance().max(1);
    let (trace, parent) = match ids {
        Some((trace, parent)) => (trace, Some(parent)),
        None => (u128::from(id()) << 64 | u128::from(id()), None),
    };
    let ids = Ids { trace, span: id(), parent, sampled };
    write(headers, &ids, context);
    Some(ids)
}

/// The ids that a request came with, unchanged: for an agent that tells of it and makes no span.
pub fn came(headers: &HeaderMap) -> Option<Ids> {
    let context = read(headers)?;
    let (trace, span) = context.ids?;
    Some(Ids { trace, span, parent: None, sampled: context.sampled.unwrap_or(false) })
}

fn read(headers: &HeaderMap) -> Option<Context> {
    let b3 = b3::single(headers).or_else(|| b3::several(headers));
    let Some(context) = w3c::read(headers) else { return b3 };
    // Who wrote both for one trace could not say all of B3 in W3C.
    let trace = |context: &Context| context.ids.map(|(trace, _)| trace);
    let Some(same) = b3.filter(|b3| trace(b3) == trace(&context)) else { return Some(context) };
    Some(Context { debug: same.debug, short: same.short, ..context })
}

fn write(headers: &mut HeaderMap, ids: &Ids, came: Option<Context>) {
    w3c::write(headers, ids, came.map_or(0, |came| came.flags));
    let debug = came.is_some_and(|came| came.debug);
    let short = came.is_some_and(|came| came.short);
    b3::write(headers, ids, debug, short);
}

fn once<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Once<'a> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Once::Absent,
        (Some(value), None) => value.to_str().map_or(Once::Invalid, |text| Once::Value(text.trim_matches([' ', '\t']))),
        (Some(_), Some(_)) => Once::Invalid,
    }
}

/// Of exactly so many hexadecimal digits, and not zero.
fn id(text: &str, digits: usize) -> Option<u128> {
    let hex = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    hex.then(|| u128::from_str_radix(text, 16).ok()).flatten().filter(|id| *id != 0)
}

fn set(headers: &mut HeaderMap, name: &HeaderName, value: String) {
    // Digits and dashes are a header's value always.
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

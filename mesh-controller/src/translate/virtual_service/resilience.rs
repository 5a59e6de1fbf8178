//! How long is waited, what is tried again, what is broken on purpose, and who gets copies. Nothing of it changes where
//! requests go: what of it cannot be read is left out.

use mesh_common::model::traffic::{Abort, Delay, Fault as Injected, Millis, Mirror, Percent, Retries, RetryOn};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Rules, destinations,
    part::{Found, Part},
};
use crate::{status::Fault, translate::span};

/// More tries are an attack on one's own backend.
const ATTEMPTS: u32 = 100;
/// Copies of one request.
const MIRRORS: usize = 16;
/// Names of statuses (grpc/doc/statuscodes.md), each at its number's place.
const GRPC: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Percentage {
    #[serde(default)]
    value: f64,
}

/// `None` where nobody says, and for 0.
pub fn time(part: &mut Part, name: &str) -> Result<Option<Millis>, Fault> {
    let text: Option<String> = part.take(name)?;
    let time = text.map(|text| span::parse(&text).map_err(|why| Fault::new(part.field(name), why)));
    Ok(time.transpose()?.filter(|time| time.0 > 0))
}

pub fn retries(part: &mut Part, found: &mut Found) -> Option<Retries> {
    let mut part = found.may(part.part("retries")).flatten()?;
    let retries = read_retries(&mut part, found);
    let unknown = part.unknown().map(|fault| found.lacking(fault)).count();
    found.may(retries).filter(|_| unknown == 0)
}

fn read_retries(part: &mut Part, found: &mut Found) -> Result<Retries, Fault> {
    let attempts: i64 = part.take("attempts")?.unwrap_or_default();
    let attempts = u32::try_from(attempts).ok().filter(|attempts| *attempts <= ATTEMPTS).ok_or_else(|| {
        Fault::new(part.field("attempts"), format_args!("{attempts} is not a number of tries (0 to {ATTEMPTS})"))
    })?;
    let on: Option<String> = part.take("retryOn")?;
    let on = match on.as_deref().map(str::trim) {
        None | Some("") => RetryOn::DEFAULT.to_vec(),
        Some(words) => retry_on(&part.field("retryOn"), words, found),
    };
    let try_timeout = time(part, "perTryTimeout")?;
    let backoff = time(part, "backoff")?;
    let avoid: Option<bool> = part.take("retryIgnorePreviousHosts")?;
    if part.take::<bool>("retryRemoteLocalities")? == Some(true) {
        let why = "is not supported: another locality is tried when one's own has no endpoint left";
        found.lacking(Fault::new(part.field("retryRemoteLocalities"), why));
    }
    let usual = Retries::of(on);
    let backoff = backoff.unwrap_or(usual.backoff);
    Ok(Retries {
        attempts: if usual.on.is_empty() { 0 } else { attempts },
        try_timeout,
        backoff,
        // As Envoy has it.
        max_backoff: Millis(backoff.0.saturating_mul(10)),
        avoid_tried: avoid.unwrap_or(usual.avoid_tried),
        on: usual.on,
    })
}

/// The words that are known; those that are not are left out, so that less is tried again.
fn retry_on(field: &str, words: &str, found: &mut Found) -> Vec<RetryOn> {
    let mut on = Vec::new();
    // It only says that there are numbers.
    let words = words.split(',').map(str::trim).filter(|word| !word.is_empty() && *word != "retriable-status-codes");
    for word in words {
        match RetryOn::parse_list(word) {
            // Each once: no more than there are failures.
            Ok(known) => on.extend(known.into_iter().filter(|retry| !on.contains(retry)).collect::<Vec<_>>()),
            Err(_) => {
                let word: String = word.chars().take(64).collect();
                found.lacking(Fault::new(field, format_args!("`{word}` is no failure that is known")));
            }
        }
    }
    on
}

pub fn fault(part: &mut Part, found: &mut Found) -> Option<Injected> {
    let mut part = found.may(part.part("fault")).flatten()?;
    let delay = found.may(part.part("delay")).flatten().and_then(|part| delay(part, found));
    let abort = found.may(part.part("abort")).flatten().and_then(|part| abort(part, found));
    part.unknown().for_each(|fault| found.lacking(fault));
    Some(Injected { delay, abort }).filter(|fault| *fault != Injected::default())
}

fn delay(mut part: Part, found: &mut Found) -> Option<Delay> {
    let field = part.field("fixedDelay");
    let fixed = found.may(time(&mut part, "fixedDelay"));
    let percent = found.may(percent(&mut part, "percentage", &["percent"]));
    let path = part.path.clone();
    let unknown = part.unknown().map(|fault| found.lacking(fault)).count();
    let (fixed, percent) = (fixed?, percent?);
    let fixed = found.may(fixed.ok_or_else(|| Fault::new(field, "is missing")))?;
    let percent = found.may(percent.ok_or_else(|| without_percentage(&path)))?;
    (unknown == 0).then_some(Delay { percent, fixed })
}

fn abort(mut part: Part, found: &mut Found) -> Option<Abort> {
    let http: Option<i64> = found.may(part.take("httpStatus"))?;
    let http = http.map(|number| status(part.field("httpStatus"), number)).transpose();
    let grpc: Option<String> = found.may(part.take("grpcStatus"))?;
    let grpc = grpc.map(|name| grpc_status(part.field("grpcStatus"), &name)).transpose();
    let percent = found.may(percent(&mut part, "percentage", &[]));
    let path = part.path.clone();
    let unknown = part.unknown().map(|fault| found.lacking(fault)).count();
    let (status, grpc_status) = (found.may(http)?, found.may(grpc)?);
    if status.is_none() && grpc_status.is_none() {
        found.lacking(Fault::new(path, "says neither httpStatus nor grpcStatus"));
        return None;
    }
    let percent = found.may(percent?.ok_or_else(|| without_percentage(&path)))?;
    (unknown == 0).then_some(Abort { percent, status, grpc_status })
}

fn without_percentage(path: &str) -> Fault {
    Fault::new(format!("{path}.percentage"), "is missing: nobody is concerned")
}

/// A status that ends a request.
pub fn status(field: String, number: i64) -> Result<u16, Fault> {
    u16::try_from(number)
        .ok()
        .filter(|status| (200..=599).contains(status))
        .ok_or_else(|| Fault::new(field, format_args!("{number} is not the status of an answer (200 to 599)")))
}

fn grpc_status(field: String, name: &str) -> Result<u8, Fault> {
    let upper = name.to_ascii_uppercase();
    let place = GRPC.iter().position(|known| *known == upper).or_else(|| name.parse().ok());
    place.and_then(|place| u8::try_from(place).ok()).filter(|number| usize::from(*number) < GRPC.len()).ok_or_else(
        || Fault::new(field, format_args!("`{}` is no gRPC status", name.chars().take(64).collect::<String>())),
    )
}

/// `percentage.value`, or one of its older forms, which are whole numbers.
fn percent(part: &mut Part, name: &str, older: &[&str]) -> Result<Option<Percent>, Fault> {
    let percentage: Option<Percentage> = part.take(name)?;
    let mut percent = percentage.map(|percentage| (format!("{}.value", part.field(name)), percentage.value));
    for older in older {
        let number: Option<u32> = part.take(older)?;
        percent = percent.or_else(|| Some((part.field(older), f64::from(number?))));
    }
    let Some((field, value)) = percent else { return Ok(None) };
    if !(0.0..=100.0).contains(&value) {
        return Err(Fault::new(field, format_args!("{value} is not a percentage (0 to 100)")));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 1,000,000")]
    Ok(Some(Percent((value * 10_000.0).round() as u32)))
}

pub fn mirrors(rules: &Rules<'_>, part: &mut Part, found: &mut Found) -> Vec<Mirror> {
    let field = part.field("mirror");
    let has_mirror = found.may(part.take::<Value>("mirror"));
    let percentage = found.may(percent(part, "mirrorPercentage", &["mirrorPercent", "mirror_percent"]));
    let list = part.field("mirrors");
    let listed: Vec<Value> = found.may(part.list("mirrors", MIRRORS)).unwrap_or_default();
    let (Some(mirror), Some(percentage)) = (has_mirror, percentage) else { return Vec::new() };
    match (mirror, listed.is_empty()) {
        (Some(_), false) => {
            found.lacking(Fault::new(field, "stands beside mirrors: only one of them can be"));
            Vec::new()
        }
        (Some(mirror), true) => {
            let mut fields = serde_json::Map::new();
            fields.insert("mirror".to_owned(), mirror);
            let within = Part::new(part.path.clone(), Value::Object(fields));
            let backend = within.and_then(|mut within| destinations::destination(rules, &mut within, "mirror"));
            let percent = percentage.unwrap_or(Percent::ALL);
            found.may(backend).map(|backend| Mirror { backend, percent }).into_iter().collect()
        }
        (None, _) => {
            if percentage.is_some() {
                found.lacking(Fault::new(part.field("mirrorPercentage"), "there is no mirror"));
            }
            let listed = listed.into_iter().enumerate();
            listed.filter_map(|(i, value)| one_mirror(rules, format!("{list}[{i}]"), value, found)).collect()
        }
    }
}

fn one_mirror(rules: &Rules<'_>, field: String, value: Value, found: &mut Found) -> Option<Mirror> {
    let mut part = found.may(Part::new(field, value))?;
    let backend = found.may(destinations::destination(rules, &mut part, "destination"));
    let percent = found.may(percent(&mut part, "percentage", &[]));
    let unknown = part.unknown().map(|fault| found.lacking(fault)).count();
    let (backend, percent) = (backend?, percent?.unwrap_or(Percent::ALL));
    (unknown == 0).then_some(Mirror { backend, percent })
}

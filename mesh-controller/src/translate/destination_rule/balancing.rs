//! `loadBalancer`.

use std::collections::BTreeMap;

use mesh_common::model::traffic::{
    Algorithm, HashOn, LocalityFailover, LocalityPolicy, LocalityWeights, Percent, Warmup,
};
use serde_json::Value;

use crate::{status::Fault, translate::fields::Fields};

/// Localities that weights are given from, or to.
const LOCALITIES: usize = 64;
/// The longest name of a header, cookie, parameter, label or locality.
const NAME: usize = 256;
/// Of which growth is too steep to be meant.
const STEEPEST: f64 = 100.0;

/// An algorithm only if one is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    pub algorithm: Option<Algorithm>,
    pub locality: Option<LocalityPolicy>,
    pub warmup: Option<Warmup>,
}

pub fn balance(mut fields: Fields<'_>) -> Balance {
    let simple = fields.text("simple").and_then(|word| simple(&mut fields, &word));
    if simple.is_some() && fields.has("consistentHash") {
        fields.report("consistentHash", "stands beside `simple`, only one of them may; `simple` is not honoured");
    }
    let hash = fields.within("consistentHash").and_then(hash);
    let algorithm = hash.map(Algorithm::Hash).or(simple);
    let locality = fields.within("localityLbSetting").and_then(locality);
    let mut warmup = fields.within("warmup").and_then(warmup_of);
    if let Some(duration) = fields.some_span("warmupDurationSecs") {
        if warmup.is_some() {
            fields.report("warmupDurationSecs", "stands beside `warmup`, which is honoured in its place");
        }
        warmup.get_or_insert(Warmup { duration, minimum: Percent(100_000), aggression: 1000 });
    }
    if warmup.is_some() && !matches!(algorithm, None | Some(Algorithm::RoundRobin | Algorithm::LeastRequest)) {
        fields.report("warmup", "has a meaning for ROUND_ROBIN and LEAST_REQUEST only; it is not honoured");
        warmup = None;
    }
    fields.end();
    Balance { algorithm, locality, warmup }
}

fn simple(fields: &mut Fields<'_>, word: &str) -> Option<Algorithm> {
    Some(match word {
        "UNSPECIFIED" => return None,
        "ROUND_ROBIN" => Algorithm::RoundRobin,
        "LEAST_REQUEST" => Algorithm::LeastRequest,
        "LEAST_CONN" => {
            fields.report("simple", "LEAST_CONN is an old name: it is honoured as LEAST_REQUEST");
            Algorithm::LeastRequest
        }
        "RANDOM" => Algorithm::Random,
        "PASSTHROUGH" => Algorithm::Passthrough,
        other => {
            let known = "UNSPECIFIED, ROUND_ROBIN, LEAST_REQUEST, RANDOM, PASSTHROUGH";
            fields.report("simple", format_args!("`{other}` is none of {known}; it is not honoured"));
            return None;
        }
    })
}

/// Of several keys the first in the kind's own order counts, and the others are reported.
fn hash(mut fields: Fields<'_>) -> Option<HashOn> {
    let header = fields.text("httpHeaderName").filter(|name| short(&mut fields, "httpHeaderName", name));
    let cookie = fields.within("httpCookie").and_then(cookie);
    let source = fields.take::<bool>("useSourceIp").filter(|yes| *yes);
    let query = fields.text("httpQueryParameterName").filter(|name| short(&mut fields, "httpQueryParameterName", name));
    let ring = "sizes of hash rings are chosen by the agent; this one is not honoured";
    fields.idle("minimumRingSize", ring);
    if let Some(mut inner) = fields.within("ringHash") {
        inner.idle("minimumRingSize", ring);
        inner.end();
    }
    if let Some(mut inner) = fields.within("maglev") {
        inner.idle("tableSize", ring);
        inner.end();
        fields.report("maglev", "is not supported yet; the endpoint is chosen by a hash ring");
    }
    let keys = [
        ("httpHeaderName", header.map(|name| HashOn::Header(name.to_ascii_lowercase()))),
        ("httpCookie", cookie),
        ("useSourceIp", source.map(|_| HashOn::SourceIp)),
        ("httpQueryParameterName", query.map(HashOn::Query)),
    ];
    let mut chosen = None;
    for (field, key) in keys {
        if key.is_some() && chosen.is_some() {
            fields.report(field, "is a second key, only one may be written; it is not honoured");
        }
        chosen = chosen.or(key);
    }
    if chosen.is_none() {
        fields.report(
            "httpHeaderName",
            "no key can be read (httpHeaderName, httpCookie, useSourceIp, \
                                         httpQueryParameterName); nothing is hashed",
        );
    }
    fields.end();
    chosen
}

fn short(fields: &mut Fields<'_>, field: &str, name: &str) -> bool {
    let good = name.len() <= NAME && name.bytes().all(|b| b.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&b));
    if !good {
        fields.report(field, "is not a name that requests can have; it is not honoured");
    }
    good
}

fn cookie(mut fields: Fields<'_>) -> Option<HashOn> {
    let name = fields.text("name").filter(|name| short(&mut fields, "name", name));
    let path = fields.text("path").filter(|path| {
        let good = path.len() <= NAME && path.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b';');
        if !good {
            fields.report("path", "is not a cookie's path (RFC 6265); it is not honoured");
        }
        good
    });
    let ttl = fields.span("ttl");
    if name.is_none() {
        fields.report("name", "is missing; the cookie is not honoured");
    }
    fields.end();
    Some(HashOn::Cookie { name: name?, path, ttl })
}

fn warmup_of(mut fields: Fields<'_>) -> Option<Warmup> {
    let duration = fields.some_span("duration");
    let minimum = fields.percent("minimumPercent").unwrap_or(Percent(100_000));
    let aggression = fields.take::<f64>("aggression").unwrap_or(1.0);
    let good = aggression > 0.0 && aggression <= STEEPEST;
    if !good {
        let why = format!("{aggression} is not more than 0 and at most {STEEPEST}; growth is in a straight line");
        fields.report("aggression", why);
    }
    if duration.is_none() {
        fields.report("duration", "is missing; no warmup is honoured");
    }
    fields.end();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 100,000")]
    let aggression = if good { ((aggression * 1000.0).round() as u32).max(1) } else { 1000 };
    Some(Warmup { duration: duration?, minimum, aggression })
}

/// `None` if nothing of it can be honoured.
fn locality(mut fields: Fields<'_>) -> Option<LocalityPolicy> {
    let enabled = fields.take::<bool>("enabled").unwrap_or(true);
    let priority = fields.texts("failoverPriority", LOCALITIES);
    let failover = fields.list("failover", LOCALITIES);
    let distribute = fields.list("distribute", LOCALITIES);
    let said = [!distribute.is_empty(), !failover.is_empty(), !priority.is_empty()];
    if said.into_iter().filter(|said| *said).count() > 1 {
        fields.report(
            "distribute",
            "only one of distribute, failover, failoverPriority may be written; none is honoured",
        );
        fields.end();
        return Some(LocalityPolicy { enabled, distribute: vec![], failover: vec![], failover_priority: vec![] });
    }
    let mut faults = Vec::new();
    let distribute = distribute.into_iter().filter_map(|(path, value)| weights(path, value, &mut faults)).collect();
    let failover = failover.into_iter().filter_map(|(path, value)| region(path, value, &mut faults)).collect();
    let failover_priority: Vec<String> = priority.into_iter().filter(|label| label.len() <= 2 * NAME).collect();
    fields.add(faults);
    fields.end();
    Some(LocalityPolicy { enabled, distribute, failover, failover_priority })
}

/// Left out whole if a weight of it cannot be read: the others would mean something else.
fn weights(path: String, value: Value, faults: &mut Vec<Fault>) -> Option<LocalityWeights> {
    let mut fields = Fields::new(path, value, faults);
    let from = fields.text("from");
    let to: Option<BTreeMap<String, i64>> = fields.take("to");
    if from.is_none() {
        fields.report("from", "is missing; the entry is left out");
    }
    let wrong = match &to {
        None => Some("is missing".to_owned()),
        Some(to) if to.len() > LOCALITIES => Some(format!("has more than {LOCALITIES} localities")),
        Some(to) => {
            let bad = to.values().find(|weight| !(0..=100).contains(*weight));
            let place = to.keys().chain(&from).find(|place| !is_locality(place));
            // No sum of 64 weights overflows: each is at most 100.
            match (bad, place) {
                (Some(weight), _) => Some(format!("{weight} is not a weight (0 to 100)")),
                (_, Some(place)) => Some(format!("`{}` is not a locality", place.chars().take(64).collect::<String>())),
                _ if to.values().sum::<i64>() != 100 => Some("the weights' sum is not 100".to_owned()),
                _ => None,
            }
        }
    };
    if let Some(wrong) = &wrong {
        fields.report("to", format_args!("{wrong}; the entry is left out"));
    }
    fields.end();
    let to = to.filter(|_| wrong.is_none())?.into_iter();
    let to = to.filter_map(|(place, weight)| Some((place, u32::try_from(weight).ok()?))).collect();
    Some(LocalityWeights { from: from?, to })
}

fn region(path: String, value: Value, faults: &mut Vec<Fault>) -> Option<LocalityFailover> {
    let mut fields = Fields::new(path, value, faults);
    let mut named = |name: &str| {
        let found = fields.text(name).filter(|place| !place.contains(['/', '*']) && place.len() <= NAME);
        if found.is_none() {
            fields.report(name, "is not the name of a region; the entry is left out");
        }
        found
    };
    let (from, to) = (named("from"), named("to"));
    fields.end();
    Some(LocalityFailover { from: from?, to: to? })
}

/// `region/zone/subzone`, or less of it, with a `*` at the end only.
fn is_locality(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let last = parts.len() - 1;
    let fits = |(i, part): (usize, &&str)| !part.is_empty() && (!part.contains('*') || (*part == "*" && i == last));
    text.len() <= NAME && parts.len() <= 3 && parts.iter().enumerate().all(fits)
}

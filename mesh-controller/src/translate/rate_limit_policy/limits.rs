//! Buckets, and whose requests fill them.

use mesh_common::model::{
    Identity,
    traffic::{LimitOverride, Millis, Origin, RateLimit, RequestMatch, TokenBucket},
};
use serde_json::Value;

use super::requests;
use crate::{
    source::Key,
    status::Fault,
    translate::{Settings, fields::Fields},
};

const PORTS: usize = 64;
const MATCHES: usize = 64;
const OVERRIDES: usize = 64;
const CLIENTS: usize = 128;
/// A bucket of which the interval is longer would be a quota: it is forgotten with the agent.
const LONGEST: Millis = Millis(24 * 3_600_000);

/// `spec.local`, for all requests to `spec.ports`.
pub fn of_all(settings: &Settings, object: &Key, fields: &mut Fields<'_>) -> Option<RateLimit> {
    let ports = ports(fields);
    let local = fields.within("local").map(|local| buckets(settings, object, local));
    let origin = Origin { object: object.to_string(), field: fields.path("local") };
    limit(origin, ports?, Vec::new(), local?)
}

/// One of `spec.rules`.
pub fn of_rule(
    settings: &Settings,
    object: &Key,
    path: String,
    value: Value,
    faults: &mut Vec<Fault>,
) -> Option<RateLimit> {
    let mut fields = Fields::new(path.as_str(), value, faults);
    let name = fields.text("name");
    let ports = ports(&mut fields);
    let before = fields.said();
    let written = fields.list("matches", MATCHES);
    let mut readable = fields.said() == before;
    let local = fields.within("local").map(|local| buckets(settings, object, local));
    if local.is_none() {
        fields.report("local", "is missing; the rule limits nothing");
    }
    // An unknown field may be a condition.
    readable &= fields.is_known(&[]);
    fields.end();
    let mut matches: Vec<RequestMatch> = Vec::new();
    for (path, value) in written {
        match requests::conditions(path, value, faults) {
            Some(found) => matches.push(found),
            None => readable = false,
        }
    }
    if !readable || ports.is_none() {
        faults.push(Fault::new(path, "has a condition that cannot be read; the rule limits nothing"));
        return None;
    }
    // Rules with a name keep it in counters, wherever they stand.
    let field = name.map_or(path, |name| format!("spec.rules[{name}]"));
    limit(Origin { object: object.to_string(), field }, ports?, matches, local?)
}

struct Buckets {
    total: Option<TokenBucket>,
    identity: Option<TokenBucket>,
    overrides: Vec<LimitOverride>,
}

fn limit(origin: Origin, ports: Vec<u16>, matches: Vec<RequestMatch>, buckets: Buckets) -> Option<RateLimit> {
    let Buckets { total, identity, overrides } = buckets;
    let limits = total.is_some() || identity.is_some() || !overrides.is_empty();
    limits.then_some(RateLimit { origin, ports, matches, total, identity, overrides })
}

/// `None` if one cannot be read: it might have been the only one.
fn ports(fields: &mut Fields<'_>) -> Option<Vec<u16>> {
    let before = fields.said();
    let list = fields.list("ports", PORTS);
    let mut found = Vec::new();
    let mut said = Vec::new();
    for (path, value) in list {
        match value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0) {
            Some(number) => found.push(number),
            None => said.push(Fault::new(path, "is not a port (1 to 65535); nothing is limited")),
        }
    }
    fields.add(said);
    (fields.said() == before).then_some(found)
}

fn buckets(settings: &Settings, object: &Key, mut fields: Fields<'_>) -> Buckets {
    let mut read = |name: &str| {
        let mut inner = fields.within(name)?;
        let bucket = bucket(&mut inner);
        inner.end();
        bucket
    };
    let (total, identity) = (read("total"), read("identity"));
    let list = fields.list("overrides", OVERRIDES);
    fields.idle("rules", "stands in `spec`, not here");
    if total.is_none() && identity.is_none() && list.is_empty() {
        fields.report("total", "no limit can be read (total, identity, overrides); nothing is limited");
    }
    let mut said = Vec::new();
    let overrides = list.into_iter().filter_map(|(path, value)| {
        let mut fields = Fields::new(path, value, &mut said);
        let bucket = bucket(&mut fields);
        let identities = identities(settings, object, &mut fields);
        fields.end();
        Some(LimitOverride { identities: identities?, bucket: bucket? })
    });
    let overrides = overrides.collect();
    fields.add(said);
    fields.end();
    Buckets { total, identity, overrides }
}

fn bucket(fields: &mut Fields<'_>) -> Option<TokenBucket> {
    if !fields.has("requests") {
        fields.report("requests", "is missing; the limit is left out");
    }
    let requests = fields.number("requests", 1..=u32::MAX);
    let interval = if fields.has("interval") { fields.some_span("interval") } else { Some(Millis(1_000)) };
    if interval.is_some_and(|interval| interval > LONGEST) {
        fields.report("interval", "is more than a day; the limit is left out");
    }
    let burst = if fields.has("burst") { fields.number("burst", 1..=u32::MAX) } else { requests };
    let interval = interval.filter(|interval| *interval <= LONGEST)?;
    Some(TokenBucket { requests: requests?, interval, burst: burst? })
}

/// `None` if none can be read: the bucket would be nobody's.
fn identities(settings: &Settings, object: &Key, fields: &mut Fields<'_>) -> Option<Vec<String>> {
    let mut found = Vec::new();
    for (i, text) in fields.texts("identities", CLIENTS).into_iter().enumerate() {
        let plain = text.strip_prefix("spiffe://").unwrap_or(&text);
        match format!("spiffe://{plain}").parse::<Identity>() {
            Ok(_) => found.push(plain.to_owned()),
            Err(e) => fields.report(&format!("identities[{i}]"), format_args!("{e}; it is left out")),
        }
    }
    let list = fields.list("clientRefs", CLIENTS);
    let mut said = Vec::new();
    for (path, value) in list {
        let mut inner = Fields::new(path, value, &mut said);
        let (group, kind, name) = (inner.text("group"), inner.text("kind"), inner.text("name"));
        let namespace = inner.text("namespace").unwrap_or_else(|| object.namespace.clone());
        if group.is_some() || kind.is_some_and(|kind| kind != "ServiceAccount") {
            inner.report("kind", "is not ServiceAccount of the core group; it is left out");
        } else {
            match Identity::new(&settings.trust_domain, &namespace, &name.unwrap_or_default()) {
                Ok(identity) => found.push(identity.to_string().trim_start_matches("spiffe://").to_owned()),
                Err(e) => inner.report("name", format_args!("{e}; it is left out")),
            }
        }
        inner.end();
    }
    fields.add(said);
    if found.is_empty() {
        fields.report("identities", "names no client that can be read; the override is left out");
    }
    (!found.is_empty()).then_some(found)
}

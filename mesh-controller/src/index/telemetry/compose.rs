//! What objects say of a pod, put together. Pure. As in Istio:
//!
//! - of spans each field that a closer object says beats that of a wider one;
//! - of lines the closest object that names providers says which there are; each entry beats those before it for the
//!   providers that it is about. Without any name it is the agents' own lines;
//! - what is different about metrics adds up, and of two words about the same the closer one holds.
//!
//! A provider that is not known takes nothing: no spans are told to somebody else in its place.

use std::collections::BTreeMap;

use mesh_common::model::{
    telemetry::{
        AccessLog, Collector, LogCondition, MetricChange, Requests, Telemetry as Told, Tracing as ToldTracing,
    },
    traffic::Percent,
};

use crate::translate::{
    mesh_config::{MeshConfig, Provider, Providers},
    telemetry::{
        Logging, Override, Side, Telemetry,
        annotated::{L7Word, LogWord, Said},
    },
};

/// The agents' own lines.
const ENVOY: &str = "envoy";

/// `layers`: the widest first.
pub fn compose(mesh: Option<&MeshConfig>, layers: &[&Telemetry], said: Said) -> Told {
    let none = Providers::default();
    let known = mesh.map_or(&none, |mesh| &mesh.providers);
    let (traced_client, sees_client) = tracing(mesh, known, layers, Side::Client);
    let (traced_server, sees_server) = tracing(mesh, known, layers, Side::Server);
    let (logged_client, asks_client) = logging(mesh, known, layers, Side::Client);
    let (logged_server, asks_server) = logging(mesh, known, layers, Side::Server);
    let is_asked = sees_client || sees_server || asks_client || asks_server;
    let requests = match said.l7 {
        Some(L7Word::Auto) => Requests::Seen,
        None if is_asked => Requests::Seen,
        Some(L7Word::Off) | None => Requests::AsNeeded,
    };
    Told {
        requests,
        traced_server,
        traced_client,
        logged_server: word(said, logged_server),
        logged_client: word(said, logged_client),
        metrics_server: metrics(layers, Side::Server),
        metrics_client: metrics(layers, Side::Client),
    }
}

/// The annotation beats what else is said; where lines go stays.
fn word(said: Said, logged: Option<AccessLog>) -> Option<AccessLog> {
    let only = match said.access_log {
        None => return logged,
        Some(LogWord::Off) => return Some(AccessLog::Off),
        Some(LogWord::Errors) => vec![LogCondition::Errors],
        Some(LogWord::All) => Vec::new(),
    };
    let collector = match logged {
        Some(AccessLog::On { collector, .. }) => collector,
        Some(AccessLog::Off) | None => None,
    };
    Some(AccessLog::On { only, sampled: None, collector })
}

/// Where spans go.
enum To {
    Collector(Option<Collector>),
    Nobody,
}

impl To {
    fn named(known: &Providers, name: &str) -> Self {
        match known.get(name) {
            Some(Provider::Spans(collector)) => Self::Collector(Some(collector.clone())),
            Some(Provider::Own) => Self::Collector(None),
            _ => Self::Nobody,
        }
    }
}

/// And whether requests are to be read for it: there are no spans of what nobody reads.
fn tracing(mesh: Option<&MeshConfig>, known: &Providers, layers: &[&Telemetry], side: Side) -> (ToldTracing, bool) {
    let mut told = ToldTracing { sampled: mesh.and_then(|mesh| mesh.sampled), ..ToldTracing::default() };
    let mut to = match mesh.and_then(|mesh| mesh.tracing.first()) {
        Some((name, _)) => To::named(known, name),
        None => To::Collector(mesh.and_then(|mesh| mesh.collector.clone())),
    };
    told.disabled = mesh.is_some_and(|mesh| mesh.untraced);
    let entries = layers.iter().flat_map(|layer| &layer.tracing).filter(|entry| entry.sides.has(side));
    let mut is_said = false;
    for entry in entries {
        if !is_said {
            // Whoever says something of spans wants some, whatever the mesh's own switch says.
            (is_said, told.disabled) = (true, false);
        }
        if let Some(provider) = &entry.provider {
            to = To::named(known, &provider.name);
        }
        if let Some(disabled) = entry.disabled {
            told.disabled = disabled;
        }
        told.sampled = entry.sampled.or(told.sampled);
        if let Some(tags) = &entry.tags {
            told.tags.clone_from(tags);
        }
    }
    match to {
        To::Collector(collector) if !told.disabled => told.collector = collector,
        _ => return (ToldTracing { disabled: true, ..ToldTracing::default() }, false),
    }
    let some = told.sampled.is_some_and(|sampled| sampled > Percent(0));
    let asks = is_said || (told.collector.is_some() && some);
    (told, asks)
}

/// And whether a Telemetry asks for lines: most of what they say is of requests.
fn logging(
    mesh: Option<&MeshConfig>,
    known: &Providers,
    layers: &[&Telemetry],
    side: Side,
) -> (Option<AccessLog>, bool) {
    let takes = |name: &str| matches!(known.get(name), Some(Provider::Lines(_) | Provider::File | Provider::Own));
    let lower = |name: &str| name.to_ascii_lowercase();
    let of_mesh = mesh.map(|mesh| mesh.logging.iter().map(|(name, _)| lower(name)).filter(|name| takes(name)));
    let of_mesh: Vec<String> = of_mesh.into_iter().flatten().collect();
    let logged = mesh.and_then(|mesh| mesh.logged);
    let mut usual = of_mesh.clone();
    if usual.is_empty() {
        usual.push(ENVOY.to_owned());
    }
    let layers = layers.iter().map(|layer| &layer.logging).filter(|entries| !entries.is_empty());
    let names = |entry: &Logging| -> Vec<String> { entry.providers.iter().map(|named| lower(&named.name)).collect() };
    // Those of the closest object that names some.
    let mut closest = layers.clone().map(|entries| entries.iter().flat_map(names).collect::<Vec<_>>());
    let scope = closest.rfind(|names| !names.is_empty()).unwrap_or_else(|| usual.clone());
    let begin = if of_mesh.is_empty() && logged != Some(true) { Vec::new() } else { usual.clone() };
    let mut on: BTreeMap<String, &[LogCondition]> = BTreeMap::new();
    let mut said = None;
    if !begin.is_empty() || logged == Some(false) {
        said = Some(false);
        on.extend(begin.into_iter().filter(|name| scope.contains(name)).map(|name| (name, &[][..])));
    }
    let mut parent = usual;
    for entry in layers.flatten() {
        let named = names(entry);
        if !named.is_empty() {
            parent = named;
        }
        let about = parent.iter().filter(|name| scope.contains(name) && takes(name));
        if !entry.sides.has(side) {
            continue;
        }
        for name in about {
            said = Some(true);
            if entry.disabled {
                on.remove(name);
            } else {
                on.insert(name.clone(), &entry.only);
            }
        }
    }
    let Some(is_asked) = said else { return (None, false) };
    let Some(first) = on.values().next().copied() else { return (Some(AccessLog::Off), false) };
    let collector = on.keys().find_map(|name| match known.get(name) {
        Some(Provider::Lines(collector)) => Some(collector.clone()),
        _ => None,
    });
    let only = if on.values().all(|only| *only == first) { first.to_vec() } else { either(on.into_values()) };
    (Some(AccessLog::On { only, sampled: None, collector }), is_asked)
}

/// A line is written once, for all that want it.
fn either<'a>(filters: impl Iterator<Item = &'a [LogCondition]>) -> Vec<LogCondition> {
    let filters: Vec<_> = filters.collect();
    if filters.iter().any(|only| only.is_empty()) {
        return Vec::new();
    }
    let not = |condition: &LogCondition| LogCondition::Not(Box::new(condition.clone()));
    let all = |only: &[LogCondition]| match only {
        [one] => one.clone(),
        several => LogCondition::Not(Box::new(LogCondition::Any(several.iter().map(not).collect()))),
    };
    vec![LogCondition::Any(filters.into_iter().map(all).collect())]
}

fn metrics(layers: &[&Telemetry], side: Side) -> BTreeMap<String, MetricChange> {
    let mut all = MetricChange::default();
    let mut own: BTreeMap<&'static str, MetricChange> = BTreeMap::new();
    let overrides = layers.iter().flat_map(|layer| &layer.overrides).filter(|change| change.sides.has(side));
    for change in overrides {
        match change.metric {
            Some(name) => apply(own.entry(name).or_insert_with(|| all.clone()), change),
            None => {
                apply(&mut all, change);
                own.values_mut().for_each(|own| apply(own, change));
            }
        }
    }
    own.retain(|_, change| *change != all);
    let mut told: BTreeMap<String, MetricChange> =
        own.into_iter().map(|(name, change)| (name.to_owned(), change)).collect();
    if all != MetricChange::default() {
        told.insert(String::new(), all);
    }
    told
}

fn apply(change: &mut MetricChange, Override { disabled, removed, .. }: &Override) {
    change.disabled = disabled.unwrap_or(change.disabled);
    change.removed.extend(removed.iter().map(|label| (*label).to_owned()));
    change.removed.sort();
    change.removed.dedup();
}

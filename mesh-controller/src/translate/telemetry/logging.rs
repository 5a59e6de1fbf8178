//! `spec.accessLogging[]`.

use mesh_common::model::telemetry::LogCondition;
use serde_json::Value;

use super::{Named, Purpose, Side, Sides, expression::expression, providers, sides};
use crate::{status::Fault, translate::fields::Fields};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logging {
    /// As in `spec.accessLogging[0]`.
    pub field: String,
    pub sides: Sides,
    /// None: those that the entry before names, or a wider object, or the mesh.
    pub providers: Vec<Named>,
    pub disabled: bool,
    pub only: Vec<LogCondition>,
}

pub fn entry(path: String, value: Value, named: &mut Vec<Named>, faults: &mut Vec<Fault>) -> Option<Logging> {
    let mut fields = Fields::new(path.as_str(), value, faults);
    let sides = sides(&mut fields);
    let providers = providers(&mut fields, Purpose::Logging, named);
    let before = fields.said();
    let disabled = fields.take("disabled").unwrap_or(false);
    let mut only = Vec::new();
    if let Some(mut filter) = fields.within("filter") {
        match filter.text("expression").map(|text| expression(&text)) {
            Some(Ok(conditions)) => only = conditions,
            Some(Err(wrong)) => {
                let why = format!("at character {}: {}; the entry is left out", wrong.at, wrong.why);
                filter.report("expression", why);
            }
            None if filter.said() == before => filter.report("expression", "is missing; the entry is left out"),
            None => {}
        }
        filter.end();
    }
    let readable = fields.said() == before;
    fields.end();
    Some(Logging { field: path, sides: sides?, providers, disabled, only }).filter(|_| readable)
}

/// Agents write one line, wherever it goes: filters of several providers cannot differ.
pub fn check(entries: &[Logging], faults: &mut Vec<Fault>) {
    for (i, entry) in entries.iter().enumerate() {
        let differs = |other: &&Logging| {
            let together = [Side::Client, Side::Server].into_iter().any(|s| other.sides.has(s) && entry.sides.has(s));
            let same = |named: &Named| entry.providers.iter().any(|own| own.name == named.name);
            let writes = |entry: &Logging| !entry.disabled && !entry.providers.is_empty();
            together && writes(other) && writes(entry) && other.only != entry.only && !other.providers.iter().any(same)
        };
        if let Some(other) = entries[..i].iter().find(differs) {
            let why = format!("differs from that of {}: a line goes to all providers where either holds", other.field);
            faults.push(Fault::new(format!("{}.filter", entry.field), why));
        }
    }
}

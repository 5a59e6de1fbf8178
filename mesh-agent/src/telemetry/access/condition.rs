//! Whether a condition holds for a record. Pure.

use mesh_common::model::telemetry::{LogAttribute, LogCondition};

use crate::telemetry::flow::{Flow, Security};

pub fn holds(condition: &LogCondition, flow: &Flow) -> bool {
    match condition {
        LogCondition::Errors => is_error(flow),
        LogCondition::Status { from, to } => status(flow).is_some_and(|status| (*from..=*to).contains(&status)),
        LogCondition::Any(conditions) => conditions.iter().any(|condition| holds(condition, flow)),
        LogCondition::Not(condition) => !holds(condition, flow),
        LogCondition::Authenticated => flow.security != Security::Plaintext,
        LogCondition::Is { attribute, value } => text(*attribute, flow).is_some_and(|text| text == value),
        LogCondition::Begins { attribute, value } => text(*attribute, flow).is_some_and(|text| text.starts_with(value)),
    }
}

/// Refused, failed, or answered with 4xx or 5xx.
pub fn is_error(flow: &Flow) -> bool {
    flow.verdict.is_bad() || status(flow).is_some_and(|status| status >= 400)
}

fn status(flow: &Flow) -> Option<u16> {
    flow.http.as_ref().map(|http| http.status).filter(|status| *status != 0)
}

/// `None`: the record has none.
fn text(attribute: LogAttribute, flow: &Flow) -> Option<&str> {
    let http = flow.http.as_deref();
    let text = match attribute {
        LogAttribute::Method => &http?.method,
        LogAttribute::Path => &http?.path,
        LogAttribute::Host => &http?.host,
        LogAttribute::SourceWorkload => &flow.source.workload,
        LogAttribute::SourceNamespace => &flow.source.namespace,
        LogAttribute::DestinationWorkload => &flow.destination.workload,
        LogAttribute::DestinationNamespace => &flow.destination.namespace,
        LogAttribute::ResponseFlags => return line_flags(flow),
    };
    Some(text.as_str()).filter(|text| !text.is_empty())
}

/// As the line has them: of a request Envoy's, of a connection the reason's code.
pub fn line_flags(flow: &Flow) -> Option<&str> {
    match &flow.http {
        Some(http) => http.flags,
        None => flow.reason.as_deref(),
    }
}

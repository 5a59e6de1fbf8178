//! A record as a log record: the line of the access log, and its fields as attributes.

use std::sync::Arc;

use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
};

use super::{
    Settings,
    attributes::{Attributes, by_pod, nanoseconds, resource, scope},
};
use crate::telemetry::{
    access::line::{self, Field},
    flow::Flow,
};

pub fn message(records: &[Arc<Flow>], settings: &Settings) -> ExportLogsServiceRequest {
    let now = nanoseconds(std::time::SystemTime::now());
    let logs_of = |flows: Vec<&Flow>| ResourceLogs {
        resource: Some(resource(flows[0], settings)),
        scope_logs: vec![ScopeLogs {
            scope: Some(scope()),
            log_records: flows.into_iter().map(|flow| record(flow, now)).collect(),
            ..ScopeLogs::default()
        }],
        ..ResourceLogs::default()
    };
    ExportLogsServiceRequest { resource_logs: by_pod(records).into_iter().map(logs_of).collect() }
}

fn record(flow: &Flow, now: u64) -> LogRecord {
    let mut attributes = Attributes::with_capacity(32);
    line::fields(flow, |name, value| match value {
        Field::Text(text) => attributes.text(name, text),
        Field::Number(number) => attributes.number(name, number),
    });
    let (number, text) = match flow.verdict.is_bad() {
        true => (SeverityNumber::Warn, "WARN"),
        false => (SeverityNumber::Info, "INFO"),
    };
    let trace = flow.http.as_ref().and_then(|http| http.trace);
    LogRecord {
        time_unix_nano: nanoseconds(flow.end),
        observed_time_unix_nano: now,
        severity_number: number.into(),
        severity_text: text.to_owned(),
        body: Some(AnyValue { value: Some(Value::StringValue(line::text(flow))) }),
        attributes: attributes.done(),
        flags: trace.map_or(0, |ids| ids.sampled.into()),
        trace_id: trace.map(|ids| ids.trace.to_be_bytes().to_vec()).unwrap_or_default(),
        span_id: trace.map(|ids| ids.span.to_be_bytes().to_vec()).unwrap_or_default(),
        event_name: "nodemesh.access".to_owned(),
        ..LogRecord::default()
    }
}

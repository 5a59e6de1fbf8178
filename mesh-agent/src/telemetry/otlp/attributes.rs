//! Attributes of spans, log records and of the pods that they are about. Names are OpenTelemetry's where it has one
//! (<https://opentelemetry.io/docs/specs/semconv/>), and those that Istio's spans have.

use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
};

use super::Settings;
use crate::telemetry::flow::{Direction, Flow, Party};

#[derive(Debug, Default)]
pub struct Attributes(Vec<KeyValue>);

impl Attributes {
    pub fn with_capacity(attributes: usize) -> Self {
        Self(Vec::with_capacity(attributes))
    }

    fn put(&mut self, key: &str, value: Value) {
        let value = Some(AnyValue { value: Some(value) });
        self.0.push(KeyValue { key: key.to_owned(), value, ..KeyValue::default() });
    }

    /// What is empty says nothing.
    pub fn text(&mut self, key: &str, value: impl Into<String>) {
        let value = value.into();
        if !value.is_empty() {
            self.put(key, Value::StringValue(value));
        }
    }

    pub fn maybe(&mut self, key: &str, value: Option<impl Into<String>>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    pub fn number(&mut self, key: &str, value: impl TryInto<i64>) {
        self.put(key, Value::IntValue(value.try_into().unwrap_or(i64::MAX)));
    }

    /// In place of one of the same name, since a name may stand once.
    pub fn instead(&mut self, key: &str, value: &str) {
        self.0.retain(|attribute| attribute.key != key);
        self.put(key, Value::StringValue(value.to_owned()));
    }

    pub fn done(self) -> Vec<KeyValue> {
        self.0
    }
}

/// The end of a record that it is told of: the source of what is outbound, the destination of what is inbound.
pub fn own(flow: &Flow) -> &Party {
    match flow.direction {
        Direction::Outbound => &flow.source,
        Direction::Inbound => &flow.destination,
    }
}

/// The pod that the record is about.
pub fn resource(flow: &Flow, settings: &Settings) -> Resource {
    let party = own(flow);
    let mut attributes = Attributes::with_capacity(8);
    let names = [&party.canonical_service, &party.workload, &party.pod];
    let name = names.into_iter().find(|name| !name.is_empty());
    // What the specification says that it is if nobody knows.
    attributes.text("service.name", name.map_or("unknown_service", String::as_str));
    attributes.text("service.namespace", party.namespace.as_str());
    attributes.text("service.version", party.canonical_revision.as_str());
    attributes.text("service.instance.id", party.pod.as_str());
    attributes.text("k8s.namespace.name", party.namespace.as_str());
    attributes.text("k8s.pod.name", party.pod.as_str());
    attributes.text("k8s.node.name", settings.node.as_str());
    let cluster = if party.cluster.is_empty() { &settings.cluster } else { &party.cluster };
    attributes.text("k8s.cluster.name", cluster.as_str());
    Resource { attributes: attributes.done(), ..Resource::default() }
}

pub fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "nodemesh".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

/// Groups records by the pod that they are about, each in the order in which they came.
pub fn by_pod<'a, F: AsRef<Flow>>(records: &'a [F]) -> Vec<Vec<&'a Flow>> {
    let mut groups: Vec<Vec<&'a Flow>> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for flow in records.iter().map(AsRef::as_ref) {
        let party = own(flow);
        let place = *places.entry((&party.namespace, &party.pod)).or_insert_with(|| {
            groups.push(Vec::new());
            groups.len() - 1
        });
        groups[place].push(flow);
    }
    groups
}

/// Since 1970.
pub fn nanoseconds(time: std::time::SystemTime) -> u64 {
    let since = time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

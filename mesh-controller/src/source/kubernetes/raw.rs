//! An object as it comes from the API, before its kind is read: one that does not fit its kind must not make the whole
//! list unreadable.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{Resource, api::ApiResource, core::DynamicResourceScope};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Any object of any kind.
#[derive(Clone, Debug)]
pub struct Raw {
    /// Name, namespace and version only: what a watch needs.
    pub metadata: ObjectMeta,
    /// All of it but `managedFields`, which is often its larger half.
    pub value: Value,
    /// Who wrote the newest of it, but for its status: what is kept of `managedFields`.
    pub manager: Option<String>,
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let fields = match value.get_mut("metadata") {
            Some(Value::Object(metadata)) => metadata.remove("managedFields"),
            _ => None,
        };
        let text = |field: &str| {
            let found = value.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_str);
            found.map(ToOwned::to_owned)
        };
        let metadata = ObjectMeta {
            name: text("name"),
            namespace: text("namespace"),
            resource_version: text("resourceVersion"),
            ..ObjectMeta::default()
        };
        Ok(Self { metadata, value, manager: fields.and_then(|fields| manager(&fields)) })
    }
}

/// Of the newest entry; all of their times have one form.
fn manager(fields: &Value) -> Option<String> {
    let text = |entry: &Value, field: &str| entry.get(field).and_then(Value::as_str).map(ToOwned::to_owned);
    let entries = fields.as_array()?.iter().filter(|entry| text(entry, "subresource").is_none_or(|of| of.is_empty()));
    text(entries.max_by_key(|entry| text(entry, "time"))?, "manager")
}

impl Resource for Raw {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(of: &ApiResource) -> Cow<'_, str> {
        of.kind.as_str().into()
    }

    fn group(of: &ApiResource) -> Cow<'_, str> {
        of.group.as_str().into()
    }

    fn version(of: &ApiResource) -> Cow<'_, str> {
        of.version.as_str().into()
    }

    fn plural(of: &ApiResource) -> Cow<'_, str> {
        of.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_wrote_the_newest_of_an_object_is_kept_and_no_more_of_its_managed_fields() {
        let entry = |manager: &str, time: &str, subresource: &str| json!({"manager": manager, "time": time, "subresource": subresource, "fieldsV1": {}});
        let fields = json!([
            entry("kubectl", "2026-01-31T12:00:00Z", ""),
            entry("helm", "2026-01-31T13:00:00Z", ""),
            entry("nodemesh-controller", "2026-01-31T14:00:00Z", "status"),
            {"operation": "Apply"},
        ]);
        let read = |metadata: Value| serde_json::from_value::<Raw>(json!({"metadata": metadata})).expect("an object");
        let raw = read(json!({"name": "p", "resourceVersion": "7", "managedFields": fields}));
        assert_eq!(raw.manager.as_deref(), Some("helm"));
        assert_eq!(raw.value, json!({"metadata": {"name": "p", "resourceVersion": "7"}}));
        for none in [json!({}), json!({"managedFields": 7}), json!({"managedFields": []})] {
            assert_eq!(read(none).manager, None);
        }
    }
}

//! The fields of an AuthorizationPolicy, as users write them. A field that is not here is an error: it might have
//! restricted something.

use serde::Deserialize;
use serde_json::Value;

use crate::translate::Selector;

/// A list that may be absent or null.
pub type List<T> = Option<Vec<T>>;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Spec {
    pub selector: Option<Selector>,
    pub target_ref: Option<Value>,
    pub target_refs: Option<Value>,
    pub action: Option<String>,
    pub provider: Option<Value>,
    pub rules: List<RuleSpec>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuleSpec {
    pub from: List<From>,
    pub to: List<To>,
    pub when: List<Condition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct From {
    pub source: Source,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Source {
    pub principals: List<String>,
    pub not_principals: List<String>,
    pub namespaces: List<String>,
    pub not_namespaces: List<String>,
    pub service_accounts: List<String>,
    pub not_service_accounts: List<String>,
    pub ip_blocks: List<String>,
    pub not_ip_blocks: List<String>,
    pub request_principals: List<String>,
    pub not_request_principals: List<String>,
    pub remote_ip_blocks: List<String>,
    pub not_remote_ip_blocks: List<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct To {
    pub operation: Operation,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Operation {
    pub ports: List<String>,
    pub not_ports: List<String>,
    pub hosts: List<String>,
    pub not_hosts: List<String>,
    pub methods: List<String>,
    pub not_methods: List<String>,
    pub paths: List<String>,
    pub not_paths: List<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetRef {
    pub group: Option<String>,
    pub kind: Option<String>,
    pub name: Option<String>,
    pub namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Condition {
    pub key: String,
    #[serde(default)]
    pub values: List<String>,
    #[serde(default)]
    pub not_values: List<String>,
}

//! The mesh's own kinds. Their fields are read by the controller (`translate/rate_limit_policy.rs`), of which a test
//! holds the two together. A definition stays where the mesh is uninstalled: with it all objects of its users would go.

use serde_json::{Map, Value, json};

use crate::{CONTROLLER, labels};

pub fn objects() -> Vec<Value> {
    vec![rate_limit_policy()]
}

/// `RateLimitPolicy`.
pub fn rate_limit_policy() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "ratelimitpolicies.nodemesh.io",
            "labels": labels(CONTROLLER),
            "annotations": { "helm.sh/resource-policy": "keep" },
        },
        "spec": {
            "group": "nodemesh.io",
            "names": {
                "kind": "RateLimitPolicy",
                "listKind": "RateLimitPolicyList",
                "plural": "ratelimitpolicies",
                "singular": "ratelimitpolicy",
                "shortNames": ["rlp"],
                "categories": ["nodemesh"],
            },
            "scope": "Namespaced",
            "versions": [{
                "name": "v1alpha1",
                "served": true,
                "storage": true,
                "subresources": { "status": {} },
                "additionalPrinterColumns": [
                    { "name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp" },
                ],
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "description": "How many requests workloads take, counted by the agent of each workload's node.",
                    "required": ["spec"],
                    "properties": {
                        "spec": spec(),
                        "status": { "type": "object", "x-kubernetes-preserve-unknown-fields": true },
                    },
                } },
            }],
        },
    })
}

fn spec() -> Value {
    let labels = json!({ "type": "object", "maxProperties": 64, "additionalProperties": { "type": "string" } });
    let selector = about("Pods by their labels.", object([("matchLabels", labels)], &[]));
    let target = object([("group", one_of(&[""])), ("kind", one_of(&["Service"])), ("name", text(63))], &["name"]);
    let rule = [("name", text(63)), ("ports", ports()), ("matches", list(condition(), 64)), ("local", limits())];
    let fields = [
        ("selector", selector),
        ("targetRefs", about("Pods that serve these, in place of a selector.", list(target, 16))),
        ("ports", ports()),
        ("local", limits()),
        ("rules", about("The same for some requests, beside local.", list(object(rule, &["local"]), 64))),
    ];
    object(fields, &[])
}

/// For all requests together, or for some.
fn limits() -> Value {
    let account = [("group", one_of(&[""])), ("kind", one_of(&["ServiceAccount"])), ("namespace", text(63))];
    let account = object(account.into_iter().chain([("name", text(253))]), &["name"]);
    let clients = [
        ("clientRefs", about("Service accounts; without a namespace of the policy's own.", list(account, 128))),
        ("identities", about("SPIFFE ids, without spiffe://.", list(text(2048), 128))),
    ];
    let fields = [
        ("total", about("Of all clients together.", object(bucket(), &["requests"]))),
        ("identity", about("Of each client identity.", object(bucket(), &["requests"]))),
        (
            "overrides",
            about(
                "In place of identity, for the clients named; they share it. The first that names a client counts.",
                list(object(bucket().into_iter().chain(clients), &["requests"]), 64),
            ),
        ),
    ];
    object(fields, &[])
}

fn bucket() -> [(&'static str, Value); 3] {
    let number = || json!({ "type": "integer", "format": "int64", "minimum": 1, "maximum": u32::MAX });
    let span = json!({ "type": "string", "maxLength": 64, "pattern": "^([0-9]+(\\.[0-9]+)?(h|ms|m|s|us|ns))+$" });
    [
        ("requests", about("In each interval.", number())),
        ("interval", about("As in 1s or 1m, at most a day; without one: a second.", span)),
        ("burst", about("At once, after a pause; without one: as many as an interval has.", number())),
    ]
}

/// All that is said must hold, and one of the methods.
fn condition() -> Value {
    let ways = || [("exact", text(4096)), ("prefix", text(4096)), ("regex", text(4096))];
    let present = ("present", json!({ "type": "boolean" }));
    let header = object([("name", text(256))].into_iter().chain(ways()).chain([present]), &["name"]);
    object([("path", object(ways(), &[])), ("methods", list(text(32), 16)), ("headers", list(header, 16))], &[])
}

fn ports() -> Value {
    let port = json!({ "type": "integer", "format": "int32", "minimum": 1, "maximum": 65535 });
    about("Of the workload; none: all.", list(port, 64))
}

fn object(fields: impl IntoIterator<Item = (&'static str, Value)>, required: &[&str]) -> Value {
    let properties = fields.into_iter().map(|(name, schema)| (name.to_owned(), schema)).collect::<Map<_, _>>();
    let mut schema = json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    schema
}

fn list(items: Value, most: u32) -> Value {
    json!({ "type": "array", "maxItems": most, "items": items })
}

fn text(most: u32) -> Value {
    json!({ "type": "string", "maxLength": most })
}

fn one_of(words: &[&str]) -> Value {
    json!({ "type": "string", "enum": words })
}

fn about(what: &str, mut schema: Value) -> Value {
    schema["description"] = what.into();
    schema
}

//! What is installed on a cluster, said once: as objects for `meshctl install`, as files for Kustomize and as a Helm
//! chart. Pure: it reads no file and asks no cluster.

mod agent;
mod authority;
mod chart;
mod controller;
mod definitions;
mod kustomize;
pub mod monitoring;
mod permissions;
mod template;
mod values;
mod yaml;

pub use agent::CAPABILITIES;
pub use authority::NAME as AUTHORITY;
pub use chart::chart;
pub use definitions::rate_limit_policy;
pub use kustomize::base;
pub use permissions::table;
pub use values::{Values, WrongValue};

use serde_json::{Value, json};
use template::Template;

/// On every object: whose part it is.
pub const PART_OF: &str = "nodemesh";
pub const NAME_LABEL: &str = "app.kubernetes.io/name";
pub const PART_OF_LABEL: &str = "app.kubernetes.io/part-of";
pub const AGENT: &str = "mesh-agent";
pub const CONTROLLER: &str = "mesh-controller";
/// The folder of the programs in the image.
pub const PROGRAMS: &str = "/usr/local/bin";

/// A file to be written, by its path below the folder it belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub path: String,
    pub text: String,
}

/// Objects that belong in one file, in the order in which they are applied.
struct Part {
    name: &'static str,
    objects: Vec<Template>,
}

/// Every object as the API takes it, in the order in which it is applied.
pub fn objects(values: &Values) -> Vec<Value> {
    parts().iter().flat_map(|part| &part.objects).filter_map(|object| object.evaluate(values)).collect()
}

fn parts() -> Vec<Part> {
    let part = |name, objects: Vec<Value>| Part { name, objects: objects.iter().map(Template::new).collect() };
    vec![
        part("namespace", vec![namespace()]),
        part("definitions", definitions::objects()),
        part("rbac", permissions::objects()),
        part("authority", authority::objects()),
        part("controller", controller::objects()),
        part("agent", agent::objects()),
        part("monitoring", monitoring::objects()),
    ]
}

fn namespace() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": "${namespace}",
            "labels": {
                PART_OF_LABEL: PART_OF,
                // The agent lives in the node's network and sees the node's processes.
                "pod-security.kubernetes.io/enforce": "privileged",
            },
        },
    })
}

fn metadata(name: &str) -> Value {
    json!({ "name": name, "namespace": "${namespace}", "labels": labels(name) })
}

fn labels(name: &str) -> Value {
    json!({ NAME_LABEL: name, PART_OF_LABEL: PART_OF })
}

/// How the pods of a workload are found; never changes, since selectors cannot.
fn selector(name: &str) -> Value {
    json!({ NAME_LABEL: name })
}

/// `value` only where the value at `path` is neither false, nor 0, nor empty. In lists, objects, and for whole objects.
fn when(path: &str, value: Value) -> Value {
    json!({ template::WHEN: path, template::THEN: value })
}

/// The name of the pod, its namespace and its node, as the programs read them.
fn environment() -> Value {
    let field = |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    json!([
        field("NODE_NAME", "spec.nodeName"),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
    ])
}

#[cfg(test)]
mod tests;

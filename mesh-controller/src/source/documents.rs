//! The text of one file -> its objects: several documents, lists, YAML or JSON. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use serde_yaml_ng::Value as Yaml;

use super::{Custom, CustomKind, Key, Kind, Object, Origin};
use crate::{
    names,
    status::{Fault, Problem, read},
    translate::mesh_config,
};

/// A document that is written for a program, and needs no name.
const ISTIO_OPERATOR: &str = "IstioOperator";

/// What one file holds.
#[derive(Debug, Default)]
pub struct Documents {
    pub objects: Vec<Object>,
    /// Objects that are not what their kind asks for. The key is that of the object that they would be: none without
    /// a name that an object can have.
    pub refused: Vec<(Option<Key>, Problem)>,
    /// How many objects are none of the mesh's business.
    pub others: usize,
}

/// Reads a file. The error is that of the whole file: nothing of it is usable, since where a document ends is not
/// known either. An object that does not fit its kind is only refused itself.
pub fn parse(file: &str, text: &str) -> Result<Documents, Problem> {
    let mut documents = Documents::default();
    for (number, document) in serde_yaml_ng::Deserializer::from_str(text).enumerate() {
        let place = |why: String| Problem::of_file(file, format!("document {}: {why}", number + 1));
        let yaml = Yaml::deserialize(document).map_err(|e| place(e.to_string()))?;
        if !yaml.is_null() {
            let foreign = cloud_formation(&yaml);
            match (json(yaml), foreign) {
                (Ok(value), None) => documents.read(file, value),
                (Ok(_), Some(why)) => documents.refused.push((None, place(why))),
                (Err(why), foreign) => return Err(place(foreign.unwrap_or(why))),
            }
        }
    }
    Ok(documents)
}

/// What to say of a template of CloudFormation, whose tags have no meaning here.
fn cloud_formation(yaml: &Yaml) -> Option<String> {
    if yaml.get("apiVersion").is_some() {
        return None;
    }
    let resources = yaml.get("Resources").unwrap_or(yaml).as_mapping()?.values();
    let mut types = resources.filter_map(|resource| resource.get("Type")?.as_str());
    let type_ = types.find(|type_| type_.starts_with("AWS::"))?;
    Some(format!("{type_} is a resource of CloudFormation, not of Kubernetes; nothing of it is honoured"))
}

/// YAML as Kubernetes understands it: keys are texts, tags have no meaning.
fn json(yaml: Yaml) -> Result<Value, String> {
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(value) => Value::Bool(value),
        Yaml::Number(number) => {
            if let Some(value) = number.as_i64() {
                value.into()
            } else if let Some(value) = number.as_u64() {
                value.into()
            } else {
                number.as_f64().into()
            }
        }
        Yaml::String(text) => Value::String(text),
        Yaml::Sequence(list) => Value::Array(list.into_iter().map(json).collect::<Result<_, _>>()?),
        Yaml::Mapping(mapping) => {
            let mut map = Map::new();
            for (key, value) in mapping {
                let key = match key {
                    Yaml::String(text) => text,
                    Yaml::Number(number) => number.to_string(),
                    Yaml::Bool(value) => value.to_string(),
                    other => return Err(format!("{other:?} cannot be a key")),
                };
                if map.contains_key(&key) {
                    return Err(format!("key `{key}` stands twice"));
                }
                map.insert(key, json(value)?);
            }
            Value::Object(map)
        }
        Yaml::Tagged(tagged) => return Err(format!("the tag {} has no meaning here", tagged.tag)),
    })
}

impl Documents {
    fn read(&mut self, file: &str, mut value: Value) {
        let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (version, kind) = (text("apiVersion"), text("kind"));
        if version.is_empty() || kind.is_empty() {
            let why = "a document without apiVersion and kind is no Kubernetes object";
            let key = (!kind.is_empty()).then(|| key_of(&kind, &value));
            let key = key.filter(|key| check_names(key, &value).is_ok());
            self.refused.push((key, Problem::of_file(file, why)));
            return;
        }
        if let (Some(item_kind), Some(Value::Array(items))) = (kind.strip_suffix("List"), value.get_mut("items")) {
            for mut item in std::mem::take(items) {
                // Items of typed lists do not repeat what they are.
                if let (Value::Object(map), false) = (&mut item, item_kind.is_empty()) {
                    map.entry("apiVersion").or_insert_with(|| version.clone().into());
                    map.entry("kind").or_insert_with(|| item_kind.into());
                }
                self.read(file, item);
            }
            return;
        }
        match object(&version, &kind, value) {
            Ok(Some(kind)) => self.objects.push(Object { file: file.to_owned(), kind, origin: Origin::default() }),
            Ok(None) => self.others += 1,
            Err(refused) => {
                let Refused { key, is_named, fault: Fault { field, why, extent } } = *refused;
                let problem = Problem { file: file.to_owned(), object: key.to_string(), field, why, extent };
                self.refused.push((is_named.then_some(key), problem));
            }
        }
    }
}

/// An object that is not what its kind asks for.
#[derive(Debug)]
pub struct Refused {
    pub key: Key,
    /// The key is one that an object can have.
    pub is_named: bool,
    pub fault: Fault,
}

/// Reads one object; `None`: not the mesh's business.
///
/// # Errors
/// If it does not fit its kind, or has a name that Kubernetes would not take.
pub fn object(version: &str, kind: &str, mut value: Value) -> Result<Option<Kind>, Box<Refused>> {
    let key = key_of(kind, &value);
    let named = check_names(&key, &value);
    let account = if key.is_pod() { check_account(&value) } else { Ok(()) };
    // The namespace that Kubernetes would set, or none.
    if let Some(Value::Object(metadata)) = value.get_mut("metadata") {
        match key.namespace.as_str() {
            "" => metadata.remove("namespace"),
            namespace => metadata.insert("namespace".into(), namespace.into()),
        };
    }
    let is_named = named.is_ok();
    let checked = |kind| named.and(account).map(|()| kind);
    let read = known(version, kind, value).and_then(|kind| kind.map(checked).transpose());
    read.map_err(|fault| Box::new(Refused { key, is_named, fault }))
}

/// Kubernetes would not take an object with another name, so that none is lost with it. Here it could pass for a
/// policy that the mesh generates, or for another pod.
fn check_names(key: &Key, value: &Value) -> Result<(), Fault> {
    for field in ["name", "namespace"] {
        let given = value.pointer(&format!("/metadata/{field}"));
        if given.is_some_and(|given| !given.is_null() && !given.is_string()) {
            return Err(Fault::new(format!("metadata.{field}"), "is not a text"));
        }
    }
    let is_unnamed = key.name.is_empty() && key.kind == ISTIO_OPERATOR;
    if key.name.is_empty() && !is_unnamed {
        return Err(Fault::new("metadata.name", "is missing"));
    }
    // A service's name and its namespace's are parts of its host name: a dot would move the border between them.
    let name = if matches!(key.kind.as_str(), "Namespace" | "Service") { names::label } else { names::subdomain };
    if !is_unnamed {
        name(&key.name).map_err(|why| Fault::new("metadata.name", why))?;
    }
    match key.namespace.as_str() {
        "" => Ok(()),
        namespace => names::label(namespace).map_err(|why| Fault::new("metadata.namespace", why)),
    }
}

/// A pod's account is half of its identity. Checked here, so that the pod as it was before stays.
fn check_account(pod: &Value) -> Result<(), Fault> {
    match pod.pointer("/spec/serviceAccountName").and_then(Value::as_str) {
        None | Some("") => Ok(()),
        Some(account) => names::subdomain(account).map_err(|why| Fault::new("spec.serviceAccountName", why)),
    }
}

fn key_of(kind: &str, value: &Value) -> Key {
    let metadata =
        |field: &str| value.pointer(&format!("/metadata/{field}")).and_then(Value::as_str).unwrap_or_default();
    let namespace = match (kind, metadata("namespace")) {
        ("Namespace" | "Node", _) => "",
        // It is the mesh's, wherever it is.
        (ISTIO_OPERATOR, "") => "",
        (_, "") => "default",
        (_, namespace) => namespace,
    };
    Key { kind: kind.to_owned(), namespace: namespace.to_owned(), name: metadata("name").to_owned() }
}

/// `None`: not the mesh's business.
fn known(version: &str, kind: &str, value: Value) -> Result<Option<Kind>, Fault> {
    fn typed<T: DeserializeOwned>(value: Value, kind: fn(Box<T>) -> Kind) -> Result<Option<Kind>, Fault> {
        Ok(Some(kind(Box::new(read(value)?))))
    }
    let group = version.split_once('/').map_or("", |(group, _)| group);
    match (version, kind) {
        ("v1", "Namespace") => typed(value, Kind::Namespace),
        ("v1", "Node") => typed(value, Kind::Node),
        ("v1", "Pod") => typed(value, Kind::Pod),
        ("v1", "Service") => typed(value, Kind::Service),
        ("v1", "ServiceAccount") => typed(value, Kind::ServiceAccount),
        ("v1", "ConfigMap") if value.pointer("/metadata/name").is_some_and(|name| name == mesh_config::NAME) => {
            typed(value, Kind::ConfigMap)
        }
        ("discovery.k8s.io/v1", "EndpointSlice") => typed(value, Kind::EndpointSlice),
        _ if group == "discovery.k8s.io" => Err(Fault::new("apiVersion", "only discovery.k8s.io/v1 is read")),
        _ => match CustomKind::find(group, kind) {
            Some(known) => Ok(Some(Kind::Custom(known, Box::new(of_version(known, version, custom(value)))))),
            None if group.ends_with(".istio.io") || CustomKind::is_group(group) => {
                Err(Fault::new("", format!("{}; nothing of it is honoured", not_read(version, kind))))
            }
            None => Ok(None),
        },
    }
}

/// Why, for kinds of which something else takes the place.
pub(super) fn not_read(version: &str, kind: &str) -> String {
    let instead = match kind {
        "EnvoyFilter" | "WasmPlugin" => "there is no Envoy here that it could change",
        "Sidecar" => "there are no sidecars here, and agents are told what they need",
        _ => "the kind is not read",
    };
    format!("{instead} ({version})")
}

/// What a version that is not read asks for is unknown; it must not count for nothing.
fn of_version(kind: CustomKind, version: &str, mut custom: Custom) -> Custom {
    let read = kind.versions().iter().map(|read| kind.api_version(read));
    let read: Vec<String> = read.collect();
    if !read.iter().any(|read| read == version) {
        let why = format!("`{version}` is not read, only {}", read.join(" and "));
        custom.fault = Some(Fault::new("apiVersion", why));
    }
    custom
}

/// Takes what can be taken: an object that is there in name must not vanish for a fault.
fn custom(value: Value) -> Custom {
    let Value::Object(mut map) = value else {
        let fault = Some(Fault::new("", "is not an object"));
        return Custom { metadata: ObjectMeta::default(), spec: Value::Null, fault };
    };
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    let mut fault = map.keys().find(|key| !known.contains(&key.as_str())).map(|key| Fault::new(key, "unknown field"));
    let metadata = map.remove("metadata").filter(|metadata| !metadata.is_null());
    let metadata = metadata.unwrap_or_else(|| Value::Object(Map::new()));
    let name = |field: &str| metadata.get(field).and_then(Value::as_str).map(ToOwned::to_owned);
    let bare = ObjectMeta { name: name("name"), namespace: name("namespace"), ..ObjectMeta::default() };
    let metadata = read(metadata).unwrap_or_else(|wrong: Fault| {
        fault = Some(wrong.within("metadata"));
        bare
    });
    Custom { metadata, spec: map.remove("spec").unwrap_or_default(), fault }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_documents_and_lists() {
        let text = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Node, metadata: {name: a}}
- {apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}
---
{\"apiVersion\": \"v1\", \"kind\": \"PodList\", \"items\": [{\"metadata\": {\"name\": \"p\"}}]}
";
        let documents = parse("a.yaml", text).expect("valid");
        let keys: Vec<_> = documents.objects.iter().map(|o| o.key().to_string()).collect();
        assert_eq!(keys, ["Namespace shop", "Node a", "Pod default/p"]);
        assert!(documents.refused.is_empty());
    }

    #[test]
    fn one_bad_object_is_refused_alone() {
        let text = "
{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: shop}, spec: {hostNetwork: 7}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: shop}}
---
{apiVersion: networking.istio.io/v1, kind: EnvoyFilter, metadata: {name: v, namespace: shop}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: c}}
";
        let documents = parse("a.yaml", text).expect("valid");
        assert_eq!(documents.objects.len(), 1);
        let said: Vec<_> = documents.refused.iter().map(|(_, p)| p.to_string()).collect();
        assert!(said[0].starts_with("a.yaml: Pod shop/p: spec.hostNetwork: invalid type"), "{}", said[0]);
        assert_eq!(
            said[1],
            "a.yaml: EnvoyFilter shop/v: there is no Envoy here that it could change (networking.istio.io/v1); nothing of it is \
             honoured"
        );
    }

    #[test]
    fn a_policy_with_bad_metadata_still_exists() {
        let text = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, \
                    metadata: {name: p, namespace: shop, labels: 7}, spec: {}}";
        let documents = parse("a.yaml", text).expect("valid");
        let Kind::Custom(CustomKind::AuthorizationPolicy, policy) = &documents.objects[0].kind else {
            panic!("another kind")
        };
        assert_eq!(policy.metadata.name.as_deref(), Some("p"));
        assert_eq!(policy.fault.as_ref().map(|f| f.field.as_str()), Some("metadata.labels"));
    }

    #[test]
    fn names_that_kubernetes_would_not_take() {
        let document = |kind: &str, metadata: &str| {
            let version = if kind.ends_with("Policy") { "security.istio.io/v1" } else { "v1" };
            let text = format!(
                "{{apiVersion: {version}, kind: {kind}, metadata: {metadata}, spec: {{}}}}\n---\n\
                 {{apiVersion: v1, kind: Node, metadata: {{name: other}}}}"
            );
            let documents = parse("a.yaml", &text).expect("valid");
            assert_eq!(documents.objects.last().map(|o| o.key().to_string()).as_deref(), Some("Node other"));
            let refused: Vec<_> = documents.refused.into_iter().map(|(key, p)| (key, p.field)).collect();
            (documents.objects.len(), refused)
        };
        for (kind, metadata, field) in [
            ("AuthorizationPolicy", "{name: istio_converted_static_strict, namespace: istio-system}", "metadata.name"),
            ("AuthorizationPolicy", "{name: p, namespace: a/b}", "metadata.namespace"),
            ("AuthorizationPolicy", "{name: p, namespace: 7}", "metadata.namespace"),
            ("AuthorizationPolicy", "{name: 7}", "metadata.name"),
            ("AuthorizationPolicy", "{}", "metadata.name"),
            ("Pod", "{name: ../p, namespace: shop}", "metadata.name"),
            ("Pod", "{name: p, namespace: a.b}", "metadata.namespace"),
            ("Service", "{name: a.b, namespace: shop}", "metadata.name"),
            ("Namespace", "{name: Shop}", "metadata.name"),
        ] {
            assert_eq!(document(kind, metadata), (1, vec![(None, field.to_owned())]), "{kind} {metadata}");
        }
        assert_eq!(document("Pod", "{name: a.b, namespace: shop}"), (2, vec![]));
        // What has no namespace has none, whatever it says.
        let text = "{apiVersion: v1, kind: Namespace, metadata: {name: shop, namespace: x}}";
        assert_eq!(parse("a.yaml", text).expect("valid").objects[0].key().to_string(), "Namespace shop");
    }

    #[test]
    fn refused_pods_keep_their_key() {
        for (text, field) in [
            (
                "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {serviceAccountName: a_b}}",
                "spec.serviceAccountName",
            ),
            ("{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {hostNetwork: 7}}", "spec.hostNetwork"),
            ("{kind: Pod, metadata: {name: p}}", ""),
        ] {
            let mut documents = parse("a.yaml", text).expect("valid");
            let (key, problem) = documents.refused.remove(0);
            assert_eq!((key, problem.field.as_str()), (Some(Key::pod("default", "p")), field), "{text}");
        }
    }

    #[test]
    fn broken_text_is_the_file_s_fault() {
        assert!(parse("a.yaml", "a: [").is_err());
        assert!(parse("a.yaml", "a: !Ref b").is_err());
        assert!(parse("a.yaml", "{apiVersion: v1, kind: Pod, kind: Node}").is_err());
    }
}

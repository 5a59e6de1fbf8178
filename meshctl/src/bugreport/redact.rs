//! What never leaves the cluster: data of Secrets, environments of pods, private keys, tokens. Objects lose what may
//! hold them by its place; any text loses what looks like them, wherever it stands.

use serde_json::{Map, Value, json};

const GONE: &str = "(left out)";
/// Annotations that repeat an object with all that it had.
const COPIES: &[&str] = &["kubectl.kubernetes.io/last-applied-configuration"];
/// ConfigMaps of the mesh.
const KNOWN: &[&str] = &["mesh-values", "mesh-ca-root"];
/// Fields of containers that may hold passwords.
const PRIVATE: &[&str] = &["env", "envFrom", "args", "command"];

/// Base64 of `-----BEGIN `.
const PEM_IN_BASE64: &str = "LS0tLS1CRUdJTi";

/// Any object but those of the mesh itself: without managed fields, copies, data and environments.
pub fn object(mut object: Value) -> Value {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    // Of the mesh's own it is known what is in them.
    let is_private = object["kind"] == "Secret" || object["kind"] == "ConfigMap" && !KNOWN.contains(&name);
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            COPIES.iter().for_each(|copy| drop(annotations.remove(*copy)));
        }
    }
    if is_private && let Some(fields) = object.as_object_mut() {
        fields.remove("stringData");
        fields.remove("binaryData");
        let sizes = fields.remove("data").as_ref().and_then(Value::as_object).map(sizes);
        fields.insert("sizes".into(), json!(sizes.unwrap_or_default()));
    }
    containers(&mut object);
    object
}

/// Of the text as the API gives it, base64 in Secrets.
fn sizes(data: &Map<String, Value>) -> Map<String, Value> {
    data.iter().map(|(key, value)| (key.clone(), json!(value.as_str().map_or(0, str::len)))).collect()
}

/// Of pods, and of templates of pods.
fn containers(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if ["containers", "initContainers", "ephemeralContainers"].contains(&name.as_str()) {
                    let all = value.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut);
                    all.for_each(container);
                } else {
                    containers(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(containers),
        _ => {}
    }
}

fn container(fields: &mut Map<String, Value>) {
    // The mesh's own say by their arguments how they run; what they read is in files.
    let ours = fields.get("name").and_then(Value::as_str).is_some_and(|name| name.starts_with("mesh-"));
    for private in PRIVATE.iter().filter(|private| !ours || private.starts_with("env")) {
        if fields.contains_key(*private) {
            fields.insert((*private).to_owned(), GONE.into());
        }
    }
}

/// Where the next one stands in a text, and how long it is.
type Finder = fn(&str) -> Option<(usize, usize)>;

/// Private keys (PEM, also within JSON or base64), JSON web tokens, join tokens and what follows `Bearer`.
pub fn text(text: &str) -> String {
    let finders: [Finder; 5] = [pem, base64, |text| token(text, "eyJ", 2), |text| token(text, "nm1.", 2), bearer];
    // Where each finds its next one: a log is long, and is not searched anew for those that it has not.
    let mut next = finders.map(|find| find(text));
    let mut clean = String::with_capacity(text.len());
    let mut done = 0;
    while let Some((at, length)) = next.iter().flatten().copied().min() {
        clean.push_str(&text[done..at]);
        clean.push_str(GONE);
        done = at + length;
        for (next, find) in next.iter_mut().zip(finders) {
            if next.is_some_and(|(at, _)| at < done) {
                *next = find(&text[done..]).map(|(at, length)| (done + at, length));
            }
        }
    }
    clean + &text[done..]
}

/// One without an end goes to the end of the text.
fn pem(text: &str) -> Option<(usize, usize)> {
    let mut from = 0;
    loop {
        let at = from + text[from..].find("-----BEGIN ")?;
        let label = text[at + 11..].split("-----").next().unwrap_or_default();
        if label.ends_with("PRIVATE KEY") {
            let end = format!("-----END {label}-----");
            let length = text[at..].find(&end).map_or(text.len() - at, |length| length + end.len());
            return Some((at, length));
        }
        from = at + 11;
    }
}

fn base64(text: &str) -> Option<(usize, usize)> {
    let at = text.find(PEM_IN_BASE64)?;
    let end = text[at..].find(|c: char| !c.is_ascii_alphanumeric() && !"+/=".contains(c));
    Some((at, end.unwrap_or(text.len() - at)))
}

/// A word with this beginning and so many dots at least.
fn token(text: &str, begin: &str, dots: usize) -> Option<(usize, usize)> {
    let mut from = 0;
    loop {
        let at = from + text[from..].find(begin)?;
        let within = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let length = text[at..].find(|c: char| !within(c)).unwrap_or(text.len() - at);
        let starts = !text[..at].ends_with(within);
        if starts && text[at..at + length].matches('.').count() >= dots {
            return Some((at, length));
        }
        from = at + begin.len();
    }
}

fn bearer(text: &str) -> Option<(usize, usize)> {
    let mut from = 0;
    loop {
        let at = from + text[from..].find("earer ")? + "earer ".len();
        let length = text[at..].find(|c: char| c.is_whitespace() || "\"'\\,".contains(c)).unwrap_or(text.len() - at);
        // A word of prose is shorter than any token.
        if length >= 16 {
            return Some((at, length));
        }
        from = at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEM: &str = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY-----";

    #[test]
    fn keys_and_tokens_go_wherever_they_stand() {
        let same = |kept: &str| assert_eq!(text(kept), kept);
        same("a -----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE----- b");
        same("bearer of bad news; eyJust; a.eyJ; nm1; spiffe://cluster.local/ns/shop/sa/web");
        same("");
        assert_eq!(text(&format!("a\n{PEM}\nb{PEM}")), "a\n(left out)\nb(left out)");
        assert_eq!(text(&json!({ "x": PEM }).to_string()), r#"{"x":"(left out)"}"#);
        assert_eq!(text("x -----BEGIN PRIVATE KEY-----\nMHcC"), "x (left out)", "a log may end within");
        assert_eq!(text("tls.key: LS0tLS1CRUdJTiBFQyBQUklW+/A== end"), "tls.key: (left out) end");
        assert_eq!(text("token=eyJhbGciOi.eyJhdWQi-_.c2lnbmF0dXJl\n"), "token=(left out)\n");
        assert_eq!(text("nm1.node-a.c2VjcmV0, and"), "(left out), and");
        assert_eq!(text("authorization: Bearer abcdefghijklmnopq\r\n"), "authorization: Bearer (left out)\r\n");
    }

    #[test]
    fn objects_lose_data_environments_and_copies() {
        let container = |name: &str| json!({ "name": name, "image": "x", "env": [{ "name": "P", "value": "hunter2" }], "args": ["--password=hunter2"] });
        let pod = object(json!({
            "kind": "Pod",
            "metadata": {
                "name": "p", "managedFields": [{}],
                "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "hunter2", "a": "b" },
            },
            "spec": { "containers": [container("app")], "initContainers": [container("mesh-agent")] },
        }));
        assert_eq!(pod["spec"]["containers"][0], json!({ "name": "app", "image": "x", "env": GONE, "args": GONE }));
        assert_eq!(
            pod["spec"]["initContainers"][0]["args"][0], "--password=hunter2",
            "the mesh's own arguments are shown"
        );
        assert_eq!(pod["metadata"], json!({ "name": "p", "annotations": { "a": "b" } }));
        let template = object(
            json!({ "kind": "Deployment", "spec": { "template": { "spec": { "containers": [container("app")] } } } }),
        );
        assert!(!template.to_string().contains("hunter2"), "{template}");
        for kind in ["Secret", "ConfigMap"] {
            let data = json!({ "key": "aHVudGVyMg==" });
            let gone = object(json!({ "kind": kind, "metadata": { "name": "x" }, "data": data, "stringData": data }));
            assert_eq!(gone, json!({ "kind": kind, "metadata": { "name": "x" }, "sizes": { "key": 12 } }));
        }
        let own = json!({ "kind": "ConfigMap", "metadata": { "name": "mesh-ca-root" }, "data": { "a": "b" } });
        assert_eq!(object(own.clone()), own);
    }
}

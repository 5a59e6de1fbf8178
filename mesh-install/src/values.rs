//! What can be chosen about an installation: one table, of which the chart's values.yaml and its schema are made too.
//! An unknown name or a value of the wrong kind is refused with its path.

mod table;

use serde_json::{Map, Value, json};

pub use table::{Kind, SETTINGS, Setting};

/// Chosen values, whole and checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Values(Value);

/// A value that cannot be taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}")]
pub struct WrongValue {
    /// Its dotted path; empty for the whole.
    pub path: String,
    pub why: String,
}

impl Default for Values {
    fn default() -> Self {
        let mut values = Self(json!({}));
        for setting in SETTINGS {
            values.put(setting.path, setting.default());
        }
        values
    }
}

impl Values {
    /// Takes what a YAML file says over what is there; maps are merged, anything else is replaced.
    ///
    /// # Errors
    /// It is no YAML, or names a value that there is not, or one of another kind.
    pub fn merge(&mut self, yaml: &str) -> Result<(), WrongValue> {
        let wrong = |why: String| WrongValue { path: "values".into(), why };
        match serde_yaml_ng::from_str(yaml).map_err(|error| wrong(format!("no YAML: {error}")))? {
            Value::Null => Ok(()),
            Value::Object(entries) => self.take(&entries, ""),
            _ => Err(wrong("must be a map of names and values".into())),
        }
    }

    /// Takes `path=value`, where the value is YAML.
    ///
    /// # Errors
    /// As [`Self::merge`].
    pub fn set(&mut self, assignment: &str) -> Result<(), WrongValue> {
        let wrong = |why: String| WrongValue { path: assignment.into(), why };
        let (path, text) = assignment.split_once('=').ok_or_else(|| wrong("must be name=value".into()))?;
        let setting = SETTINGS.iter().find(|setting| setting.path == path).ok_or_else(|| unknown(path))?;
        // What is a text need not be quoted: `image.tag=1.0`.
        let value = match setting.kind {
            Kind::Text(_) | Kind::Choice(_) | Kind::Url => Value::String(text.to_owned()),
            _ => serde_yaml_ng::from_str(text).map_err(|error| wrong(format!("no YAML: {error}")))?,
        };
        self.put_checked(setting, value)
    }

    /// The value at the path of a setting.
    pub fn at(&self, path: &str) -> &Value {
        let found = path.split('.').try_fold(&self.0, |value, name| value.get(name));
        found.expect("templates name settings only: see the tests of the templates")
    }

    /// The namespace of the mesh.
    pub fn namespace(&self) -> &str {
        self.at("namespace").as_str().expect("checked when it was taken")
    }

    /// Whether the values go together: each alone was checked when it was taken.
    ///
    /// # Errors
    /// Names those that do not.
    pub fn together(&self) -> Result<(), WrongValue> {
        let wrong = |path: &str, why: &str| Err(WrongValue { path: path.into(), why: why.into() });
        let is_set = |path: &str| self.at(path) != "";
        if is_set("caSecret") && is_set("certManager.issuer") {
            return wrong("caSecret and certManager.issuer", "a CA is given or issued, not both");
        }
        let (endpoint, format) = ("agent.otlp.endpoint", "agent.accessLog.format");
        let differs = |path: &str| SETTINGS.iter().any(|one| one.path == path && *self.at(path) != one.default());
        for path in ["agent.accessLog.errors", "agent.accessLog.sampling"] {
            if differs(path) && !is_set(format) {
                return wrong(path, "needs agent.accessLog.format: json or text");
            }
        }
        if differs("agent.accessLog.otlp") && !is_set(endpoint) {
            return wrong("agent.accessLog.otlp", "needs agent.otlp.endpoint, where its lines go");
        }
        let url = self.at(endpoint).as_str().unwrap_or_default();
        let path = url.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
        if !path.is_empty() && self.at("agent.otlp.protocol") == "grpc" {
            return wrong(endpoint, "gRPC has no path: leave it out, or set agent.otlp.protocol=http");
        }
        Ok(())
    }

    /// What differs from the defaults, as a file of values.
    pub fn changes(&self) -> String {
        let mut changes = Self(json!({}));
        for setting in SETTINGS {
            let value = self.at(setting.path);
            if *value != setting.default() {
                changes.put(setting.path, value.clone());
            }
        }
        serde_yaml_ng::to_string(&changes.0).expect("maps with names, of JSON")
    }

    fn take(&mut self, entries: &Map<String, Value>, above: &str) -> Result<(), WrongValue> {
        for (name, value) in entries {
            let path = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
            let inner = format!("{path}.");
            if let Some(setting) = SETTINGS.iter().find(|setting| setting.path == path) {
                self.put_checked(setting, value.clone())?;
            } else if SETTINGS.iter().any(|setting| setting.path.starts_with(&inner)) {
                let entries = value.as_object();
                let entries =
                    entries.ok_or_else(|| WrongValue { path: path.clone(), why: "must be a map".to_owned() })?;
                self.take(entries, &path)?;
            } else {
                return Err(unknown(&path));
            }
        }
        Ok(())
    }

    fn put_checked(&mut self, setting: &Setting, value: Value) -> Result<(), WrongValue> {
        setting.kind.check(&value).map_err(|why| WrongValue { path: setting.path.into(), why })?;
        self.put(setting.path, value);
        Ok(())
    }

    fn put(&mut self, path: &str, value: Value) {
        let (above, name) = path.rsplit_once('.').unwrap_or(("", path));
        let mut at = &mut self.0;
        for name in above.split('.').filter(|name| !name.is_empty()) {
            at = at.as_object_mut().expect("only maps above settings").entry(name).or_insert_with(|| json!({}));
        }
        at.as_object_mut().expect("only maps above settings").insert(name.to_owned(), value);
    }
}

/// With the nearest name that there is.
fn unknown(path: &str) -> WrongValue {
    let last = path.rsplit('.').next().unwrap_or(path);
    let near = SETTINGS.iter().map(|setting| setting.path).find(|known| {
        let end = known.rsplit('.').next().unwrap_or(known);
        end.eq_ignore_ascii_case(last) || known.eq_ignore_ascii_case(path)
    });
    let near = near.map(|near| format!("; is {near} meant?")).unwrap_or_default();
    WrongValue { path: path.to_owned(), why: format!("there is no such value{near}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_of_its_kind() {
        for setting in SETTINGS {
            assert_eq!(setting.kind.check(&setting.default()), Ok(()), "{}", setting.path);
        }
    }

    #[test]
    fn a_file_and_then_single_values() {
        let mut values = Values::default();
        values.merge("namespace: mesh\nagent:\n  resources:\n    limits: {memory: 1Gi}\n").unwrap();
        values.set("controller.replicas=3").unwrap();
        values.set("image.tag=1.0").unwrap();
        values.set("nodeTaint=false").unwrap();
        assert_eq!(values.namespace(), "mesh");
        assert_eq!(values.at("agent.resources"), &json!({ "limits": { "memory": "1Gi" } }));
        assert_eq!(values.at("controller.replicas"), &json!(3));
        assert_eq!(values.at("image.tag"), &json!("1.0"));
        assert_eq!(values.at("nodeTaint"), &json!(false));
        values.merge("").unwrap();
    }

    #[test]
    fn changes_are_enough_to_get_the_values_back() {
        let mut values = Values::default();
        assert_eq!(values.changes(), "{}\n");
        values.set("agent.cni.binDir=/x").unwrap();
        values.set("controller.replicas=2").unwrap();
        assert_eq!(values.changes(), "agent:\n  cni:\n    binDir: /x\n", "2 is the default");
        let mut again = Values::default();
        again.merge(&values.changes()).unwrap();
        assert_eq!(again, values);
    }

    #[test]
    fn collectors_are_read_as_agents_read_them() {
        let set = |url: &str| Values::default().set(&format!("agent.otlp.endpoint={url}"));
        let taken = [
            "",
            "http://collector.observability:4317",
            "https://[::1]:443/otlp/in",
            "http://10.0.0.1:1",
            "http://c:1/",
        ];
        for url in taken {
            assert_eq!(set(url), Ok(()), "{url}");
        }
        for url in
            ["c:1", "http://c", "http://:1", "ftp://c:1", "http://c:70000", "http://c:0", "http://u@c:1", "http://c:+1"]
        {
            let why = set(url).unwrap_err().to_string();
            let form = "is not of the form http://HOST:PORT or https://HOST:PORT";
            assert_eq!(why, format!("agent.otlp.endpoint: \"{url}\" {form}"));
        }
        for url in ["http://c:1/?a=b", "http://c:1/a\"b", "http://c:1/${x}"] {
            assert!(set(url).unwrap_err().to_string().contains("other characters"), "{url}");
        }
    }

    #[test]
    fn values_that_do_not_go_together_are_refused() {
        let said = |set: &[&str]| {
            let mut values = Values::default();
            set.iter().for_each(|set| values.set(set).unwrap());
            values.together().err().map(|wrong| wrong.to_string())
        };
        let (endpoint, path) = ("agent.otlp.endpoint=http://c:4318", "agent.otlp.endpoint=http://c:4318/otlp");
        assert_eq!(said(&[]), None);
        assert_eq!(said(&[endpoint, "agent.accessLog.otlp=true", "agent.accessLog.format=json"]), None);
        assert_eq!(said(&["agent.accessLog.format=text", "agent.accessLog.errors=true"]), None);
        assert_eq!(said(&[path, "agent.otlp.protocol=http"]), None);
        for (set, why) in [
            (
                &["caSecret=a", "certManager.issuer=b"][..],
                "caSecret and certManager.issuer: a CA is given or issued, not both",
            ),
            (&["agent.accessLog.errors=true"], "agent.accessLog.errors: needs agent.accessLog.format: json or text"),
            (&["agent.accessLog.sampling=5"], "agent.accessLog.sampling: needs agent.accessLog.format: json or text"),
            (&["agent.accessLog.otlp=true"], "agent.accessLog.otlp: needs agent.otlp.endpoint, where its lines go"),
            (&[path], "agent.otlp.endpoint: gRPC has no path: leave it out, or set agent.otlp.protocol=http"),
        ] {
            assert_eq!(said(set).as_deref(), Some(why));
        }
    }

    #[test]
    fn what_is_refused_names_the_value() {
        let said = |taken: &dyn Fn(&mut Values) -> Result<(), WrongValue>| {
            let mut values = Values::default();
            let why = taken(&mut values).unwrap_err().to_string();
            assert_eq!(values, Values::default(), "{why}");
            why
        };
        let set = |text: &'static str| said(&|values: &mut Values| values.set(text));
        let merge = |text: &'static str| said(&|values: &mut Values| values.merge(text));
        assert_eq!(set("replicas=3"), "replicas: there is no such value; is controller.replicas meant?");
        assert_eq!(set("nonsense=3"), "nonsense: there is no such value");
        assert_eq!(set("controller.replicas"), "controller.replicas: must be name=value");
        assert_eq!(set("controller.replicas=0"), "controller.replicas: 0 is less than 1");
        assert_eq!(set("controller.replicas=two"), "controller.replicas: \"two\" is no whole number");
        assert_eq!(set("sameNode=mtls"), "sameNode: \"mtls\" is none of direct, tls");
        assert_eq!(set("nodeTaint=maybe"), "nodeTaint: \"maybe\" is neither true nor false");
        assert_eq!(set("trustDomain=a\"b"), "trustDomain: \"a\\\"b\" has '\"'; may have letters, digits and .-");
        assert_eq!(set("namespace="), "namespace: must not be empty");
        assert_eq!(set("agent.tracing.sampling=101"), "agent.tracing.sampling: 101 is not from 0 to 100");
        assert_eq!(set("agent.accessLog.sampling=all"), "agent.accessLog.sampling: \"all\" is no number");
        assert_eq!(
            set("agent.accessLog.format=xml"),
            "agent.accessLog.format: \"xml\" is none of \"\", json, text, off"
        );
        assert_eq!(set("agent.metrics.series=10"), "agent.metrics.series: 10 is less than 1000");
        assert_eq!(merge("agent: 5"), "agent: must be a map");
        assert_eq!(merge("agent: {cni: {x: 5}}"), "agent.cni.x: there is no such value");
        assert_eq!(merge("[1]"), "values: must be a map of names and values");
        assert!(merge("a: [").starts_with("values: no YAML: "));
    }
}

//! Our configuration: that of the plugin which makes the node's network, with ours at its end. Pure.

use serde_json::{Map, Value, json};

use super::call::{Conf, NAME, VERSIONS};

/// Our file's name; runtimes take the first by name.
pub const FILE: &str = "00-nodemesh.conflist";
/// What runtimes take for a configuration.
const ENDINGS: [&str; 3] = [".conf", ".conflist", ".json"];

/// What is to be in our file.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice {
    pub outcome: Outcome,
    /// Files that are no configurations, and why; runtimes pass over them, too.
    pub skipped: Vec<(String, String)>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is no other configuration.
    Nothing,
    /// The network of this file, with our plugin.
    Chained { base: String, list: Value },
    /// The network of this file takes no further plugin, and why.
    Impossible { base: String, why: String },
}

/// Whether runtimes would read a file of this name, and it is not ours.
pub fn is_other(name: &str) -> bool {
    name != FILE && ENDINGS.iter().any(|ending| name.ends_with(ending))
}

/// Of the other files, by name and content in any order, the first that is a configuration.
pub fn choose(mut others: Vec<(String, Vec<u8>)>, ours: &Conf) -> Choice {
    others.sort();
    let mut skipped = Vec::new();
    for (name, text) in others {
        match network(&name, &text) {
            Ok(network) => {
                let outcome = match chained(network, ours) {
                    Ok(list) => Outcome::Chained { base: name, list },
                    Err(why) => Outcome::Impossible { base: name, why },
                };
                return Choice { outcome, skipped };
            }
            Err(why) => skipped.push((name, why)),
        }
    }
    Choice { outcome: Outcome::Nothing, skipped }
}

/// A file as a list of plugins. A single plugin's becomes one, as runtimes do it.
fn network(name: &str, text: &[u8]) -> Result<Map<String, Value>, String> {
    let read: Value = serde_json::from_slice(text).map_err(|e| format!("it is no JSON: {e}"))?;
    let Value::Object(read) = read else { return Err("it is no JSON object".to_owned()) };
    if !name.ends_with(".conflist") {
        is_plugin(&read)?;
        let mut list = Map::new();
        for key in ["name", "cniVersion"] {
            list.extend(read.get(key).map(|value| (key.to_owned(), value.clone())));
        }
        list.insert("plugins".to_owned(), json!([read]));
        return named(list);
    }
    let plugins = read.get("plugins").ok_or("plugins: is missing")?;
    let plugins = plugins.as_array().filter(|plugins| !plugins.is_empty()).ok_or("plugins: is no list of plugins")?;
    for (i, plugin) in plugins.iter().enumerate() {
        let plugin = plugin.as_object().ok_or_else(|| format!("plugins[{i}]: is no JSON object"))?;
        is_plugin(plugin).map_err(|why| format!("plugins[{i}].{why}"))?;
    }
    named(read)
}

fn is_plugin(plugin: &Map<String, Value>) -> Result<(), String> {
    match plugin.get("type") {
        Some(Value::String(kind)) if !kind.is_empty() => Ok(()),
        _ => Err("type: is no text".to_owned()),
    }
}

fn named(list: Map<String, Value>) -> Result<Map<String, Value>, String> {
    match list.get("name") {
        Some(Value::String(name)) if !name.is_empty() => Ok(list),
        _ => Err("name: is no text".to_owned()),
    }
}

/// Everything that the list says stays as it is.
fn chained(mut list: Map<String, Value>, ours: &Conf) -> Result<Value, String> {
    let version = list.get("cniVersion").cloned().unwrap_or_default();
    if !version.as_str().is_some_and(|version| VERSIONS.contains(&version)) {
        return Err(format!("cniVersion: {version} is none of {}, so nothing can be chained", VERSIONS.join(", ")));
    }
    let mut entry = serde_json::to_value(ours).map_err(|e| e.to_string())?;
    entry["type"] = NAME.into();
    if let Some(Value::Array(plugins)) = list.get_mut("plugins") {
        // Once is enough, should somebody have put it there.
        plugins.retain(|plugin| plugin["type"] != NAME);
        plugins.push(entry);
    }
    Ok(list.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Conf {
        Conf {
            socket: "/run/nodemesh/cni.sock".into(),
            namespaces: "/var/lib/x/namespaces.json".into(),
            exclude: vec!["kube-system".into()],
            timeout_seconds: 20,
            status_without_agent: true,
        }
    }

    fn of(files: &[(&str, &str)]) -> Choice {
        let files = files.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect();
        choose(files, &ours())
    }

    fn entry() -> Value {
        json!({
            "type": "nodemesh-cni", "socket": "/run/nodemesh/cni.sock", "namespaces": "/var/lib/x/namespaces.json",
            "exclude": ["kube-system"], "timeoutSeconds": 20, "statusWithoutAgent": true,
        })
    }

    #[test]
    fn ours_stands_behind_what_makes_the_network_and_nothing_else_changes() {
        let single = r#"{"cniVersion":"0.3.1","name":"one","type":"bridge","bridge":"cni0","ipam":{"type":"host-local"},
            "capabilities":{"portMappings":true},"x-odd":[1,2.5,null]}"#;
        let list = r#"{"cniVersion":"1.0.0","name":"pods","disableCheck":true,"x-owner":{"team":"net"},
            "plugins":[{"type":"ptp","mtu":1400},{"type":"portmap","capabilities":{"portMappings":true},"snat":true}]}"#;
        let single_value: Value = serde_json::from_str(single).unwrap();
        let of_single = json!({ "cniVersion": "0.3.1", "name": "one", "plugins": [single_value, entry()] });
        let mut of_list: Value = serde_json::from_str(list).unwrap();
        of_list["plugins"].as_array_mut().unwrap().push(entry());
        for (files, base, want) in [
            (vec![("10-a.conf", single)], "10-a.conf", &of_single),
            (vec![("10-a.json", single)], "10-a.json", &of_single),
            (vec![("10-a.conflist", list)], "10-a.conflist", &of_list),
            // The first by name, whatever its ending.
            (vec![("20-b.conf", single), ("10-a.conflist", list)], "10-a.conflist", &of_list),
            (vec![("10-b.conf", single), ("10-b.conflist", list)], "10-b.conf", &of_single),
        ] {
            let Choice { outcome, skipped } = of(&files);
            assert_eq!(outcome, Outcome::Chained { base: base.to_owned(), list: want.clone() }, "{files:?}");
            assert_eq!(skipped, [], "{files:?}");
        }
    }

    #[test]
    fn what_is_no_configuration_is_passed_over_and_said() {
        let good = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}]}"#;
        for (name, text, says) in [
            ("01.conf", "{", "no JSON"),
            ("01.conf", "[]", "no JSON object"),
            ("01.conf", r#"{"name":"n"}"#, "type"),
            ("01.json", r#"{"name":"n","type":7}"#, "type"),
            ("01.conf", r#"{"type":"bridge"}"#, "name"),
            ("01.conflist", r#"{"name":"n","type":"bridge"}"#, "plugins"),
            ("01.conflist", r#"{"name":"n","plugins":[]}"#, "plugins"),
            ("01.conflist", r#"{"name":"n","plugins":[{"type":"a"},{}]}"#, "plugins[1].type"),
            ("01.conflist", r#"{"name":"n","plugins":["a"]}"#, "plugins[0]"),
            ("01.conflist", r#"{"plugins":[{"type":"a"}]}"#, "name"),
        ] {
            let Choice { outcome, skipped } = of(&[(name, text), ("02.conflist", good)]);
            assert!(
                matches!(outcome, Outcome::Chained { ref base, .. } if base == "02.conflist"),
                "{text}: {outcome:?}"
            );
            assert_eq!(skipped.len(), 1, "{text}");
            assert!(skipped[0].0 == name && skipped[0].1.contains(says), "{text}: {skipped:?}");
        }
        assert_eq!(of(&[]).outcome, Outcome::Nothing);
        assert_eq!(of(&[("01.conf", "")]).outcome, Outcome::Nothing);
    }

    #[test]
    fn another_network_is_never_taken_because_the_first_cannot_be_chained() {
        let good = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"bridge"}]}"#;
        for version in [r#""cniVersion":"0.2.0","#, r#""cniVersion":"9.0.0","#, r#""cniVersion":1,"#, ""] {
            let first = format!(r#"{{{version}"name":"n","type":"bridge"}}"#);
            let Choice { outcome, .. } = of(&[("01.conf", &first), ("02.conflist", good)]);
            assert!(
                matches!(outcome, Outcome::Impossible { ref base, .. } if base == "01.conf"),
                "{first}: {outcome:?}"
            );
        }
    }

    #[test]
    fn ours_is_there_once() {
        let twice = r#"{"cniVersion":"1.1.0","name":"n","plugins":[{"type":"bridge"},{"type":"nodemesh-cni"}]}"#;
        let Outcome::Chained { list, .. } = of(&[("01.conflist", twice)]).outcome else { panic!("not chained") };
        assert_eq!(list["plugins"], json!([{ "type": "bridge" }, entry()]));
        assert!(!is_other(FILE) && is_other("10-a.conf") && is_other("x.json"));
        assert!(!is_other("10-a.conf.bak") && !is_other("00-nodemesh.conflist.new") && !is_other("README"));
    }
}

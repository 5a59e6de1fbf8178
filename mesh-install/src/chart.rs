//! The Helm chart: the templates as they are, with their values and the values' schema.

use serde_json::{Map, Value, json};

use crate::{
    File, PART_OF, parts,
    template::Template,
    values::SETTINGS,
    yaml::{self, HEADER, documents},
};

/// Files below manifests/chart/nodemesh.
pub fn chart() -> Vec<File> {
    let file = |path: &str, text: String| File { path: path.to_owned(), text };
    let mut files = vec![
        file("Chart.yaml", description()),
        file("values.yaml", values()),
        file("values.schema.json", format!("{:#}\n", schema())),
    ];
    for part in parts() {
        files.push(file(&format!("templates/{}.yaml", part.name), documents(&escaped(&part.objects))));
    }
    files
}

/// Braces in texts, as alerts have them for their own values, are nothing to Helm.
fn escaped(objects: &[Template]) -> Vec<Template> {
    fn text(text: &str) -> String {
        // No text has this character.
        text.replace("{{", "\u{1}").replace("}}", "{{ `}}` }}").replace('\u{1}', "{{ `{{` }}")
    }
    objects.iter().map(|object| object.with_literals(&text)).collect()
}

fn description() -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "{HEADER}apiVersion: v2\nname: {PART_OF}\ndescription: \"A service mesh without sidecars, by eBPF\"\ntype: \
         application\nversion: {version}\nappVersion: \"{version}\"\nkubeVersion: \">=1.30.0-0\"\n"
    )
}

/// Each value with what it is for. Settings of one map stand together in the table.
fn values() -> String {
    let mut text = HEADER.to_owned();
    let mut above: Vec<&str> = Vec::new();
    for setting in SETTINGS {
        let names = setting.path.split('.').collect::<Vec<_>>();
        let (name, maps) = names.split_last().expect("a path has a name");
        let common = above.iter().zip(maps).take_while(|(one, other)| one == other).count();
        for (depth, map) in maps.iter().enumerate().skip(common) {
            text.push_str(&format!("{}{map}:\n", "  ".repeat(depth)));
        }
        above = maps.to_vec();
        let gap = "  ".repeat(maps.len());
        let value = match setting.default() {
            Value::String(text) => yaml::text(&text),
            other => other.to_string(),
        };
        text.push_str(&format!("{gap}# {}\n{gap}{name}: {value}\n", setting.about));
    }
    text
}

/// JSON Schema, draft 7, which Helm checks values against.
fn schema() -> Value {
    let mut root = map();
    for setting in SETTINGS {
        let names = setting.path.split('.').collect::<Vec<_>>();
        let (name, maps) = names.split_last().expect("a path has a name");
        let mut at = &mut root;
        for map_name in maps {
            at = properties(at).entry(*map_name).or_insert_with(map);
        }
        let mut schema = setting.kind.schema();
        schema["description"] = setting.about.into();
        properties(at).insert((*name).to_owned(), schema);
    }
    // Helm adds values of its own there.
    properties(&mut root).insert("global".into(), json!({ "type": "object" }));
    root["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    root
}

fn map() -> Value {
    json!({ "type": "object", "additionalProperties": false, "properties": {} })
}

fn properties(schema: &mut Value) -> &mut Map<String, Value> {
    schema["properties"].as_object_mut().expect("made by `map`")
}

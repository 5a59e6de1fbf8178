//! Just enough of Helm to read this chart: `{{- if .Values.x }}` … `{{- end }}`, `{{ toJson .Values.x }}`,
//! `{{ int .Values.x }}`, `{{ .Values.x }}`, and braces in backquotes. Anything else is a panic, so that the chart
//! cannot outgrow it unseen.
//! It is no Helm: no functions, pipes, variables, ranges, includes or hooks, and `{{-` trims only what stands before
//! it. Numbers are written as Go writes floats, which is what Helm holds them as.

use serde_json::Value;

use crate::Values;

pub fn render(template: &str, values: &Values) -> String {
    let mut text = String::new();
    // Whether each open `if` holds.
    let mut open: Vec<bool> = Vec::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        // The one action with the end of an action in it.
        let (action, after) = match after.strip_prefix(" `}}` }}") {
            Some(after) => (" `}}` ", after),
            None => after.split_once("}}").expect("an action that does not end"),
        };
        let before = if action.starts_with('-') { before.trim_end() } else { before };
        if open.iter().all(|holds| *holds) {
            text.push_str(before);
        }
        let words = action.trim_start_matches('-').split_whitespace().collect::<Vec<_>>();
        match words.as_slice() {
            ["if", path] => open.push(truth(value(values, path))),
            ["end"] => drop(open.pop().expect("an `end` without `if`")),
            _ if open.contains(&false) => {}
            [braces @ ("`{{`" | "`}}`")] => text.push_str(braces.trim_matches('`')),
            ["toJson", path] => text.push_str(&json(value(values, path))),
            ["int", path] => text.push_str(&value(values, path).as_u64().expect("a number").to_string()),
            [path] => match value(values, path) {
                Value::String(value) => text.push_str(value),
                Value::Number(number) => text.push_str(&go_float(number.as_f64().unwrap())),
                other => panic!("{path}: {other} in a text"),
            },
            other => panic!("not of this small Helm: {other:?}"),
        }
        rest = after;
    }
    assert!(open.is_empty(), "an `if` without `end`");
    text + rest
}

/// The objects of a stream of YAML documents; empty documents are none.
pub fn documents(text: &str) -> Vec<Value> {
    let documents = text.split("\n---\n").filter(|text| text.lines().any(|line| !line.starts_with('#')));
    documents
        .map(|text| serde_yaml_ng::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}")))
        .filter(|value| *value != Value::Null)
        .collect()
}

fn value<'a>(values: &'a Values, path: &str) -> &'a Value {
    values.at(path.strip_prefix(".Values.").unwrap_or_else(|| panic!("{path} is no value")))
}

fn truth(value: &Value) -> bool {
    !matches!(value.to_string().as_str(), "null" | "false" | "0" | "\"\"" | "[]" | "{}")
}

/// As Go's encoder does, which is shy of HTML.
fn json(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// As Go's `%v`.
fn go_float(number: f64) -> String {
    if number >= 1e6 { format!("{number:e}").replace('e', "e+0") } else { number.to_string() }
}

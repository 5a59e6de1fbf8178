//! Writes templates as YAML, with Helm's actions where values come. Three actions are used and no more: `toJson` of a
//! value, a value (or `int` of one) within a text, and `if` around lines; braces in a text are for `chart.rs` to quote.

use serde_json::Value;

use crate::{
    template::{Piece, Template},
    values::{Kind, SETTINGS},
};

/// Of every file that is written.
pub const HEADER: &str = "# Written by `cargo xtask generate` from mesh-install/src; a change here is lost.\n";

/// Words that YAML, of whatever version, takes for something else than a text.
const WORDS: &[&str] = &["true", "false", "null", "yes", "no", "on", "off", "y", "n", "~"];

/// A document each.
pub fn documents(templates: &[Template]) -> String {
    let mut text = HEADER.to_owned();
    for template in templates {
        match template {
            Template::When(path, then) => {
                text.push_str(&format!("{{{{- if .Values.{path} }}}}\n---\n{}{{{{- end }}}}\n", document(then)));
            }
            other => text.push_str(&format!("---\n{}", document(other))),
        }
    }
    text
}

fn document(template: &Template) -> String {
    let mut lines = Vec::new();
    block(template, 0, &mut lines);
    lines.into_iter().map(|line| line + "\n").collect()
}

/// The lines of an object or a list that is not empty.
fn block(template: &Template, indent: usize, lines: &mut Vec<String>) {
    let gap = " ".repeat(indent);
    match template {
        Template::Object(entries) => {
            for (name, value) in entries {
                conditional(value, &gap, lines, |value, lines| match scalar(value) {
                    Some(scalar) => lines.push(format!("{gap}{}: {scalar}", text(name))),
                    None => {
                        lines.push(format!("{gap}{}:", text(name)));
                        block(value, if matches!(value, Template::List(_)) { indent } else { indent + 2 }, lines);
                    }
                });
            }
        }
        Template::List(items) => {
            for item in items {
                conditional(item, &gap, lines, |item, lines| match scalar(item) {
                    Some(scalar) => lines.push(format!("{gap}- {scalar}")),
                    None => {
                        let first = lines.len();
                        block(item, indent + 2, lines);
                        // The first line carries the mark of the item. It is never an `if`: see the tests.
                        lines[first].replace_range(indent..indent + 2, "- ");
                    }
                });
            }
        }
        other => lines.push(format!("{gap}{}", scalar(other).unwrap_or_default())),
    }
}

fn conditional(
    template: &Template,
    gap: &str,
    lines: &mut Vec<String>,
    write: impl FnOnce(&Template, &mut Vec<String>),
) {
    match template {
        Template::When(path, then) => {
            lines.push(format!("{gap}{{{{- if .Values.{path} }}}}"));
            conditional(then, gap, lines, write);
            lines.push(format!("{gap}{{{{- end }}}}"));
        }
        other => write(other, lines),
    }
}

/// What stands on one line.
fn scalar(template: &Template) -> Option<String> {
    Some(match template {
        Template::Literal(Value::String(literal)) => text(literal),
        Template::Literal(other) => other.to_string(),
        Template::At(path) => format!("{{{{ toJson .Values.{path} }}}}"),
        Template::Text(pieces) => {
            let piece = |piece: &Piece| match piece {
                Piece::Literal(literal) => {
                    let quoted = Value::from(literal.as_str()).to_string();
                    quoted[1..quoted.len() - 1].to_owned()
                }
                // Helm holds numbers as floats, and would write a million as 1e+06.
                Piece::At(path) if is_number(path) => format!("{{{{ int .Values.{path} }}}}"),
                Piece::At(path) => format!("{{{{ .Values.{path} }}}}"),
            };
            format!("\"{}\"", pieces.iter().map(piece).collect::<String>())
        }
        Template::Object(entries) if entries.is_empty() => "{}".to_owned(),
        Template::List(items) if items.is_empty() => "[]".to_owned(),
        Template::Object(_) | Template::List(_) | Template::When(..) => return None,
    })
}

fn is_number(path: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.path == path && matches!(setting.kind, Kind::Number(..)))
}

/// Plain where nothing can take it for anything else, quoted as JSON is otherwise.
pub fn text(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_./-".contains(c))
        && !WORDS.contains(&text.to_ascii_lowercase().as_str());
    if plain { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{parts, when};

    #[test]
    fn blocks_lists_texts_and_conditions() {
        let object = json!({
            "a": { "b": [1, { "c": "yes", "d": [] }], "e": "${namespace}" },
            "f": ["x y", when("nodeTaint", json!({ "g": true })), "--t=${certificateTtlSeconds}s"],
            "h": when("agent.resources", json!({ "i": "n.${namespace}" })),
            "j": ["k", when("nodeTaint", when("metrics.enabled", "l".into()))],
        });
        assert_eq!(
            documents(&[Template::new(&object)]).strip_prefix(HEADER).unwrap(),
            "---\na:\n  b:\n  - 1\n  - c: \"yes\"\n    d: []\n  e: {{ toJson .Values.namespace }}\nf:\n- \"x y\"\n\
             {{- if .Values.nodeTaint }}\n- g: true\n{{- end }}\n- \"--t={{ int .Values.certificateTtlSeconds }}s\"\n\
             {{- if .Values.agent.resources }}\nh:\n  i: \"n.{{ .Values.namespace }}\"\n{{- end }}\n\
             j:\n- k\n{{- if .Values.nodeTaint }}\n{{- if .Values.metrics.enabled }}\n- l\n{{- end }}\n{{- end }}\n"
        );
    }

    /// What the printer takes for granted of the templates.
    #[test]
    fn no_block_begins_with_a_condition_or_could_become_empty() {
        fn look(template: &Template, in_list: bool) {
            match template {
                Template::Object(entries) => {
                    let conditions = entries.iter().filter(|(_, value)| matches!(value, Template::When(..))).count();
                    assert!(entries.is_empty() || conditions < entries.len(), "{entries:?}");
                    let first = entries.first().is_some_and(|(_, value)| matches!(value, Template::When(..)));
                    assert!(!in_list || !first, "{entries:?}");
                    entries.iter().for_each(|(_, value)| look(value, false));
                }
                Template::List(items) => {
                    assert!(items.is_empty() || items.iter().any(|item| !matches!(item, Template::When(..))));
                    items.iter().for_each(|item| look(item, true));
                }
                Template::When(_, then) => look(then, in_list),
                Template::Literal(_) | Template::At(_) | Template::Text(_) => {}
            }
        }
        for part in parts() {
            part.objects.iter().for_each(|object| look(object, false));
        }
    }
}

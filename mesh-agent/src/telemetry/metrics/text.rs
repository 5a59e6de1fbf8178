//! Prometheus' text format. <https://prometheus.io/docs/instrumenting/exposition_formats/>

use std::fmt::{Display, Write as _};

/// As the value of a label.
pub fn escape(text: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

/// What comes before the series of a metric.
pub fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// One line; `suffix` as in `_bucket`.
pub fn line(text: &mut String, name: &str, suffix: &str, labels: &str, value: impl Display) {
    line_with(text, name, suffix, labels, None, value);
}

/// With one more label.
pub fn line_with(
    text: &mut String,
    name: &str,
    suffix: &str,
    labels: &str,
    more: Option<(&str, &str)>,
    value: impl Display,
) {
    text.push_str(name);
    text.push_str(suffix);
    if !labels.is_empty() || more.is_some() {
        text.push('{');
        text.push_str(labels);
        if let Some((label, value)) = more {
            let comma = if labels.is_empty() { "" } else { "," };
            let _ = write!(text, "{comma}{label}=\"{value}\"");
        }
        text.push('}');
    }
    let _ = writeln!(text, " {value}");
}

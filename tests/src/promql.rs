//! Which metrics and labels an expression of Prometheus' language asks for, and which a text of metrics tells. No more
//! of the language than that: whether an expression is one, promtool says.

use std::collections::{BTreeMap, BTreeSet};

/// What one expression asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Each metric with the labels that choose among its series.
    pub metrics: BTreeMap<String, BTreeSet<String>>,
    /// Labels by which it is grouped or joined.
    pub grouped: BTreeSet<String>,
}

/// Operators with words before their brackets, or none.
const AGGREGATIONS: &[&str] =
    &["sum", "min", "max", "avg", "count", "topk", "bottomk", "quantile", "stddev", "stdvar", "group", "count_values"];
/// Words with a list of labels behind them.
const LISTS: &[&str] = &["by", "without", "on", "ignoring", "group_left", "group_right"];
const WORDS: &[&str] = &["and", "or", "unless", "offset", "bool", "atan2", "inf", "nan"];

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// The first word of `text`, and what is behind it.
fn word(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c| !is_word(c)).unwrap_or(text.len()))
}

/// What is behind the text that begins with this quote.
fn behind_quoted(text: &str, quote: char) -> &str {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return &text[at + 1..],
            _ => {}
        }
    }
    ""
}

/// Reads an expression.
pub fn asked(expression: &str) -> Asked {
    let mut asked = Asked::default();
    let mut rest = expression.trim_start();
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '"' | '\'' | '`' => behind_quoted(rest, first),
            // A range.
            '[' => rest.split_once(']').map_or("", |(_, after)| after),
            c if c.is_ascii_digit() => word(rest).1,
            c if is_word(c) => {
                let (name, after) = word(rest);
                let after = after.trim_start();
                if LISTS.contains(&name) && after.starts_with('(') {
                    let (list, after) = after[1..].split_once(')').unwrap_or((after, ""));
                    asked.grouped.extend(list.split(',').map(|label| label.trim().to_owned()));
                    asked.grouped.remove("");
                    after
                } else if after.starts_with('(') || AGGREGATIONS.contains(&name) || WORDS.contains(&name) {
                    after
                } else {
                    let (labels, after) = matchers(after);
                    asked.metrics.entry(name.to_owned()).or_default().extend(labels);
                    after
                }
            }
            c => &rest[c.len_utf8()..],
        }
        .trim_start();
    }
    asked
}

/// The labels between braces, if the text begins with them, and what is behind.
fn matchers(text: &str) -> (Vec<String>, &str) {
    let Some(mut rest) = text.strip_prefix('{') else { return (Vec::new(), text) };
    let mut labels = Vec::new();
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '}' => return (labels, &rest[1..]),
            '"' | '\'' | '`' => behind_quoted(rest, first),
            c if is_word(c) => {
                let (label, after) = word(rest);
                labels.push(label.to_owned());
                after
            }
            c => &rest[c.len_utf8()..],
        };
    }
    (labels, "")
}

/// The metrics of a text as agents and controller serve it, each with all labels of its series.
pub fn told(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, after) = word(line);
        told.entry(name.to_owned()).or_default().extend(matchers(after).0);
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn metrics_and_labels_are_found_and_nothing_else() {
        let asked = asked(
            r#"histogram_quantile(0.99, sum by (le, a_b) (rate(x_bucket{c="d{e}", f=~"g\"h"}[5m])))
            > on (instance) group_left (i) 1e3 and y unless (y offset 5m) or label_replace(z{}, "j", "$1", "k", "(.*)")
            / 10 * count without (l) (up == bool 0)"#,
        );
        assert_eq!(asked.metrics.keys().map(String::as_str).collect::<Vec<_>>(), ["up", "x_bucket", "y", "z"]);
        assert_eq!(asked.metrics["x_bucket"], set(&["c", "f"]));
        assert_eq!(asked.grouped, set(&["le", "a_b", "instance", "i", "l"]));
    }

    #[test]
    fn a_text_of_metrics_is_read() {
        let told =
            told("# HELP a x{y=\"z\"}\n# TYPE a counter\na{b=\"c,d=\\\"e\\\"\",f=\"\"} 1\na{g=\"}\"} 2\n\nh 3\n");
        assert_eq!(told["a"], set(&["b", "f", "g"]));
        assert_eq!(told["h"], set(&[]));
        assert_eq!(told.len(), 2);
    }
}

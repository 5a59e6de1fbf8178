//! Faults that somebody might have made, and what one `meshctl explain` says of each: the code, the cause, what to do.

mod authorization;
mod certificates;
mod connections;
mod traffic;

use anyhow::{Context as _, Result, ensure};
use mesh_common::model::advice;
use mesh_tests::{Patience, Pod, World, eventually};
use serde_json::Value;

/// What a user sees of a fault.
struct Cause<'a> {
    /// `--from` and `--to` of the one command; an empty one is left out.
    between: (&'a str, &'a str),
    /// Of the record.
    code: &'a str,
    /// In the summary.
    said: &'a str,
    /// The request's path; empty: it is of a connection.
    path: &'a str,
}

impl Cause<'_> {
    /// Asks once its record is there, and gives the whole explanation.
    fn is_named(&self, world: &World) -> Result<Value> {
        let Self { between: (from, to), code, said, path } = self;
        let mut command = vec!["explain"];
        for (option, end) in [("--from", from), ("--to", to)] {
            if !end.is_empty() {
                command.extend([option, end]);
            }
        }
        let mut last = String::new();
        let explanation = eventually(format_args!("{code} {path} is explained"), Patience::SHORT, || {
            // Nothing may be recorded yet.
            let told = match world.ask_controller(&command) {
                Ok(told) => told.into_iter().next().context("no explanation")?,
                Err(error) => {
                    last = error.to_string();
                    return Ok(None);
                }
            };
            last = told.to_string();
            let flow = &told["flow"];
            let is_it = flow["reason"] == *code && flow["http"]["path"].as_str().unwrap_or_default() == *path;
            Ok(is_it.then_some(told))
        });
        let explanation = explanation.with_context(|| format!("the last answer: {last}"))?;
        let summary = explanation["summary"].as_str().unwrap_or_default();
        ensure!(summary.contains(said), "{code}: `{said}` is not in: {summary}");
        let what_to_do = advice(code).with_context(|| format!("{code} has no advice"))?;
        ensure!(summary.contains(what_to_do), "{code}: no advice in: {summary}");
        ensure!(explanation["flow"]["verdict"] != "FORWARDED", "{explanation}");
        Ok(explanation)
    }
}

/// The nearest rule's policy, and the fields of the conditions that it lacks.
fn nearest(explanation: &Value) -> (String, Vec<String>) {
    let nearest = &explanation["nearest"];
    let missing = nearest["missing"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&nearest["policy"]), missing.iter().map(|condition| text(&condition["field"])).collect())
}

/// An object of namespace shop for the pods that are called so.
fn object(api: &str, kind: &str, name: &str, pod: &Pod, spec: &str) -> String {
    format!(
        "apiVersion: {api}\nkind: {kind}\nmetadata: {{ name: {name}, namespace: shop }}\nspec:\n  \
         selector: {{ matchLabels: {{ app: {} }} }}\n{spec}---\n",
        pod.name
    )
}

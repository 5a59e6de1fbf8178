//! What monitors the mesh, as Prometheus' own tool sees it: whether rules and dashboards can be read, and whether each
//! alert fires where it should, and not where it should not (`tests/alerts`).

use std::{fs, path::PathBuf, process::Command};

use mesh_install::monitoring::{DASHBOARDS, GROUPS};
use serde_json::{Value, json};

use crate::{shell, tools};

/// promtool; `None` on a machine without it, unless `CI` says that everything must run.
fn promtool() -> Option<Command> {
    let found = tools::find(&crate::root(), "promtool");
    if found.is_none() {
        assert!(!shell::is_ci(), "needs promtool; with CI set nothing is skipped: cargo xtask setup");
        println!("skipped: there is no promtool");
    }
    found.map(shell::program)
}

/// What it prints, both streams; it must succeed.
fn succeeds(command: &mut Command) -> String {
    let output = command.current_dir(crate::root()).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

fn cases() -> Vec<PathBuf> {
    let folder = crate::root().join("tests/alerts");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|end| end == "yaml")).collect()
}

/// Debian's Prometheus is built without what finds pods: all but that is checked.
#[test]
fn prometheus_reads_the_rules_and_the_configuration() {
    let Some(mut promtool) = promtool() else { return };
    let folder = tempfile::tempdir().unwrap();
    let shipped = crate::root().join("manifests/monitoring");
    let text = fs::read_to_string(shipped.join("prometheus.yaml")).unwrap();
    let mut configuration: Value = serde_yaml_ng::from_str(&text).unwrap();
    for job in configuration["scrape_configs"].as_array_mut().unwrap() {
        assert_eq!(job["kubernetes_sd_configs"][0]["role"], "pod");
        job.as_object_mut().unwrap().remove("kubernetes_sd_configs");
    }
    let file = folder.path().join("prometheus.yaml");
    fs::write(&file, serde_yaml_ng::to_string(&configuration).unwrap()).unwrap();
    fs::copy(shipped.join("rules.yaml"), folder.path().join("rules.yaml")).unwrap();
    // The configuration names the rules.
    let said = succeeds(promtool.args(["check", "config", "--lint=all", "--lint-fatal"]).arg(&file));
    let alerts = GROUPS.iter().map(|group| group.alerts.len()).sum::<usize>();
    assert!(said.contains(&format!("SUCCESS: {alerts} rules found")), "{said}");
}

#[test]
fn every_alert_fires_and_does_not() {
    let Some(mut promtool) = promtool() else { return };
    let said = succeeds(promtool.args(["test", "rules"]).args(cases()));
    assert!(said.matches("SUCCESS").count() >= 4, "{said}");
    assert!(!said.contains("error expanding"), "{said}");
}

/// The cases themselves: none of them may be about nothing.
#[test]
fn every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not() {
    let read = |path: &PathBuf| serde_yaml_ng::from_str::<Value>(&fs::read_to_string(path).unwrap()).unwrap();
    let asked: Vec<Value> = cases()
        .iter()
        .flat_map(|path| read(path)["tests"].as_array().cloned().unwrap())
        .flat_map(|case| case["promql_expr_test"].as_array().cloned().unwrap())
        .collect();
    for alert in GROUPS.iter().flat_map(|group| group.alerts) {
        let expression = format!("ALERTS{{alertname=\"{}\", alertstate=\"firing\"}}", alert.name);
        let of_it = || asked.iter().filter(|case| case["expr"] == expression.as_str());
        let fires = |case: &&Value| case["exp_samples"].as_array().is_some_and(|samples| !samples.is_empty());
        assert!(of_it().any(|case| fires(&case)), "{}: fires nowhere", alert.name);
        assert!(of_it().any(|case| !fires(&case)), "{}: is never quiet", alert.name);
    }
}

/// As Prometheus gets them from Grafana: with values for its variables.
#[test]
fn prometheus_reads_every_expression_of_the_dashboards() {
    let Some(mut promtool) = promtool() else { return };
    let mut rules = Vec::new();
    for expression in DASHBOARDS.iter().flat_map(|dashboard| dashboard.expressions()) {
        let expression = expression.replace("$__rate_interval", "1m");
        rules.push(json!({ "record": format!("case:{}", rules.len()), "expr": expression }));
    }
    assert!(rules.len() > 60, "{}", rules.len());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yaml");
    let groups = json!({ "groups": [{ "name": "dashboards", "rules": rules }] });
    fs::write(&file, serde_json::to_string(&groups).unwrap()).unwrap();
    succeeds(promtool.args(["check", "rules"]).arg(&file));
}

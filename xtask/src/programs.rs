//! What each eBPF program costs the running kernel's verifier, of what it has to give. The agent itself asks the kernel
//! (`mesh-agent programs`); this reads its answer.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{setup::Ready, shell, steps::Outcome};

/// EPERM in words: root of a container may be without the right.
const NOT_PERMITTED: &str = "Operation not permitted";

/// Builds the agent and has the running kernel verify its programs. The remark's first line names the dearest one.
///
/// # Errors
/// The kernel refuses a program; or, with CI set, this machine cannot ask it.
pub fn check(ready: &Ready, root: &Path) -> Result<Outcome> {
    if let Some(obstacle) = obstacle() {
        return skipped(obstacle);
    }
    // As the tests build it: one package alone would mean other features, and everything anew.
    shell::run(ready.cargo(root).args(["build", "--locked"]))?;
    let agent = mesh_tests::programs_dir()?.join("mesh-agent");
    let output = shell::program(&agent).args(["programs", "--json"]).output();
    let output = output.with_context(|| format!("cannot start {}", agent.display()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.stdout.is_empty() && errors.contains(NOT_PERMITTED) {
        return skipped(errors.trim());
    }
    let told = match told(&String::from_utf8_lossy(&output.stdout)) {
        Ok(told) => told,
        Err(error) => bail!("mesh-agent programs: {}: {error:#}", errors.trim()),
    };
    if !output.status.success() {
        bail!("{}\n{told}", errors.trim());
    }
    Ok(Outcome::Passed(told))
}

fn skipped(obstacle: &str) -> Result<Outcome> {
    if shell::is_ci() {
        bail!("{obstacle}; with CI set this is not skipped");
    }
    Ok(Outcome::Skipped(obstacle.to_owned()))
}

/// Why this machine cannot load programs.
fn obstacle() -> Option<&'static str> {
    if !cfg!(target_os = "linux") {
        Some("needs Linux")
    } else if !shell::is_root() {
        Some("needs root: only root may load eBPF programs")
    } else if !std::fs::read_to_string("/proc/filesystems").is_ok_and(|kinds| kinds.contains("\tbpf\n")) {
        Some("needs a kernel with eBPF")
    } else {
        None
    }
}

/// The JSON of `mesh-agent programs`, as text for people: a headline, and a line for each program. An error message may
/// stand behind the JSON.
///
/// # Errors
/// It is not that JSON.
pub fn told(json: &str) -> Result<String> {
    let report = serde_json::Deserializer::from_str(json).into_iter::<Value>().next();
    let report = report.context("it said nothing")?.context("no JSON")?;
    let kernel = report["kernel"].as_str().context("kernel: missing")?;
    let limit = report["limit"].as_u64().filter(|limit| *limit > 0).context("limit: missing")?;
    let programs = report["programs"].as_array().filter(|all| !all.is_empty()).context("programs: missing")?;
    let (mut lines, mut dearest, mut refused) = (String::new(), None, 0);
    for program in programs {
        let text = |key: &str| program[key].as_str().with_context(|| format!("programs: {key}: missing"));
        let (name, kind) = (text("name")?, text("type")?);
        if let Ok(why) = text("error") {
            refused += 1;
            let words = program["verifier"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let words = words.map(|line| format!("\n      {line}")).collect::<String>();
            write!(lines, "\n    {name:<16} {kind:<17} REFUSED: {why}{words}")?;
            continue;
        }
        let instructions = program["instructions"].as_u64().context("programs: instructions: missing")?;
        let verified = program["verified_instructions"].as_u64();
        let verified = verified.context("programs: verified_instructions: missing; the kernel is older than 5.16")?;
        let share = verified as f64 * 100.0 / limit as f64;
        write!(
            lines,
            "\n    {name:<16} {kind:<17} {instructions:>6} instructions, {verified:>7} verified ({share:.2} %)"
        )?;
        dearest = dearest.max(Some((verified, name)));
    }
    let head = match (refused, dearest) {
        (0, Some((most, name))) => {
            format!(
                "kernel {kernel}: {} programs; most verified instructions: {name}, {most} of {limit}",
                programs.len()
            )
        }
        _ => format!("kernel {kernel}: {refused} of {} programs are refused", programs.len()),
    };
    Ok(head + &lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TAKEN: &str =
        r#"{"name": "connect4", "type": "cgroup_sock_addr", "instructions": 800, "verified_instructions": 25000}"#;

    fn report(programs: &str) -> Result<String> {
        told(&format!("{{\"kernel\": \"6.1.0\", \"limit\": 1000000, \"programs\": [{programs}]}}\nmesh-agent: error\n"))
    }

    #[test]
    fn the_dearest_program_is_named_and_each_has_a_line() {
        let cheap = r#"{"name": "ingress", "type": "sk_lookup", "instructions": 9, "verified_instructions": 9}"#;
        let told = report(&format!("{TAKEN}, {cheap}")).unwrap();
        let lines: Vec<&str> = told.lines().collect();
        assert!(lines[0].ends_with("2 programs; most verified instructions: connect4, 25000 of 1000000"), "{told}");
        assert!(lines[1].contains("connect4") && lines[1].ends_with("25000 verified (2.50 %)"), "{told}");
        assert_eq!(lines.len(), 3, "{told}");
    }

    #[test]
    fn a_refused_program_comes_with_the_verifiers_words() {
        let refused = r#"{"name": "ingress", "type": "sk_lookup", "error": "EACCES", "verifier": ["R1 !read_ok"]}"#;
        let told = report(&format!("{TAKEN}, {refused}")).unwrap();
        assert!(told.starts_with("kernel 6.1.0: 1 of 2 programs are refused\n"), "{told}");
        assert!(told.contains("REFUSED: EACCES\n      R1 !read_ok"), "{told}");
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        assert!(told("").is_err() && told("mesh-agent: no").is_err());
        assert!(report("").is_err(), "an agent without programs");
        assert!(report(&TAKEN.replace("verified_", "")).is_err());
    }
}

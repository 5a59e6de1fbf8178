//! `mesh-agent programs`: whether the running kernel takes the programs, and what they cost its verifier.

use std::{
    fs,
    io::{self, Write as _},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::bpf::{self, Cost, DatapathError, Refusal, VERIFIER_LIMIT, Verified};

/// The answer with `--json`.
#[derive(Serialize)]
struct Report<'a> {
    /// `uname -r`
    kernel: &'a str,
    limit: u32,
    programs: Vec<Row<'a>>,
}

/// One program; of a refused one there are no counts but `error`.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instructions: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verified_instructions: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    verifier: &'a [String],
}

/// Prints a line for each program. Live agents and their pods are not touched.
///
/// # Errors
/// This is not root, or the kernel refuses a program.
pub fn programs(json: bool) -> Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "only root may load eBPF programs: run `mesh-agent programs` as root"
    );
    let verified = bpf::verify_programs().map_err(explained)?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read the kernel's version")?;
    let kernel = kernel.trim();
    let text = match json {
        true => {
            let programs = verified.iter().map(Row::of).collect();
            let report = Report { kernel, limit: VERIFIER_LIMIT, programs };
            serde_json::to_string_pretty(&report).context("cannot write JSON")? + "\n"
        }
        false => table(kernel, &verified),
    };
    io::stdout().write_all(text.as_bytes()).context("cannot write to standard output")?;
    let refused: Vec<&str> = verified.iter().filter(|p| p.outcome.is_err()).map(|p| p.name.as_str()).collect();
    ensure!(refused.is_empty(), "kernel {kernel} does not take {}", refused.join(", "));
    Ok(())
}

/// Root of a container may be without the right.
fn explained(error: DatapathError) -> anyhow::Error {
    let error = anyhow::Error::from(error);
    let denied = |cause: &io::Error| cause.kind() == io::ErrorKind::PermissionDenied;
    match error.chain().filter_map(|cause| cause.downcast_ref()).any(denied) {
        true => error.context("loading eBPF programs needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"),
        false => error,
    }
}

impl<'a> Row<'a> {
    fn of(Verified { name, kind, outcome }: &'a Verified) -> Self {
        let row = Row { name, kind, instructions: None, verified_instructions: None, error: None, verifier: &[] };
        match outcome {
            Ok(Cost { instructions, verified }) => {
                Row { instructions: *instructions, verified_instructions: *verified, ..row }
            }
            Err(Refusal { why, last_words }) => Row { error: Some(why), verifier: last_words, ..row },
        }
    }
}

fn table(kernel: &str, verified: &[Verified]) -> String {
    let mut text = format!("Kernel {kernel}; its verifier gives up after {VERIFIER_LIMIT} instructions\n");
    let width = |of: fn(&Verified) -> usize| verified.iter().map(of).max().unwrap_or(0);
    let (names, kinds) = (width(|p| p.name.len()).max(7), width(|p| p.kind.len()).max(4));
    text += &format!("{:names$}  {:kinds$}  INSTRUCTIONS  VERIFIED\n", "PROGRAM", "TYPE");
    let count = |count: Option<u32>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
    for Verified { name, kind, outcome } in verified {
        match outcome {
            Ok(Cost { instructions, verified }) => {
                let (instructions, verified) = (count(*instructions), count(*verified));
                text += &format!("{name:names$}  {kind:kinds$}  {instructions:>12}  {verified:>8}\n");
            }
            Err(Refusal { why, last_words }) => {
                text += &format!("{name:names$}  {kind:kinds$}  REFUSED: {why}\n");
                last_words.iter().for_each(|line| text += &format!("    {line}\n"));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> [Verified; 2] {
        let cost = Cost { instructions: Some(412), verified: Some(1234) };
        let refusal = Refusal { why: "Permission denied".into(), last_words: vec!["R1 !read_ok".into()] };
        [
            Verified { name: "connect4".into(), kind: "cgroup_sock_addr", outcome: Ok(cost) },
            Verified { name: "ingress".into(), kind: "sk_lookup", outcome: Err(refusal) },
        ]
    }

    #[test]
    fn a_refused_program_is_told_with_the_verifiers_words_beside_the_others() {
        let text = table("6.1.0", &two());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].contains("6.1.0") && lines[0].contains("1000000"), "{text}");
        assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>(), ["connect4", "cgroup_sock_addr", "412", "1234"]);
        assert!(lines[3].starts_with("ingress   sk_lookup") && lines[3].ends_with("REFUSED: Permission denied"));
        assert_eq!(lines[4].trim(), "R1 !read_ok");
    }

    #[test]
    fn json_has_counts_or_an_error() {
        let two = two();
        let rows: Vec<_> = two.iter().map(|program| serde_json::to_value(Row::of(program)).unwrap()).collect();
        let taken = serde_json::json!({
            "name": "connect4", "type": "cgroup_sock_addr", "instructions": 412, "verified_instructions": 1234,
        });
        let refused = serde_json::json!({
            "name": "ingress", "type": "sk_lookup", "error": "Permission denied", "verifier": ["R1 !read_ok"],
        });
        assert_eq!(rows, [taken, refused]);
    }
}

//! The nodes, as far as their status tells: kernel, system, processor, runtime. Cgroups, bpffs and the kernel's own
//! word on the programs are the agent's to find out; it says so by not being ready.

use k8s_openapi::api::core::v1::Node;

use super::Finding;

const KERNEL: (u32, u32) = (6, 1);
/// For which the image is built.
const ARCHITECTURE: &str = "amd64";
const RUNTIMES: &[&str] = &["containerd://", "cri-o://"];

pub fn judge(nodes: &[Node]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut good = 0;
    for node in nodes {
        let wrong = one(node);
        good += usize::from(wrong.is_empty());
        findings.extend(wrong);
    }
    if nodes.is_empty() {
        findings.push(Finding::warning("nodes", "there is no node", "the agents need some"));
    } else if good > 0 {
        findings
            .insert(0, Finding::ok("nodes", format!("{good} of {} fit, by what they say of themselves", nodes.len())));
    }
    findings
}

fn one(node: &Node) -> Vec<Finding> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let status = node.status.as_ref();
    let mut wrong = Vec::new();
    let mut error = |what: String, hint: String| wrong.push(Finding::error("nodes", format!("{name}: {what}"), hint));
    let Some(info) = status.and_then(|status| status.node_info.as_ref()) else {
        return vec![Finding::warning("nodes", format!("{name} says nothing of itself"), "does its kubelet run?")];
    };
    if info.operating_system != "linux" {
        let hint = "no agent runs there, and its pods are not in the mesh: nodeSelector keeps agents away";
        return vec![Finding::warning("nodes", format!("{name} runs {}", info.operating_system), hint)];
    }
    if version(&info.kernel_version).is_none_or(|kernel| kernel < KERNEL) {
        error(format!("kernel {}", info.kernel_version), format!("Linux {}.{} or newer is needed", KERNEL.0, KERNEL.1));
    }
    if info.architecture != ARCHITECTURE {
        error(format!("processor {}", info.architecture), format!("the image is built for {ARCHITECTURE} only"));
    }
    if !RUNTIMES.iter().any(|runtime| info.container_runtime_version.starts_with(runtime)) {
        let hint = "containerd and CRI-O are known to run CNI plugins as the mesh needs it";
        wrong.push(Finding::warning("nodes", format!("{name}: runtime {}", info.container_runtime_version), hint));
    }
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    if conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status != "True") {
        wrong.push(Finding::warning("nodes", format!("{name} is not ready"), "kubectl describe node says why"));
    }
    wrong
}

/// Of a release as in `6.1.0-56-cloud-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

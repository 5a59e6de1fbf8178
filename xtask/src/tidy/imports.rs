//! Who may name what. Each danger has one address: see the table of walls in ARCHITECTURE.md.

use super::{
    Finding,
    source::{Named, Source},
};

/// The rooms of mesh-agent from the ground up. A room imports from lower layers only, and never from its neighbours.
const LAYERS: &[&[&str]] = &[
    &["config", "durable", "private_socket", "sock_diag", "sockopt", "telemetry"],
    &["balance", "capture", "identity", "state"],
    &["bpf", "tunnel"],
    // It hooks pods by bpf.
    &["pods"],
    // What the kernel may decide about them.
    &["direct", "http", "udp"],
    &["cni", "control", "proxy"],
    &["handover", "health"],
    &["admin"],
    // They wire the others.
    &["app"],
    &["main"],
];
/// Rooms (or files) of agent and controller in which wire types are at home.
const WIRE_ROOMS: &[&str] = &["admin", "ca", "check", "control", "dashboard", "link", "otlp", "proto", "serve"];
const WIRE_CRATES: &[&str] = &["opentelemetry_proto", "prost", "prost_types", "tonic", "tonic_prost"];
/// Rooms of functions that are tested by the thousand.
const PURE_ROOMS: &[&str] = &["balance", "index", "policy", "snapshot", "translate", "verdict"];

/// Where a file stands.
struct Place<'a> {
    /// First folder of the workspace.
    package: &'a str,
    path: &'a str,
    /// Modules from the crate's root to this file.
    modules: Vec<&'a str>,
    /// Tests may reach everywhere.
    test: bool,
}

impl<'a> Place<'a> {
    fn new(path: &'a str) -> Self {
        let (package, inner) = path.split_once('/').unwrap_or(("", path));
        let inner = inner.strip_prefix("src/").unwrap_or(inner).trim_end_matches(".rs");
        let modules = inner.split('/').filter(|module| *module != "lib").collect::<Vec<_>>();
        let test = package == "tests" || modules.iter().any(|module| ["tests", "benches"].contains(module));
        Self { package, path, modules, test }
    }

    fn is(&self, package: &str, room: &str) -> bool {
        self.package == package && self.modules.first() == Some(&room)
    }

    fn in_one_of(&self, rooms: &[&str]) -> bool {
        self.modules.iter().any(|module| rooms.contains(module))
    }

    /// The path from the crate's root; without `crate`, or unchanged where another crate is meant.
    fn resolved(&self, named: &Named) -> Option<Vec<String>> {
        let mut modules = self.modules.iter().filter(|module| **module != "main").map(|module| module.to_string());
        let mut modules = modules.by_ref().chain(named.inside.iter().cloned()).collect::<Vec<_>>();
        let mut segments = named.segments.iter();
        match segments.next()?.as_str() {
            "crate" => modules.clear(),
            "self" => {}
            "super" => drop(modules.pop()),
            _ => return None,
        }
        for segment in segments {
            match segment.as_str() {
                "super" => drop(modules.pop()),
                "self" => {}
                other => modules.push(other.into()),
            }
        }
        Some(modules)
    }
}

pub fn findings(path: &str, text: &str) -> Vec<Finding> {
    let place = Place::new(path);
    let source = Source::new(text);
    let mut findings = Vec::new();
    if place.package == "mesh-agent" && !place.test && path.contains("/src/") && layer(place.modules[0]).is_none() {
        let what = format!("room `{}` is in no layer; add it in xtask/src/tidy/imports.rs", place.modules[0]);
        findings.push(Finding::new(path, 0, what));
    }
    for named in source.paths() {
        let in_test = place.test || named.inside.iter().any(|module| module == "tests");
        let rules = [dangers(&place, &named, in_test), layers(&place, &named, in_test), wire(&place, &named, in_test)];
        findings.extend(rules.into_iter().flatten().map(|what| Finding::new(path, named.line, what)));
    }
    for named in source.names() {
        let in_test = place.test || named.inside.iter().any(|module| module == "tests");
        findings.extend(words(&place, &named, in_test).map(|what| Finding::new(path, named.line, what)));
    }
    // `use` trees name a path once for every leaf.
    findings.dedup();
    findings
}

/// Kernel, cluster and environment.
fn dangers(place: &Place<'_>, named: &Named, in_test: bool) -> Option<String> {
    let first = named.segments[0].as_str();
    let second = named.segments.get(1).map(String::as_str);
    let talks_to_kernel = place.is("mesh-agent", "bpf") || place.path == "mesh-common/src/abi.rs";
    if ["aya", "aya_log", "aya_obj"].contains(&first) && !talks_to_kernel {
        return Some("aya: only in mesh-agent/src/bpf and mesh-common/src/abi.rs".into());
    }
    if first == "kube" && !["mesh-controller", "meshctl", "tests"].contains(&place.package) {
        return Some("kube: only in mesh-controller, meshctl and tests".into());
    }
    let asks = place.path.ends_with("/config.rs") || place.path.ends_with("/build.rs") || place.package == "xtask";
    if first == "std" && second == Some("env") && !asks && !in_test {
        return Some("std::env: only in config.rs, which alone reads the environment".into());
    }
    if place.in_one_of(PURE_ROOMS) && !in_test && is_input_or_output(first, second) {
        let path = named.segments.join("::");
        return Some(format!("{path}: no I/O in {}", PURE_ROOMS.join(", ")));
    }
    None
}

fn is_input_or_output(first: &str, second: Option<&str>) -> bool {
    match (first, second) {
        ("tokio" | "tonic" | "rustix" | "libc" | "notify", _) => true,
        ("std", Some(module)) => ["fs", "io", "process", "thread"].contains(&module),
        _ => false,
    }
}

/// Imports of mesh-agent go down only.
fn layers(place: &Place<'_>, named: &Named, in_test: bool) -> Option<String> {
    if place.package != "mesh-agent" || in_test {
        return None;
    }
    let own = place.modules[0];
    if own == "tunnel"
        && named.segments.starts_with(&["mesh_common".into(), "model".into()])
        && ["Policy", "PolicyName", "Permit", "authorize", "policy"].contains(&named.segments.get(2)?.as_str())
    {
        return Some("tunnel: moves bytes and knows no policy".into());
    }
    let target = place.resolved(named)?;
    let other = target.first()?.as_str();
    let (from, to) = (layer(own)?, layer(other)?);
    (own != other && to >= from).then(|| format!("`{own}` may not import `{other}`: imports go down only"))
}

fn layer(room: &str) -> Option<usize> {
    LAYERS.iter().position(|rooms| rooms.contains(&room))
}

/// Wire types stop at the doors.
fn wire(place: &Place<'_>, named: &Named, in_test: bool) -> Option<String> {
    let inside = match place.package {
        "mesh-agent" | "mesh-controller" => !place.in_one_of(WIRE_ROOMS),
        "mesh-common" => place.modules.first() != Some(&"proto"),
        "mesh-ebpf" => true,
        _ => false,
    };
    let first = named.segments[0].as_str();
    let is_wire = WIRE_CRATES.contains(&first)
        || named.segments.starts_with(&["mesh_common".into(), "proto".into()])
        || place.package == "mesh-common" && named.segments.starts_with(&["crate".into(), "proto".into()]);
    (inside && is_wire && !in_test)
        .then(|| format!("{}: wire types only in {}", named.segments.join("::"), WIRE_ROOMS.join(", ")))
}

/// Single words of the language.
fn words(place: &Place<'_>, named: &Named, in_test: bool) -> Option<String> {
    let unsafe_home = place.is("mesh-agent", "bpf")
        || place.package == "mesh-ebpf"
        || ["mesh-agent/src/sockopt.rs", "mesh-common/src/abi.rs"].contains(&place.path);
    match named.segments[0].as_str() {
        "unsafe" if !unsafe_home => {
            Some("unsafe: only in mesh-agent/src/bpf, mesh-agent/src/sockopt.rs, mesh-ebpf and abi.rs".into())
        }
        "async" | "await" if place.in_one_of(PURE_ROOMS) && !in_test => {
            Some(format!("async: nothing waits in {}", PURE_ROOMS.join(", ")))
        }
        _ => None,
    }
}

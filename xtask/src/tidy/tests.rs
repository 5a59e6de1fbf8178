//! Each rule is fed what it must refuse, and what it must let pass.

use super::*;

fn found(path: &str, code: &str) -> Vec<String> {
    let text = if path.ends_with(".rs") { format!("//! A file.\n{code}\n") } else { code.to_string() };
    findings_in(path, &text).into_iter().map(|finding| finding.to_string()).collect()
}

#[track_caller]
fn refused(path: &str, code: &str, why: &str) {
    let found = found(path, code);
    assert!(found.iter().any(|finding| finding.contains(why)), "{path}: `{code}`: {found:?}");
}

#[track_caller]
fn fine(path: &str, code: &str) {
    assert_eq!(found(path, code), Vec::<String>::new(), "{path}: `{code}`");
}

#[test]
fn aya_has_one_address() {
    refused("mesh-agent/src/proxy/dial.rs", "use aya::maps::MapData;", "aya: only in");
    refused("mesh-agent/src/app.rs", "fn f() { aya::Ebpf::load(x) }", "aya: only in");
    refused("mesh-controller/src/main.rs", "use aya_log::EbpfLogger;", "aya: only in");
    fine("mesh-agent/src/bpf/maps.rs", "use aya::maps::MapData;");
    fine("mesh-agent/src/bpf.rs", "use aya::Ebpf;");
    fine("mesh-common/src/abi.rs", "unsafe impl aya::Pod for Key {}");
    fine("mesh-agent/build.rs", "use aya_build::Package;");
}

#[test]
fn kube_stays_with_the_controller() {
    refused("mesh-agent/src/pods/registry.rs", "use kube::Client;", "kube: only in");
    refused("mesh-common/src/model/policy.rs", "use kube::Client;", "kube: only in");
    fine("mesh-controller/src/source/kube.rs", "use kube::Client;");
}

#[test]
fn the_environment_is_read_in_one_file() {
    refused("mesh-agent/src/app.rs", "use std::env;", "std::env: only in");
    refused("mesh-agent/src/app.rs", "use std::{fs, env::var};", "std::env: only in");
    refused("meshctl/src/output.rs", "fn f() { std::env::var(\"X\") }", "std::env: only in");
    fine("mesh-agent/src/config.rs", "use std::env;");
    fine("mesh-agent/build.rs", "use std::env;");
    fine("tests/src/world.rs", "use std::env;");
    fine("mesh-agent/src/pods/netns.rs", "mod tests { use std::env; }");
    fine("mesh-agent/src/app.rs", "const A: &str = env!(\"CARGO_PKG_VERSION\");");
}

#[test]
fn unsafe_has_few_addresses() {
    refused("mesh-agent/src/pods/netns.rs", "fn f() { unsafe { g() } }", "unsafe: only in");
    refused("mesh-controller/src/main.rs", "unsafe impl Send for X {}", "unsafe: only in");
    fine("mesh-agent/src/bpf/link.rs", "fn f() { unsafe { g() } }");
    fine("mesh-agent/src/sockopt.rs", "fn f() { unsafe { g() } }");
    fine("mesh-ebpf/src/connect.rs", "fn f() { unsafe { g() } }");
    fine("mesh-agent/src/main.rs", "#![deny(unsafe_code)]\n// unsafe is elsewhere");
}

#[test]
fn imports_of_the_agent_go_down_only() {
    refused("mesh-agent/src/state/store.rs", "use crate::proxy::resolve;", "`state` may not import `proxy`");
    refused("mesh-agent/src/tunnel/pool.rs", "use crate::{identity, bpf::Maps};", "`tunnel` may not import `bpf`");
    refused("mesh-agent/src/tunnel/pool.rs", "use super::super::proxy::dial;", "`tunnel` may not import `proxy`");
    refused("mesh-agent/src/telemetry.rs", "fn f() { crate::state::x() }", "`telemetry` may not import `state`");
    refused("mesh-agent/src/control.rs", "use super::admin::Answer;", "`control` may not import `admin`");
    refused("mesh-agent/src/tunnel/server.rs", "use mesh_common::model::Permit;", "knows no policy");
    refused("mesh-agent/src/cellar/wine.rs", "", "`cellar` is in no layer");
    fine("mesh-agent/src/proxy/inbound.rs", "use crate::{state::Store, tunnel::Server};\nuse super::dial;");
    fine("mesh-agent/src/tunnel/pool.rs", "use super::stream::Stream;\nuse crate::tunnel::tls;");
    fine("mesh-agent/src/state.rs", "mod tests { use super::*; use crate::proxy::X; }");
    fine("mesh-agent/src/state/tests.rs", "use crate::proxy::X;");
    fine("mesh-agent/src/main.rs", "use crate::app;");
}

#[test]
fn wire_types_stop_at_the_doors() {
    refused("mesh-agent/src/proxy/resolve.rs", "use tonic::Status;", "wire types only in");
    refused("mesh-agent/src/state/store.rs", "use mesh_common::proto::workload;", "wire types only in");
    refused("mesh-controller/src/translate/pod.rs", "use prost::Message;", "wire types only in");
    refused("mesh-agent/src/telemetry/access.rs", "use opentelemetry_proto::tonic::logs;", "wire types only in");
    refused("mesh-common/src/model/policy.rs", "use crate::proto::security;", "wire types only in");
    for path in ["control/discovery.rs", "admin.rs", "identity/ca.rs", "control/link.rs", "telemetry/otlp/spans.rs"] {
        fine(&format!("mesh-agent/src/{path}"), "use tonic::Status;");
    }
    fine("mesh-controller/src/serve.rs", "use mesh_common::proto::workload;");
    fine("mesh-common/src/proto/address.rs", "use prost_types::Any;");
    fine("meshctl/src/client.rs", "use tonic::Status;");
}

#[test]
fn pure_rooms_neither_wait_nor_read() {
    refused("mesh-controller/src/index.rs", "async fn f() {}", "nothing waits");
    refused("mesh-controller/src/translate/pod.rs", "use std::fs;", "no I/O");
    refused("mesh-common/src/verdict.rs", "fn f() { std::io::stdin() }", "no I/O");
    refused("mesh-agent/src/state/snapshot.rs", "use tokio::sync::watch;", "no I/O");
    fine("mesh-controller/src/index.rs", "use std::collections::BTreeMap;\nmod tests { use std::fs; }");
}

#[test]
fn files_are_shaped_as_the_house_says() {
    let what = |path: &str, text: &str| {
        let found = findings_in(path, text).into_iter().map(|finding| finding.what);
        found.collect::<Vec<_>>().join("; ")
    };
    assert!(what("meshctl/src/a.rs", "use std::fs;\n").contains("starts with a `//!` line"));
    assert!(what("meshctl/src/a/mod.rs", "//! A.\n").contains("instead of `x/mod.rs`"));
    assert!(what("meshctl/src/utils.rs", "//! A.\n").contains("named for what it holds"));
    assert!(what("meshctl/src/a.rs", "//! A.\nfn get_name() {}\n").contains("instead of `fn get_name()`"));
    let wide = format!("//! A.\n/// {}\n", "x".repeat(117));
    assert!(what("meshctl/src/a.rs", &wide).contains("a comment of more than 120"));
    assert_eq!(what("meshctl/src/a.rs", &wide.replacen('x', "", 1)), "");
    let long = format!("//! A.\n{}", "// x\n".repeat(600));
    assert!(what("meshctl/src/a.rs", &long).contains("601 lines"));
    assert_eq!(what("mesh-common/src/proto/gen/mod.rs", "pub mod a;\n"), "");
}

#[test]
fn nothing_is_left_for_later_and_no_machine_is_named() {
    let marker = concat!("TO", "DO");
    refused("README.md", &format!("{marker}: more"), "finish it");
    refused("meshctl/src/a.rs", &format!("// {}(me): more", concat!("FIX", "ME")), "finish it");
    fine("README.md", &format!("MAS{marker}NTE"));
    let (work, root) = (concat!("/wo", "rk/"), concat!("/ro", "ot/"));
    refused("README.md", &format!("see {work}x"), "somebody's machine");
    refused(".ci/run", &format!("cd '{root}x'"), "somebody's machine");
    fine("Cargo.lock", &format!("path = \"{work}x\""));
    fine("README.md", &format!("a{work}b, https://example.com{root}x, $dir{root}"));
}

#[test]
fn this_repository_is_tidy_to_its_own_checker() {
    let own = [
        ("xtask/src/tidy.rs", include_str!("../tidy.rs")),
        ("xtask/src/tidy/text.rs", include_str!("text.rs")),
        ("xtask/src/tidy/imports.rs", include_str!("imports.rs")),
        ("xtask/src/tidy/source.rs", include_str!("source.rs")),
        ("xtask/src/tidy/tests.rs", include_str!("tests.rs")),
    ];
    for (path, text) in own {
        assert_eq!(findings_in(path, text), [], "{path}");
    }
}

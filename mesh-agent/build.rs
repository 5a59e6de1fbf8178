//! Builds the eBPF programs with the pinned nightly and puts the object where `bpf/` includes it from.

use std::env;

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain};

fn main() -> Result<()> {
    println!("cargo:rerun-if-env-changed=MESH_NIGHTLY");
    println!("cargo:rerun-if-changed=../mesh-common/src/abi.rs");
    println!("cargo:rerun-if-changed=../mesh-common/src/abi");
    println!("cargo:rerun-if-changed=../mesh-common/src/verdict.rs");
    println!("cargo:rerun-if-changed=../mesh-common/src/verdict");
    // `cargo xtask setup` says which toolchain has the sources of `core`.
    let nightly = env::var("MESH_NIGHTLY").unwrap_or_else(|_| "nightly".to_owned());
    let ebpf = concat!(env!("CARGO_MANIFEST_DIR"), "/../mesh-ebpf");
    aya_build::build_ebpf(
        [Package { name: "mesh-ebpf", root_dir: ebpf, ..Package::default() }],
        Toolchain::Custom(&nightly),
    )
    .context("building the eBPF programs failed; `cargo xtask setup` installs what they need")
}

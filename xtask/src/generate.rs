//! Generates the wire types from mesh-common/proto and the manifests from mesh-install, and checks that the committed
//! ones are current.

mod manifests;
#[cfg(test)]
mod monitoring;

use std::{fs, path::Path};

use anyhow::{Context, Result, bail};

const FILES: &[&str] = &[
    "envoy/discovery.proto",
    "istio/auth/ca.proto",
    "istio/security/authorization.proto",
    "istio/workload/workload.proto",
    "nodemesh/mesh.proto",
];

/// Writes the generated modules to mesh-common/src/proto/gen, and the manifests.
pub fn write(root: &Path) -> Result<()> {
    let out = root.join("mesh-common/src/proto/gen");
    fs::create_dir_all(&out)?;
    into(root, &out)?;
    manifests::write(root)?;
    println!("generate: {} and manifests are current", out.display());
    Ok(())
}

/// Fails if the committed modules or manifests differ from what would be generated.
pub fn check(root: &Path) -> Result<()> {
    let fresh = tempfile::tempdir()?;
    into(root, fresh.path())?;
    let committed = root.join("mesh-common/src/proto/gen");
    let (want, have) = (listing(fresh.path())?, listing(&committed)?);
    if want != have {
        bail!("{} holds {have:?}, generated are {want:?}; run `cargo xtask generate`", committed.display());
    }
    for name in want {
        if fs::read(fresh.path().join(&name))? != fs::read(committed.join(&name))? {
            bail!("{} is not what mesh-common/proto says; run `cargo xtask generate`", committed.join(&name).display());
        }
    }
    manifests::check(root)
}

fn into(root: &Path, out: &Path) -> Result<()> {
    let include = root.join("mesh-common/proto");
    let descriptors = protox::compile(FILES, [&include]).context("mesh-common/proto does not compile")?;
    tonic_prost_build::configure()
        .out_dir(out)
        .btree_map(".")
        // The large ones of the answers: tens of thousands of them pass from hand to hand.
        .boxed("nodemesh.v1.Item.kind.flow")
        .boxed("nodemesh.v1.Item.kind.stat")
        .boxed("nodemesh.v1.Item.kind.tapped")
        .boxed("nodemesh.v1.Item.kind.explanation")
        .build_transport(false)
        .include_file("mod.rs")
        .emit_rerun_if_changed(false)
        .compile_fds(descriptors)
        .context("generating wire types failed")
}

fn listing(dir: &Path) -> Result<Vec<String>> {
    let mut names = fs::read_dir(dir)
        .with_context(|| format!("cannot list {}", dir.display()))?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

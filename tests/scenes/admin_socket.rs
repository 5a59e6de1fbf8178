//! The sockets of agent and controller, and what is secret on disk, are for root alone.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use mesh_tests::{A, B};

use crate::cast::Cast;

#[test]
fn sockets_and_secrets_are_private() -> Result<()> {
    let Cast { world, .. } = Cast::meshed("permissions")?;
    let state = world.root().join("controller");
    let node = world.node(A);
    let private: [PathBuf; 6] = [
        node.agent_socket(),
        node.cni_socket(),
        world.controller()?.admin_socket(),
        state.join("ca/ca.key"),
        world.root().join("token-a"),
        state.clone(),
    ];
    for path in &private {
        assert_eq!(mode(path)? & 0o077, 0, "{} is open to others: {:o}", path.display(), mode(path)?);
    }
    // Tokens are kept as hashes.
    let token = fs::read_to_string(world.root().join("token-a"))?;
    let kept = fs::read_to_string(state.join("tokens/a"))?;
    assert!(!kept.contains(token.trim()) && kept.trim().len() == 64, "{kept:?}");
    // An agent writes neither key nor certificate anywhere.
    for node in [A, B] {
        let files = files_below(&world.node(node).run_dir);
        for file in files {
            let text = fs::read(&file).with_context(|| format!("read {}", file.display()))?;
            assert!(!text.windows(10).any(|part| part == b"-----BEGIN"), "{}", file.display());
        }
    }
    Ok(())
}

fn mode(path: &Path) -> Result<u32> {
    Ok(fs::symlink_metadata(path).with_context(|| format!("look at {}", path.display()))?.permissions().mode())
}

/// Regular files only: a socket cannot be read.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries
        .flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] })
        .filter(|p| p.is_file())
        .collect()
}

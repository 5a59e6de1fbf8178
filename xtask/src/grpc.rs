//! grpcio from PyPI in a virtual environment below target/: the other end of gRPC in system tests.

use std::path::Path;

use anyhow::{Context, Result};

use crate::{packages, shell};

const VERSION: &str = "1.85.1";

/// Makes the environment unless that version is there; whether it did.
pub fn install(root: &Path) -> Result<bool> {
    let place = root.join("target/grpc");
    let python = place.join("bin/python3");
    let check = format!("import grpc, sys; sys.exit(grpc.__version__ != '{VERSION}')");
    if python.exists() && shell::probe(shell::program(&python).args(["-c", &check])).is_some() {
        return Ok(false);
    }
    println!("setup: grpcio {VERSION} (a gRPC client and server of another make) into {}", place.display());
    if shell::probe(shell::program("python3").args(["-c", "import ensurepip, venv"])).is_none() {
        packages::install(&[packages::VENV])?;
    }
    shell::run(shell::program("python3").args(["-m", "venv", "--clear"]).arg(&place))
        .context("make the environment")?;
    let wanted = format!("grpcio=={VERSION}");
    shell::run(shell::program(&python).args(["-m", "pip", "install", "--quiet", &wanted])).context("install grpcio")?;
    Ok(true)
}

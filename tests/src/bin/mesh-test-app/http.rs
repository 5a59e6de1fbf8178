//! The verbs `http` and `ask`: a server that answers what it was asked, and a client that counts.

mod client;
mod onward;
mod server;

use anyhow::{Context, Result};

pub use server::serve;

/// `plan` is a [`mesh_tests::Ask`].
pub fn ask(plan: &str) -> Result<()> {
    let ask = serde_json::from_str(plan).context("not a plan")?;
    crate::bench::raise_descriptors()?;
    let runtime = runtime()?;
    let answers = runtime.block_on(client::ask(ask))?;
    println!("{}", serde_json::to_string(&answers).context("write the report")?);
    Ok(())
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")
}

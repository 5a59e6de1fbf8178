//! The verb `hbone`: attempts of a client that keeps no rule, one after the other, one line of JSON for each.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use mesh_tests::rogue::{self, Attempt};

/// `plan` is a JSON array of [`Attempt`]s.
pub fn run(plan: &Path) -> Result<()> {
    let text = fs::read_to_string(plan).with_context(|| format!("read {}", plan.display()))?;
    let attempts: Vec<Attempt> = serde_json::from_str(&text).context("not a list of attempts")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    runtime.block_on(async {
        for attempt in &attempts {
            let outcome = rogue::attempt(attempt).await;
            println!("{}", serde_json::to_string(&outcome).context("write the outcome")?);
        }
        Ok(())
    })
}

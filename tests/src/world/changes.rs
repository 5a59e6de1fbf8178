//! Changes of configuration, and when they have arrived.

use std::time::Duration;

use anyhow::{Result, bail};

use super::World;
use crate::{A, B, Patience, ctl, eventually};

impl World {
    /// Writes `<name>.yaml` and waits until both agents have it.
    pub fn apply(&mut self, name: &str, yaml: &str) -> Result<()> {
        self.manifests.write(name, yaml)?;
        self.settle()
    }

    /// Removes `<name>.yaml` and waits until both agents know.
    pub fn delete(&mut self, name: &str) -> Result<()> {
        self.manifests.remove(name)?;
        self.settle()
    }

    /// Waits until everything written so far has reached the agents: it writes one more object of each sort that
    /// travels, and both agents must list it.
    pub fn settle(&mut self) -> Result<()> {
        self.settled += 1;
        let name = self.marker();
        let ip = format!("10.96.255.{}", self.settled % 250 + 1);
        self.manifests.write(
            "settled",
            &format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{ name: settling }}\n---\n\
                 apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: settling }}\n\
                 spec: {{ clusterIP: {ip}, clusterIPs: [{ip}], ports: [{{ port: 1 }}] }}\n---\n\
                 apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
                 metadata: {{ name: {name}, namespace: settling }}\nspec: {{ action: ALLOW }}\n"
            ),
        )?;
        for node in [A, B].into_iter().filter(|node| self.agents[node.index()].is_some()) {
            eventually(format_args!("agent {} has {name}", node.name()), Patience::LONG, || {
                let lists = |kind: &str, key: &str| -> Result<bool> {
                    let all = self.ask_agent(node, &["config", kind])?;
                    Ok(all.iter().any(|object| ctl::text(object, key).starts_with(&name)))
                };
                Ok((lists("services", "hostname")? && lists("policies", "name")?).then_some(()))
            })?;
        }
        Ok(())
    }

    /// The name of what [`World::settle`] wrote last.
    pub fn marker(&self) -> String {
        format!("settled-{}", self.settled)
    }

    /// Removes what [`World::settle`] wrote: it is nothing for a user to see.
    pub fn forget_marker(&self) -> Result<()> {
        self.manifests.remove("settled")
    }

    /// Fails unless `done` becomes true within a second, the time that a change may take.
    pub fn within_a_second(&self, what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        let patience = Patience { limit: Duration::from_secs(1), interval: Duration::from_millis(10) };
        if eventually(what, patience, || Ok(done()?.then_some(()))).is_err() {
            bail!("{}: {what}: not within a second", self.title);
        }
        Ok(())
    }
}

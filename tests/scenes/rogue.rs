//! A pod outside the mesh that speaks HBONE itself, with certificates of any kind, and what the attacked node recorded.

use std::{fs, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use mesh_tests::{
    A, B, Flow, Patience, Place, Pod, World, eventually,
    forge::{Forge, Forged},
    programs_dir, refused,
    rogue::{Attempt, Outcome},
};

use crate::cast::Cast;

const METRICS: u16 = 15020;

/// An attempt, and what is to become of it.
pub struct Attack {
    pub id: &'static str,
    pub what: String,
    pub attempt: Attempt,
    /// The reason in the record.
    pub code: &'static str,
}

/// The usual cast with metrics, and an attacker on node a.
pub struct Stage {
    pub cast: Cast,
    pub rogue: Arc<Pod>,
    pub forge: Forge,
}

impl Stage {
    pub fn new(title: &str) -> Result<Self> {
        let mut world = World::new(title)?;
        world.agent_options.push(format!("--metrics=0.0.0.0:{METRICS}"));
        let mut cast = Cast::in_world(world)?;
        cast.world.mesh("shop")?;
        let rogue = cast.world.pod("legacy", "rogue", A)?;
        for server in [&cast.client, &cast.near, &cast.far] {
            server.serve("echo", 7000)?;
        }
        let forge = Forge::open(&cast.world.root().join("controller/ca"))?;
        Ok(Self { cast, rogue, forge })
    }

    /// The certificate that the client's node holds for it, as good as stolen.
    pub fn stolen(&self, of: &Pod) -> Result<Forged> {
        self.forge.leaf(&of.identity(), |_| {})
    }

    /// To far's application, by its own agent, with everything right but who asks.
    pub fn attempt(&self, with: &Forged) -> Attempt {
        let far = &self.cast.far;
        Attempt {
            to: far.at(15008),
            from: None,
            chain: with.chain.clone(),
            key: with.key.clone(),
            alpn: vec!["h2".to_owned()],
            old_tls: false,
            method: "CONNECT".to_owned(),
            authority: far.at(7000).to_string(),
            headers: Vec::new(),
            text: "hello".to_owned(),
            wait_ms: 0,
        }
    }

    pub fn outcomes(&self, attempts: &[Attempt]) -> Result<Vec<Outcome>> {
        outcomes(&self.cast.world, &self.rogue, attempts)
    }

    /// Makes all attacks; each must be refused, recorded at node b under its code and its own address, and counted. The
    /// node's other traffic goes on.
    pub fn refused(&self, attacks: &[Attack]) -> Result<Vec<Flow>> {
        let Cast { world, client, far, .. } = &self.cast;
        let held = client.hold(far.at(7000))?;
        let attempts: Vec<Attempt> = attacks.iter().map(|attack| attack.attempt.clone()).collect();
        let outcomes = self.outcomes(&attempts)?;
        for (Attack { what, .. }, outcome) in attacks.iter().zip(&outcomes) {
            ensure!(outcome.status != 200 && outcome.text.is_empty(), "{what} was let in: {outcome:?}");
            ensure!(outcome.how != "timeout" && outcome.how != "own fault", "{what}: no refusal: {outcome:?}");
        }
        let mut missing = Vec::new();
        let found = eventually("every refusal is recorded", Patience::SHORT, || {
            let flows = world.flows(B)?;
            let record = |(attack, outcome): (&Attack, &Outcome)| {
                let from = outcome.local.map(|local| local.to_string()).unwrap_or_default();
                let of_it = flows.iter().filter(|flow| flow.direction == "inbound" && flow.source.address == from);
                let found = of_it.clone().find(|flow| flow.reason == attack.code && flow.verdict == "dropped");
                let others = || of_it.map(|flow| format!("{} {}", flow.reason, flow.error)).collect::<Vec<_>>();
                found.cloned().ok_or_else(|| format!("{}: {} wanted, {:?}", attack.what, attack.code, others()))
            };
            let records = attacks.iter().zip(&outcomes).map(record).collect::<Vec<_>>();
            missing = records.iter().filter_map(|record| record.clone().err()).collect();
            Ok(records.into_iter().collect::<Result<Vec<_>, _>>().ok())
        });
        let found = found.with_context(|| missing.join("\n"))?;
        let metrics = metrics(&world.node(B).host)?;
        for (Attack { id, what, code, .. }, outcome) in attacks.iter().zip(&outcomes) {
            ensure!(counted(&metrics, code), "{what}: no metric of {code} in:\n{metrics}");
            refused::row(id, what, &shown(outcome), code, "flow of node b, mesh_policy_verdicts_total");
        }
        ensure!(held.is_open()?, "a connection of others ended");
        ensure!(client.say(far.at(7000), "as before")?.echoed(), "others are not served any more");
        Ok(found)
    }
}

/// From any place of the world.
pub fn outcomes(world: &World, place: &Place, attempts: &[Attempt]) -> Result<Vec<Outcome>> {
    let plan = world.root().join("plan.json");
    fs::write(&plan, serde_json::to_vec(attempts)?).context("write the plan")?;
    let arguments = ["hbone".to_owned(), format!("--plan={}", plan.display())];
    let output = place.output(&programs_dir()?.join("mesh-test-app"), &arguments, Duration::from_secs(60))?;
    ensure!(output.status.success(), "hbone: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("no outcome: {line}"))).collect()
}

/// What the agent of that host counts.
pub fn metrics(host: &Place) -> Result<String> {
    host.curl(&format!("http://127.0.0.1:{METRICS}/metrics"))
}

/// Refusals of that code are counted, at least one.
pub fn counted(metrics: &str, code: &str) -> bool {
    let label = format!("reason=\"{code}\"");
    metrics.lines().any(|line| line.starts_with("mesh_policy_verdicts_total") && line.contains(&label))
}

pub fn shown(outcome: &Outcome) -> String {
    match outcome.status {
        0 => format!("{}: {}", outcome.how, outcome.detail),
        status => format!("{status} {}", outcome.reason),
    }
}

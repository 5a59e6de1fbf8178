//! Random policies over real pods of one node: what the kernel decides, what the agent decides and what the policies
//! mean, as a slow reference reads them, are the same for every client, server and port.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use mesh_tests::{A, End, Families, Knocked, Patience, Pod, World, asked, eventually};
use serde_json::Value;

use crate::{
    dice::Dice,
    oracle_policies::{PORTS, ROOT, objects},
    oracle_reference::{Answer, Asked, decide},
};

/// Of an everyday run, from its first world on.
const TIME: Duration = Duration::from_secs(8);
/// Questions to meshctl in each round.
const CHECKS: u64 = 1;

struct Stage {
    world: World,
    /// The last one is not in the mesh.
    clients: Vec<Arc<Pod>>,
    servers: [Arc<Pod>; 3],
    /// ServiceAccount shop/crawler is deleted.
    is_revoked: bool,
}

/// One client, one server, one port, in one round.
struct Case {
    client: usize,
    server: usize,
    to: SocketAddr,
    answer: Answer,
}

#[derive(Default)]
struct Totals {
    cases: u64,
    direct: u64,
    denied: u64,
    by_agent: u64,
    checked: u64,
}

/// What the programs counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counted {
    direct: u64,
    denied: u64,
    redirected: u64,
}

impl Stage {
    fn new() -> Result<Self> {
        let mut world = World::new("oracle")?;
        world.namespace(ROOT)?;
        let mut pod = |namespace, name, account| world.pod_with(namespace, name, account, A, Families::Dual);
        let clients = vec![
            pod("shop", "cart", "cart")?,
            pod("shop", "cart-2", "cart")?,
            pod("shop", "crawler", "crawler")?,
            pod("market", "trolley", "cart")?,
            pod("market", "stranger", "stranger")?,
            pod("legacy", "plain", "cart")?,
        ];
        let servers = [pod("shop", "web", "web")?, pod("shop", "db", "db")?, pod("market", "api", "api")?];
        world.start_controller()?;
        world.start_agent(A)?;
        world.mesh("shop")?;
        world.mesh("market")?;
        for server in &servers {
            server.doors(&PORTS)?;
        }
        Ok(Self { world, clients, servers, is_revoked: false })
    }

    fn addresses(&self) -> Vec<String> {
        let all = self.clients.iter().chain(&self.servers);
        all.flat_map(|pod| pod.addresses()).map(|ip| ip.to_string()).collect()
    }

    fn is_meshed(&self, client: usize) -> bool {
        self.clients[client].namespace != "legacy"
    }

    /// One connection, as the reference is asked.
    fn asked<'a>(&self, from: &'a Pod, to: &'a Pod, family: usize, port: u16) -> Asked<'a> {
        let is_meshed = from.namespace != "legacy";
        Asked {
            client: is_meshed.then_some((&from.namespace, &from.service_account)),
            is_revoked: is_meshed && self.is_revoked && from.service_account == "crawler",
            from: from.addresses()[family],
            server: (&to.namespace, &to.name),
            to: to.addresses()[family],
            port,
        }
    }

    /// Every client, server and port, over a family by chance.
    fn cases(&self, dice: &mut Dice, objects: &[Value]) -> Vec<Case> {
        let mut cases = Vec::new();
        for (client, from) in self.clients.iter().enumerate() {
            for (server, pod) in self.servers.iter().enumerate() {
                for port in PORTS {
                    let asked = self.asked(from, pod, dice.roll(2) as usize, port);
                    let to = SocketAddr::new(asked.to, port);
                    cases.push(Case { client, server, to, answer: decide(objects, &asked) });
                }
            }
        }
        cases
    }

    /// Every case once, all clients at the same time.
    fn knock(&self, cases: &[Case]) -> Result<Vec<Knocked>> {
        let of = |client: usize| -> Vec<SocketAddr> {
            cases.iter().filter(|case| case.client == client).map(|case| case.to).collect()
        };
        thread::scope(|scope| {
            let knocking: Vec<_> = self
                .clients
                .iter()
                .enumerate()
                .map(|(client, pod)| scope.spawn(move || pod.knock(&of(client))))
                .collect();
            let heard: Result<Vec<Vec<Knocked>>> =
                knocking.into_iter().map(|one| one.join().expect("no client panics")).collect();
            let heard = heard?.concat();
            ensure!(heard.len() == cases.len(), "{} answers to {} dials", heard.len(), cases.len());
            Ok(heard)
        })
    }

    fn counted(&self) -> Result<Counted> {
        let counters = &self.world.status(A)?["counters"];
        let of = |name: &str| counters[name].as_u64().with_context(|| format!("no counter {name}"));
        Ok(Counted {
            direct: of("CONNECT_DIRECT")?,
            denied: of("CONNECT_DENIED")?,
            redirected: of("CONNECT_REDIRECTED")?,
        })
    }

    /// Deletes the ServiceAccount of a client, or makes it anew; the agent knows when this returns.
    fn revoke(&mut self, revoked: bool) -> Result<()> {
        if revoked == self.is_revoked {
            return Ok(());
        }
        self.is_revoked = revoked;
        let (file, object) = ("serviceaccount-shop-crawler", "{ name: crawler, namespace: shop }");
        if revoked {
            self.world.manifests.remove(file)?;
        } else {
            let yaml = format!("apiVersion: v1\nkind: ServiceAccount\nmetadata: {object}\n");
            self.world.manifests.write(file, &yaml)?;
        }
        eventually("the agent knows which ServiceAccounts there are", Patience::LONG, || {
            let listed = self.world.ask_agent(A, &["config", "accounts", "-n", "shop"])?;
            let exists = listed.iter().any(|one| one["accounts"].to_string().contains("\"crawler\""));
            Ok((exists != revoked).then_some(()))
        })
    }

    fn shown(&self, case: &Case) -> String {
        let (client, server) = (&self.clients[case.client], &self.servers[case.server]);
        format!("{} -> {} at {}, {:?}", client.full_name(), server.full_name(), case.to, case.answer)
    }

    fn play(&mut self, seed: u64, totals: &mut Totals) -> Result<()> {
        let mut dice = Dice(seed);
        let objects = objects(&mut dice, &self.addresses());
        let yaml: Result<Vec<String>, _> = objects.iter().map(serde_yaml_ng::to_string).collect();
        let yaml = yaml.context("write the objects")?.join("---\n");
        self.revoke(dice.chance(10))?;
        self.world.apply("oracle", &yaml)?;
        let cases = self.cases(&mut dice, &objects);
        let mut wrong = Vec::new();
        // By the agent, unless an earlier round left the kernel a decision that still holds.
        self.compare("first", &cases, &self.knock(&cases)?, |_| false, &mut wrong);
        // By the kernel, but for those that some policy is to tell of, and for who is not in the mesh.
        let before = self.counted()?;
        let by_kernel = |case: &Case| self.is_meshed(case.client) && !case.answer.observed;
        self.compare("second", &cases, &self.knock(&cases)?, by_kernel, &mut wrong);
        let after = self.counted()?;
        let meshed = cases.iter().filter(|case| self.is_meshed(case.client));
        let mut expected = before;
        for case in meshed {
            match case.answer {
                Answer { observed: true, .. } => expected.redirected += 1,
                Answer { permitted: true, .. } => expected.direct += 1,
                Answer { permitted: false, .. } => expected.denied += 1,
            }
        }
        if after != expected {
            wrong.push(format!("the kernel counted {after:?} after {before:?}, instead of {expected:?}"));
        }
        self.check(&mut dice, &objects, &mut wrong, totals)?;
        ensure!(wrong.is_empty(), "seed {seed}: {} differences:\n{}\n{yaml}", wrong.len(), wrong.join("\n"));
        totals.cases += cases.len() as u64;
        totals.direct += expected.direct - before.direct;
        totals.denied += expected.denied - before.denied;
        totals.by_agent += cases.iter().filter(|case| !by_kernel(case)).count() as u64;
        Ok(())
    }

    fn compare(
        &self,
        when: &str,
        cases: &[Case],
        heard: &[Knocked],
        by_kernel: impl Fn(&Case) -> bool,
        wrong: &mut Vec<String>,
    ) {
        for (case, knocked) in cases.iter().zip(heard) {
            let fits = match case.answer.permitted {
                true => knocked.answered(),
                false if by_kernel(case) => knocked.turned_away() && knocked.end == End::Refused,
                false => knocked.turned_away(),
            };
            if !fits || knocked.to != case.to {
                wrong.push(format!("{when} dial: {}: {knocked:?}", self.shown(case)));
            }
        }
    }

    /// meshctl says the same, which asks about IPv4.
    fn check(&self, dice: &mut Dice, objects: &[Value], wrong: &mut Vec<String>, totals: &mut Totals) -> Result<()> {
        for _ in 0..CHECKS {
            let (from, to, port) = (dice.pick(&self.clients), dice.pick(&self.servers), *dice.pick(&PORTS));
            let answer = self.world.authz(&from.full_name(), to, port)?;
            totals.checked += 1;
            let known = decide(objects, &self.asked(from, to, 0, port));
            // What depends on the request is said of the connection, which may be opened.
            let agrees = answer.depends_on_request && known.asks
                || (answer.verdict == "forwarded") == known.permitted && !answer.depends_on_request;
            if !agrees {
                wrong.push(format!("meshctl authz check {} {} --port {port}: {answer:?}", from.name, to.name));
            }
        }
        Ok(())
    }
}

#[test]
fn kernel_agent_and_reference_agree_on_every_connection() -> Result<()> {
    let start = Instant::now();
    let mut stage = Stage::new()?;
    let (first, wanted) = (asked("MESH_TEST_SEED").unwrap_or(1), asked("MESH_TEST_CASES"));
    let mut totals = Totals::default();
    let mut told = 0;
    for seed in first.. {
        stage.play(seed, &mut totals).with_context(|| format!("MESH_TEST_SEED={seed} begins with this round"))?;
        if totals.cases / 10_000 > told {
            told = totals.cases / 10_000;
            println!("oracle: {} cases after {:.0} s", totals.cases, start.elapsed().as_secs_f64());
        }
        if wanted.map_or(start.elapsed() > TIME, |wanted| totals.cases >= wanted) {
            break;
        }
    }
    let Totals { cases, direct, denied, by_agent, checked } = totals;
    println!(
        "oracle: {cases} cases, each dialled twice: {direct} direct and {denied} denied by the kernel, {by_agent} by the \
         agent; {checked} questions to meshctl; differences: 0"
    );
    // The policies are such that there is something to agree on, unless the machine had time for a few rounds only.
    let enough = direct * 10 > cases && denied * 10 > cases && by_agent * 20 > cases;
    assert!(enough || cases < 2000, "{direct} direct, {denied} denied, {by_agent} by the agent");
    Ok(())
}

#[test]
fn random_policies_are_of_every_sort() {
    let mut seen = BTreeMap::<String, u32>::new();
    for seed in 0..300 {
        let written = format!("{:?}", objects(&mut Dice(seed), &["10.0.0.1".to_owned(), "fd00::1".to_owned()]));
        for word in [
            "ALLOW",
            "DENY",
            "AUDIT",
            "dry-run",
            "STRICT",
            "DISABLE",
            "PERMISSIVE",
            "UNSET",
            "portLevelMtls",
            "selector",
            "istio-system",
            "principals",
            "notPrincipals",
            "namespaces",
            "notNamespaces",
            "serviceAccounts",
            "notServiceAccounts",
            "ipBlocks",
            "notIpBlocks",
            "ports",
            "notPorts",
            "notValues",
            "destination.ip",
            "source.principal",
            "methods",
            "requestPrincipals",
        ] {
            *seen.entry(word.to_owned()).or_default() += u32::from(written.contains(&format!("{word}\"")));
        }
    }
    assert!(seen.values().all(|count| *count >= 5), "{seen:?}");
}

//! Two pods of a node that talk directly, and the moment between a decision of the kernel and the arrival of the SYN.

use std::{net::SocketAddr, sync::Arc, thread};

use anyhow::{Context, Result};
use mesh_tests::{A, Dialled, Families, Patience, Pod, World, eventually};

pub const STRICT: &str = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                          metadata: { name: default, namespace: shop }\nspec: { mtls: { mode: STRICT } }\n";

/// In namespace shop on node a: `client`, `second` and the server `near`, with both families. STRICT holds, the agents
/// have metrics.
pub struct Stage {
    pub world: World,
    pub client: Arc<Pod>,
    pub second: Arc<Pod>,
    pub near: Arc<Pod>,
}

impl Stage {
    /// With these more options of the agents.
    pub fn new(title: &str, options: &[&str]) -> Result<Self> {
        let mut world = World::new(title)?;
        world.metrics();
        world.agent_options.extend(options.iter().map(|option| (*option).to_owned()));
        let mut pod = |name| world.pod_with("shop", name, name, A, Families::Dual);
        let (client, second, near) = (pod("client")?, pod("second")?, pod("near")?);
        world.manifests.write("strict", STRICT)?;
        world.start()?;
        world.mesh("shop")?;
        Ok(Self { world, client, second, near })
    }
}

/// The kernel knows the decision on connections of `client` to the peer server at `to`: one went through the agent, and
/// one directly.
pub fn becomes_direct(world: &World, client: &Pod, to: SocketAddr) -> Result<()> {
    let opened = world.counter(A, "DIRECT_OPENED")?;
    for _ in 0..2 {
        client.say(to, "")?.seen().with_context(|| format!("{} to {to}", client.name))?;
    }
    assert_eq!(world.counter(A, "DIRECT_OPENED")?, opened + 1, "{} to {to}", client.name);
    Ok(())
}

/// No connection is on its way any more, and nothing of one is left in the kernel.
pub fn nothing_is_left(world: &World) -> Result<()> {
    for map in ["ATTESTED", "PENDING", "DIRECT"] {
        eventually(format_args!("{map} is empty"), Patience::SHORT, || {
            let left = world.entries(A, map)?;
            anyhow::ensure!(left == 0, "{left} entries");
            Ok(Some(()))
        })?;
    }
    Ok(())
}

/// The SYNs of this pod to that port get no further than the node's bridge until [`release`]. Everything else passes.
pub fn hold_syns(world: &World, of: &Pod, port: u16) -> Result<()> {
    let [.., link] = of.ip.octets();
    world.node(A).host.nft(&format!(
        "add table bridge held; add chain bridge held forward {{ type filter hook forward priority 0; }}; \
         add rule bridge held forward iifname p{link} tcp dport {port} tcp flags & (syn | ack) == syn drop"
    ))
}

pub fn release(world: &World) -> Result<()> {
    world.node(A).host.nft("delete table bridge held")
}

/// Dials directly while SYNs are held, does `meanwhile`, and releases the SYN. What the client saw, 0.5 to some seconds
/// later: the kernel sends the SYN once more each second.
pub fn dial_across(
    world: &mut World,
    client: &Pod,
    to: SocketAddr,
    meanwhile: impl FnOnce(&mut World) -> Result<()>,
) -> Result<Dialled> {
    hold_syns(world, client, to.port())?;
    let opened = world.counter(A, "DIRECT_OPENED")?;
    thread::scope(|scope| {
        let dialled = scope.spawn(|| client.dial_once(to, &["--timeout", "6"]));
        let waits = eventually("it is dialled directly", Patience::SHORT, || {
            Ok((world.counter(A, "DIRECT_OPENED")? > opened).then_some(()))
        });
        let done = waits.and_then(|()| meanwhile(world));
        release(world)?;
        let report = dialled.join().expect("the thread does not panic");
        done.and(report)
    })
}

/// How many connections the peer server has accepted.
pub fn accepted(server: &mesh_tests::Process) -> Result<usize> {
    Ok(server.log()?.lines().filter(|line| line.contains("accepted")).count())
}

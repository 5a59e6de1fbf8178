//! A connection outlives what changes around it: policies that still permit it, certificates, the pool, endpoints and
//! the controller. Its traffic goes on both ways all the while and is compared byte for byte.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mesh_tests::{
    A, B, Patience, Pod, World, eventually,
    talk::{Ending, Read, Script, Then},
};

use crate::{
    bytes_stage::{Words, idle, play_between, script, to_end, write},
    cast::{Cast, policy},
};

const HBONE: u16 = 15008;
/// Seconds; the agents renew at half of it.
const CERTIFICATE_LIFE: u64 = 4;

/// Bytes both ways every few milliseconds for this long, then an end in order.
fn steady(length: Duration) -> Script {
    let both = || write(20_000).and_read(Read::Exactly(20_000)).after(40);
    let rounds = length.as_millis() / 40;
    let mut all = vec![(both(), both()); rounds as usize];
    all.extend([(idle().then(Then::Fin), to_end()), (to_end(), idle().then(Then::Fin))]);
    script("steady", all)
}

/// Runs `change` while steady conversations go on from `client` to each of `servers`; they must not notice.
fn unnoticed(
    world: &mut World,
    client: &Arc<Pod>,
    servers: &[&Arc<Pod>],
    length: Duration,
    change: impl FnOnce(&mut World) -> Result<()>,
) -> Result<()> {
    let (root, scripts, start) = (world.root().to_owned(), [steady(length)], Instant::now());
    thread::scope(|scope| {
        let playing: Vec<_> = servers
            .iter()
            .map(|server| {
                let (root, scripts) = (&root, &scripts);
                scope.spawn(move || {
                    play_between(root, &server.name, (client, server), scripts, 1, Duration::from_secs(30))
                })
            })
            .collect();
        thread::sleep(Duration::from_millis(300));
        let changed = change(world);
        assert!(start.elapsed() < length, "the change took longer than the conversation: {:?}", start.elapsed());
        for play in playing {
            let played = play.join().expect("it does not panic")?;
            let (client, server) = (&played[0].client, &played[0].server);
            let rounds = client.len() - 2;
            for heard in client[..rounds].iter().chain(&server[..rounds]) {
                assert_eq!((heard.wrote, heard.read, heard.wrong_at), (20_000, 20_000, None), "{heard:?}");
            }
            assert_eq!((&client[rounds + 1].end, &server[rounds].end), (&Ending::Eof, &Ending::Eof));
        }
        changed
    })
}

/// The serial numbers of the certificates that node a has for this identity.
fn serial(world: &World, identity: &str) -> Result<String> {
    let all = world.ask_agent(A, &["config", "certs"])?;
    let own = all.iter().find(|certificate| certificate["identity"] == identity);
    own.and_then(|own| own["serial"].as_str()).map(str::to_owned).with_context(|| format!("no certificate: {all:?}"))
}

#[test]
fn policies_that_still_permit_it() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("outlives policies")?;
    unnoticed(&mut world, &client, &[&near, &far], Duration::from_secs(5), |world| {
        world.apply("other", &policy("other", "somebody-else", "DENY", "[{}]"))?;
        let permits = "[{ from: [{ source: { namespaces: ['shop'] } }] }]";
        for server in ["near", "far"] {
            world
                .apply(&format!("permits-{server}"), &policy(&format!("permits-{server}"), server, "ALLOW", permits))?;
        }
        let differently = "[{ from: [{ source: { ipBlocks: ['10.244.0.0/16'] } }] }]";
        for server in ["near", "far"] {
            let name = format!("permits-{server}");
            world.apply(&name, &policy(&name, server, "ALLOW", differently))?;
            world.delete(&name)?;
        }
        Ok(())
    })
}

#[test]
fn its_certificate_and_its_place_in_the_pool() -> Result<()> {
    let mut world = World::new("outlives certificates")?;
    let client = world.pod("shop", "client", A)?;
    let far = world.pod("shop", "far", B)?;
    world.agent_options = vec![format!("--certificate-ttl={CERTIFICATE_LIFE}")];
    world.start()?;
    world.mesh("shop")?;
    far.serve("echo", 7000)?;
    unnoticed(&mut world, &client.clone(), &[&far.clone()], Duration::from_secs(CERTIFICATE_LIFE + 3), |world| {
        let (start, first) = (Instant::now(), serial(world, &client.identity())?);
        let tunnels = far.clients_of(HBONE)?;
        assert_eq!(tunnels.len(), 1, "{tunnels:?}");
        eventually("the certificate is renewed", Patience::LONG, || {
            Ok((serial(world, &client.identity())? != first).then_some(()))
        })?;
        // A new connection goes by a tunnel of its own, made with the new certificate; the old one stays for its
        // stream.
        let held = client.hold(far.at(7000))?;
        let now = far.clients_of(HBONE)?;
        assert!(now.len() == 2 && now.contains(&tunnels[0]), "{tunnels:?}, then {now:?}");
        // Past the end of the certificate with which it began.
        thread::sleep(Duration::from_secs(CERTIFICATE_LIFE + 1).saturating_sub(start.elapsed()));
        assert!(client.say(far.at(7000), "again")?.echoed());
        assert!(held.is_open()?);
        Ok(())
    })
}

#[test]
fn its_service_and_its_controller() -> Result<()> {
    let Cast { mut world, client, near, far } = Cast::meshed("outlives the controller")?;
    far.serve("echo", 7000)?;
    near.serve("greet", 7000)?;
    let service = world.service("shop", "web", 80, 7000, &[&far])?;
    world.settle()?;
    let held = client.hold(service.addr())?;
    unnoticed(&mut world, &client.clone(), &[&near.clone(), &far.clone()], Duration::from_secs(7), |world| {
        world.manifests.write(
            "endpointslice-shop-web",
            &format!(
                "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {{ name: web-1, namespace: shop, labels: {{ kubernetes.io/service-name: web }} }}\n\
                 addressType: IPv4\nports: [{{ name: tcp, protocol: TCP, port: 7000 }}]\n\
                 endpoints: [{{ addresses: [{}], conditions: {{ ready: true }}, nodeName: a, \
                 targetRef: {{ kind: Pod, namespace: shop, name: near, uid: {} }} }}]\n",
                near.ip, near.uid
            ),
        )?;
        eventually("the service has its other endpoint", Patience::LONG, || {
            Ok(client.say(service.addr(), "")?.text.starts_with("hello").then_some(()))
        })?;
        assert!(held.is_open()?, "the connection to the endpoint that went");
        world.controller()?.process.kill()?;
        thread::sleep(Duration::from_secs(1));
        assert!(client.say(far.at(7000), "without a controller")?.echoed());
        world.start_controller()?;
        for node in [A, B] {
            eventually("the agents are connected again", Patience::LONG, || {
                Ok((world.status(node)?["controller_connected"] == true).then_some(()))
            })?;
        }
        assert!(client.say(far.at(7000), "with a new one")?.echoed());
        assert!(held.is_open()?);
        Ok(())
    })
}

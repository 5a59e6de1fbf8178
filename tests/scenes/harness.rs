//! The harness itself, without a mesh: what scenes rely on, and that nothing stays behind.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::Result;
use mesh_tests::{A, B, End, Patience, World, eventually, kube_folder, leftovers};

#[test]
fn pods_talk_across_nodes_and_the_canary_is_readable() -> Result<()> {
    let mut world = World::new("plaintext")?;
    let client = world.pod("shop", "client", A)?;
    let server = world.pod("shop", "server", B)?;
    server.serve("echo", 7000)?;
    server.serve("peer", 7001)?;
    server.serve("greet", 7002)?;
    server.serve("reset", 7003)?;
    server.serve("slow", 7004)?;

    let capture = world.capture()?;
    let echo = client.say(server.at(7000), "canary-in-plaintext")?;
    assert!(echo.echoed(), "{echo:?}");
    assert_eq!(echo.text, "canary-in-plaintext");
    assert!(capture.contains(b"canary-in-plaintext")?);
    assert!(!capture.contains(b"canary-that-nobody-sent")?);
    capture.stop()?;

    let dialled = client.say(server.at(7001), "")?;
    let seen = dialled.seen()?;
    assert_eq!(Some(seen.accepted), dialled.local);
    assert_eq!(seen.getpeername, seen.accepted);
    assert_eq!(seen.getsockname, server.at(7001));

    let greeted = client.dial_once(server.at(7002), &["--listen-first", "--text", "bye"])?;
    assert!(greeted.text.starts_with(&format!("hello {}:", client.ip)) && greeted.text.ends_with("bye"), "{greeted:?}");
    let reset = client.say(server.at(7003), "please reset")?;
    assert_eq!(reset.end, End::Reset, "{reset:?}");
    let refused = client.say(server.at(7999), "")?;
    assert_eq!(refused.end, End::Refused, "{refused:?}");
    let slow = client.push(server.at(7004), 1 << 20)?;
    assert_eq!(slow.text.trim(), format!("{} {}", slow.sent, slow.sent_checksum), "{slow:?}");
    assert_eq!(client.dial(server.at(7000), &["--text", "x", "--count", "20"])?.len(), 20);
    Ok(())
}

#[test]
fn real_programs_serve_and_the_outside_is_reached() -> Result<()> {
    let mut world = World::new("programs")?;
    let client = world.pod("shop", "client", B)?;
    let server = world.pod("shop", "server", A)?;
    let nginx = server.nginx(80, "hello from nginx\n")?;
    server.redis(6379)?;
    let (outside, address) = world.outside(8080)?;
    outside.serve("echo", 8080)?;

    assert_eq!(client.curl(&format!("http://{}/", server.ip))?, "hello from nginx\n");
    assert_eq!(nginx.access_log(1)?, [format!("{} \"GET / HTTP/1.1\" 200", client.ip)]);
    let pong = client.ask(server.at(6379), "PING\\r\\n")?;
    assert_eq!(pong.text, "+PONG\r\n");
    assert!(client.say(address, "far away")?.echoed());

    // A cluster IP is routed nowhere.
    let service = world.service("shop", "web", 80, 80, &[&server])?;
    let unreached = client.dial_once(service.addr(), &["--timeout", "0.2"])?;
    assert!(!unreached.connected, "{unreached:?}");

    // A connection that is held sees its server die.
    let echo = server.serve("echo", 7000)?;
    let held = client.hold(server.at(7000))?;
    assert!(held.is_open()?);
    echo.kill()?;
    let ended = held.ended(Patience::SHORT)?;
    assert!(ended.received > 0 && matches!(ended.end, End::Eof | End::Reset), "{ended:?}");
    Ok(())
}

#[test]
fn a_world_leaves_nothing() -> Result<()> {
    let mut world = World::new("leaves nothing")?;
    let id = world.id().to_owned();
    let pod = world.pod("shop", "pod", A)?;
    pod.serve("echo", 7000)?;
    let own = |id: &str| leftovers().into_iter().filter(|path| path.display().to_string().contains(id)).count();
    assert!(own(&id) >= 7, "five namespaces, a cgroup and a folder at least: {:?}", leftovers());
    drop(world);
    assert_eq!(own(&id), 0, "{:?}", leftovers());
    Ok(())
}

/// Runs this verb of mesh-test-app, kills it once it has said whose world it is, and waits until nothing of that world
/// is left. Gives what else it said.
fn killed(verb: &str, parts: usize) -> Result<String> {
    let app = mesh_tests::programs_dir()?.join("mesh-test-app");
    let mut owner = Command::new(app).arg(verb).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(owner.stdout.take().expect("it was piped")).read_line(&mut line)?;
    let said = line.trim().strip_prefix("world ").expect("the program prints its world's id");
    let (id, more) = said.split_once(' ').unwrap_or((said, ""));
    let of_it = || leftovers().into_iter().filter(|path| path.display().to_string().contains(id)).count();
    assert!(of_it() >= parts, "{:?}", leftovers());

    owner.kill()?;
    owner.wait()?;
    eventually("the janitor has removed the world", Patience::SHORT, || Ok((of_it() == 0).then_some(())))?;
    Ok(more.to_owned())
}

#[test]
fn a_killed_process_leaves_nothing() -> Result<()> {
    killed("world", 7).map(drop)
}

/// A folder and a cgroup, and the API server in it.
#[test]
fn a_killed_process_leaves_no_kubernetes_api() -> Result<()> {
    if kube_folder()?.is_none() {
        return Ok(());
    }
    let pid = killed("kube-api", 2)?;
    // Whoever inherited it may not have asked for its end yet; then it has no command line.
    let line = fs::read(Path::new("/proc").join(&pid).join("cmdline")).unwrap_or_default();
    assert!(!pid.is_empty() && line.is_empty(), "the API server {pid} still runs");
    Ok(())
}

/// On a Kubernetes API, and gone with their DEL.
#[test]
fn plugins_make_pods_that_reach_each_other() -> Result<()> {
    if kube_folder()?.is_none() {
        return Ok(());
    }
    let mut world = World::on_kubernetes("pods by plugins")?;
    let (cart, web) = (world.pod("shop", "cart", A)?, world.pod("shop", "web", B)?);
    web.serve("echo", 7000)?;
    assert!(cart.say(web.at(7000), "hello")?.echoed());
    let path = format!("/api/v1/namespaces/shop/pods/{}", web.name);
    let pod = world.api()?.get(&path)?.unwrap_or(serde_json::Value::Null);
    assert_eq!(pod["status"]["podIP"], web.ip.to_string());
    assert_eq!(pod["metadata"]["uid"], web.uid);
    world.delete_pod(&web)?;
    assert_eq!(world.api()?.get(&path)?, None);
    assert!(!world.node(B).cni_conf_dir().join("00-nodemesh.conflist").exists());
    Ok(())
}

//! What a connect that the kernel denies looks like to programs of all sorts: like a closed port.

use std::time::Duration;

use anyhow::Result;
use mesh_tests::{A, installed};

use crate::cast::{Cast, policy};

#[test]
fn every_client_takes_it_for_a_closed_port() -> Result<()> {
    let Cast { mut world, client, near, .. } = Cast::meshed("denied clients")?;
    near.serve("echo", 7000)?;
    world.apply("deny", &policy("nobody", "near", "DENY", "[{ to: [{ operation: { ports: ['7000'] } }] }]"))?;
    // The agent's answer; from then on it is the kernel's.
    assert!(client.say(near.at(7000), "first")?.turned_away());
    let run = |program: &str, arguments: &[&str]| -> Result<String> {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let output = client.output(installed(program)?.as_path(), &arguments, Duration::from_secs(5))?;
        Ok(format!("{:?} {}", output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat())))
    };
    let said = run("curl", &["-sS", &format!("http://{}", near.at(7000))])?;
    assert!(said.starts_with("Some(7)"), "curl could not connect: {said}");
    let (ip, port) = (near.ip, 7000);
    for (what, code) in [
        ("blocking", format!("import socket; socket.create_connection(('{ip}', {port}), 3)")),
        (
            "non-blocking",
            format!("import socket; s = socket.socket(); s.setblocking(False); print(s.connect_ex(('{ip}', {port})))"),
        ),
        ("asyncio", format!("import asyncio; asyncio.run(asyncio.open_connection('{ip}', {port}))")),
    ] {
        let said = run("python3", &["-c", &code])?;
        assert!(said.contains("ConnectionRefusedError") || said.contains("111"), "{what}: {said}");
    }
    assert_eq!(world.counter(A, "CONNECT_DENIED")?, 4);
    Ok(())
}

//! TCP stays TCP through the mesh: half-close, reset and back-pressure arrive at the other end.

use anyhow::Result;
use mesh_tests::End;

use crate::cast::Cast;

const MIB: u64 = 1 << 20;

#[test]
fn a_half_closed_connection_still_answers() -> Result<()> {
    let Cast { world, client, near, far } = Cast::meshed("half-close")?;
    for server in [&near, &far] {
        server.serve("echo", 7000)?;
        // The client closes its side after the last byte; the answer comes after that.
        let echo = client.push(server.at(7000), 3 * MIB + 17)?;
        assert!(echo.echoed(), "{}: {echo:?}", server.name);
        // The server notices a half-close without any data.
        let silent = client.say(server.at(7000), "")?;
        assert_eq!((silent.end, silent.received), (End::Eof, 0), "{silent:?}");
    }
    drop(world);
    Ok(())
}

#[test]
fn a_reset_is_a_reset() -> Result<()> {
    let Cast { world, client, near, far } = Cast::meshed("reset")?;
    for server in [&near, &far] {
        server.serve("reset", 7003)?;
        let report = client.say(server.at(7003), "please reset")?;
        assert!(report.connected);
        assert_eq!(report.end, End::Reset, "{}: {report:?}", server.name);
    }
    drop(world);
    Ok(())
}

#[test]
fn a_slow_reader_slows_its_sender_and_gets_everything() -> Result<()> {
    let Cast { world, client, near, far } = Cast::meshed("slow reader")?;
    for server in [&near, &far] {
        server.serve("slow", 7004)?;
        let bytes = (32 * MIB).to_string();
        let report = client.dial_once(server.at(7004), &["--bytes", &bytes, "--timeout", "20"])?;
        assert_eq!(report.text.trim(), format!("{} {}", 32 * MIB, report.sent_checksum), "{report:?}");
        // It sleeps a second before it reads: a sender that was done earlier left its bytes with the agent.
        assert!(report.send_ms > 1000.0, "{}: no back-pressure, 32 MiB taken in {} ms", server.name, report.send_ms);
    }
    drop(world);
    Ok(())
}

//! Many short connections: a server on several ports, and a client that asks at many addresses in turn.

use std::{
    io::{self, Read, Write},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use mesh_tests::{End, Knocked};

use crate::dial::end_of;

/// Until a connection is given up.
const LIMIT: Duration = Duration::from_secs(5);

#[derive(Args)]
pub struct Doors {
    #[arg(long, required = true, value_delimiter = ',')]
    ports: Vec<u16>,
}

/// Says "open" when every port listens.
pub fn doors(Doors { ports }: &Doors) -> Result<()> {
    let mut threads = Vec::new();
    for port in ports {
        let listener =
            TcpListener::bind((Ipv6Addr::UNSPECIFIED, *port)).with_context(|| format!("listen on {port}"))?;
        threads.push(thread::spawn(move || -> io::Result<()> {
            let answer = listener.local_addr()?.port().to_string();
            loop {
                let (mut stream, _) = listener.accept()?;
                // Who left already is no fault of the door.
                let _ = stream.write_all(answer.as_bytes());
            }
        }));
    }
    println!("open");
    for thread in threads {
        thread.join().ok().context("a door's thread panicked")?.context("a door closed")?;
    }
    Ok(())
}

pub fn knock(to: &[SocketAddr]) -> Result<()> {
    let mut out = io::stdout().lock();
    for to in to {
        let mut text = String::new();
        let end = match listen(to, &mut text) {
            Ok(()) => End::Eof,
            Err(error) => end_of(&error),
        };
        serde_json::to_writer(&mut out, &Knocked { to: *to, end, text }).context("write the report")?;
        writeln!(out).context("write the report")?;
    }
    Ok(())
}

fn listen(to: &SocketAddr, text: &mut String) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    // Nobody needs to wait for what this says. Whoever has refused it already is heard below.
    let _ = stream.shutdown(Shutdown::Write);
    stream.read_to_string(text).map(drop)
}

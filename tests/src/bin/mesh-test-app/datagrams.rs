//! UDP: a server that sends each datagram back, and a client that says what it sent and what came back.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result};
use clap::Args;
use mesh_tests::Exchanged;

/// Until an answer is given up.
const LIMIT: Duration = Duration::from_secs(2);
/// No datagram is longer.
const LONGEST: usize = 65_535;

#[derive(Args)]
pub struct Datagrams {
    #[arg(long)]
    to: SocketAddr,
    /// Sockets, one after the other
    #[arg(long, default_value_t = 1)]
    sockets: u32,
    /// Datagrams of each
    #[arg(long, default_value_t = 1)]
    count: u32,
    /// Bytes of a socket's first one; each further one has one more
    #[arg(long, default_value_t = 10)]
    bytes: usize,
    /// Nobody answers
    #[arg(long)]
    unanswered: bool,
    /// Without connect(2)
    #[arg(long)]
    unconnected: bool,
}

/// Says "open" when the port is bound.
pub fn echo(address: IpAddr, port: u16) -> Result<()> {
    let socket = UdpSocket::bind((address, port)).with_context(|| format!("bind {address} port {port}"))?;
    println!("open");
    let mut buffer = vec![0; LONGEST];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                socket.send_to(&buffer[..length], from).with_context(|| format!("answer {from}"))?;
            }
            // Somebody else's port was closed when its answer came.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error).context("receive"),
        }
    }
}

/// Prints one line of JSON of all.
pub fn exchange(plan: &Datagrams) -> Result<()> {
    let Datagrams { to, sockets, count, bytes, unanswered, unconnected } = plan;
    let any = if to.is_ipv6() { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
    let mut all = Exchanged::default();
    let mut buffer = vec![0; LONGEST];
    for _ in 0..*sockets {
        let socket = UdpSocket::bind((any, 0)).context("bind")?;
        socket.set_read_timeout(Some(LIMIT)).context("limit")?;
        if !unconnected {
            socket.connect(to).with_context(|| format!("connect to {to}"))?;
        }
        for length in (*bytes..).take(*count as usize) {
            let payload = vec![b'x'; length];
            let sent = if *unconnected { socket.send_to(&payload, to) } else { socket.send(&payload) };
            all.sent += 1;
            all.sent_bytes += sent.with_context(|| format!("send to {to}"))? as u64;
            if !unanswered {
                let length = socket.recv(&mut buffer).with_context(|| format!("wait for {to}"))?;
                all.received += 1;
                all.received_bytes += length as u64;
            }
        }
    }
    println!("{}", serde_json::to_string(&all).context("write the report")?);
    Ok(())
}

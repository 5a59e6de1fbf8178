//! The servers: one thread a connection.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use mesh_tests::{Seen, checksum};

/// Serves one accepted connection; the address is what accept(2) gave.
pub type Serve = fn(TcpStream, SocketAddr) -> std::io::Result<()>;

pub fn run(address: IpAddr, port: u16, serve: Serve) -> Result<()> {
    let listener = TcpListener::bind((address, port)).with_context(|| format!("listen on {address}:{port}"))?;
    loop {
        serve_one(&listener, serve)?;
    }
}

/// [`peer`], with a full queue (listen(2)) for a while after the first connection.
pub fn late(address: IpAddr, port: u16) -> Result<()> {
    let listener = TcpListener::bind((address, port)).with_context(|| format!("listen on {address}:{port}"))?;
    // One more than this may wait (`sk_acceptq_is_full`).
    rustix::net::listen(&listener, 1).context("listen")?;
    serve_one(&listener, peer)?;
    thread::sleep(Duration::from_millis(1200));
    loop {
        serve_one(&listener, peer)?;
    }
}

fn serve_one(listener: &TcpListener, serve: Serve) -> Result<()> {
    let (stream, accepted) = listener.accept().context("accept")?;
    thread::spawn(move || {
        if let Err(error) = serve(stream, accepted) {
            println!("{accepted}: {error}");
        }
    });
    Ok(())
}

pub fn echo(mut stream: TcpStream, _: SocketAddr) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(Shutdown::Write),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

pub fn greet(mut stream: TcpStream, accepted: SocketAddr) -> std::io::Result<()> {
    writeln!(stream, "hello {accepted}, this is {}", stream.local_addr()?)?;
    echo(stream, accepted)
}

pub fn peer(mut stream: TcpStream, accepted: SocketAddr) -> std::io::Result<()> {
    let seen = Seen { accepted, getpeername: stream.peer_addr()?, getsockname: stream.local_addr()? };
    let line = serde_json::to_string(&seen).map_err(std::io::Error::other)?;
    println!("{line}");
    writeln!(stream, "{line}")?;
    stream.shutdown(Shutdown::Write)?;
    drain(stream).map(drop)
}

pub fn slow(mut stream: TcpStream, _: SocketAddr) -> std::io::Result<()> {
    thread::sleep(Duration::from_secs(1));
    let (mut bytes, mut sum) = (0, checksum(None, &[]));
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            writeln!(stream, "{bytes} {sum}")?;
            return stream.shutdown(Shutdown::Write);
        }
        bytes += length;
        sum = checksum(Some(sum), &buffer[..length]);
        thread::sleep(Duration::from_millis(10));
    }
}

pub fn reset(mut stream: TcpStream, _: SocketAddr) -> std::io::Result<()> {
    // How much does not matter, only that the connection was in use.
    let _ = stream.read(&mut [0; 16])?;
    // Close without lingering: the kernel sends RST instead of FIN.
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    Ok(())
}

pub fn sink(stream: TcpStream, accepted: SocketAddr) -> std::io::Result<()> {
    let bytes = drain(stream)?;
    println!("{accepted}: {bytes} bytes");
    Ok(())
}

fn drain(mut stream: TcpStream) -> std::io::Result<u64> {
    let mut buffer = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(length) => bytes += length as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

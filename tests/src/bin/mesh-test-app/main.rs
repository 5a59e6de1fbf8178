//! The programs that pods run in tests, and the helper that puts a program into a pod. Blocking and simple on purpose:
//! they know nothing of a mesh.

mod bench;
mod datagrams;
mod dial;
mod enter;
mod forge;
mod hbone;
mod http;
mod knock;
mod serve;
mod socket;
mod talk;

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(name = "mesh-test-app", about)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Enter a network namespace and a cgroup, then become the command
    Exec {
        /// A namespace's file; absent: stay
        #[arg(long)]
        netns: Option<PathBuf>,
        /// A cgroup v2 folder
        #[arg(long)]
        cgroup: PathBuf,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Wait until standard input closes, then remove every world of a process
    Janitor {
        #[arg(long)]
        pid: u32,
    },
    /// Make a world with one pod, print its id and sleep: somebody will kill this
    World,
    /// Start a Kubernetes API without a world, print its id and process, and sleep: somebody will kill this
    KubeApi,
    /// Server: sends back what it gets; closes its side when the client did
    Echo(Listen),
    /// Server: speaks first and names the addresses it sees, then echoes
    Greet(Listen),
    /// Server: answers the addresses that it sees as JSON and closes
    Peer(Listen),
    /// Server: sleeps a second, reads slowly, then answers the number of bytes and their checksum
    Slow(Listen),
    /// Server: reads once, then resets the connection
    Reset(Listen),
    /// Server: reads everything and says nothing
    Sink(Listen),
    /// Server: as peer, but after the first connection it takes no other for 1.2 seconds, and only two may wait
    Late(Listen),
    /// Server: sends back each datagram of UDP
    UdpEcho(Listen),
    /// Client: sends datagrams of UDP, waits for the answer of each, prints one JSON line of all
    Datagrams(datagrams::Datagrams),
    /// Client: connects, sends, prints one JSON line for each connection
    Send(dial::Send),
    /// Server: answers the port's number on each of several ports and closes
    Doors(knock::Doors),
    /// Client: connects to each address in turn and listens to the end, prints one JSON line for each
    Knock {
        #[arg(required = true)]
        to: Vec<SocketAddr>,
    },
    /// Client: HBONE in every wrong way, as a file says
    Hbone {
        #[arg(long)]
        plan: PathBuf,
    },
    /// Server: HTTP/1.1 and HTTP/2, answers what it was asked as JSON; requests say what else it does
    Http {
        #[arg(long)]
        port: u16,
        #[arg(long)]
        name: String,
        /// Over TLS
        #[arg(long)]
        tls: bool,
        /// HTTP/2 alone, which begins with the server's settings
        #[arg(long)]
        http2: bool,
    },
    /// Client: sends requests as this JSON says, prints one line of JSON of what came of them
    Ask {
        #[arg(long)]
        plan: String,
    },
    /// Attacker: one SYN with this source address
    Forge {
        #[arg(long)]
        from: SocketAddr,
        #[arg(long)]
        to: SocketAddr,
    },
    /// Client: one connection, a byte there and back each 20 ms until it ends
    Hold {
        #[arg(long)]
        to: SocketAddr,
        /// End it in order once this file is there
        #[arg(long)]
        until: Option<PathBuf>,
    },
    /// Load for benchmarks, and what it meets
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Client: plays the client's part of scripts, prints a JSON line for each
    Talk(talk::Talk),
    /// Server: plays the server's part of scripts
    ListenToScripts(talk::Stage),
}

#[derive(Args)]
struct Listen {
    #[arg(long)]
    port: u16,
    #[arg(long, default_value = "0.0.0.0")]
    address: std::net::IpAddr,
}

fn main() -> Result<()> {
    match Arguments::parse().verb {
        Verb::Exec { netns, cgroup, command } => enter::become_command(netns.as_deref(), &cgroup, &command),
        Verb::Janitor { pid } => enter::janitor(pid),
        Verb::World => enter::make_world(),
        Verb::KubeApi => enter::start_kube_api(),
        Verb::Echo(at) => serve::run(at.address, at.port, serve::echo),
        Verb::Greet(at) => serve::run(at.address, at.port, serve::greet),
        Verb::Peer(at) => serve::run(at.address, at.port, serve::peer),
        Verb::Slow(at) => serve::run(at.address, at.port, serve::slow),
        Verb::Reset(at) => serve::run(at.address, at.port, serve::reset),
        Verb::Sink(at) => serve::run(at.address, at.port, serve::sink),
        Verb::Late(at) => serve::late(at.address, at.port),
        Verb::UdpEcho(at) => datagrams::echo(at.address, at.port),
        Verb::Datagrams(plan) => datagrams::exchange(&plan),
        Verb::Send(send) => dial::send(&send),
        Verb::Doors(doors) => knock::doors(&doors),
        Verb::Knock { to } => knock::knock(&to),
        Verb::Hbone { plan } => hbone::run(&plan),
        Verb::Http { port, name, tls, http2 } => http::serve(port, name, tls, http2),
        Verb::Ask { plan } => http::ask(&plan),
        Verb::Forge { from, to } => forge::syn(from, to),
        Verb::Hold { to, until } => dial::hold(to, until.as_deref()),
        Verb::Bench(bench) => bench::run(bench),
        Verb::Talk(talk) => talk::talk(&talk),
        Verb::ListenToScripts(stage) => talk::listen(&stage),
    }
}

//! Load for benchmarks: servers that cost little, clients that print one JSON line of figures. A client fails only if
//! it could not measure; errors of single connections are counted.

mod clients;
mod cold;
mod http;
mod serve;

use std::net::SocketAddr;

use anyhow::Result;
use clap::Subcommand;

pub use serve::raise_descriptors;

#[derive(Subcommand)]
pub enum Bench {
    /// Server: echoes on --echo, counts and forgets on --sink, where it answers the number of bytes at the end
    Serve {
        #[arg(long)]
        echo: u16,
        /// Echoes on as many ports, --echo the first of them; that one listens last
        #[arg(long, default_value_t = 1)]
        ports: u16,
        #[arg(long)]
        sink: Option<u16>,
    },
    /// Client: pushes bytes into a sink
    Bulk {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long, default_value_t = 1)]
        connections: usize,
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
    /// Client: one message there and back at a time, on one connection to an echo
    PingPong {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long, default_value_t = 1024)]
        size: usize,
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
    /// Client: connect, one byte there and back, close, again and again
    Connects {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long, default_value_t = 1)]
        threads: usize,
        /// For this long; or see --count
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
        /// This many in all, and the rate of each tenth of them
        #[arg(long)]
        count: Option<usize>,
    },
    /// Client: one connection after the other to each of these, one byte there and back
    Each {
        #[arg(long, value_delimiter = ',', required = true)]
        to: Vec<SocketAddr>,
        /// Threads
        #[arg(long, default_value_t = 16)]
        threads: usize,
        /// Seconds after which those that have not answered are given up
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
    },
    /// Client: one connection to each of so many ports, one after the other: connect, one byte there and back
    First {
        /// The first of them
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        ports: u16,
    },
    /// Client: so many connections at once, from one thread: connect, one byte there and back
    AtOnce {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long, default_value_t = 1000)]
        connections: usize,
    },
    /// Server: answers every HTTP/1.1 request with so many bytes
    HttpServe {
        #[arg(long)]
        port: u16,
        #[arg(long, default_value_t = 1024)]
        size: usize,
    },
    /// Client: HTTP/1.1 requests, one after the other on each of so many connections
    Http {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        host: String,
        #[arg(long, default_value = "/")]
        path: String,
        /// As in "x-user: one"
        #[arg(long)]
        header: Vec<String>,
        #[arg(long, default_value_t = 1)]
        connections: usize,
        #[arg(long, default_value_t = 3.0)]
        seconds: f64,
    },
    /// Client: opens connections, lets each be answered once, prints "holding" and keeps them until it is killed
    Hold {
        #[arg(long)]
        to: SocketAddr,
        #[arg(long)]
        connections: usize,
    },
}

pub fn run(bench: Bench) -> Result<()> {
    serve::raise_descriptors()?;
    match bench {
        Bench::Serve { echo, ports, sink } => serve::run(echo, ports, sink),
        Bench::Bulk { to, connections, seconds } => clients::bulk(to, connections, seconds),
        Bench::PingPong { to, size, seconds } => clients::ping_pong(to, size, seconds),
        Bench::Connects { to, threads, seconds, count } => clients::connects(to, threads, seconds, count),
        Bench::Each { to, threads, seconds } => clients::each(&to, threads, seconds),
        Bench::First { to, ports } => cold::first(to, ports),
        Bench::AtOnce { to, connections } => cold::at_once(to, connections),
        Bench::HttpServe { port, size } => http::serve(port, size),
        Bench::Http { to, host, path, header, connections, seconds } => {
            http::load(to, &host, &path, &header, connections, seconds)
        }
        Bench::Hold { to, connections } => clients::hold(to, connections),
    }
}

//! Programs of pods that speak UDP.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    ops::AddAssign,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::{Patience, Place, Process, config};

/// What a client sent and what came back: datagrams and bytes of payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exchanged {
    pub sent: u64,
    pub sent_bytes: u64,
    pub received: u64,
    pub received_bytes: u64,
}

impl AddAssign for Exchanged {
    fn add_assign(&mut self, other: Self) {
        self.sent += other.sent;
        self.sent_bytes += other.sent_bytes;
        self.received += other.received;
        self.received_bytes += other.received_bytes;
    }
}

impl Place {
    /// Sends each datagram back that comes to this port, over both address families; runs until the world ends.
    pub fn udp_echo(&self, port: u16) -> Result<Arc<Process>> {
        let any = IpAddr::from(Ipv6Addr::UNSPECIFIED).to_string();
        let words = ["udp-echo", "--port", &port.to_string(), "--address", &any].map(str::to_owned);
        let process = self.keep(&format!("udp-echo-{port}"), &config::built("mesh-test-app")?, &words)?;
        process.says("open", Patience::SHORT)?;
        Ok(process)
    }

    /// Sends datagrams with mesh-test-app's `datagrams` and these options, and waits for the answer of each.
    pub fn datagrams(&self, to: SocketAddr, options: &[&str]) -> Result<Exchanged> {
        let to = to.to_string();
        let words: Vec<String> =
            ["datagrams", "--to", &to].iter().chain(options).map(|word| (*word).to_owned()).collect();
        let output = self.output(&config::built("mesh-test-app")?, &words, Duration::from_secs(20))?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "datagrams to {to}: {}: {}", output.status, errors.trim());
        let text = String::from_utf8_lossy(&output.stdout);
        serde_json::from_str(text.trim()).with_context(|| format!("not a report: {text}"))
    }
}

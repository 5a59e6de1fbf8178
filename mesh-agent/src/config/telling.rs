//! Arguments on what is told of connections and requests: spans and the access log.

use clap::{Args, ValueEnum};
use mesh_common::model::{telemetry::OtlpProtocol, traffic::Percent};

#[derive(Debug, Args)]
pub struct Telling {
    /// Whether anything is told of single connections and requests. Off: no metrics of them, no flow records, sums,
    /// edges, spans or lines of the access log, whatever other options and the settings of pods say. Still counted and
    /// audited is what was refused, and counted what policies say that are not enforced
    #[arg(long, env = "MESH_TELEMETRY", default_value = "on")]
    pub telemetry: Switch,
    /// Collector of spans, as in `http://collector.observability:4317`: the name of a service that the mesh knows, any
    /// other DNS name, or an address; `https://` by the trusted roots of the image. Without it only pods whose own
    /// settings name a collector have spans
    #[arg(long, env = "MESH_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// What the collector takes: OTLP over gRPC, or protobuf over HTTP to URL/v1/traces
    #[arg(long, env = "MESH_OTLP_PROTOCOL", default_value = "grpc")]
    pub otlp_protocol: Protocol,
    /// Spans, and lines of the access log, that may wait for one collector; more are lost, and counted
    #[arg(long, default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    pub otlp_queue: u32,
    /// Percent of the traces that begin at this node's pods, where no setting of theirs says it; 0 to 100
    #[arg(long, env = "MESH_TRACING_SAMPLING", default_value = "1", value_parser = percent, value_name = "PERCENT")]
    pub tracing_sampling: Percent,
    /// A line on standard output for each connection and each request. Not given: what was refused or failed has one
    /// among the agent's own logs, 50 a second at most. What a pod's own settings say is done in any case, as json
    /// where this says nothing else
    #[arg(long, env = "MESH_ACCESS_LOG")]
    pub access_log: Option<AccessLogFormat>,
    /// Only of what was refused, failed, or answered with 4xx or 5xx
    #[arg(long, requires = "access_log")]
    pub access_log_errors: bool,
    /// Percent of them that have a line, where no setting of their pods says it; 0 to 100
    #[arg(long, default_value = "100", value_parser = percent, requires = "access_log", value_name = "PERCENT")]
    pub access_log_sampling: Percent,
    /// Lines of the access log go to the collector of --otlp-endpoint too
    #[arg(long, requires = "otlp_endpoint")]
    pub access_log_otlp: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Protocol {
    Grpc,
    Http,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AccessLogFormat {
    Json,
    Text,
    Off,
}

impl Telling {
    pub fn is_off(&self) -> bool {
        self.telemetry == Switch::Off
    }
}

impl From<Protocol> for OtlpProtocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Grpc => Self::Grpc,
            Protocol::Http => Self::Http,
        }
    }
}

/// In millionths; what is finer is cut off.
fn percent(text: &str) -> Result<Percent, String> {
    match text.trim_end_matches('%').parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(Percent((percent * 10_000.0).round() as u32)),
        _ => Err(format!("`{text}` is no number from 0 to 100")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_in_percent() {
        for (text, millionths) in [("0", 0), ("1", 10_000), ("0.01", 100), ("100", 1_000_000), ("12.5%", 125_000)] {
            assert_eq!(percent(text), Ok(Percent(millionths)), "{text}");
        }
        for text in ["", "-1", "100.1", "NaN", "inf", "ten"] {
            assert!(percent(text).is_err(), "{text}");
        }
    }
}

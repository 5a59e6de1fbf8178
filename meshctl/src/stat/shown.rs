//! Sums as a table, and as records.

use std::{io::Write, time::Duration};

use mesh_common::proto::nodemesh::{Path, Security};
use serde_json::{Map, Value, json};

use super::{
    By,
    sum::{Key, Sum},
};
use crate::{
    client::Failure,
    output::{Cell, Mood, Screen, Table},
    words,
};

/// A share below this is shown as bad.
pub const GOOD: f64 = 0.99;

/// The columns after those that name the row.
pub const FIGURES: [&str; 14] = [
    "REQ/S", "SUCCESS", "P50", "P95", "P99", "CONN/S", "OPEN", "REFUSED", "FAILED", "BYTES/S", "RTT", "TLS",
    "ATTESTED", "UDP/S",
];

/// What names a row.
pub fn columns(by: By) -> [&'static str; 2] {
    match by {
        By::Workloads => ["WORKLOAD", "NODES"],
        By::Services => ["SERVICE", "NODES"],
        By::Routes => ["SERVICE", "ROUTE"],
        By::Edges => ["SOURCE", "DESTINATION"],
    }
}

pub fn names(by: By, key: &Key, sum: &Sum) -> [String; 2] {
    match by {
        By::Workloads => [key.destination.clone(), sum.nodes.len().to_string()],
        By::Services => [key.service.clone(), sum.nodes.len().to_string()],
        By::Routes => [key.service.clone(), key.route.clone()],
        By::Edges => [key.source.clone(), key.destination.clone()],
    }
}

pub fn figures(sum: &Sum) -> [(String, Mood); 14] {
    let plain = |text: String| (text, Mood::Plain);
    let bad_if = |is_bad: bool, text: String| (text, if is_bad { Mood::Bad } else { Mood::Plain });
    let count = |count: u64| bad_if(count > 0, count.to_string());
    let quantile = |share: f64| plain(sum.quantile(share).map(latency).unwrap_or_default());
    let rtt = if sum.rtt_us == 0 { String::new() } else { latency(Duration::from_micros(sum.rtt_us.into())) };
    [
        plain(rate(sum.requests_per_second())),
        sum.success().map_or_else(|| plain(String::new()), |share| bad_if(share < GOOD, percent(share))),
        quantile(0.5),
        quantile(0.95),
        quantile(0.99),
        plain(rate(sum.connections_per_second())),
        plain(sum.open.to_string()),
        count(sum.refused()),
        count(sum.failed()),
        plain(bytes(sum.bytes_per_second())),
        plain(rtt),
        plain(sum.secured(Security::MutualTls).map(percent).unwrap_or_default()),
        plain(sum.secured(Security::KernelAttested).map(percent).unwrap_or_default()),
        plain(if sum.datagrams == 0 { String::new() } else { rate(sum.rates.datagrams) }),
    ]
}

pub fn show<W: Write>(by: By, rows: &[(Key, Sum)], screen: &mut Screen<W>) -> Result<(), Failure> {
    if !screen.format.is_text() {
        return Ok(rows.iter().try_for_each(|(key, sum)| screen.object(&record(by, key, sum)))?);
    }
    let ([first, second], [a, b, c, d, e, f, g, h, i, j, k, l, m, n]) = (columns(by), FIGURES);
    let mut table = Table::new([first, second, a, b, c, d, e, f, g, h, i, j, k, l, m, n]);
    for (key, sum) in rows {
        let [first, second] = names(by, key, sum);
        let mut cells = [(first, Mood::Plain), (second, Mood::Plain)].into_iter().chain(figures(sum));
        table.push(std::array::from_fn(|_| {
            let (text, mood) = cells.next().unwrap_or((String::new(), Mood::Plain));
            Cell::new(text, mood)
        }));
    }
    Ok(screen.table(&mut table)?)
}

/// Its names do not change.
pub fn record(by: By, key: &Key, sum: &Sum) -> Value {
    let Key { source, destination, service, route } = key;
    let mut record = Map::new();
    match by {
        By::Workloads => drop(record.insert("workload".into(), destination.as_str().into())),
        By::Services => drop(record.insert("service".into(), service.as_str().into())),
        By::Routes => {
            record.insert("service".into(), service.as_str().into());
            record.insert("route".into(), route.as_str().into());
        }
        By::Edges => {
            record.insert("source".into(), source.as_str().into());
            record.insert("source_identity".into(), sum.source_identity.as_str().into());
            record.insert("destination".into(), destination.as_str().into());
            record.insert("destination_identity".into(), sum.destination_identity.as_str().into());
        }
    }
    let of = |all: &[u64], word: fn(i32) -> &'static str| {
        let there = (0..).zip(all).filter(|(_, count)| **count > 0);
        there.map(|(of, count)| (word(of), *count)).collect::<std::collections::BTreeMap<_, _>>()
    };
    let [none, ones, twos, threes, fours, fives] = sum.answers;
    let ms = |share: f64| sum.quantile(share).map(|duration| duration.as_secs_f64() * 1e3);
    let figures = json!({
        "nodes": sum.nodes,
        "seconds": sum.seconds,
        "requests": sum.requests,
        "requests_per_second": sum.requests_per_second(),
        "failed_requests": sum.failed_requests,
        "refused_requests": sum.refused_requests,
        "answers": { "none": none, "1xx": ones, "2xx": twos, "3xx": threes, "4xx": fours, "5xx": fives },
        "success": sum.success(),
        "p50_ms": ms(0.5),
        "p95_ms": ms(0.95),
        "p99_ms": ms(0.99),
        "connections": sum.connections,
        "connections_per_second": sum.connections_per_second(),
        "refused_connections": sum.refused_connections,
        "failed_connections": sum.failed_connections,
        "open": sum.open,
        "bytes_sent": sum.bytes_sent,
        "bytes_received": sum.bytes_received,
        "bytes_per_second": sum.bytes_per_second(),
        "security": of(&sum.security, |of| words::security(Security::try_from(of).unwrap_or_default())),
        "path": of(&sum.path, |of| words::path(Path::try_from(of).unwrap_or_default())),
        "datagrams": sum.datagrams,
        "rtt_us": (sum.rtt_us > 0).then_some(sum.rtt_us),
        "retransmits": sum.retransmits,
    });
    if let Value::Object(figures) = figures {
        record.extend(figures);
    }
    Value::Object(record)
}

/// Three figures that count: `0`, `0.03`, `4.2`, `310`, `12.4k`.
pub fn rate(rate: f64) -> String {
    match rate {
        0.0 => "0".to_owned(),
        rate if rate < 1.0 => format!("{rate:.2}"),
        rate if rate < 100.0 => format!("{rate:.1}"),
        rate if rate < 10_000.0 => format!("{rate:.0}"),
        rate => format!("{:.1}k", rate / 1e3),
    }
}

/// Whole only if it is: 99.96 % is not 100 %.
pub fn percent(share: f64) -> String {
    match share * 100.0 {
        100.0 => "100%".to_owned(),
        0.0 => "0%".to_owned(),
        percent => format!("{:.1}%", percent.clamp(0.1, 99.9)),
    }
}

pub fn bytes(bytes: f64) -> String {
    match bytes {
        bytes if bytes < 1000.0 => format!("{bytes:.0}B"),
        bytes if bytes < 1e6 => format!("{:.1}kB", bytes / 1e3),
        bytes if bytes < 1e9 => format!("{:.1}MB", bytes / 1e6),
        bytes => format!("{:.1}GB", bytes / 1e9),
    }
}

pub fn latency(duration: Duration) -> String {
    match duration.as_micros() {
        us @ 0..1000 => format!("{us}us"),
        us @ 1000..10_000 => format!("{:.1}ms", us as f64 / 1e3),
        us @ 10_000..1_000_000 => format!("{}ms", us / 1000),
        _ => words::span(duration.as_secs_f64() * 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!([0.0, 0.033, 4.25, 310.4, 12_440.0].map(rate), ["0", "0.03", "4.2", "310", "12.4k"]);
        assert_eq!([1.0, 0.9999, 0.5, 0.0001, 0.0].map(percent), ["100%", "99.9%", "50.0%", "0.1%", "0%"]);
        assert_eq!([0.0, 999.0, 1500.0, 2.5e6, 3e9].map(bytes), ["0B", "999B", "1.5kB", "2.5MB", "3.0GB"]);
        let latencies = [250, 1500, 12_900, 3_200_000].map(|us| latency(Duration::from_micros(us)));
        assert_eq!(latencies, ["250us", "1.5ms", "12ms", "3.2s"]);
    }
}

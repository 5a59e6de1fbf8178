//! The mesh's own annotations.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use mesh_common::model::traffic::{ActiveCheck, Algorithm, CheckKind, Millis};

use crate::{status::Fault, translate::span};

const LOAD_BALANCER: &str = "nodemesh.io/load-balancer";
const HEALTH_CHECK: &str = "nodemesh.io/health-check";
/// More often than this an endpoint is not asked.
const OFTENEST: Millis = Millis(500);
const LONGEST_PATH: usize = 1024;

/// `None` if they say nothing that can be honoured.
pub fn annotations(metadata: &ObjectMeta, faults: &mut Vec<Fault>) -> Option<(Option<Algorithm>, Option<ActiveCheck>)> {
    let annotation = |key: &str| metadata.annotations.as_ref()?.get(key).map(String::as_str);
    let mut wrong = |key: &str, why: String| {
        faults.push(Fault::new(format!("metadata.annotations[{key}]"), format_args!("{why}; it is not honoured")));
    };
    let algorithm = match annotation(LOAD_BALANCER) {
        None => None,
        Some("PEAK_EWMA") => Some(Algorithm::PeakEwma),
        Some(other) => {
            wrong(LOAD_BALANCER, format!("`{}` is not PEAK_EWMA", quoted(other)));
            None
        }
    };
    let check = annotation(HEALTH_CHECK).map(active_check);
    let check = check.and_then(|check| check.map_err(|why| wrong(HEALTH_CHECK, why)).ok());
    (algorithm.is_some() || check.is_some()).then_some((algorithm, check))
}

/// As in `http:/healthz interval=5s timeout=1s healthy=2 unhealthy=3`.
fn active_check(text: &str) -> Result<ActiveCheck, String> {
    let mut words = text.split_ascii_whitespace();
    let kind = words.next().ok_or("is empty")?;
    let kind = match kind.split_once(':').unwrap_or((kind, "")) {
        ("tcp", "") => CheckKind::Tcp,
        ("http", path) if path.starts_with('/') && path.len() <= LONGEST_PATH && path.is_ascii() => {
            CheckKind::Http { path: path.to_owned(), host: None }
        }
        ("grpc", service) if service.len() <= LONGEST_PATH && service.is_ascii() => {
            CheckKind::Grpc { service: service.to_owned() }
        }
        _ => return Err(format!("`{}` is none of http:/PATH, tcp, grpc, grpc:SERVICE", quoted(kind))),
    };
    let mut check = ActiveCheck {
        kind,
        interval: Millis(10_000),
        timeout: Millis(2_000),
        healthy_threshold: 2,
        unhealthy_threshold: 3,
    };
    for word in words {
        let number = |text: &str| {
            let number = text.parse().ok().filter(|number| (1..=100).contains(number));
            number.ok_or_else(|| format!("`{}` is not from 1 to 100", quoted(text)))
        };
        match word.split_once('=') {
            Some(("interval", text)) => check.interval = span::parse(text)?,
            Some(("timeout", text)) => check.timeout = span::parse(text)?,
            Some(("healthy", text)) => check.healthy_threshold = number(text)?,
            Some(("unhealthy", text)) => check.unhealthy_threshold = number(text)?,
            _ => return Err(format!("`{}` is none of interval=, timeout=, healthy=, unhealthy=", quoted(word))),
        }
    }
    if check.interval < OFTENEST {
        return Err(format!("the interval is less than {} ms", OFTENEST.0));
    }
    if check.timeout == Millis(0) || check.timeout > check.interval {
        return Err("the timeout is not from 1ms to the interval".to_owned());
    }
    Ok(check)
}

fn quoted(text: &str) -> String {
    text.chars().take(64).collect()
}

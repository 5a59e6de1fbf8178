//! Spans and the access log as the arguments say, and where collectors are.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use mesh_common::model::{Service, traffic::Percent};

use crate::{
    config,
    state::{Snapshot, Store},
    telemetry::{
        access::{self, AccessLog, Format, Told},
        otlp::{self, Exporter, Resolve, Signal, Spans, Target},
    },
};

/// How long one batch is tried.
const PATIENCE: Duration = Duration::from_secs(60);

/// Clones are the same.
#[derive(Clone, Debug)]
pub struct Telling {
    pub spans: Spans,
    pub access: AccessLog,
    /// Of traces that begin here; `None`: the agent itself tells of none.
    pub traced: Option<Percent>,
}

impl Telling {
    pub fn new(settings: &config::Telling, node: &str, cluster: &str, store: &Arc<Store>) -> Result<Self> {
        let config::Telling { otlp_endpoint, otlp_protocol, otlp_queue, tracing_sampling, .. } = settings;
        let config::Telling { access_log, access_log_errors, access_log_sampling, access_log_otlp, .. } = settings;
        let target = otlp_endpoint.as_ref().map(|url| Target::parse(url, (*otlp_protocol).into()));
        let target = target.transpose().map_err(|why| anyhow!("--otlp-endpoint {why}"))?;
        if settings.is_off() {
            return Ok(Self { spans: Spans::default(), access: AccessLog::default(), traced: None });
        }
        let traced = target.is_some().then_some(*tracing_sampling);
        let to = otlp::Settings {
            node: node.to_owned(),
            cluster: cluster.to_owned(),
            target,
            queue: *otlp_queue as usize,
            patience: PATIENCE,
            resolve: resolve(Arc::clone(store)),
            roots: None,
        };
        let log = access::Settings {
            told: match access_log {
                None => Told::Refusals,
                Some(config::AccessLogFormat::Off) => Told::Nothing,
                Some(_) if *access_log_errors => Told::Errors,
                Some(_) => Told::All,
            },
            format: match access_log {
                Some(config::AccessLogFormat::Text) => Format::Text,
                None | Some(config::AccessLogFormat::Json | config::AccessLogFormat::Off) => Format::Json,
            },
            sampled: *access_log_sampling,
            otlp: *access_log_otlp,
        };
        let access = AccessLog::new(log, Exporter::new(Signal::Logs, to.clone())).context("--access-log")?;
        Ok(Self { spans: Spans::new(to), access, traced })
    }

    /// What waits is written and sent, for [`otlp::LAST`] at most.
    pub async fn end(&self) {
        tokio::join!(self.spans.end(), self.access.end());
    }
}

fn resolve(store: Arc<Store>) -> Resolve {
    Arc::new(move |host, port| endpoints(&store.snapshot(), host, port))
}

/// Where a service answers that is known by this name, as in `collector.observability`, with `.svc` and more behind it
/// or not. Its endpoints are dialled from the node, which no rule redirects: no agent and no kube-proxy is in between.
fn endpoints(snapshot: &Snapshot, host: &str, port: u16) -> Option<Vec<SocketAddr>> {
    let host = host.trim_end_matches('.');
    let mut parts = host.splitn(3, '.');
    let (name, namespace, rest) = (parts.next()?, parts.next()?, parts.next());
    let called = |service: &Service| {
        let named = service.name == name && service.namespace == namespace;
        service.hostname == host || (named && rest.is_none_or(|rest| rest == "svc"))
    };
    let service = snapshot.services().find(|service| called(service))?.service_name();
    let answers = |workload: &mesh_common::model::Workload| -> Vec<SocketAddr> {
        let ports = workload.services.get(&service).into_iter().flatten();
        let target = ports.clone().find(|known| known.port == port && known.target != 0).map(|known| known.target);
        let at = |target| workload.addresses.iter().map(move |address| SocketAddr::new(*address, target));
        target.into_iter().flat_map(at).collect()
    };
    let healthy = snapshot.endpoints(&service).iter().filter(|workload| workload.healthy);
    Some(healthy.flat_map(|workload| answers(workload)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{
        Object,
        tests::{put, service, workload},
    };

    #[test]
    fn a_collector_is_found_by_each_name_of_its_service() {
        let store = Store::default();
        let service = service("10.96.0.1");
        let (name, namespace, hostname) = (service.name.clone(), service.namespace.clone(), service.hostname.clone());
        let port = service.ports[0].port;
        let endpoint = workload("one", "10.0.0.1");
        let away = mesh_common::model::Workload { healthy: false, ..workload("two", "10.0.0.2") };
        let target = endpoint.services[&service.service_name()][0].target;
        let found: SocketAddr = format!("10.0.0.1:{target}").parse().unwrap();
        let snapshot = put(&store, [Object::Service(service), Object::Workload(endpoint), Object::Workload(away)]);
        for host in [format!("{name}.{namespace}"), format!("{name}.{namespace}.svc"), hostname.clone(), hostname + "."]
        {
            assert_eq!(endpoints(&snapshot, &host, port), Some(vec![found]), "{host}");
            assert_eq!(endpoints(&snapshot, &host, 1), Some(Vec::new()), "{host} has no such port");
        }
        for host in ["collector.example.com", "localhost", "10.0.0.1", &format!("{name}.{namespace}.pod")] {
            assert_eq!(endpoints(&snapshot, host, port), None, "{host} is for DNS");
        }
    }
}

//! What happened of late, summed by workload, service, route or edge.

use mesh_common::proto::{
    nodemesh::{self, StatBy, StatQuery, item},
    seen,
};
use tonic::Status;

use super::{Admin, flows::wire};
use crate::telemetry::{
    Flow,
    stats::{By, Name, Row, Sum},
};

/// # Errors
/// If the question is none that this version knows: another sum would look like an answer.
pub fn answer(admin: &Admin, query: &StatQuery) -> Result<Vec<item::Kind>, Status> {
    let StatQuery { by: _, namespace, seconds } = query;
    let by = match query.by() {
        StatBy::Workload => By::Workload,
        StatBy::Service => By::Service,
        StatBy::Route => By::Route,
        StatBy::Edge => By::Edge,
        StatBy::EdgeTo => By::EdgeTo,
        StatBy::Unspecified => {
            return Err(Status::invalid_argument(format!("stat.by: {} is not known to this agent", query.by)));
        }
    };
    let rows = admin.flows.stats().rows(by, namespace, *seconds, &open(admin));
    Ok(rows.into_iter().map(|row| item::Kind::Stat(message(row).into())).collect())
}

/// Connections that are open now, carried by this agent or not.
pub(super) fn open(admin: &Admin) -> Vec<Flow> {
    let mut open = admin.flows.connections();
    open.extend(admin.direct.open());
    open
}

fn message(row: Row) -> nodemesh::Stat {
    let Row { reporter, leaves, source, destination, service, route, seconds, sum } = row;
    let latency = seen::latency(sum.latency().buckets());
    let security = seen::by_number(sum.by_security().map(|(of, count)| (wire::security(of), count)));
    let path = seen::by_number(sum.by_path().map(|(of, count)| (wire::path(Some(of)), count)));
    let Sum {
        requests,
        failed_requests,
        refused_requests,
        answers,
        connections,
        refused_connections,
        failed_connections,
        open,
        sent,
        received,
        datagrams,
        rtt_us,
        retransmits,
        ..
    } = sum;
    nodemesh::Stat {
        reporter: wire::direction(reporter).into(),
        source: source.map(endpoint),
        destination: destination.map(endpoint),
        service: service.map(|service| service.to_string()).unwrap_or_default(),
        route,
        seconds,
        requests,
        failed_requests,
        refused_requests,
        answers: answers.to_vec(),
        latency,
        connections,
        refused_connections,
        failed_connections,
        open,
        bytes_sent: sent,
        bytes_received: received,
        security,
        path,
        datagrams,
        rtt_us,
        retransmits,
        leaves,
    }
}

fn endpoint(name: Name) -> nodemesh::Endpoint {
    let Name { namespace, workload } = name;
    nodemesh::Endpoint { namespace, workload, ..nodemesh::Endpoint::default() }
}

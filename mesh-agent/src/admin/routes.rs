//! What was routed since the agent started.

use mesh_common::proto::nodemesh::{self, item};

use super::Admin;
use crate::http::Routed;

pub fn answer(admin: &Admin, query: &nodemesh::RoutesQuery) -> Vec<item::Kind> {
    let all = admin.http.counts.all().into_iter();
    let wanted = all.filter(|routed| query.namespace.is_empty() || routed.service.namespace == query.namespace);
    wanted.map(|routed| item::Kind::Route(counts(routed))).collect()
}

fn counts(routed: Routed) -> nodemesh::RouteCounts {
    let Routed { service, route, requests, active, answers, retries, mirrored, flags } = routed;
    nodemesh::RouteCounts {
        service: service.to_string(),
        route,
        requests,
        active,
        answers: answers.to_vec(),
        retries,
        mirrored,
        flags: flags.into_iter().map(|(flag, count)| (flag.to_owned(), count)).collect(),
    }
}

//! What each pod of the node costs.

use mesh_common::proto::nodemesh::{CostQuery, PodCost, item};

use super::{Admin, stat};
use crate::telemetry::cost::Row;

pub fn answer(admin: &Admin, query: &CostQuery) -> Vec<item::Kind> {
    let CostQuery { namespace } = query;
    let rows = admin.flows.stats().costs().rows(namespace, &stat::open(admin));
    rows.into_iter().map(|row| item::Kind::Cost(message(row))).collect()
}

fn message(row: Row) -> PodCost {
    let Row { namespace, pod, connections, open, requests, bytes, cpu_us, memory } = row;
    PodCost { namespace, pod, connections, open, requests, bytes, cpu_us, memory }
}
